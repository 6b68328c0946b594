"""Accounts and credentials in PostgreSQL.

Lock order here: the account row, then its credentials. Whatever adds to an account holds its row in
share mode, so that a deletion under way is either seen or waited for.
"""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

from storage.api import AccountStore
from storage.errors import AlreadyExists, NotFound, NotPermitted
from storage.model import (
    DEFAULT_MAILBOXES,
    INBOX,
    Account,
    AccountId,
    ActiveScript,
    Credential,
    CredentialId,
    MailboxId,
    Recipient,
    SpecialUse,
)

from .pool import Database, Record, Transaction

_CREDENTIAL = "c.id, c.account_id, c.address, c.password_hash, c.is_primary, c.created_at"

_LOGIN = f"""
SELECT {_CREDENTIAL}, p.address AS primary_address
FROM credentials c
JOIN accounts a ON a.id = c.account_id AND a.deleted_at IS NULL
JOIN credentials p ON p.account_id = c.account_id AND p.is_primary
WHERE c.address = $1 AND c.retired_at IS NULL"""

_RECIPIENT = f"""
SELECT c.account_id, p.address AS primary_address, m.id AS inbox_id, s.name AS script_name, s.content
FROM credentials c
JOIN accounts a ON a.id = c.account_id AND a.deleted_at IS NULL
JOIN credentials p ON p.account_id = c.account_id AND p.is_primary
JOIN mailboxes m ON m.account_id = c.account_id AND m.name = '{INBOX}' AND m.deleted_at IS NULL
LEFT JOIN sieve_scripts s ON s.account_id = c.account_id AND s.is_active
WHERE c.address = $1 AND c.retired_at IS NULL"""

_ADDRESSES = "SELECT address FROM credentials WHERE account_id = $1 AND retired_at IS NULL"

# Each mailbox gets its own uidvalidity, so that no rename can ever bring a (name, uidvalidity) back.
_PROVISION = """
validity AS (
    INSERT INTO uidvalidities (account_id, last)
    SELECT id, extract(epoch FROM now())::bigint + cardinality($2::text[]) FROM account
    ON CONFLICT (account_id) DO UPDATE
        SET last = greatest(uidvalidities.last + cardinality($2::text[]), excluded.last)
    RETURNING account_id, last
), boxes AS (
    INSERT INTO mailboxes (account_id, name, uidvalidity, special_use)
    SELECT v.account_id, d.name, v.last - cardinality($2::text[]) + d.n, d.special_use
    FROM validity v, unnest($2::text[], $3::text[]) WITH ORDINALITY AS d (name, special_use, n)
), subscribed AS (
    INSERT INTO subscriptions (account_id, name)
    SELECT v.account_id, d.name FROM validity v, unnest($2::text[]) AS d (name)
    ON CONFLICT DO NOTHING
)"""

_CREATE = f"""
WITH account AS (
    INSERT INTO accounts DEFAULT VALUES RETURNING id, created_at
), {_PROVISION}, c AS (
    INSERT INTO credentials (account_id, address, password_hash, is_primary)
    SELECT id, $1, $4, true FROM account
    RETURNING *
)
SELECT {_CREDENTIAL}, account.created_at AS account_created_at FROM c, account"""

# Accounts that match, each with its credentials; one row a credential.
_ACCOUNTS = f"""
SELECT {_CREDENTIAL}, a.created_at AS account_created_at, a.deleted_at, u.messages, u.size_bytes
FROM accounts a
JOIN credentials c ON c.account_id = a.id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(messages), 0)::bigint AS messages, coalesce(sum(size_bytes), 0)::bigint AS size_bytes
    FROM mailboxes WHERE account_id = a.id AND deleted_at IS NULL
) u
WHERE %s
ORDER BY a.id, c.is_primary DESC, c.address"""

_ALL = _ACCOUNTS % (
    "($1::boolean OR a.deleted_at IS NULL) AND ($2::text IS NULL OR EXISTS"
    " (SELECT FROM credentials d WHERE d.account_id = a.id AND d.domain = $2))"
)
# Of several that had the address: the live one, else the one deleted last.
_ONE = _ACCOUNTS % (
    "a.id = (SELECT b.id FROM credentials d JOIN accounts b ON b.id = d.account_id"
    " WHERE d.address = $2 AND ($1::boolean OR b.deleted_at IS NULL)"
    " ORDER BY b.deleted_at DESC NULLS FIRST, b.id DESC LIMIT 1)"
)

