"""Sieve scripts in PostgreSQL.

Whatever writes scripts of an account holds its row, so that two sessions can neither pass a quota together
nor make two scripts active.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg

from storage.errors import AlreadyExists, CommitUnknown, NotFound, NotPermitted
from storage.model import AccountId
from storage.scripts import ScriptInfo, ScriptQuota, ScriptStore, checked_name

from .pool import Database, Transaction

_LOCK = "SELECT id FROM accounts WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE"

_LIST = """
SELECT name, octet_length(content) AS size_bytes, is_active, created_at, updated_at
FROM sieve_scripts WHERE account_id = $1 ORDER BY name"""

_CONTENTS = "SELECT name, content FROM sieve_scripts WHERE account_id = $1 AND name = ANY ($2::text[])"

_OTHERS = "SELECT count(*) AS n FROM sieve_scripts WHERE account_id = $1 AND name <> $2"

_PUT = """
INSERT INTO sieve_scripts (account_id, name, content) VALUES ($1, $2, $3)
ON CONFLICT (account_id, name) DO UPDATE SET content = excluded.content, updated_at = now()"""

_DEACTIVATE = "UPDATE sieve_scripts SET is_active = false WHERE account_id = $1 AND is_active"

_ACTIVATE = "UPDATE sieve_scripts SET is_active = true WHERE account_id = $1 AND name = $2 RETURNING name"

_RENAME = """
UPDATE sieve_scripts SET name = $3, updated_at = now() WHERE account_id = $1 AND name = $2 RETURNING name"""

_DELETE = """
WITH found AS (SELECT is_active FROM sieve_scripts WHERE account_id = $1 AND name = $2),
gone AS (DELETE FROM sieve_scripts WHERE account_id = $1 AND name = $2 AND NOT is_active)
SELECT is_active FROM found"""

_SEEN = """
SELECT key FROM sieve_seen
WHERE account_id = $1 AND key = ANY ($2::bytea[]) AND expires_at > clock_timestamp()"""

_REMEMBER = """
WITH dropped AS (
    DELETE FROM sieve_seen
    WHERE account_id = $1 AND expires_at <= clock_timestamp() AND key <> ALL ($2::bytea[])
)
INSERT INTO sieve_seen (account_id, key, expires_at)
SELECT $1, k.key, clock_timestamp() + max(k.period)
FROM unnest($2::bytea[], $3::interval[]) AS k (key, period)
GROUP BY k.key ORDER BY k.key
ON CONFLICT (account_id, key) DO UPDATE
    SET expires_at = greatest(sieve_seen.expires_at, excluded.expires_at)"""


class PostgresScriptStore(ScriptStore):
    """``on_changed`` is told after each commit that changed scripts of an account."""

    def __init__(self, db: Database, on_changed: Callable[[AccountId], None] = lambda _account: None) -> None:
        self._db = db
        self._on_changed = on_changed

    async def scripts(self, account_id: AccountId) -> list[ScriptInfo]:
        rows = await self._db.read(_LIST, account_id, on_primary=True)
        return [ScriptInfo(*row) for row in rows]

    async def script(self, account_id: AccountId, name: str) -> bytes:
        found = await self.contents(account_id, [name])
        if name not in found:
            raise _unknown(name)
        return found[name]

    async def contents(self, account_id: AccountId, names: Sequence[str]) -> Mapping[str, bytes]:
        rows = await self._db.read(_CONTENTS, account_id, list(names), on_primary=True)
        return {row["name"]: bytes(row["content"]) for row in rows}

    async def has_space(self, account_id: AccountId, name: str, size_bytes: int, quota: ScriptQuota) -> None:
        name = checked_name(name)
        quota.check_size(size_bytes)
        (row,) = await self._db.read(_OTHERS, account_id, name, on_primary=True)
        quota.check_count(row["n"])

    async def put(self, account_id: AccountId, name: str, content: bytes, quota: ScriptQuota) -> None:
        name = checked_name(name)
        quota.check_size(len(content))
        async with self._changing(account_id) as transaction:
            (row,) = await transaction.fetch(_OTHERS, account_id, name)
            quota.check_count(row["n"])
            await transaction.execute(_PUT, account_id, name, content)

    async def activate(self, account_id: AccountId, name: str | None) -> None:
        async with self._changing(account_id) as transaction:
            await transaction.execute(_DEACTIVATE, account_id)
            if name is not None and not await transaction.fetch(_ACTIVATE, account_id, name):
                raise _unknown(name)

    async def rename(self, account_id: AccountId, old: str, new: str) -> None:
        new = checked_name(new)
        try:
            async with self._changing(account_id) as transaction:
                if not await transaction.fetch(_RENAME, account_id, old, new):
                    raise _unknown(old)
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists(f"there is a script {new!r} already") from error

    async def delete(self, account_id: AccountId, name: str) -> None:
        async with self._changing(account_id) as transaction:
            rows = await transaction.fetch(_DELETE, account_id, name)
        if not rows:
            raise _unknown(name)
        if rows[0]["is_active"]:
            raise NotPermitted(f"{name!r} is the active script")

    async def seen(self, account_id: AccountId, keys: Sequence[bytes]) -> frozenset[bytes]:
        rows = await self._db.read(_SEEN, account_id, list(keys), on_primary=True)
        return frozenset(bytes(row["key"]) for row in rows)

    async def remember(self, account_id: AccountId, keys: Sequence[tuple[bytes, int]]) -> None:
        periods = [timedelta(seconds=period_s) for _, period_s in keys]
        await self._db.write(_REMEMBER, account_id, [key for key, _ in keys], periods, account=account_id)

    @asynccontextmanager
    async def _changing(self, account_id: AccountId) -> AsyncIterator[Transaction]:
        """Raises NotFound."""
        try:
            async with self._db.transaction(account=account_id) as transaction:
                if not await transaction.fetch(_LOCK, account_id):
                    raise NotFound("the account is gone")
                yield transaction
        except CommitUnknown:
            self._on_changed(account_id)
            raise
        self._on_changed(account_id)


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no script {name!r}")
