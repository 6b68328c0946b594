"""The namespace of deleted messages, as a client sees it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from storage.memory.mail import MemoryMailStore
from storage.memory.recovered import MemoryRecoveredMail
from storage.model import Flags, SystemFlag
from storage.recoverable import RecoverableMail
from tests.support.imap import ImapLab

DAY = "Recovered/2026-11-22"  # of the lab's clock


class _Late:
    """The store of a lab that is being made."""

    def __init__(self) -> None:
        self.store: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def lab_with(*bodies: bytes) -> ImapLab:
    """Messages of INBOX that were deleted."""
    late = _Late()
    lab = ImapLab(late)
    recovered = MemoryRecoveredMail(lab.mail.tables, "Recovered")
    late.store = RecoverableMail(MemoryMailStore(lab.mail.tables), recovered)
    lab.services = replace(lab.services, namespaces=(recovered,))
    for body in bodies:
        uid = lab.mail.deliver(flags=Flags(SystemFlag.SEEN), body=body)
        lab.mail.expunge(uid)
    return lab


BODIES = (b"Subject: one\r\n\r\n1\r\n", b"Subject: two\r\n\r\n2\r\n")


async def test_namespace_tells_of_it_behind_the_users_own() -> None:
    wire = await lab_with().log_in()
    assert b'* NAMESPACE (("" "/")("Recovered/" "/")) NIL NIL\r\n' in await wire.send(b"1 NAMESPACE\r\n")


async def test_without_the_option_there_is_nothing() -> None:
    lab = ImapLab()
    wire = await lab.log_in()
    assert b'* NAMESPACE (("" "/")) NIL NIL\r\n' in await wire.send(b"1 NAMESPACE\r\n")
    assert b"2 NO [NONEXISTENT]" in await wire.send(f"2 SELECT {DAY}\r\n".encode())


@pytest.mark.parametrize("pattern", ['"" *', '"" %', '"" Rec*', '"" Recovered2*', '"" %/%', '"" recovered/*'])
async def test_clients_that_list_all_do_not_see_it(pattern: str) -> None:
    wire = await lab_with(*BODIES).log_in()
    assert b"Recovered" not in await wire.send(f"1 LIST {pattern}\r\n".encode())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('"" Recovered', ['(\\NonExistent \\Noselect \\HasChildren) "/" "Recovered"']),
        ('"" Recovered/%', [f'(\\HasNoChildren) "/" "{DAY}"']),
        ('"" Recovered/*', [f'(\\HasNoChildren) "/" "{DAY}"']),
        ("Recovered/ *", [f'(\\HasNoChildren) "/" "{DAY}"']),
        (
            '"" Recovered*',
            ['(\\NonExistent \\Noselect \\HasChildren) "/" "Recovered"', f'(\\HasNoChildren) "/" "{DAY}"'],
        ),
        (f'"" {DAY}', [f'(\\HasNoChildren) "/" "{DAY}"']),
    ],
)
async def test_who_asks_for_it_sees_it(arguments: str, expected: list[str]) -> None:
    wire = await lab_with(*BODIES).log_in()
    answer = (await wire.send(f"1 LIST {arguments}\r\n".encode())).decode()
    assert re.findall(r"\* LIST (.*)\r\n", answer) == expected


async def test_status_and_listing_with_status() -> None:
    wire = await lab_with(*BODIES).log_in()
    answer = await wire.send(f"1 STATUS {DAY} (MESSAGES UNSEEN UIDNEXT RECENT DELETED)\r\n".encode())
    assert b"(MESSAGES 2 UNSEEN 0 UIDNEXT 3 RECENT 0 DELETED 0)" in answer
    answer = await wire.send(b'2 LIST "" Recovered/% RETURN (STATUS (MESSAGES))\r\n')
    assert f'* STATUS "{DAY}" (MESSAGES 2)'.encode() in answer


async def test_a_subscribed_day_is_listed_as_what_it_is() -> None:
    wire = await lab_with(*BODIES).log_in()
    assert b"1 OK" in await wire.send(f"1 SUBSCRIBE {DAY}\r\n".encode())
    answer = await wire.send(b'2 LIST (SUBSCRIBED) "" *\r\n')
    assert f'* LIST (\\Subscribed \\HasNoChildren) "/" "{DAY}"'.encode() in answer


@pytest.mark.parametrize("command", ["SELECT", "EXAMINE"])
async def test_a_day_is_read_only(command: str) -> None:
    wire = await lab_with(*BODIES).log_in()
    answer = await wire.send(f"1 {command} {DAY}\r\n".encode())
    assert b"* 2 EXISTS\r\n* 0 RECENT\r\n" in answer
    assert b"[PERMANENTFLAGS ()]" in answer
    assert b"1 OK [READ-ONLY]" in answer


async def test_messages_are_read_and_searched_without_a_trace() -> None:
    wire = await lab_with(*BODIES).log_in(DAY)
    answer = await wire.send(b"1 FETCH 1:* (UID FLAGS BODY[])\r\n")
    assert b"Subject: one" in answer
    assert answer.count(b"FLAGS (\\Seen)") == 2  # \Deleted is what they are here for
    assert b"* SEARCH 2\r\n" in await wire.send(b"2 SEARCH SUBJECT two\r\n")
    assert b"3 OK" in await wire.send(b"3 UID FETCH 1:* (ENVELOPE BODYSTRUCTURE RFC822.SIZE)\r\n")


@pytest.mark.parametrize(
    "command",
    [
        "STORE 1 +FLAGS (\\Flagged)",
        "EXPUNGE",
        "UID EXPUNGE 1",
        "MOVE 1 INBOX",
        "UID MOVE 1 INBOX",
        f"COPY 1 {DAY}",
        f"DELETE {DAY}",
        f"RENAME {DAY} Mine",
        "RENAME Archive Recovered/Mine",
        "CREATE Recovered/Mine",
        "CREATE Recovered",
        f'SETMETADATA {DAY} (/private/comment "x")',
        f"APPEND {DAY} {{3+}}\r\nbye",
    ],
)
async def test_what_would_change_it_is_refused_in_words(command: str) -> None:
    lab = lab_with(*BODIES)
    wire = await lab.log_in(DAY)
    answer = await wire.send(f"1 {command}\r\n".encode())
    assert b"1 NO [NOPERM] Nothing can be changed there" in answer
    assert b"* 2 EXISTS" in await wire.send(f"2 SELECT {DAY}\r\n".encode())


async def test_closing_expunges_nothing() -> None:
    wire = await lab_with(*BODIES).log_in(DAY)
    assert await wire.send(b"1 CLOSE\r\n") == b"1 OK Closed\r\n"
    assert b"* 2 EXISTS" in await wire.send(f"2 SELECT {DAY}\r\n".encode())


async def test_a_copy_brings_a_message_back() -> None:
    lab = lab_with(*BODIES)
    wire, other = await lab.log_in(DAY), await lab.log_in("INBOX")
    answer = await wire.send(b"1 UID COPY 2 INBOX\r\n")
    validity = lab.mail.mailbox().uidvalidity
    assert f"1 OK [COPYUID {validity} 2 3]".encode() in answer
    assert b"* 1 EXISTS" in await other.send(b"1 NOOP\r\n")  # who has it selected hears of it
    answer = await other.send(b"2 FETCH 1 (FLAGS BODY[])\r\n")
    assert b"Subject: two" in answer
    assert b"\\Deleted" not in answer
    assert b'INTERNALDATE " 9-Sep-2001 01:46:40 +0000"' in await other.send(b"3 FETCH 1 INTERNALDATE\r\n")


async def test_a_copy_to_nowhere_asks_for_a_mailbox() -> None:
    wire = await lab_with(*BODIES).log_in(DAY)
    assert b"1 NO [TRYCREATE]" in await wire.send(b"1 COPY 1 Nowhere\r\n")


async def test_news_come_with_the_safety_net() -> None:
    lab = lab_with(*BODIES)
    wire = await lab.log_in(DAY)
    lab.mail.expunge(lab.mail.deliver(body=b"Subject: three\r\n\r\n"))
    await lab.views.step()
    await wire.settle()
    assert b"* 3 EXISTS" in await wire.send(b"1 NOOP\r\n")
    box = lab.mail.box()
    box.forget(next(iter(box.expunged)))  # restored by an administrator, or purged
    await lab.views.step()
    await wire.settle()
    assert b"* 1 EXPUNGE" in await wire.send(b"2 NOOP\r\n")


async def test_a_day_that_nothing_is_left_of_is_empty_for_who_looks_and_gone_from_the_list() -> None:
    lab = lab_with(BODIES[0])
    wire = await lab.log_in(DAY)
    box = lab.mail.box()
    box.forget(next(iter(box.expunged)))
    await lab.views.step()
    await wire.settle()
    assert b"* 1 EXPUNGE" in await wire.send(b"1 NOOP\r\n")
    assert b"* LIST" not in await wire.send(b'2 LIST "" Recovered/*\r\n')
    assert b"3 OK" in await wire.send(b"3 COPY 1:* INBOX\r\n")