_LOCK_LIVE = """
SELECT a.id FROM credentials c JOIN accounts a ON a.id = c.account_id
WHERE c.address = $1 AND c.retired_at IS NULL AND a.deleted_at IS NULL
FOR NO KEY UPDATE OF a"""

_LOCK_DELETED = """
SELECT a.id FROM credentials c JOIN accounts a ON a.id = c.account_id
WHERE c.address = $1 AND a.deleted_at IS NOT NULL
ORDER BY a.deleted_at DESC, a.id DESC LIMIT 1
FOR NO KEY UPDATE OF a"""

_RESTORE_INBOX = f"""
WITH account AS (
    SELECT id FROM accounts WHERE id = $1::bigint AND NOT EXISTS
        (SELECT FROM mailboxes m WHERE m.account_id = $1 AND m.name = '{INBOX}' AND m.deleted_at IS NULL)
), {_PROVISION}
SELECT FROM account"""

_ADD = f"""
WITH account AS (
    SELECT a.id FROM credentials p JOIN accounts a ON a.id = p.account_id
    WHERE p.address = $1 AND p.retired_at IS NULL AND a.deleted_at IS NULL
    FOR SHARE OF a
), c AS (
    INSERT INTO credentials (account_id, address, password_hash)
    SELECT id, $2, $3 FROM account
    RETURNING *
)
SELECT {_CREDENTIAL} FROM c"""

_DELETE_CREDENTIAL = """
WITH found AS (
    SELECT id, is_primary FROM credentials WHERE address = $1 AND retired_at IS NULL FOR UPDATE
), gone AS (
    DELETE FROM credentials c USING found f WHERE c.id = f.id AND NOT f.is_primary
)
SELECT is_primary FROM found"""

_REPLACE_HASH = """
UPDATE credentials SET password_hash = $2, updated_at = now()
WHERE address = $1 AND retired_at IS NULL RETURNING id"""

_UPGRADE = """
UPDATE credentials SET password_hash = $3, updated_at = now()
WHERE id = $1 AND password_hash = $2 RETURNING id"""


