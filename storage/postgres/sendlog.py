"""What scripts send, in PostgreSQL.

A claim is an insert that takes the place of an expired row and of no other; that of a handover has the name
of the copy as its cause, and finds its own row again. Mail that counts is one row an account and kind, with
the list of what was sent in the window. Of two statements that meet, one waits for the other's commit, and
then works on the row as that left it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg

from storage.api import RETRY_WINDOW
from storage.errors import NotFound
from storage.model import AccountId
from storage.sending import AnswerLog, HandoverLog, RedirectLog

from .pool import Database, Record

_CLAIM_CAUSE = """
INSERT INTO sieve_answers AS a (account_id, key, cause, expires_at)
VALUES ($1, $2, $2, clock_timestamp() + $3)
ON CONFLICT (account_id, key) DO UPDATE SET cause = excluded.cause, expires_at = excluded.expires_at
    WHERE a.expires_at <= clock_timestamp()
RETURNING 1 AS n"""

# Looking first: whoever was answered writes often, and then nothing is written here.
_CLAIM_BOTH = """
WITH sender AS (
    INSERT INTO sieve_answers AS a (account_id, key, cause, expires_at)
    SELECT $1, $4, $2, clock_timestamp() + $5 WHERE NOT EXISTS (
        SELECT FROM sieve_answers
        WHERE account_id = $1 AND key = ANY (ARRAY[$2::bytea, $4::bytea]) AND expires_at > clock_timestamp())
    ON CONFLICT (account_id, key) DO UPDATE SET cause = excluded.cause, expires_at = excluded.expires_at
        WHERE a.expires_at <= clock_timestamp()
    RETURNING 1
)
INSERT INTO sieve_answers AS a (account_id, key, cause, expires_at)
SELECT $1, $2, $2, clock_timestamp() + $3 FROM sender
ON CONFLICT (account_id, key) DO UPDATE SET cause = excluded.cause, expires_at = excluded.expires_at
    WHERE a.expires_at <= clock_timestamp()
RETURNING 1 AS n"""

_RELEASE = "DELETE FROM sieve_answers WHERE account_id = $1 AND key = ANY ($2::bytea[]) AND cause = $3"

_HANDED_OVER = """
SELECT key FROM sieve_answers
WHERE account_id = $1 AND key = ANY ($2::bytea[]) AND expires_at > clock_timestamp()"""

_CLAIM_HANDOVER = """
INSERT INTO sieve_answers AS a (account_id, key, cause, expires_at)
SELECT $1, k.key, k.cause, clock_timestamp() + $4 FROM unnest($2::bytea[], $3::bytea[]) AS k (key, cause)
ORDER BY k.key
ON CONFLICT (account_id, key) DO UPDATE SET cause = excluded.cause, expires_at = excluded.expires_at
    WHERE a.cause = excluded.cause OR a.expires_at <= clock_timestamp()
RETURNING key"""

_ADMIT = """
INSERT INTO sieve_sends AS s (account_id, kind, keys, sent_at, expires_at)
SELECT $1, $2, k.keys, array_fill(now(), ARRAY[cardinality(k.keys)]), now() + $5
FROM (SELECT ($3::uuid[])[:$4] AS keys) k
ON CONFLICT (account_id, kind) DO UPDATE SET (keys, sent_at, expires_at) = (
    WITH live AS (
        SELECT * FROM unnest(s.keys, s.sent_at) WITH ORDINALITY AS l (key, at, n) WHERE l.at > now() - $5
    ), new AS (
        SELECT e.key, now() AS at, e.n FROM unnest($3::uuid[]) WITH ORDINALITY AS e (key, n)
        WHERE NOT EXISTS (SELECT FROM live WHERE live.key = e.key)
        ORDER BY e.n LIMIT greatest(0, $4 - (SELECT count(*) FROM live))
    ), every AS (
        SELECT key, at, 1 AS part, n FROM live UNION ALL SELECT key, at, 2, n FROM new
    )
    SELECT coalesce(array_agg(key ORDER BY part, n), '{}'), coalesce(array_agg(at ORDER BY part, n), '{}'),
        greatest(s.expires_at, now() + $5)
    FROM every)
RETURNING s.keys"""


class PostgresSendLog(RedirectLog, AnswerLog, HandoverLog):
    def __init__(self, db: Database) -> None:
        self._db = db

    async def admit(
        self,
        account_id: AccountId,
        keys: Sequence[bytes],
        *,
        limit: int,
        window_s: float,
        kind: str = "redirect",
    ) -> frozenset[bytes]:
        names = {UUID(bytes=key[:16]): key for key in keys}  # half of a hash tells them apart too
        window = timedelta(seconds=window_s)
        ((let_in,),) = await self._write(_ADMIT, account_id, kind, list(names), limit, window)
        return frozenset(names[name] for name in let_in if name in names)

    async def handed_over(self, account_id: AccountId, keys: Sequence[bytes]) -> frozenset[bytes]:
        rows = await self._db.read(_HANDED_OVER, account_id, list(keys), on_primary=True)
        return frozenset(bytes(row["key"]) for row in rows)

    async def claim_handover(self, account_id: AccountId, holders: Mapping[bytes, str]) -> frozenset[bytes]:
        names = [name.encode() for name in holders.values()]
        rows = await self._write(_CLAIM_HANDOVER, account_id, list(holders), names, RETRY_WINDOW)
        return frozenset(bytes(row["key"]) for row in rows)

    async def claim_answer(self, account_id: AccountId, key: bytes, period_s: int, cause: bytes) -> bool:
        if not period_s:
            return bool(await self._write(_CLAIM_CAUSE, account_id, cause, RETRY_WINDOW))
        period = timedelta(seconds=period_s)
        return bool(await self._write(_CLAIM_BOTH, account_id, cause, RETRY_WINDOW, key, period))

    async def release_answer(self, account_id: AccountId, key: bytes, cause: bytes) -> None:
        await self._write(_RELEASE, account_id, [key, cause], cause)

    async def _write(self, sql: str, account_id: AccountId, *args: object) -> list[Record]:
        try:
            return await self._db.write(sql, account_id, *args, mailboxes=())
        except asyncpg.ForeignKeyViolationError as error:
            raise NotFound("the account is gone") from error
