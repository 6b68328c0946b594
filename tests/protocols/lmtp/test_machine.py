"""The LMTP machine by itself: framing, order, one reply for every command."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import MachineMisuse
from protocols.lines import MAX_SKIPPED_BYTES
from protocols.lmtp import replies
from protocols.lmtp.events import (
    Content,
    DataRequested,
    Ends,
    GiveUp,
    Lhlo,
    MailFrom,
    Quit,
    RcptTo,
    StartTls,
    TransactionDropped,
)
from protocols.lmtp.grammar import Path
from protocols.lmtp.machine import MAX_COMMAND_BYTES, MAX_ERRORS, LmtpMachine

A = Path("a@b.example", "a@b.example")
ENVELOPE = b"LHLO foo\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\n"


class Agreeable(LmtpMachine):
    """Answers every event at once with yes, so that feeding it gives plain lists of events."""

    __slots__ = ("recipients",)

    def __init__(self) -> None:
        super().__init__()
        self.recipients = 0

    def next_event(self) -> object | None:  # type: ignore[override]
        event = super().next_event()
        if isinstance(event, Content) and event.ends is Ends.MESSAGE:
            self.send_each([replies.DELIVERED] * self.recipients)
            self.recipients = 0
        elif isinstance(event, DataRequested):
            self.send(replies.SEND_DATA)
        elif isinstance(event, Content):
            if event.ends is Ends.CHUNK:
                self.send(replies.OK)
        elif not isinstance(event, TransactionDropped | GiveUp | None):
            if isinstance(event, RcptTo):
                self.recipients += 1
            elif isinstance(event, Lhlo | MailFrom):
                self.recipients = 0
            self.send(replies.OK)
        elif isinstance(event, TransactionDropped):
            self.recipients = 0
        return event


def collect(data: bytes, step: int) -> tuple[list[object], bytes, bytes]:
    """Events other than content, all content joined, output."""
    machine, events, content = Agreeable(), list[object](), b""
    for i in range(0, len(data), step):
        machine.receive_data(data[i : i + step])
        while (event := machine.next_event()) is not None:
            if isinstance(event, Content):
                content += event.data
                if event.ends is not Ends.NOTHING:
                    events.append(event.ends)
            else:
                events.append(event)
            if isinstance(event, GiveUp):
                return events, content, machine.data_to_send()
    return events, content, machine.data_to_send()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(
    ("data", "events", "content"),
    [
        (b"lhlo foo\r\n", [Lhlo("foo")], b""),
        (
            ENVELOPE + b"DATA\r\n.\r\nQUIT\r\n",
            [Lhlo("foo"), MailFrom(A), RcptTo(A), DataRequested(), Ends.MESSAGE, Quit()],
            b"",
        ),
        (
            ENVELOPE + b"DATA\r\n..a\r\n.b\r\nc\n.\nd\r.\re\r\n.\r\nQUIT\r\n",
            [Lhlo("foo"), MailFrom(A), RcptTo(A), DataRequested(), Ends.MESSAGE, Quit()],
            b".a\r\nb\r\nc\n.\nd\r.\re\r\n",
        ),
        (
            ENVELOPE + b"BDAT 5\r\n.\r\n.\rBDAT 4 LAST\r\nRSETRSET\r\n",
            [Lhlo("foo"), MailFrom(A), RcptTo(A), Ends.CHUNK, Ends.MESSAGE, TransactionDropped()],
            b".\r\n.\rRSET",
        ),
        (
            b"LHLO foo\r\nBDAT 4 LAST\r\nQUITMAIL FROM:<> SIZE=7 BODY=BINARYMIME SMTPUTF8\r\n",
            [Lhlo("foo"), MailFrom(Path("", ""), 7, is_binary=True, has_smtputf8=True)],
            b"",
        ),
        (b"STARTTLS\r\nNOOP\r\nQUIT\r\n", [StartTls()], b""),
    ],
)
def test_events_however_bytes_arrive(data: bytes, events: list[object], content: bytes, step: int) -> None:
    found, octets, _ = collect(data, step)
    assert (found, octets) == (events, content)


@pytest.mark.parametrize(
    "fake_end",
    [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n.\n\r\n", b"\x00.\r\n"],
)
@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_no_smuggling(fake_end: bytes, step: int) -> None:
    """Whatever another server takes for the end of a message, the commands behind it stay content."""
    inner = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nfake\r\n"
    events, content, _ = collect(ENVELOPE + b"DATA\r\nbody" + fake_end + inner + b".\r\nNOOP\r\n", step)
    assert events.count(MailFrom(A)) == 1
    assert sum(isinstance(event, MailFrom) for event in events) == 1
    assert content.endswith(inner)


def test_bytes_behind_starttls_are_never_commands() -> None:
    machine = LmtpMachine()
    machine.receive_data(b"STARTTLS\r\nLHLO evil\r\nQUIT\r\n")
    assert machine.next_event() == StartTls()
    machine.send(replies.TLS_READY)
    assert machine.next_event() is None
    assert machine.discard_input() == len(b"LHLO evil\r\nQUIT\r\n")
    machine.tls_started()
    assert machine.next_event() is None
    machine.receive_data(b"MAIL FROM:<>\r\n")
    assert machine.next_event() is None
    assert machine.data_to_send().endswith(b"503 5.5.1 Say LHLO first\r\n")


def test_oversized_command_line() -> None:
    machine = LmtpMachine()
    for _ in range(MAX_SKIPPED_BYTES // MAX_COMMAND_BYTES):
        machine.receive_data(b"N" * MAX_COMMAND_BYTES)
        assert machine.next_event() is None
        assert machine.buffered_bytes <= MAX_COMMAND_BYTES
    machine.receive_data(b"\r\nQUIT\r\n")
    assert machine.next_event() == Quit()
    assert machine.data_to_send() == b"500 5.5.2 Line too long\r\n"


def test_command_line_without_end_ends_the_connection() -> None:
    machine = LmtpMachine()
    machine.receive_data(b"N" * (MAX_SKIPPED_BYTES + 2))
    assert machine.next_event() == GiveUp()
    assert machine.data_to_send() == b"500 5.5.2 Line too long\r\n"


def test_refused_chunk_ends_the_transaction_and_the_rest_is_skipped() -> None:
    machine = LmtpMachine()
    machine.receive_data(ENVELOPE + b"BDAT 3\r\nabcBDAT 4 LAST\r\nQUITQUIT\r\n")
    for reply in (replies.OK, replies.OK, replies.OK):
        assert machine.next_event() is not None
        machine.send(reply)
    assert machine.next_event() == Content(b"abc", Ends.CHUNK)
    machine.send(replies.MESSAGE_TOO_BIG)
    assert machine.next_event() == Quit()
    assert machine.data_to_send().endswith(b"552 5.3.4 Message too big\r\n503 5.5.1 Say MAIL first\r\n")


def test_too_many_errors_give_up_but_failed_recipients_are_no_errors() -> None:
    machine = LmtpMachine()
    machine.receive_data(b"XYZZY\r\n" * MAX_ERRORS)
    assert machine.next_event() == GiveUp()
    assert machine.data_to_send().endswith(b"421 4.7.0 Too many errors\r\n")
    machine = LmtpMachine()
    machine.receive_data(b"LHLO a\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<a@b>\r\n" * 100 + b"DATA\r\n")
    while (event := machine.next_event()) is not None:
        assert not isinstance(event, GiveUp)
        machine.send(replies.NO_SUCH_USER if isinstance(event, RcptTo) else replies.OK)


def test_misuse_is_noticed() -> None:
    machine = LmtpMachine()
    with pytest.raises(MachineMisuse):
        machine.send(replies.OK)
    machine.receive_data(ENVELOPE)
    machine.next_event()
    with pytest.raises(MachineMisuse):
        machine.next_event()
    with pytest.raises(MachineMisuse):
        machine.send_each([])


COMMANDS = st.sampled_from(
    [
        b"LHLO x\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<a@b>\r\n",
        b"RCPT TO:<c@d>\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"BDAT 3\r\n",
        b"BDAT 2 LAST\r\n",
        b"BDAT x\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"VRFY a\r\n",
        b"HELP\r\n",
        b"EXPN x\r\n",
        b"\r\n",
        b"\xff\xfe\r\n",
        b"junk",
        b"\n",
        b"QUIT\r\n",
        b"N" * 3000,
    ]
)


@given(st.lists(COMMANDS | st.binary(max_size=20), max_size=25), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_foreign_bytes_never_raise_and_framing_does_not_depend_on_packets(
    pieces: list[bytes], step: int
) -> None:
    data = b"".join(pieces)
    assert collect(data, step) == collect(data, len(data) or 1)


ONE_REPLY = {
    b"NOOP": 1,
    b"RSET": 1,
    b"LHLO x": 1,
    b"MAIL FROM:<a@b>": 1,
    b"RCPT TO:<a@b>": 1,
    b"XYZZY": 1,
    b"VRFY": 1,
}


@given(st.lists(st.sampled_from(sorted(ONE_REPLY)), max_size=15))
@settings(max_examples=100, deadline=None)
def test_every_command_gets_exactly_one_reply(commands: list[bytes]) -> None:
    data = b"".join(command + b"\r\n" for command in commands)
    _, _, output = collect(data, 5)
    assert output.count(b"\r\n") == len(commands)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_one_reply_for_each_accepted_recipient_in_order(accepted: list[bool]) -> None:
    machine = LmtpMachine()
    machine.receive_data(b"LHLO x\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<a@b>\r\n" * len(accepted) + b"DATA\r\n")
    for reply in (replies.OK, replies.OK, *(replies.OK if ok else replies.NO_SUCH_USER for ok in accepted)):
        machine.next_event()
        machine.send(reply)
    if not any(accepted):
        assert machine.next_event() is None
        assert machine.data_to_send().endswith(b"503 5.5.1 No valid recipients\r\n")
        return
    assert machine.next_event() == DataRequested()
    machine.send(replies.SEND_DATA)
    machine.receive_data(b"hi\r\n.\r\n")
    assert machine.next_event() == Content(b"hi\r\n", Ends.MESSAGE)
    machine.data_to_send()
    wanted = [replies.Reply(250, "2.0.0", str(n)) for n in range(sum(accepted))]
    machine.send_each(wanted)
    assert machine.data_to_send() == b"".join(b"250 2.0.0 %d\r\n" % n for n in range(sum(accepted)))
