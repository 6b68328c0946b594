"""Accounts and mailboxes past their grace period leave nothing behind, and nothing is taken too early."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from storage.model import INBOX, Flags, NewMessage, SystemFlag
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.recovered import PostgresRecoveredMail

from ...support.stores import ROOT, PostgresStores, staged

NO_GRACE = timedelta(0)
ANN = "ann@example.org"


async def tables_of_accounts(stores: PostgresStores) -> list[str]:
    found = await stores.database.read(
        "SELECT table_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name = 'account_id' ORDER BY 1"
    )
    return [row["table_name"] for row in found]


async def fill(stores: PostgresStores, table: str, account_id: int, mailbox_id: int) -> None:
    """A row of the account in every table that can have one, whatever the table is for."""
    columns = await stores.database.read(
        "SELECT column_name, data_type, udt_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = $1 AND is_nullable = 'NO' AND column_default IS NULL"
        " AND is_identity = 'NO' AND is_generated = 'NEVER'",
        table,
    )
    values = {
        "bigint": "1", "integer": "1", "smallint": "1", "text": "'x'", "bytea": "'x'", "date": "now()",
        "timestamp with time zone": "now()", "ARRAY": "'{}'", "boolean": "false",
    }  # fmt: skip
    given = {row["column_name"]: values[row["data_type"]] for row in columns}
    given["account_id"] = str(account_id)
    if "mailbox_id" in given:
        given["mailbox_id"] = str(mailbox_id)
    names, literals = ", ".join(given), ", ".join(given.values())
    await stores.database.write(f"INSERT INTO {table} ({names}) VALUES ({literals}) ON CONFLICT DO NOTHING")


async def test_nothing_of_an_account_is_left(postgres_stores: PostgresStores) -> None:
    """A table that gets rows of accounts in some later version is found here."""
    stores = postgres_stores
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    await stores.mail.append(staged(), [NewMessage(inbox, delivery_key=b"k" * 32)])
    await stores.add(inbox, b"gone", flags=Flags(SystemFlag.DELETED))
    await stores.mail.expunge(inbox, None)
    await PostgresRecoveredMail(stores.database, ROOT).mailboxes(account_id)
    tables = await tables_of_accounts(stores)
    assert {"mailboxes", "credentials", "recovered", "sieve_scripts"} < set(tables)
    for table in tables:
        if table != "mailboxes":
            await fill(stores, table, account_id, inbox)
    await stores.delete_account(account_id)
    while await stores.purge.purge_messages(NO_GRACE, 100):
        pass
    for table in tables:
        rows = await stores.database.read(f"SELECT FROM {table} WHERE account_id = $1", account_id)
        assert rows == [], table
    assert await stores.database.read("SELECT FROM accounts") == []
    assert await stores.purge.purge_contents(100) == 2


async def test_an_account_that_is_being_restored_keeps_its_mailboxes(postgres_stores: PostgresStores) -> None:
    stores = postgres_stores
    account_id = await stores.new_account()
    await stores.delete_account(account_id)
    async with stores.database.transaction() as restoring:
        await restoring.execute("UPDATE accounts SET deleted_at = NULL WHERE id = $1", account_id)
        assert await stores.purge.purge_messages(NO_GRACE, 100) == 0
    assert await stores.purge.purge_messages(NO_GRACE, 100) == 0
    assert len((await stores.mail.list_mailboxes(account_id)).mailboxes) == 6


async def test_mail_of_an_account_that_comes_back_late_can_be_restored(
    postgres_stores: PostgresStores,
) -> None:
    """The purge has begun: its mailboxes are deleted, the messages that are left can be had."""
    stores = postgres_stores
    accounts = PostgresAccountStore(stores.database)
    ann = await accounts.create_account(ANN, "x")
    inbox = (await stores.mail.get_mailbox(ann.id, INBOX)).id
    await stores.add(inbox, b"1", b"2", b"3")
    await accounts.delete_account(ANN)
    assert await stores.purge.purge_messages(NO_GRACE, 1) == 1
    await accounts.restore_account(ANN)
    left = await stores.mail.list_deleted(ann.id)
    new = (await stores.mail.get_mailbox(ann.id, INBOX)).id
    for message in left:
        await stores.mail.undelete(message.mailbox_id, [message.uid], new)
    assert (await stores.mail.load_view(new)).mailbox.messages == len(left) >= 2
    await stores.audit(new)


@pytest.mark.parametrize("table", ["messages", "message_state"])
async def test_the_schema_keeps_messages_and_contents_together(
    postgres_stores: PostgresStores, table: str
) -> None:
    stores = postgres_stores
    await stores.add(await stores.inbox())
    parent = {"messages": "contents", "message_state": "messages"}[table]
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await stores.database.write(f"DELETE FROM {parent}")