class PostgresAccountStore(AccountStore):
    def __init__(self, database: Database) -> None:
        self._database = database

    async def login(self, address: str) -> tuple[Credential, str] | None:
        rows = await self._database.read(_LOGIN, address)
        return (_credential(rows[0]), rows[0]["primary_address"]) if rows else None

    async def recipient(self, address: str) -> Recipient | None:
        rows = await self._database.read(_RECIPIENT, address)
        if not rows:
            return None
        row = rows[0]
        name = row["script_name"]
        script = None if name is None else ActiveScript(name, bytes(row["content"]))
        return Recipient(
            AccountId(row["account_id"]), row["primary_address"], MailboxId(row["inbox_id"]), script
        )

    async def addresses(self, account_id: AccountId) -> frozenset[str]:
        rows = await self._database.read(_ADDRESSES, account_id)
        return frozenset(row["address"] for row in rows)

    async def create_account(self, address: str, password_hash: str) -> Account:
        names, uses = _columns(DEFAULT_MAILBOXES)
        try:
            (row,) = await self._database.write(_CREATE, address, names, uses, password_hash)
        except asyncpg.UniqueViolationError as error:
            raise _taken(address) from error
        credential = _credential(row)
        return Account(
            credential.account_id,
            address,
            row["account_created_at"],
            None,
            (credential,),
            messages=0,
            size_bytes=0,
        )

    async def accounts(self, domain: str | None = None, *, include_deleted: bool = False) -> list[Account]:
        rows = await self._database.read(_ALL, include_deleted, domain, on_primary=True)
        return sorted(_accounts(rows), key=lambda account: account.primary_address)

    async def account(self, address: str, *, include_deleted: bool = False) -> Account:
        rows = await self._database.read(_ONE, include_deleted, address, on_primary=True)
        for account in _accounts(rows):
            return account
        raise _unknown(address)

    async def delete_account(self, address: str) -> None:
        async with self._database.transaction() as transaction:
            account_id = await _lock(transaction, _LOCK_LIVE, address)
            await transaction.execute("UPDATE accounts SET deleted_at = now() WHERE id = $1", account_id)
            await transaction.execute(
                "UPDATE credentials SET retired_at = now() WHERE account_id = $1", account_id
            )

    async def restore_account(self, address: str) -> None:
        try:
            async with self._database.transaction() as transaction:
                account_id = await _lock(transaction, _LOCK_DELETED, address)
                await transaction.execute("UPDATE accounts SET deleted_at = NULL WHERE id = $1", account_id)
                await transaction.execute(
                    "UPDATE credentials SET retired_at = NULL WHERE account_id = $1", account_id
                )
                # The purge may have taken the mailboxes; an account without INBOX could not receive.
                names, uses = _columns(box for box in DEFAULT_MAILBOXES if box[0] == INBOX)
                await transaction.execute(_RESTORE_INBOX, account_id, names, uses)
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists(f"an address of {address} belongs to another account now") from error

    async def add_credential(self, primary: str, address: str, password_hash: str) -> Credential:
        try:
            rows = await self._database.write(_ADD, primary, address, password_hash)
        except asyncpg.UniqueViolationError as error:
            raise _taken(address) from error
        if not rows:
            raise _unknown(primary)
        return _credential(rows[0])

    async def delete_credential(self, address: str) -> None:
        rows = await self._database.write(_DELETE_CREDENTIAL, address)
        if not rows:
            raise _unknown(address)
        if rows[0]["is_primary"]:
            raise NotPermitted(f"{address} is the primary address of its account")

    async def set_password(self, address: str, password_hash: str) -> None:
        if not await self._database.write(_REPLACE_HASH, address, password_hash):
            raise _unknown(address)

    async def make_primary(self, address: str) -> None:
        async with self._database.transaction() as transaction:
            account_id = await _lock(transaction, _LOCK_LIVE, address)
            await transaction.execute(
                "UPDATE credentials SET is_primary = false WHERE account_id = $1 AND is_primary", account_id
            )
            found = await transaction.fetch(
                "UPDATE credentials SET is_primary = true WHERE account_id = $1 AND address = $2"
                " RETURNING id",
                account_id,
                address,
            )
            if not found:  # deleted while we waited for the lock
                raise _unknown(address)

    async def upgrade_hash(self, credential: Credential, password_hash: str) -> bool:
        rows = await self._database.write(
            _UPGRADE, credential.id, credential.password_hash, password_hash, account=credential.account_id
        )
        return bool(rows)


async def _lock(transaction: Transaction, sql: str, address: str) -> int:
    rows = await transaction.fetch(sql, address)
    if not rows:
        raise _unknown(address)
    account_id: int = rows[0]["id"]
    return account_id


def _columns(boxes: Iterable[tuple[str, SpecialUse | None]]) -> tuple[list[str], list[str | None]]:
    names_and_uses = [(name, use.value if use else None) for name, use in boxes]
    return [name for name, _ in names_and_uses], [use for _, use in names_and_uses]


def _credential(row: Record) -> Credential:
    return Credential(
        CredentialId(row["id"]),
        AccountId(row["account_id"]),
        row["address"],
        row["password_hash"],
        row["is_primary"],
        row["created_at"],
    )


def _accounts(rows: Iterable[Record]) -> list[Account]:
    """One row a credential, those of an account together, its primary one first."""
    grouped: dict[int, list[Record]] = {}
    for row in rows:
        grouped.setdefault(row["account_id"], []).append(row)
    return [_account(group) for group in grouped.values()]


def _account(rows: list[Record]) -> Account:
    first = rows[0]
    return Account(
        AccountId(first["account_id"]),
        first["address"],
        first["account_created_at"],
        first["deleted_at"],
        tuple(_credential(row) for row in rows),
        first["messages"],
        first["size_bytes"],
    )


def _unknown(address: str) -> NotFound:
    return NotFound(f"no account has the address {address}")


def _taken(address: str) -> AlreadyExists:
    return AlreadyExists(f"{address} belongs to an account already")
