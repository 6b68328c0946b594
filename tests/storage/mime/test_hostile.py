"""Mail made to hurt: nothing fails, invariants hold, each byte is read a bounded number of times."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.mime import structure
from storage.mime.envelope import decode_envelope, parse_envelope
from storage.mime.headers import all_values, cut_fields, first_value, iter_fields, split_header
from storage.mime.message import describe
from storage.mime.structure import (
    MAX_DEPTH,
    MAX_NEAR_DELIMITERS,
    MAX_PARTS,
    decode_structure,
    encode_structure,
    scan,
)
from storage.mime.text import search_text
from tests.support.messages import corpus

from .trees import assert_invariants, bodies, depth, every, multipart

SEEDS = [built.data for built in corpus(seed=11, count=40) if len(built.data) < 20_000]


class Counted(bytes):
    """A message that counts the bytes looked at by ``find``, ``count`` and the empty-line pattern."""

    searched = 0

    def find(self, sub: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        stop = len(self) if end is None else end
        found = super().find(sub, start, stop)
        self.searched += max((stop if found < 0 else found + len(sub)) - start, 0)
        return found

    def count(self, sub: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        stop = len(self) if end is None else end
        self.searched += max(stop - start, 0)
        return super().count(sub, start, stop)


class CountedPattern:
    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern

    def search(self, data: bytes, start: int) -> re.Match[bytes] | None:
        match = self._pattern.search(data, start)
        if isinstance(data, Counted):
            data.searched += (match.end() if match else len(data)) - start
        return match


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], int]:
    monkeypatch.setattr(structure, "EMPTY_LINE", CountedPattern(structure.EMPTY_LINE))

    def count(raw: bytes) -> int:
        data = Counted(raw)
        scan(data)
        return data.searched

    return count


def nested(make: Callable[[int, bytes], bytes], levels: int) -> bytes:
    data = b"Content-Type: text/plain\r\n\r\nheart"
    for level in range(levels):
        data = make(level, data)
    return data


def wrap_message(_level: int, data: bytes) -> bytes:
    return b"Content-Type: message/rfc822\r\n\r\n" + data


def open_multipart(level: int, data: bytes) -> bytes:
    return b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) + data


MIXED = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
HOSTILE = {
    "many parts": multipart(b"b", *[b"Content-Type: text/html\r\n\r\nx"] * 12_000),
    "many parts without empty lines": MIXED + b"--b\r\nA: b\r\n" * 20_000,
    "many empty parts": MIXED + b"--b\r\n" * 50_000,
    "many messages in a digest": multipart(b"b", *[b"\r\nSubject: x\r\n\r\ny"] * 12_000, subtype=b"digest"),
    "many near delimiters": MIXED + b"--b\r\n\r\n" + b"--\r\n--bb\r\n--b-\r\n" * 20_000,
    "many dashes": MIXED + b"\n--" * 100_000,
    "delimiters without line ends": MIXED + b"--b\r\n\r\n" + b"--b " * 50_000,
    "deep multiparts": nested(lambda n, d: multipart(b"b%d" % n, d), 1000),
    "deep multiparts never closed": nested(open_multipart, 1000),
    "nested multiparts, one boundary": nested(lambda _n, d: multipart(b"b", d), 1000),
    "deep multiparts, boundaries that are prefixes": nested(
        lambda n, d: multipart(b"b" * (n % 250 + 1), d), 240
    ),
    "deep messages": nested(wrap_message, 1000),
    "deep messages of lines": nested(wrap_message, 200) + b"\n" * 200_000,
    "deep mixture": nested(lambda n, d: (wrap_message, open_multipart)[n % 2](n, d), 1000),
    "a comb of multiparts": multipart(b"b", *[nested(open_multipart, 90)] * 60),
    "one endless line": b"Subject: " + b"x" * 500_000,
    "one endless field": b"Subject: x" + b"\r\n y" * 100_000,
    "many fields": b"A: b\r\n" * 50_000 + b"\r\n",
    "many content types": b"Content-Type: text/plain\r\n" * 20_000 + b"\r\nx",
    "many almost-fields": b"content-type\r\ncontent-id \r\nsubject\r\n" * 20_000,
    "many parameters": b"Content-Type: multipart/mixed" + b"; a=b" * 50_000 + b"; boundary=b\r\n\r\n--b\r\n",
    "many separators": b"Content-Type: a/b" + b';(;= ;"' * 5_000 + b"\r\n\r\n",
    "NUL bytes": b"Sub\0ject: \0\r\n\0: \0\r\n" + MIXED.replace(b"=b", b'="\0b"') + b"--\0b\r\n\r\n\0",
    "8-bit fields": b"Subject: \xff\xfe\r\nFrom: \xe4\xf6 <\xfc@\xdf>\r\nContent-Type: text/\xe4\r\n\r\n\x80",
    "long lines": MIXED + b"--b\r\n\r\n" + (b"y" * 5000 + b"\r\n") * 20 + b"--b" + b" " * 5000 + b"\r\n\r\nz",
    "CR only": b"A: b\rContent-Type: multipart/mixed; boundary=b\r\r--b\r\rx\r--b--\r",
    "empty lines": b"\r\n" * 100_000,
    "unclosed comments": b"To: " + b"(" * 100_000 + b"\r\nFrom: " + b'"\\' * 50_000 + b"\r\n\r\n",
    "huge headers of parts": multipart(b"b", *[b"Content-Description: " + b"d" * 900_000 + b"\r\n\r\nx"] * 7),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_message(name: str, searched: Callable[[bytes], int]) -> None:
    data = HOSTILE[name]
    root = scan(data)
    assert_invariants(root, data)
    assert decode_structure(encode_structure(root)) == root
    # Delimiters, empty lines and header blocks: each byte is looked at a handful of times, at any depth.
    assert searched(data) <= 6 * len(data) + 1000
    content = describe(data)
    assert len(content.structure) + len(content.envelope) <= 3 * len(data) + 200
    decode_envelope(content.envelope)
    assert sum(map(len, search_text(root, data, 100_000))) <= 300_000


def test_parts_beyond_the_limit_are_one_opaque_part() -> None:
    data = HOSTILE["many parts"]
    root = scan(data)
    assert len(root.children) == MAX_PARTS
    last = root.children[-1]
    assert (last.type, last.subtype) == (b"APPLICATION", b"OCTET-STREAM")
    assert data[last.body_start :].startswith(b"Content-Type: text/html\r\n\r\nx\r\n--b\r\n")
    assert last.body_end == len(data)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.startswith("deep")])
def test_levels_beyond_the_limit_are_one_opaque_part(name: str) -> None:
    root = scan(HOSTILE[name])
    assert depth(root) == MAX_DEPTH
    deepest = every(root)[MAX_DEPTH - 1]
    assert (deepest.type, deepest.subtype) == (b"APPLICATION", b"OCTET-STREAM")
    assert b"heart" in HOSTILE[name][deepest.body_start : deepest.body_end]


def test_headers_beyond_the_limit_leave_one_opaque_part() -> None:
    data = HOSTILE["huge headers of parts"]
    root = scan(data)
    assert [part.subtype for part in root.children] == [b"PLAIN"] * 5 + [b"OCTET-STREAM"]
    assert bodies(root, data)[:5] == [b"x"] * 5
    assert len(encode_structure(root)) < 200_000


def test_near_delimiters_beyond_the_limit_end_the_search() -> None:
    data = MIXED + b"--b\r\n\r\n" + b"--bb\n" * (MAX_NEAR_DELIMITERS + 1) + b"--b\r\n\r\nlost"
    root = scan(data)
    assert_invariants(root, data)
    assert len(root.children) == 1
    assert root.children[0].body_end == len(data)
    assert len(scan(data.replace(b"--bb", b"-bbb")).children) == 2


PIECES = st.sampled_from(
    [
        *(
            b"\r\n",
            b"\n",
            b"\r",
            b"\r\n\r\n",
            b"--b",
            b"--b--",
            b"--",
            b"bb",
            b" ",
            b"\0",
            b"\xff",
            b"x",
            b":",
            b";",
        ),
        *(
            b"\r\n--b\r\n",
            b"\r\n--b--\r\n",
            b"\n--bb\n",
            b"\r\n--bb--\r\n",
            b"Subject: x\r\n",
            b"\r\n\tfolded",
        ),
        *(
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n",
            b"Content-Type: multipart/digest; boundary=bb\r\n",
        ),
        *(
            b"Content-Type: message/rfc822\r\n\r\n",
            b"Content-Type: text/html; charset=x\r\n",
            b"Content-Id: <a>\r\n",
        ),
        *(
            b'Content-Type: MULTIPART/x; boundary="b--"\n\n',
            b"Content-Transfer-Encoding: base64\r\n",
            b"From: a@b\n",
        ),
    ]
)


def check(data: bytes) -> None:
    root = scan(data)
    assert_invariants(root, data)
    assert decode_structure(encode_structure(root)) == root
    header = data[: split_header(data)]
    assert len(header) == root.body_start
    fields = list(iter_fields(header))
    names = {field.name.lower() for field in fields}
    for name in names:
        values = all_values(header, name)
        assert len(values) >= sum(field.name.lower() == name for field in fields)
        assert first_value(header, name) == values[0]
    cut = cut_fields(header, names, inverted=False)
    assert cut == cut_fields(header, (), inverted=True)
    assert len(list(iter_fields(cut))) == len(fields)
    assert cut_fields(header, names, inverted=True) in (b"\r\n", b"")
    parse_envelope(header)
    describe(data)
    for text in search_text(root, data, 10_000):
        assert isinstance(text, str)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=40).map(b"".join))
def test_any_sequence_of_pieces(data: bytes) -> None:
    check(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    check(data)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SEEDS), st.integers(0, 2**32))
def test_mutated_messages(data: bytes, seed: int) -> None:
    """Cut, doubled, swapped and overwritten slices of good messages."""
    rng = Random(seed)
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        start = rng.randint(0, len(mutated))
        stop = min(len(mutated), start + rng.choice((1, 2, 20, 500)))
        piece = rng.choice((b"", bytes(mutated[start:stop]) * 2, rng.randbytes(3), b"\r\n", b"\n\n"))
        at = rng.choice((start, rng.randint(0, len(mutated))))
        mutated[at : at + stop - start] = piece
    check(bytes(mutated))


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=30).map(b"".join))
def test_scanning_is_linear_for_any_pieces(data: bytes) -> None:
    pattern = structure.EMPTY_LINE
    structure.EMPTY_LINE = CountedPattern(pattern)  # type: ignore[assignment]
    try:
        counted = Counted(MIXED + data * 20)
        scan(counted)
    finally:
        structure.EMPTY_LINE = pattern
    assert counted.searched <= 6 * len(counted) + 1000
