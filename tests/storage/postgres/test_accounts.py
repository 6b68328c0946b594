"""What only the PostgreSQL account store promises: round trips, mailboxes, races."""

from __future__ import annotations

import asyncio
import time

import pytest

from storage.errors import NotFound
from storage.model import DEFAULT_MAILBOXES
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.pool import Database

from ...support.postgres import waiters

ANN, ALIAS = "ann@example.org", "sales@example.com"


@pytest.fixture
def store(database: Database) -> PostgresAccountStore:
    return PostgresAccountStore(database)


async def test_an_account_comes_with_its_mailboxes_subscribed_in_one_statement(
    store: PostgresAccountStore, database: Database
) -> None:
    database.stats.clear()
    account = await store.create_account(ANN, "h")
    assert database.stats == {"write": 1}
    rows = await database.read("SELECT * FROM mailboxes WHERE account_id = $1 ORDER BY id", account.id)
    assert {(row["name"], row["special_use"]) for row in rows} == {
        (name, use.value if use else None) for name, use in DEFAULT_MAILBOXES
    }
    validities = {row["uidvalidity"] for row in rows}
    assert len(validities) == len(DEFAULT_MAILBOXES)
    assert all(abs(each - time.time()) < 600 for each in validities)
    (last,) = await database.read("SELECT last FROM uidvalidities WHERE account_id = $1", account.id)
    assert last["last"] == max(validities)
    subscribed = await database.read("SELECT name FROM subscriptions WHERE account_id = $1", account.id)
    assert {row["name"] for row in subscribed} == {name for name, _ in DEFAULT_MAILBOXES}
    inbox = next(row["id"] for row in rows if row["name"] == "INBOX")
    recipient = await store.recipient(ANN)
    assert recipient is not None
    assert recipient.inbox_id == inbox


async def test_a_refused_account_leaves_nothing_behind(
    store: PostgresAccountStore, database: Database
) -> None:
    await store.create_account(ANN, "h")
    with pytest.raises(Exception, match=ANN):
        await store.create_account(ANN, "h")
    (row,) = await database.read(
        "SELECT (SELECT count(*) FROM accounts) AS accounts, (SELECT count(*) FROM mailboxes) AS mailboxes"
    )
    assert (row["accounts"], row["mailboxes"]) == (1, len(DEFAULT_MAILBOXES))


@pytest.mark.parametrize("method", ["login", "recipient"])
async def test_a_lookup_is_one_read(store: PostgresAccountStore, database: Database, method: str) -> None:
    await store.create_account(ANN, "h")
    database.stats.clear()
    assert await getattr(store, method)(ANN) is not None
    assert await getattr(store, method)("nobody@example.org") is None
    assert database.stats == {"read": 2}


async def test_usage_is_the_sum_over_live_mailboxes(store: PostgresAccountStore, database: Database) -> None:
    account = await store.create_account(ANN, "h")
    await database.write(
        "UPDATE mailboxes SET messages = 2, size_bytes = 500 WHERE account_id = $1 RETURNING id", account.id
    )
    await database.write("UPDATE mailboxes SET deleted_at = now() WHERE name = 'Junk' RETURNING id")
    found = await store.account(ANN)
    live = len(DEFAULT_MAILBOXES) - 1
    assert (found.messages, found.size_bytes) == (2 * live, 500 * live)
    assert await store.accounts() == [found]


async def test_restoring_a_purged_account_gives_it_an_inbox_again(
    store: PostgresAccountStore, database: Database
) -> None:
    account = await store.create_account(ANN, "h")
    (before,) = await database.read("SELECT last FROM uidvalidities WHERE account_id = $1", account.id)
    await store.delete_account(ANN)
    await database.write("DELETE FROM mailboxes WHERE account_id = $1", account.id)
    await store.restore_account(ANN)
    recipient = await store.recipient(ANN)
    assert recipient is not None
    (row,) = await database.read("SELECT * FROM mailboxes WHERE account_id = $1", account.id)
    assert (row["id"], row["name"]) == (recipient.inbox_id, "INBOX")
    assert row["uidvalidity"] > before["last"]


async def test_restoring_keeps_the_inbox_that_is_there(
    store: PostgresAccountStore, database: Database
) -> None:
    await store.create_account(ANN, "h")
    before = await store.recipient(ANN)
    await store.delete_account(ANN)
    await store.restore_account(ANN)
    assert await store.recipient(ANN) == before
    (row,) = await database.read("SELECT count(*) AS n FROM mailboxes")
    assert row["n"] == len(DEFAULT_MAILBOXES)


async def test_a_credential_added_while_the_account_is_deleted_does_not_survive_it(
    store: PostgresAccountStore, database: Database
) -> None:
    """The deletion holds the account's row; the addition waits for it and then finds nobody."""
    account = await store.create_account(ANN, "h")
    async with database.transaction() as deletion:
        await deletion.execute("UPDATE accounts SET deleted_at = now() WHERE id = $1", account.id)
        adding = asyncio.create_task(store.add_credential(ANN, ALIAS, "h"))
        while not await waiters(database):
            assert not adding.done()
            await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await adding
    assert await database.read("SELECT FROM credentials WHERE address = $1", ALIAS) == []
