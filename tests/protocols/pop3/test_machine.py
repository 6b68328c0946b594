"""The POP3 machine by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import MachineMisuse
from protocols.lines import MAX_SKIPPED_BYTES
from protocols.pop3 import machine as m
from protocols.pop3 import replies
from protocols.pop3.machine import MAX_COMMAND_BYTES, MAX_ERRORS, Pop3Machine


class Agreeable(Pop3Machine):
    """Says yes to everything; PASS logs in."""

    __slots__ = ()

    def next_event(self) -> m.Event | None:
        event = super().next_event()
        if isinstance(event, m.Auth) and event.initial is None:
            self.challenge(b"")
        elif event is not None and not isinstance(event, m.GiveUp):
            if isinstance(event, m.Pass | m.SaslLine):
                self.logged_in()
            self.send(replies.NOOP)
        return event


def collect(data: bytes, step: int) -> tuple[list[m.Event], bytes]:
    machine, events = Agreeable(), list[m.Event]()
    for i in range(0, len(data), step):
        machine.receive_data(data[i : i + step])
        while (event := machine.next_event()) is not None:
            events.append(event)
            if isinstance(event, m.GiveUp):
                return events, machine.data_to_send()
    return events, machine.data_to_send()


LOGIN = b"USER ann\r\nPASS a b \r\n"
LOGGED_IN = [m.User("ann"), m.Pass(b"a b ")]


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("data", "events"),
    [
        (LOGIN, LOGGED_IN),
        (LOGIN + b"LIST\r\nlist 7\r\nTOP 1 0\r\n", [*LOGGED_IN, m.List(), m.List(7), m.Top(1, 0)]),
        (
            LOGIN + b"RETR 1\r\nDELE 2\r\nUIDL\r\nRSET\r\nQUIT\r\n",
            [*LOGGED_IN, m.Retr(1), m.Dele(2), m.Uidl(), m.Rset(), m.Quit()],
        ),
        (b"AUTH plain\r\nAAAA\r\nSTAT\r\n", [m.Auth("PLAIN", None), m.SaslLine(b"AAAA"), m.Stat()]),
        (b"AUTH PLAIN AAAA\r\n", [m.Auth("PLAIN", b"AAAA")]),
        (b"STLS\r\nUSER evil\r\n", [m.Stls()]),
        (b"USER \xff\r\nUSER\r\nUSER a\0b\r\nCAPA x\r\nCAPA\r\n", [m.Capa()]),
        (
            LOGIN + b"RETR\r\nRETR x\r\nRETR -1\r\nRETR 1 2\r\nTOP 1\r\nRETR 99999999999\r\nSTAT\r\n",
            [*LOGGED_IN, m.Stat()],
        ),
    ],
)
def test_events_however_bytes_arrive(data: bytes, events: list[m.Event], step: int) -> None:
    assert collect(data, step)[0] == events


def test_bytes_behind_stls_are_never_commands() -> None:
    machine = Pop3Machine()
    machine.receive_data(b"STLS\r\nUSER evil\r\n")
    assert machine.next_event() == m.Stls()
    machine.send(replies.TLS_READY)
    assert machine.next_event() is None
    assert machine.discard_input() == len(b"USER evil\r\n")
    machine.tls_started()
    assert machine.next_event() is None
    assert machine.data_to_send() == replies.TLS_READY.encode()


def test_oversized_line_in_each_mode() -> None:
    for opening in (b"", b"AUTH PLAIN\r\n"):
        machine = Agreeable()
        machine.receive_data(opening + b"A" * 20_000)
        while machine.next_event() is not None:
            pass
        assert machine.buffered_bytes <= MAX_COMMAND_BYTES
        machine.data_to_send()
        machine.receive_data(b"\r\nCAPA\r\n")
        assert machine.next_event() == m.Capa()
        assert machine.data_to_send().startswith(b"-ERR Line too long\r\n")


def test_line_without_end_ends_the_connection() -> None:
    for opening in (b"", b"AUTH PLAIN\r\n"):
        machine = Agreeable()
        machine.receive_data(opening + b"A" * (MAX_SKIPPED_BYTES + 2))
        events = [machine.next_event() for _ in range(2 if opening else 1)]
        assert events[-1] == m.GiveUp()
        assert machine.data_to_send().endswith(b"-ERR Line too long\r\n")


def test_too_many_errors() -> None:
    events, output = collect(b"XYZZY\r\n" * 50, 1000)
    assert events == [m.GiveUp()]
    assert output.count(b"-ERR") == MAX_ERRORS
    assert output.endswith(b"-ERR Too many errors\r\n")


def test_failed_logins_count_but_unavailability_does_not() -> None:
    machine = Pop3Machine()
    machine.receive_data(LOGIN * 50)
    logins = 0
    while not isinstance(event := machine.next_event(), m.GiveUp):
        logins += isinstance(event, m.Pass)
        failed = replies.LOGIN_UNAVAILABLE if logins < 20 else replies.LOGIN_FAILED
        machine.send(failed if isinstance(event, m.Pass) else replies.SEND_PASSWORD)
    assert logins == 19 + MAX_ERRORS


def test_misuse_is_noticed() -> None:
    machine = Pop3Machine()
    with pytest.raises(MachineMisuse):
        machine.send(replies.NOOP)
    machine.receive_data(b"CAPA\r\n")
    machine.next_event()
    with pytest.raises(MachineMisuse):
        machine.next_event()
    with pytest.raises(MachineMisuse):
        machine.challenge(b"")


def test_secrets_are_not_shown() -> None:
    for event in (m.Pass(b"hush"), m.Auth("PLAIN", b"hush"), m.SaslLine(b"hush")):
        assert "hush" not in repr(event)


COMMANDS = [
    b"USER a",
    b"PASS b",
    b"AUTH PLAIN",
    b"AUTH PLAIN AA==",
    b"STAT",
    b"LIST",
    b"LIST 1",
    b"RETR 1",
    b"TOP 1 2",
]
COMMANDS += [
    b"UIDL 1",
    b"DELE 1",
    b"RSET",
    b"NOOP",
    b"CAPA",
    b"QUIT",
    b"XYZZY",
    b"",
    b"\xff",
    b"*",
    b"STLS x",
]


@given(st.lists(st.sampled_from(COMMANDS), max_size=9), st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_every_line_gets_exactly_one_reply(lines: list[bytes], step: int) -> None:
    _, output = collect(b"".join(line + b"\r\n" for line in lines), step)
    assert output.count(b"\r\n") == len(lines)


@given(
    st.lists(
        st.sampled_from([*COMMANDS, b"\r\n", b"\n", b"\r", b"Z" * 3000]) | st.binary(max_size=9), max_size=20
    )
)
@settings(max_examples=150, deadline=None)
def test_foreign_bytes_never_raise_and_framing_does_not_depend_on_packets(pieces: list[bytes]) -> None:
    data = b"\r\n".join(pieces)
    assert collect(data, 7) == collect(data, len(data) or 1)
