"""What the cleaner does, in bounded batches.

A content is dropped in one transaction: lock it, strike it off the candidates, look for messages with a
snapshot taken after that, then delete it and doom its object. The lock keeps new references out (their
foreign key wants a share of it; an append of the same bytes wants to update the row), the fresh snapshot
sees those that came before. Whoever drops a message writes the candidate's row, so striking it off waits
for them: no last message can go unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from storage.api import RETRY_WINDOW
from storage.model import ContentHash, ContentId
from storage.objects.keys import object_key

from .pool import Database

TOMBSTONE_AGE = timedelta(days=7)  # far longer than any upload lease

# Candidates as the snapshot has them; DELETE decides on the rows as they are.
_EXPIRE = """
WITH due AS MATERIALIZED (
    SELECT m.mailbox_id, m.uid FROM messages m
    JOIN message_state s ON s.mailbox_id = m.mailbox_id AND s.uid = m.uid
    WHERE m.internaldate < now() - $1::interval ORDER BY m.internaldate LIMIT $2
), locked AS MATERIALIZED (
    SELECT id, account_id, highestmodseq FROM mailboxes
    WHERE id IN (SELECT mailbox_id FROM due) AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE
), gone AS (
    DELETE FROM message_state s USING due d, (SELECT array_agg(id) AS ids FROM locked) l
    WHERE s.mailbox_id = d.mailbox_id AND s.uid = d.uid AND s.mailbox_id = ANY (l.ids)
    RETURNING s.mailbox_id, s.uid, s.flags, s.keywords, s.size_bytes
), log AS (
    INSERT INTO expunged (mailbox_id, uid, modseq, flags, keywords)
    SELECT g.mailbox_id, g.uid, l.highestmodseq + 1, g.flags, g.keywords
    FROM gone g JOIN locked l ON l.id = g.mailbox_id
), bump AS (
    UPDATE mailboxes m SET highestmodseq = m.highestmodseq + 1, messages = m.messages - c.n,
        unseen = m.unseen - c.unseen, deleted = m.deleted - c.deleted,
        size_bytes = m.size_bytes - c.size_bytes
    FROM (SELECT mailbox_id, count(*) AS n, count(*) FILTER (WHERE flags & 1 = 0) AS unseen,
                 count(*) FILTER (WHERE flags & 8 <> 0) AS deleted, sum(size_bytes)::bigint AS size_bytes
          FROM gone GROUP BY mailbox_id) c
    WHERE m.id = c.mailbox_id
)
SELECT l.account_id, l.id, (SELECT count(*) FROM gone) AS n FROM locked l"""

_PURGE_EXPUNGED = """
WITH due AS MATERIALIZED (
    SELECT mailbox_id, uid FROM expunged WHERE purged_at IS NULL AND expunged_at <= now() - $1::interval
    ORDER BY expunged_at LIMIT $2 FOR UPDATE SKIP LOCKED
), noted AS (
    UPDATE expunged e SET purged_at = now() FROM due d WHERE e.mailbox_id = d.mailbox_id AND e.uid = d.uid
), dropped AS (
    DELETE FROM messages m USING due d WHERE m.mailbox_id = d.mailbox_id AND m.uid = d.uid
    RETURNING m.content_id
), candidates AS (
    INSERT INTO purge_candidates (content_id) SELECT DISTINCT content_id FROM dropped ORDER BY 1
    ON CONFLICT (content_id) DO UPDATE SET noted_at = now()
)
SELECT count(*) AS n FROM due"""

# The mailboxes of an account that is past its grace follow it, unless it is being restored right now.
_FOLLOW_ACCOUNT = """
WITH gone AS MATERIALIZED (
    SELECT id, deleted_at FROM accounts WHERE deleted_at <= now() - $1::interval
    FOR SHARE SKIP LOCKED
)
UPDATE mailboxes m SET deleted_at = g.deleted_at FROM gone g
WHERE m.account_id = g.id AND m.deleted_at IS NULL"""

_PICK_MAILBOX = """
SELECT id FROM mailboxes WHERE deleted_at <= now() - $1::interval
ORDER BY deleted_at LIMIT 1 FOR UPDATE SKIP LOCKED"""

# A log entry goes before its message, as in the purge of single messages: two cleaners wait for each other in
# one order, and no entry says of a message that is gone that it could be had back.
_PURGE_MAILBOX = """
WITH due AS MATERIALIZED (
    SELECT uid FROM messages WHERE mailbox_id = $1 ORDER BY uid LIMIT $2
), logs AS (
    DELETE FROM expunged e USING due d WHERE e.mailbox_id = $1 AND e.uid = d.uid RETURNING e.uid
), states AS (
    DELETE FROM message_state s USING due d WHERE s.mailbox_id = $1 AND s.uid = d.uid
), dropped AS (
    DELETE FROM messages m USING due d WHERE m.mailbox_id = $1 AND m.uid = d.uid
      AND (SELECT count(*) FROM logs) >= 0
    RETURNING m.content_id
), candidates AS (
    INSERT INTO purge_candidates (content_id) SELECT DISTINCT content_id FROM dropped ORDER BY 1
    ON CONFLICT (content_id) DO UPDATE SET noted_at = now()
)
SELECT count(*) AS n FROM dropped"""

_PURGE_LOG = """
WITH due AS (SELECT uid FROM expunged WHERE mailbox_id = $1 ORDER BY uid LIMIT $2)
DELETE FROM expunged e USING due d WHERE e.mailbox_id = $1 AND e.uid = d.uid RETURNING 1 AS n"""

_DROP_MAILBOX = "DELETE FROM mailboxes WHERE id = $1"

_PICK_ACCOUNT = """
SELECT id FROM accounts a WHERE deleted_at <= now() - $1::interval
AND NOT EXISTS (SELECT FROM mailboxes m WHERE m.account_id = a.id) LIMIT 1 FOR UPDATE SKIP LOCKED"""

_DROP_ACCOUNT = (
    "DELETE FROM subscriptions WHERE account_id = $1",
    "DELETE FROM deliveries WHERE account_id = $1",
    "DELETE FROM sieve_scripts WHERE account_id = $1",
    "DELETE FROM sieve_seen WHERE account_id = $1",
    "DELETE FROM uidvalidities WHERE account_id = $1",
    "DELETE FROM recovered WHERE account_id = $1",
    "DELETE FROM recovered_accounts WHERE account_id = $1",
    "DELETE FROM credentials WHERE account_id = $1",
    "DELETE FROM accounts WHERE id = $1",
)

_PURGE_DAYS = """
WITH due AS MATERIALIZED (
    SELECT account_id, day, uid FROM recovered r
    WHERE day < ((now() - $1::interval) AT TIME ZONE 'UTC')::date
      AND NOT EXISTS (SELECT FROM messages m WHERE m.mailbox_id = r.mailbox_id AND m.uid = r.message_uid)
    ORDER BY day LIMIT $2 FOR UPDATE SKIP LOCKED
)
DELETE FROM recovered r USING due d WHERE r.account_id = d.account_id AND r.day = d.day AND r.uid = d.uid
RETURNING 1 AS n"""

_LOCK_CONTENTS = """
SELECT c.id, c.hash FROM purge_candidates p JOIN contents c ON c.id = p.content_id
WHERE NOT EXISTS (SELECT FROM staged_contents g WHERE g.content_id = c.id AND g.lease_until > now())
ORDER BY c.id LIMIT $1 FOR UPDATE OF c SKIP LOCKED"""

_STRIKE = "DELETE FROM purge_candidates WHERE content_id = ANY ($1::bigint[])"

_REFERENCED = """
SELECT i.id FROM unnest($1::bigint[]) AS i (id)
WHERE EXISTS (SELECT FROM messages m WHERE m.content_id = i.id)"""

# A candidate that another cleaner had struck off, and whoever dropped its last message noted again.
_DROP_CONTENTS = """
WITH dropped AS (
    DELETE FROM contents WHERE id = ANY ($1::bigint[])
), struck AS (
    DELETE FROM purge_candidates WHERE content_id = ANY ($1)
)
INSERT INTO doomed_objects (content_id, key) SELECT * FROM unnest($1, $2::text[])"""

_DOOMED = "SELECT id, key FROM doomed_objects WHERE forgotten_at IS NULL ORDER BY id LIMIT $1"

_FORGET_DOOMED = """
WITH forgotten AS (
    UPDATE doomed_objects SET forgotten_at = now() WHERE id = ANY ($1::bigint[]) AND forgotten_at IS NULL
)
DELETE FROM doomed_objects WHERE forgotten_at < now() - $2::interval"""

_PURGE_KEYS = """
WITH due AS MATERIALIZED (
    SELECT account_id, key FROM deliveries WHERE delivered_at < now() - $1::interval
    ORDER BY delivered_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
DELETE FROM deliveries d USING due WHERE d.account_id = due.account_id AND d.key = due.key RETURNING 1 AS n"""

_PURGE_SEND_LOG = """
WITH expired AS MATERIALIZED (
    SELECT account_id, key FROM sieve_answers WHERE expires_at <= now()
    ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
), idle AS MATERIALIZED (
    SELECT account_id, kind FROM sieve_sends WHERE expires_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED
), answers AS (
    DELETE FROM sieve_answers a USING expired e WHERE a.account_id = e.account_id AND a.key = e.key
), sends AS (
    DELETE FROM sieve_sends s USING idle i WHERE s.account_id = i.account_id AND s.kind = i.kind
)
SELECT (SELECT count(*) FROM expired) + (SELECT count(*) FROM idle) AS n"""


_DUE = """
SELECT (SELECT count(*) FROM messages m JOIN message_state s ON s.mailbox_id = m.mailbox_id AND s.uid = m.uid
        JOIN mailboxes b ON b.id = m.mailbox_id AND b.deleted_at IS NULL
        WHERE m.internaldate < now() - $2::interval) AS expired,
       (SELECT count(*) FROM accounts WHERE deleted_at <= now() - $1::interval) AS accounts,
       (SELECT count(*) FROM mailboxes b JOIN accounts a ON a.id = b.account_id
        WHERE least(b.deleted_at, a.deleted_at) <= now() - $1::interval) AS mailboxes,
       (SELECT count(*) FROM expunged WHERE purged_at IS NULL AND expunged_at <= now() - $1::interval)
       + (SELECT count(*) FROM mailboxes b JOIN accounts a ON a.id = b.account_id
          JOIN message_state s ON s.mailbox_id = b.id
          WHERE least(b.deleted_at, a.deleted_at) <= now() - $1::interval) AS messages,
       (SELECT count(*) FROM purge_candidates) AS contents,
       (SELECT count(*) FROM doomed_objects WHERE forgotten_at IS NULL) AS objects,
       (SELECT count(*) FROM deliveries WHERE delivered_at < now() - $3::interval) AS delivery_keys"""


class PostgresPurgeStore:
    """``storage.api.PurgeStore``."""

    def __init__(self, db: Database) -> None:
        self.db = db

    async def expire(self, older_than: timedelta, limit: int) -> int:
        found = await self.db.write(_EXPIRE, older_than, limit)
        return found[0]["n"] if found else 0

    async def purge_messages(self, grace: timedelta, limit: int) -> int:
        ((done,),) = await self.db.write(_PURGE_EXPUNGED, grace, limit, mailboxes=())
        while done < limit and (more := await self._purge_deleted(grace, limit - done)):
            done += more
        return int(done)

    async def _purge_deleted(self, grace: timedelta, limit: int) -> int:
        """A batch of one deleted mailbox; with nothing left in it the mailbox itself. Counts both."""
        async with self.db.transaction(mailboxes=()) as transaction:
            await transaction.execute(_FOLLOW_ACCOUNT, grace)
            picked = await transaction.fetch(_PICK_MAILBOX, grace)
            if picked:
                mailbox_id = picked[0]["id"]
                ((n,),) = await transaction.fetch(_PURGE_MAILBOX, mailbox_id, limit)
                n = n or len(await transaction.fetch(_PURGE_LOG, mailbox_id, limit))
                if n:
                    return int(n)
                await transaction.execute(_DROP_MAILBOX, mailbox_id)
                return 1
            accounts = await transaction.fetch(_PICK_ACCOUNT, grace)
            for row in accounts:
                for sql in _DROP_ACCOUNT:
                    await transaction.execute(sql, row["id"])
            return len(accounts)

    async def purge_days(self, grace: timedelta, limit: int) -> int:
        return len(await self.db.write(_PURGE_DAYS, grace, limit, mailboxes=()))

    async def purge_contents(self, limit: int) -> int:
        while True:  # a batch whose contents are all in use yet ends nothing: the next may
            looked_at, dropped = await self._purge_candidates(limit)
            if dropped or not looked_at:
                return dropped

    async def _purge_candidates(self, limit: int) -> tuple[int, int]:
        """One batch: candidates looked at, contents dropped."""
        async with self.db.transaction(mailboxes=()) as transaction:
            locked = await transaction.fetch(_LOCK_CONTENTS, limit)
            ids = [row["id"] for row in locked]
            if not ids:
                return 0, 0
            await transaction.execute(_STRIKE, ids)
            referenced = {row["id"] for row in await transaction.fetch(_REFERENCED, ids)}
            doomed = [row for row in locked if row["id"] not in referenced]
            keys = [object_key(ContentHash(row["hash"]), ContentId(row["id"])) for row in doomed]
            await transaction.execute(_DROP_CONTENTS, [row["id"] for row in doomed], keys)
            return len(ids), len(doomed)

    async def due(self, grace: timedelta, max_age: timedelta | None) -> dict[str, int]:
        (row,) = await self.db.read(_DUE, grace, max_age, RETRY_WINDOW)
        return dict(row.items())

    async def doomed(self, limit: int) -> list[tuple[int, str]]:
        return [(row["id"], row["key"]) for row in await self.db.read(_DOOMED, limit)]

    async def forget_doomed(self, ids: Sequence[int]) -> None:
        await self.db.write(_FORGET_DOOMED, ids, TOMBSTONE_AGE, mailboxes=())

    async def purge_delivery_keys(self, limit: int) -> int:
        return len(await self.db.write(_PURGE_KEYS, RETRY_WINDOW, limit, mailboxes=()))

    async def purge_send_log(self, limit: int) -> int:
        ((n,),) = await self.db.write(_PURGE_SEND_LOG, limit, mailboxes=())
        return int(n)
