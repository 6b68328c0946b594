"""FETCH and SEARCH as a client sees them: whole conversations, and what other sessions do meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.imap.commands import COMMANDS
from protocols.imap.pacing import breathe
from protocols.imap.registry import CommandTable
from storage.errors import Unavailable
from storage.model import Flags, SystemFlag
from tests.support.imap import ImapLab
from tests.support.wire import play

from .test_fetch import MESSAGE

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts" / "imap"
PARTS = (
    b"Subject: parts\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n"
    b"--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\na=3Db\r\n--b--\r\n"
)


def lab() -> ImapLab:
    made = ImapLab()
    made.mail.deliver(body=MESSAGE)
    made.mail.deliver(body=PARTS, flags=Flags(SystemFlag.FLAGGED, frozenset({"$Work"})))
    return made


@pytest.mark.parametrize("name", ["fetch.txt", "search.txt"])
async def test_transcript(name: str) -> None:
    await play(lab().factory, (TRANSCRIPTS / name).read_text())


async def test_an_expunge_by_another_session_is_told_after_the_command_that_may() -> None:
    made = lab()
    reader, writer = await made.log_in("INBOX"), await made.log_in("INBOX")
    assert b"x OK" in await writer.send(b"w STORE 1 +FLAGS.SILENT (\\Deleted)\r\nx EXPUNGE\r\n")
    await reader.settle()
    reader.received()
    answer = await reader.send(b"a FETCH 1:2 (UID FLAGS)\r\n")
    assert answer.startswith(b"* 2 FETCH (UID 2 FLAGS (\\Flagged $Work")
    assert b"EXPUNGE\r\n" not in answer
    assert b"a OK [EXPUNGEISSUED]" in answer
    assert (await reader.send(b"b SEARCH ALL\r\n")).startswith(b"* SEARCH 2\r\nb OK")
    answer = await reader.send(b"c UID SEARCH ALL\r\n")
    assert answer.startswith(b"* SEARCH 2\r\n* 1 EXPUNGE\r\n")


async def test_what_reading_marked_is_told_to_others_and_once_to_the_reader() -> None:
    made = lab()
    reader, other = await made.log_in("INBOX"), await made.log_in("INBOX")
    answer = await reader.send(b"a FETCH 1 BODY[TEXT]<0.1>\r\n")
    assert answer.count(b"FLAGS") == 1
    assert b"FETCH" not in await reader.send(b"b NOOP\r\n")
    assert b"* 1 FETCH (FLAGS (\\Seen" in await other.send(b"a NOOP\r\n")


async def test_flags_told_by_fetch_are_not_told_again() -> None:
    made = lab()
    reader, other = await made.log_in("INBOX"), await made.log_in("INBOX")
    await other.send(b"a STORE 1 +FLAGS (\\Flagged)\r\n")
    await reader.settle()
    reader.received()
    answer = await reader.send(b"a FETCH 1 FLAGS\r\n")
    assert answer.count(b"FETCH (") == 1


async def test_a_store_that_cannot_be_reached_is_unavailable_and_the_session_lives() -> None:
    made = lab()
    client = await made.log_in("INBOX")
    made.watched.faults["fetch"] = [Unavailable("database away")]
    assert b"a NO [UNAVAILABLE]" in await client.send(b"a FETCH 1 ENVELOPE\r\n")
    made.watched.faults["fetch"] = [Unavailable("database away")]
    assert b"b NO [UNAVAILABLE]" in await client.send(b"b SEARCH SUBJECT x\r\n")
    assert b"c OK" in await client.send(b"c FETCH 1 ENVELOPE\r\n")


async def test_a_slow_reader_holds_the_fetch_back() -> None:
    made = lab()
    body = b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 250_000
    for _ in range(3):
        made.mail.deliver(body=body)
    client = await made.log_in("INBOX")
    client.transport.stall()
    client.feed(b"a FETCH 3:5 BODY.PEEK[]\r\n")
    for _ in range(200):
        await breathe()
    held = client.transport.get_write_buffer_size()
    assert 0 < held < 1_000_000
    received = b""
    while b"a OK" not in received:
        client.transport.take()
        await breathe()
        received += client.received()
    assert received.count(body) == 3


def test_what_is_announced() -> None:
    names = CommandTable(COMMANDS).capabilities
    assert {b"ESEARCH", b"SEARCHRES", b"WITHIN", b"BINARY"} <= set(names)
