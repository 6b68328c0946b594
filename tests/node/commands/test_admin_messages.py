"""``sora-admin messages``: undelete as an operator does it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from storage.errors import AlreadyExists
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


def pairs(result: dict[str, Any]) -> list[tuple[str, int, str, int]]:
    return [(each["mailbox"], each["uid"], each["into"], each["new_uid"]) for each in result["restored"]]


def test_single_messages_and_ranges_come_back(expunged: Admin) -> None:
    result = expunged.json("messages", "restore", ANN, "--mailbox", "INBOX", "--uid", "3", "--uid", "1:1")
    assert pairs(result) == [("INBOX", 1, "INBOX", 6), ("INBOX", 3, "INBOX", 7)]
    assert live_uids(expunged) == [4, 5, 6, 7]
    assert [each["uid"] for each in expunged.json("messages", "deleted", ANN)] == [2]


def test_all_come_back_once(expunged: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.restoring.BATCH", 2)
    command = ("messages", "restore", ANN, "--mailbox", "inbox", "--all")
    result = expunged(*command)
    assert (result.exit_code, result.stdout) == (0, "restored 3 messages to INBOX\n")
    assert live_uids(expunged) == [4, 5, 6, 7, 8]
    again = expunged(*command)
    assert (again.exit_code, again.stdout) == (0, "restored 0 messages\n")


def test_into_a_mailbox_that_is_made_for_it(expunged: Admin) -> None:
    result = expunged.json(
        "messages", "restore", ANN, "--mailbox", "INBOX", "--uid", "1,3", "--into", "Found/again"
    )
    assert pairs(result) == [("INBOX", 1, "Found/again", 1), ("INBOX", 3, "Found/again", 2)]
    assert live_uids(expunged) == [4, 5]


def test_since(expunged: Admin) -> None:
    assert expunged.json("messages", "deleted", ANN, "--since", "2999-01-01") == []
    assert len(expunged.json("messages", "deleted", ANN, "--since", "2020-01-01T10:00:00")) == 3
    assert expunged.json("messages", "restore", ANN, "--since", "2999-01-01") == {"restored": []}
    assert len(expunged.json("messages", "restore", ANN, "--since", "2020-01-01")["restored"]) == 3


async def _delete_archive(database: Database) -> None:
    recipient = await PostgresAccountStore(database).recipient(ANN)
    assert recipient is not None
    mail = PostgresMailStore(database)
    with contextlib.suppress(AlreadyExists):
        await mail.create_mailbox(recipient.account_id, "Old")
    box = await mail.get_mailbox(recipient.account_id, "Old")
    await mail.append(staged(7), [NewMessage(box.id)])
    await mail.delete_mailbox(recipient.account_id, "Old")


def test_a_deleted_mailbox_comes_back_with_its_messages(expunged: Admin) -> None:
    on_database(expunged, _delete_archive)
    (found,) = expunged.json("messages", "deleted", ANN, "--mailbox", "Old")
    assert (found["uid"], found["mailbox_deleted"]) == (1, True)
    assert "Old (deleted)" in expunged("messages", "deleted", ANN).stdout
    result = expunged.json("messages", "restore", ANN, "--mailbox", "Old", "--uid", "1")
    assert pairs(result) == [("Old", 1, "Old", 1)]
    assert expunged("messages", "restore", ANN, "--mailbox", "Old", "--uid", "1").exit_code == 3
    assert expunged.json("messages", "deleted", ANN, "--mailbox", "Old") == []


def test_two_deleted_mailboxes_of_one_name(expunged: Admin) -> None:
    for _ in range(2):
        on_database(expunged, _delete_archive)
    result = expunged("messages", "restore", ANN, "--mailbox", "Old", "--uid", "1")
    assert result.exit_code == 2
    assert "several" in result.stderr
    result = expunged.json("messages", "restore", ANN, "--mailbox", "Old", "--all", "--into", "INBOX")
    assert [each["new_uid"] for each in result["restored"]] == [6, 7]


def test_a_range_may_reach_beyond_the_mailbox(expunged: Admin) -> None:
    assert expunged("messages", "restore", ANN, "--mailbox", "INBOX", "--uid", "4294967295:2").exit_code == 0
    assert live_uids(expunged) == [4, 5, 6, 7]


def test_what_cannot_be_had_back_is_said_after_the_rest_is_done(expunged: Admin) -> None:
    result = expunged("messages", "restore", ANN, "--mailbox", "INBOX", "--uid", "2,4,99")
    assert result.exit_code == 3
    assert "4, 99" in result.stderr
    assert live_uids(expunged) == [4, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--mailbox", "INBOX"], 2),
        (["--mailbox", "INBOX", "--uid", "1", "--all"], 2),
        (["--since", "2026-01-01", "--all"], 2),
        (["--uid", "1"], 2),
        (["--mailbox", "INBOX", "--uid", "x"], 2),
        (["--mailbox", "INBOX", "--uid", "0"], 2),
        (["--mailbox", "INBOX", "--uid", "1:4294967296"], 2),
        (["--all", "--into", "a//b"], 2),
        (["--mailbox", "Nowhere", "--uid", "1"], 3),
        (["--mailbox", "Nowhere", "--all"], 3),
    ],
)
def test_wrong_requests(expunged: Admin, arguments: list[str], code: int) -> None:
    assert expunged("messages", "restore", ANN, *arguments).exit_code == code
    assert live_uids(expunged) == [4, 5]


def test_unknown_accounts(admin: Admin) -> None:
    assert admin("messages", "deleted", ANN).exit_code == 3
    assert admin("messages", "restore", ANN, "--all").exit_code == 3
