"""Framing: tables of bytes and events, fed whole, octet by octet, and with a command behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import MachineMisuse
from protocols.imap import machine as m
from protocols.imap.machine import (
    AppendStarted,
    BadInput,
    CommandReady,
    Event,
    ImapMachine,
    LineReceived,
    LiteralData,
    LiteralEnded,
)

NEXT = CommandReady(b"z9", b"NOOP", b"")


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def octets(data: bytes) -> Iterator[bytes]:
    yield from (data[i : i + 1] for i in range(len(data)))


def thirds(data: bytes) -> Iterator[bytes]:
    yield from (data[i : i + 3] for i in range(0, len(data), 3))


def run(machine: ImapMachine, pieces: Iterator[bytes], *, accept: bool = True) -> list[Event]:
    """Feed all pieces; APPEND literals are accepted or refused, their pieces joined."""
    events: list[Event] = []
    for piece in pieces:
        machine.receive_data(piece)
        while (event := machine.next_event()) is not None:
            if isinstance(event, AppendStarted):
                machine.accept_literal() if accept else machine.refuse_literal()
            if isinstance(event, LiteralData) and events and isinstance(events[-1], LiteralData):
                event = LiteralData(events.pop().data + event.data)  # type: ignore[union-attr]
            events.append(event)
    return events


TABLE = [
    (b"a1 NOOP\r\n", [CommandReady(b"a1", b"NOOP", b"")]),
    (b"a1 noop\n", [CommandReady(b"a1", b"NOOP", b"")]),
    (b"a1 LOGIN {3}\r\nann secret\r\n", [CommandReady(b"a1", b"LOGIN", b" {3}\r\nann secret")]),
    (
        b"a LOGIN {3+}\r\nann {6+}\r\nsecret\r\n",
        [CommandReady(b"a", b"LOGIN", b" {3+}\r\nann {6+}\r\nsecret")],
    ),
    (b"a X {0+}\r\n\r\n", [CommandReady(b"a", b"X", b" {0+}\r\n")]),
    (b"a X {5+}\r\n{1+}\n\r\n", [CommandReady(b"a", b"X", b" {5+}\r\n{1+}\n")]),
    (b"a X ~{1+}\r\n\0\r\n", [CommandReady(b"a", b"X", b" ~{1+}\r\n\0")]),
    (b"a X {1+}\r\n\0\r\n", [BadInput(b"a", "NUL in a literal")]),
    (b"a X \0\r\n", [BadInput(b"a", "NUL in a command")]),
    (b"\r\n", [BadInput(None, "Expected a tag and a command")]),
    (b"a\r\n", [BadInput(b"a", "Expected a tag and a command")]),
    (b"+ NOOP\r\n", [BadInput(None, "Expected a tag and a command")]),
    (b"a  NOOP\r\n", [BadInput(b"a", "Expected a tag and a command")]),
    (b'a NOOP"\r\n', [BadInput(b"a", "Expected a space after the command")]),
    (b"GET / HTTP/1.1\r\n", [BadInput(b"GET", "Expected a tag and a command")]),
    (
        b"a APPEND x {5}\r\nhe\0lo\r\n",
        [AppendStarted(b"a", b" x ", 5, True, False), LiteralData(b"he\0lo"), LiteralEnded(b"")],
    ),
    (
        b'a append {1+}\r\nx (\\Seen) "d" ~{2+}\r\nhi\r\n',
        [
            AppendStarted(b"a", b' {1+}\r\nx (\\Seen) "d" ', 2, False, True),
            LiteralData(b"hi"),
            LiteralEnded(b""),
        ],
    ),
    (
        b"a APPEND x UTF8 (~{2+}\r\nhi)\r\n",
        [
            AppendStarted(b"a", b" x UTF8 (", 2, False, True),
            LiteralData(b"hi"),
            LiteralEnded(b")"),
        ],
    ),
    (
        b"a APPEND x {0+}\r\n {3+}\r\nfoo\r\n",
        [AppendStarted(b"a", b" x ", 0, False, False), LiteralEnded(b" {3+}")],
    ),
]


@pytest.mark.parametrize("feed", [whole, octets, thirds])
@pytest.mark.parametrize(("data", "events"), TABLE)
def test_events(feed: Callable[[bytes], Iterator[bytes]], data: bytes, events: list[Event]) -> None:
    machine = ImapMachine()
    assert run(machine, feed(data + b"z9 NOOP\r\n")) == [*events, NEXT]
    assert machine.buffered_bytes == 0


def test_continuation_comes_only_for_synchronizing_literals_that_fit() -> None:
    machine = ImapMachine()
    run(machine, whole(b"a LOGIN {3+}\r\nann {6}\r\n"))
    assert machine.data_to_send() == b"+ OK\r\n"
    machine = ImapMachine()
    assert run(machine, whole(b"a LOGIN {9000}\r\n")) == [BadInput(b"a", "Literal is too large")]
    assert machine.data_to_send() == b""
    assert run(machine, whole(b"z9 NOOP\r\n")) == [NEXT]


def test_refused_append_sends_no_continuation_and_expects_no_octets() -> None:
    machine = ImapMachine()
    machine.receive_data(b"a APPEND x {3000000000}\r\nz9 NOOP\r\n")
    assert isinstance(machine.next_event(), AppendStarted)
    assert machine.next_event() is None  # waits for the session
    assert machine.refuse_literal()
    assert machine.data_to_send() == b""
    assert machine.next_event() == NEXT


def test_refused_nonsynchronizing_append_is_read_over() -> None:
    machine = ImapMachine()
    data = b"a APPEND x {40+}\r\n" + b"b LOGOUT\r\n" * 4 + b" {10+}\r\nc LOGOUT\r\n\r\nz9 NOOP\r\n"
    assert run(machine, octets(data), accept=False)[1:] == [NEXT]


def test_refused_literal_that_is_too_large_to_read_over() -> None:
    machine = ImapMachine()
    machine.receive_data(b"a APPEND x {%d+}\r\n" % (m.MAX_SWALLOWED_BYTES_UNAUTHENTICATED + 1))
    machine.next_event()
    assert not machine.refuse_literal()


@pytest.mark.parametrize("feed", [whole, thirds])
@pytest.mark.parametrize("is_authenticated", [False, True])
def test_line_limit(feed: Callable[[bytes], Iterator[bytes]], *, is_authenticated: bool) -> None:
    limit = m.MAX_LINE_BYTES if is_authenticated else m.MAX_LINE_BYTES_UNAUTHENTICATED
    for size, expected in ((limit - 1, CommandReady), (limit + 1, BadInput)):
        machine = ImapMachine()
        machine.is_authenticated = is_authenticated
        line = b"a NOOP " + b"x" * (size - 8) + b"\r\n"
        events = run(machine, feed(line + b"z9 NOOP\r\n"))
        assert [type(event) for event in events] == [expected, CommandReady]
        assert events[0].tag == b"a"  # type: ignore[union-attr]
        assert events[1] == NEXT


def test_too_long_line_takes_its_nonsynchronizing_literal_along() -> None:
    machine = ImapMachine()
    data = b"a X " + b"x" * 9000 + b"{10+}\r\nb LOGOUT\r\n rest\r\nz9 NOOP\r\n"
    assert run(machine, thirds(data)) == [BadInput(b"a", "Line is too long"), NEXT]


def test_command_with_too_many_literals_is_refused_without_deep_stacks() -> None:
    machine = ImapMachine()
    machine.is_authenticated = True
    data = b"a SEARCH" + b" {0+}\r\n" * 9000 + b"\r\nz9 NOOP\r\n"
    assert run(machine, whole(data)) == [BadInput(b"a", "Literal is too large"), NEXT]


def test_huge_nonsynchronizing_literal_in_a_command_is_fatal() -> None:
    machine = ImapMachine()
    [event] = run(machine, whole(b"a LOGIN {999999999999+}\r\n"))
    assert isinstance(event, BadInput)
    assert event.fatal


ENDLESS = {
    "a line": (b"a ", b"x" * 997),
    "literal after literal": (b"a LOGIN {9000+}\r\n", b"x" * 5000 + b"{4978+}\r\n" + b"x" * 4978),
    "empty literals": (b"a LOGIN {9000+}\r\n" + b"x" * 9000, b"x" * 5000 + b"{0+}\r\n"),
    "a line instead of a SASL response": (b"", b"x" * 997),
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("is_authenticated", [False, True])
def test_command_without_end_is_fatal(
    kind: str, *, is_authenticated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m, "MAX_SWALLOWED_BYTES", 1024 * 1024)
    machine = ImapMachine()
    machine.is_authenticated = is_authenticated
    limit = m.MAX_SWALLOWED_BYTES if is_authenticated else m.MAX_SWALLOWED_BYTES_UNAUTHENTICATED
    begin, more = ENDLESS[kind]
    if not begin:
        machine.expect_line(b"")
    machine.receive_data(begin)
    piece, sent, events = more * (limit // 50 // len(more) + 1), 0, []
    while not events and sent < 2 * limit:
        machine.receive_data(piece)
        sent += len(piece)
        events = [each for each in iter(machine.next_event, None) if not isinstance(each, LineReceived)]
        assert machine.buffered_bytes < len(piece) + m.MAX_LINE_BYTES
    [event] = events
    assert isinstance(event, BadInput)
    assert event.fatal
    assert machine.next_event() is None


def test_what_was_read_over_is_counted_for_each_command() -> None:
    machine = ImapMachine()
    for _ in range(5):
        machine.receive_data(b"a " + b"x" * (m.MAX_SWALLOWED_BYTES_UNAUTHENTICATED // 2) + b"\r\n")
        assert machine.next_event() == BadInput(b"a", "Line is too long")


def test_memory_is_bounded_while_a_long_line_is_skipped() -> None:
    machine = ImapMachine()
    machine.is_authenticated = True
    for _ in range(100):
        machine.receive_data(b"x" * 65536)
        machine.next_event()
    assert machine.buffered_bytes < 100


def test_expected_lines_are_not_commands() -> None:
    machine = ImapMachine()
    machine.expect_line(b"idling")
    assert machine.data_to_send() == b"+ idling\r\n"
    assert run(machine, thirds(b"DONE\r\nz9 NOOP\r\n")) == [LineReceived(b"DONE"), NEXT]
    machine.expect_line(b"")
    assert run(machine, thirds(b"A" * 9000 + b"\r\nz9 NOOP\r\n")) == [LineReceived(b"\0"), NEXT]


def test_discarded_input_never_runs() -> None:
    machine = ImapMachine()
    machine.receive_data(b"a STARTTLS\r\nb LOGIN {3}\r\nab")
    assert machine.next_event() == CommandReady(b"a", b"STARTTLS", b"")
    assert machine.next_event() is None
    assert machine.discard_input() > 0
    assert run(machine, whole(b"z9 NOOP\r\n")) == [NEXT]


def test_answering_a_literal_that_nobody_announced_is_our_bug() -> None:
    with pytest.raises(MachineMisuse):
        ImapMachine().accept_literal()


fragments = st.sampled_from(
    [b"a ", b"APPEND x ", b"LOGIN ", b"{3}", b"{3+}", b"~{3+}", b"{99999+}", b"\r\n", b"\n", b"abc", b"\0"]
)


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(fragments | st.binary(max_size=6), max_size=30),
    mode=st.sampled_from(["command", "line", "authenticated"]),
    accept=st.booleans(),
)
def test_any_bytes_in_any_state_never_raise_and_splitting_changes_nothing(
    pieces: list[bytes], mode: str, *, accept: bool
) -> None:
    """Invariant: any bytes become events, the same ones however they were cut."""
    results = []
    for feed in (whole, octets):
        machine = ImapMachine()
        machine.is_authenticated = mode == "authenticated"
        if mode == "line":
            machine.expect_line(b"")
        events = run(machine, feed(b"".join(pieces)), accept=accept)
        results.append((events, machine.data_to_send(), machine.buffered_bytes))
    whole_result, octets_result = results
    assert whole_result[:2] == octets_result[:2]
