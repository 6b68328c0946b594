"""``sora-admin messages``: undelete as an operator does it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from storage.mime.envelope import encode_envelope, parse_envelope
from storage.model import Content, ContentHash, Flags, MailboxId, NewMessage, StagedContent, SystemFlag
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.pool import Database, DatabaseSettings
from storage.postgres.store import PostgresMailStore

from .conftest import Admin

T = TypeVar("T")
ANN = "ann@example.org"
HEADER = b"From: Zo\x1b[31m <zoe@example.net>\r\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?= %d\r\n\r\n"


def on_database(admin: Admin, action: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        database = await Database.open(DatabaseSettings(write=admin.endpoint))
        try:
            return await action(database)
        finally:
            await database.close()

    return asyncio.run(run())


def staged(n: int) -> StagedContent:
    header = HEADER % n
    content = Content(
        ContentHash(hashlib.sha256(header).digest()),
        len(header),
        header,
        encode_envelope(parse_envelope(header)),
        b"",
    )
    return StagedContent(content, (header,), None, len(header))


async def fill(database: Database) -> None:
    """Five messages in INBOX; the first three are expunged."""
    await PostgresAccountStore(database).create_account(ANN, "{SSHA}x")
    recipient = await PostgresAccountStore(database).recipient(ANN)
    assert recipient is not None
    mail = PostgresMailStore(database)
    for n in range(1, 6):
        flags = Flags(SystemFlag.DELETED if n <= 3 else SystemFlag.NONE)
        await mail.append(staged(n), [NewMessage(recipient.inbox_id, flags=flags)])
    await mail.expunge(recipient.inbox_id, None)


@pytest.fixture
def expunged(admin: Admin) -> Admin:
    on_database(admin, fill)
    return admin


def live_uids(admin: Admin) -> list[int]:
    async def read(database: Database) -> list[int]:
        recipient = await PostgresAccountStore(database).recipient(ANN)
        assert recipient is not None
        view = await PostgresMailStore(database).load_view(MailboxId(recipient.inbox_id))
        return list(view.uids)

    return on_database(admin, read)


def test_deleted_messages_are_listed(expunged: Admin) -> None:
    found = expunged.json("messages", "deleted", ANN)
    assert sorted(each["uid"] for each in found) == [1, 2, 3]
    assert {each["subject"] for each in found} == {"grüße 1", "grüße 2", "grüße 3"}
    assert {each["from"] for each in found} == {"zoe@example.net"}
    assert {each["mailbox"] for each in found} == {"INBOX"}
    assert found[0]["expunged_at"]
    assert expunged.json("messages", "deleted", ANN, "--mailbox", "Sent") == []
    assert len(expunged.json("messages", "deleted", ANN, "--limit", "2")) == 2
    text = expunged("messages", "deleted", ANN).stdout
    assert len(text.splitlines()) == 4
    assert "\x1b" not in text


def test_single_messages_and_ranges_come_back(expunged: Admin) -> None:
    result = expunged.json("messages", "restore", ANN, "INBOX", "3", "1:1")
    assert result == {"mailbox": "INBOX", "restored": [{"uid": 1, "new_uid": 6}, {"uid": 3, "new_uid": 7}]}
    assert live_uids(expunged) == [4, 5, 6, 7]
    assert [each["uid"] for each in expunged.json("messages", "deleted", ANN)] == [2]


def test_all_come_back(expunged: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.commands.messages.BATCH", 2)
    result = expunged("messages", "restore", ANN, "inbox", "--all")
    assert (result.exit_code, result.stdout) == (0, "restored 3 messages to inbox\n")
    assert live_uids(expunged) == [4, 5, 6, 7, 8]
    assert expunged("messages", "restore", ANN, "INBOX", "--all").stdout == "restored 0 messages to INBOX\n"


def test_a_range_may_reach_beyond_the_mailbox(expunged: Admin) -> None:
    assert expunged("messages", "restore", ANN, "INBOX", "4294967295:2").exit_code == 0
    assert live_uids(expunged) == [4, 5, 6, 7]


def test_what_cannot_be_had_back_is_said_after_the_rest_is_done(expunged: Admin) -> None:
    result = expunged("messages", "restore", ANN, "INBOX", "2", "4", "99")
    assert result.exit_code == 3
    assert "4, 99" in result.stderr
    assert live_uids(expunged) == [4, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["INBOX"], 2),
        (["INBOX", "1", "--all"], 2),
        (["INBOX", "x"], 2),
        (["INBOX", "0"], 2),
        (["INBOX", "1:4294967296"], 2),
        (["Nowhere", "1"], 3),
    ],
)
def test_wrong_requests(expunged: Admin, arguments: list[str], code: int) -> None:
    assert expunged("messages", "restore", ANN, *arguments).exit_code == code
    assert live_uids(expunged) == [4, 5]


def test_unknown_accounts(admin: Admin) -> None:
    assert admin("messages", "deleted", ANN).exit_code == 3
    assert admin("messages", "restore", ANN, "INBOX", "1").exit_code == 3
