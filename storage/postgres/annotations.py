"""Annotations in PostgreSQL.

Whatever writes annotations of an account holds its row, so that two sessions cannot pass a limit together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from storage.annotations import AnnotationLimits, AnnotationStore, Entries, Place
from storage.errors import NotFound
from storage.model import AccountId

from .pool import Database, Record, Transaction

_LOCK = "SELECT id FROM accounts WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE"

_IS_LIVE = "SELECT id FROM mailboxes WHERE id = $1 AND account_id = $2 AND deleted_at IS NULL FOR KEY SHARE"

_OF_LIVE = """
FROM annotations a LEFT JOIN mailboxes m ON m.id = a.mailbox_id
WHERE a.account_id = $1 AND (a.mailbox_id IS NULL OR m.deleted_at IS NULL)"""

_EVERYTHING = f"SELECT a.mailbox_id, a.entry, a.value {_OF_LIVE}"

_NAMED = f"{_EVERYTHING} AND a.entry = ANY ($2::text[])"

_AT = f"{_EVERYTHING} AND coalesce(a.mailbox_id, 0) = coalesce($2::bigint, 0)"

_REMOVE = """
DELETE FROM annotations
WHERE account_id = $1 AND coalesce(mailbox_id, 0) = coalesce($2::bigint, 0) AND entry = ANY ($3::text[])"""

_SET = """
INSERT INTO annotations (account_id, mailbox_id, entry, value)
SELECT $1, $2::bigint, e.entry, e.value FROM unnest($3::text[], $4::bytea[]) AS e (entry, value)
ON CONFLICT (account_id, coalesce(mailbox_id, 0), entry) DO UPDATE SET value = excluded.value"""

_SUMS = f"""
SELECT count(*) FILTER (WHERE coalesce(a.mailbox_id, 0) = coalesce($2::bigint, 0)) AS entries,
       coalesce(sum(octet_length(a.value)), 0)::bigint AS total_bytes {_OF_LIVE}"""


class PostgresAnnotationStore(AnnotationStore):
    def __init__(self, db: Database) -> None:
        self._db = db

    async def everything(self, account_id: AccountId) -> Mapping[Place, Entries]:
        return _by_place(await self._db.read(_EVERYTHING, account_id, account=account_id))

    async def at(self, account_id: AccountId, place: Place) -> Entries:
        rows = await self._db.read(_AT, account_id, place, account=account_id)
        return {row["entry"]: bytes(row["value"]) for row in rows}

    async def named(self, account_id: AccountId, entries: Sequence[str]) -> Mapping[Place, Entries]:
        return _by_place(await self._db.read(_NAMED, account_id, list(entries), account=account_id))

    async def change(
        self,
        account_id: AccountId,
        place: Place,
        changes: Mapping[str, bytes | None],
        limits: AnnotationLimits,
    ) -> None:
        limits.check_values(changes)
        new = {entry: value for entry, value in changes.items() if value is not None}
        async with self._db.transaction(account=account_id, mailboxes=()) as transaction:
            await _lock(transaction, account_id, place)
            await transaction.execute(_REMOVE, account_id, place, list(changes.keys() - new.keys()))
            if new:
                await transaction.execute(_SET, account_id, place, list(new), list(new.values()))
                [sums] = await transaction.fetch(_SUMS, account_id, place)
                limits.check_sums(place, sums["entries"], sums["total_bytes"])


async def _lock(transaction: Transaction, account_id: AccountId, place: Place) -> None:
    if not await transaction.fetch(_LOCK, account_id):
        raise NotFound("the account is gone")
    if place is not None and not await transaction.fetch(_IS_LIVE, place, account_id):
        raise NotFound("the mailbox is gone")


def _by_place(rows: Sequence[Record]) -> Mapping[Place, Entries]:
    found: dict[Place, dict[str, bytes]] = {}
    for row in rows:
        found.setdefault(row["mailbox_id"], {})[row["entry"]] = bytes(row["value"])
    return found
