"""The receive buffer and dot-stuffing, with plain reference implementations beside them."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.lines import MAX_SKIPPED_BYTES, DotStuffer, LineBuffer, Oversized

PIECES = st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.", b"bc", b"\0"]), max_size=30)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, position = [], 0
    for size in sizes:
        pieces.append(data[position : position + size])
        position += size
    return [*pieces, data[position:]]


def lines_of(buffer: LineBuffer) -> list[bytes | Oversized]:
    found = []
    while (line := buffer.next_line()) is not None:
        found.append(line)
    return found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\r\nbb\r\n", [b"a", b"bb"]),
        (b"\r\n\r\n", [b"", b""]),
        (b"a\nb\r\n", [b"a\nb"]),
        (b"a\rb\r\n", [b"a\rb"]),
        (b"a\r\r\n", [b"a\r"]),
        (b"12345678\r\n", [b"12345678"]),
        (b"123456789\r\nok\r\n", [Oversized.LINE, b"ok"]),
        (b"x" * 1000 + b"\r" + b"y" * 1000 + b"\r\r\nok\r\n", [Oversized.LINE, b"ok"]),
        (b"1234567\r\r\n", [b"1234567\r"]),
        (b"12345678\r\r\n", [Oversized.LINE]),
    ],
)
def test_lines_however_they_arrive(data: bytes, expected: list[bytes | Oversized]) -> None:
    whole = LineBuffer(8)
    whole.feed(data + b"rest")
    assert lines_of(whole) == expected
    assert len(whole) == 4
    single = LineBuffer(8)
    found = []
    for i in range(len(data)):
        single.feed(data[i : i + 1])
        found += lines_of(single)
    assert found == expected


def test_oversized_line_is_dropped_while_it_arrives() -> None:
    buffer = LineBuffer(100)
    for _ in range(MAX_SKIPPED_BYTES // 1000):
        buffer.feed(b"z" * 999 + b"\r")
        assert buffer.next_line() is None
        assert len(buffer) <= 1
    buffer.feed(b"\r\nnext\r\n")
    assert lines_of(buffer) == [Oversized.LINE, b"next"]
    assert not buffer.is_mid_line


def test_line_without_end_is_reported_before_it_ends() -> None:
    buffer = LineBuffer(100)
    read = 0
    while buffer.next_line() is None:
        buffer.feed(b"z" * 1000)
        read += 1000
    assert buffer.next_line() is Oversized.ENDLESS
    assert MAX_SKIPPED_BYTES < read <= MAX_SKIPPED_BYTES + 1000


def test_octets_between_lines() -> None:
    buffer = LineBuffer(100)
    buffer.feed(b"one\r\nab\r\ncdtwo\r\n")
    assert buffer.next_line() == b"one"
    assert buffer.take(3) == b"ab\r"
    assert buffer.skip(3) == 3
    assert buffer.next_line() == b"two"
    assert (buffer.take(5), buffer.skip(5), len(buffer)) == (b"", 0, 0)


def test_cost_is_linear() -> None:
    """A long line byte by byte, and 100,000 lines in one chunk: both take long if anything is quadratic."""
    started = time.process_time()
    buffer = LineBuffer(2_000_000)
    for _ in range(300_000):
        buffer.feed(b"x")
        assert buffer.next_line() is None
    buffer.feed(b"\r\n" + b"NOOP\r\n" * 100_000)
    assert len(lines_of(buffer)) == 100_001
    assert time.process_time() - started < 10.0


def test_data_of_nothing_but_dots_is_not_slow() -> None:
    buffer, started = LineBuffer(100), time.process_time()
    buffer.start_dotted()
    size = 0
    for _ in range(80):
        buffer.feed(b"\r\n.." * 65_536)
        data, is_end = buffer.take_dotted()
        assert not is_end
        size += len(data)
    assert size > 15_000_000
    assert time.process_time() - started < 10.0


def undot_reference(data: bytes) -> tuple[bytes, bytes] | None:
    """(content, rest) by the definition, or None when the end is not there."""
    if data.startswith(b".\r\n"):
        return b"", data[3:]
    content, end, rest = data.partition(b"\r\n.\r\n")
    if not end:
        return None
    content += b"\r\n"
    if content.startswith(b"."):
        content = content[1:]
    return content.replace(b"\r\n.", b"\r\n"), rest


def undot(pieces: list[bytes]) -> tuple[bytes, bool, bytes]:
    buffer, content, ended = LineBuffer(100), b"", False
    buffer.start_dotted()
    for piece in pieces:
        buffer.feed(piece)
        if not ended:
            data, ended = buffer.take_dotted()
            content += data
    return content, ended, buffer.take(10_000)


# Ends of data that some servers see and we must not: each is content, up to the real end.
SMUGGLED = [
    b"\n.\n",
    b"\r\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\n\n.\r\r\n",
    b"\r\n\x00.\r\n",
]


@pytest.mark.parametrize("middle", SMUGGLED)
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_only_crlf_dot_crlf_ends_data(middle: bytes, step: int) -> None:
    data = b"Subject: x\r\n\r\nbody" + middle + b"MAIL FROM:<evil@example.org>\r\n.\r\nNOOP\r\n"
    content, ended, rest = undot([data[i : i + step] for i in range(0, len(data), step)])
    assert ended
    assert content.endswith(b"MAIL FROM:<evil@example.org>\r\n")
    assert rest == b"NOOP\r\n"


@given(PIECES, st.lists(st.integers(0, 5), max_size=30))
@settings(max_examples=200, deadline=None)
def test_unstuffing_matches_the_definition(pieces: list[bytes], sizes: list[int]) -> None:
    data = b"".join(pieces)
    content, ended, rest = undot(cut(data, sizes))
    expected = undot_reference(data)
    assert ended == (expected is not None)
    if expected is not None:
        assert (content, rest) == expected


@given(PIECES, st.lists(st.integers(0, 5), max_size=30), st.lists(st.integers(0, 5), max_size=30))
@settings(max_examples=200, deadline=None)
def test_stuffed_data_comes_back_from_strict_and_from_lenient_clients(
    pieces: list[bytes], out_sizes: list[int], in_sizes: list[int]
) -> None:
    message = b"".join(pieces)
    stuffer = DotStuffer()
    wire = b"".join(stuffer.feed(piece) for piece in cut(message, out_sizes)) + stuffer.finish()
    # a client for which only CRLF ends a line: all of it, dots behind a bare LF doubled
    content, ended, rest = undot(cut(wire, in_sizes))
    assert (ended, rest) == (True, b"")
    doubled = re.sub(rb"(?<!\r)\n\.", b"\n..", message)
    assert content in (doubled, doubled + b"\r\n")
    assert content == doubled or not message.endswith(b"\r\n")
    # a client for which LF does: exactly the message
    lines = wire.split(b"\n")
    assert lines.index(b".\r") == len(lines) - 2
    assert b"." not in lines
    lenient = b"\n".join(line.removeprefix(b".") for line in lines[:-2]) + b"\n" * (len(lines) > 2)
    assert lenient in (message, message + b"\r\n")
