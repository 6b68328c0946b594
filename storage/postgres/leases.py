"""Leases and attempts as rows. The only clock is the database's.

``clock_timestamp()``, not ``now()``: a statement that waited for a row lock judges expiry by the moment it
got the lock, not by the one it began at.
"""

from __future__ import annotations

from dataclasses import astuple, replace
from datetime import datetime, timedelta

from storage.errors import CommitUnknown, Unavailable
from storage.leases import CLOCK_LEEWAY, NOTES_KEPT, Attempts, Lease, clipped

from .pool import Database, Record

# The fence follows the clock where that is ahead: a database made anew, or one that lost its last seconds
# with its primary, must not give out fences below those of objects that exist already.
_TAKE = """
INSERT INTO leases AS l (name, holder, fence, expires_at)
VALUES ($1, $2, floor(extract(epoch FROM clock_timestamp()))::bigint, clock_timestamp() + $3::interval)
ON CONFLICT (name) DO UPDATE
    SET holder = excluded.holder, fence = greatest(l.fence + 1, excluded.fence),
        expires_at = clock_timestamp() + $3::interval
    WHERE l.expires_at <= clock_timestamp() OR l.holder = excluded.holder
        OR l.expires_at > clock_timestamp() + $3::interval + $4::interval
RETURNING fence"""

_RENEW = """
UPDATE leases SET expires_at = clock_timestamp() + $4::interval
WHERE name = $1 AND holder = $2 AND fence = $3 AND expires_at > clock_timestamp()
RETURNING fence"""

_RELEASE = """
UPDATE leases SET expires_at = '-infinity' WHERE name = $1 AND holder = $2 AND fence = $3"""

_HOLDER = "SELECT holder FROM leases WHERE name = $1 AND expires_at > clock_timestamp()"

_LOAD = """
SELECT failures, blocked_until, blocked_why, last_failure, last_failure_at, last_success_at,
       renew_at, renew_checked_at, retry_after
FROM certificate_attempts WHERE ca = $1 AND wanted_id = $2"""

_SAVE = """
INSERT INTO certificate_attempts (ca, wanted_id, failures, blocked_until, blocked_why, last_failure,
    last_failure_at, last_success_at, renew_at, renew_checked_at, retry_after)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (ca, wanted_id) DO UPDATE SET failures = excluded.failures,
    blocked_until = excluded.blocked_until, blocked_why = excluded.blocked_why,
    last_failure = excluded.last_failure, last_failure_at = excluded.last_failure_at,
    last_success_at = excluded.last_success_at, renew_at = excluded.renew_at,
    renew_checked_at = excluded.renew_checked_at, retry_after = excluded.retry_after"""

_NOTE = """
WITH pruned AS (DELETE FROM certificate_notes WHERE noted_at < clock_timestamp() - $4::interval)
INSERT INTO certificate_notes (ca, what, subject) VALUES ($1, $2, $3)"""

_COUNT = """
SELECT count(*) AS n FROM certificate_notes
WHERE ca = $1 AND what = $2 AND subject = $3 AND noted_at > clock_timestamp() - $4::interval
    AND noted_at <= clock_timestamp()"""


async def _write(db: Database, sql: str, *args: object) -> list[Record]:
    """A write whose outcome is not known is no outcome: the caller asks again, which is harmless."""
    try:
        return await db.write(sql, *args, mailboxes=())
    except CommitUnknown as error:
        raise Unavailable(str(error)) from error


class PostgresLeases:
    """One round trip for each call. After Unavailable a take or a renewal may have happened nevertheless:
    asking again settles it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def take(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        rows = await _write(self._db, _TAKE, name, holder, timedelta(seconds=ttl_s), CLOCK_LEEWAY)
        return Lease(name, holder, rows[0]["fence"]) if rows else None

    async def renew(self, lease: Lease, ttl_s: float) -> bool:
        ttl = timedelta(seconds=ttl_s)
        return bool(await _write(self._db, _RENEW, lease.name, lease.holder, lease.fence, ttl))

    async def release(self, lease: Lease) -> None:
        await _write(self._db, _RELEASE, lease.name, lease.holder, lease.fence)

    async def holder(self, name: str) -> str:
        rows = await self._db.read(_HOLDER, name, on_primary=True)
        return rows[0]["holder"] if rows else ""

    async def clock(self) -> datetime:
        (row,) = await self._db.read("SELECT clock_timestamp() AS at", on_primary=True)
        at: datetime = row["at"]
        return at


class PostgresAttemptRecord:
    """One round trip for each call. After Unavailable a note may have been taken: noting it again errs on
    the side of ordering less."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def load(self, ca: str, wanted_id: str) -> Attempts:
        rows = await self._db.read(_LOAD, ca, wanted_id, on_primary=True)
        return Attempts(*rows[0]) if rows else Attempts()

    async def save(self, ca: str, wanted_id: str, attempts: Attempts) -> None:
        stored = replace(
            attempts,
            blocked_why=clipped(attempts.blocked_why),
            last_failure=clipped(attempts.last_failure),
        )
        await _write(self._db, _SAVE, ca, wanted_id, *astuple(stored))

    async def note(self, ca: str, what: str, subject: str) -> None:
        await _write(self._db, _NOTE, ca, what, subject, NOTES_KEPT)

    async def count(self, ca: str, what: str, subject: str, within_s: float) -> int:
        within = timedelta(seconds=within_s)
        (row,) = await self._db.read(_COUNT, ca, what, subject, within, on_primary=True)
        count: int = row["n"]
        return count
