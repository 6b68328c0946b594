"""The upload queue: staged contents on their way to the object store, the oldest first.

``next_attempt_at`` is the turn: of a new content its age, of one that failed the time when it is tried again.
Rows are locked in the order of ids, so overlapping calls of
several uploaders cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.model import ContentHash, ContentId, ContentRef, StagingLevel, StagingPlace, UploadLease

from . import rows
from .pool import Database, Transaction

MAX_ERROR_CHARS = 500

_LEASE = f"""
WITH due AS MATERIALIZED (
    SELECT content_id FROM staged_contents
    WHERE next_attempt_at <= now() AND (node IS NULL OR node = $1)
    ORDER BY next_attempt_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
), leased AS (
    UPDATE staged_contents g SET lease_node = $1, lease_until = now() + make_interval(secs => $3),
        next_attempt_at = now() + make_interval(secs => $3)
    FROM due WHERE g.content_id = due.content_id
    RETURNING g.*
)
SELECT {rows.REF_COLUMNS}, g.attempts, g.lease_until
FROM leased g JOIN contents c ON c.id = g.content_id ORDER BY g.staged_at, c.id"""

_RECLAIM = """
UPDATE staged_contents SET lease_node = NULL, lease_until = NULL, next_attempt_at = staged_at
WHERE lease_node = $1 AND lease_until > now() RETURNING content_id"""

_FRAMES = "SELECT data FROM staged_frames WHERE content_id = $1 ORDER BY n"

_FRAMES_OF = """
SELECT content_id, data FROM staged_frames WHERE content_id = ANY ($1::bigint[]) ORDER BY content_id, n"""

# The frames go with their row of the queue, by the foreign key. A content that has no row in `contents` was
# purged while it was being uploaded: its object is doomed again, under another number, as a cleaner may have
# deleted the object before it was put, and be about to forget the number that it read.
_MARK_STORED = """
WITH known AS MATERIALIZED (
    SELECT id FROM contents WHERE id = ANY ($1::bigint[]) ORDER BY id FOR KEY SHARE
), unstaged AS (
    DELETE FROM staged_contents g USING known WHERE g.content_id = known.id
), orphans AS (
    UPDATE doomed_objects d SET id = DEFAULT, forgotten_at = NULL
    WHERE d.content_id = ANY ($1) AND NOT EXISTS (SELECT FROM known WHERE known.id = d.content_id)
)
SELECT id FROM known"""

_RELEASE = """
UPDATE staged_contents SET lease_until = NULL, lease_node = NULL, last_error = $2,
    next_attempt_at = now() + make_interval(secs => $3), attempts = attempts + $4::int
WHERE content_id = $1"""

_RESTORE_TURNS = """
UPDATE staged_contents SET next_attempt_at = staged_at
WHERE content_id = ANY ($1::bigint[]) AND lease_until IS NULL"""

_LEVEL = """
SELECT node, count(*) AS contents, sum(encoded_bytes)::bigint AS encoded_bytes,
       extract(epoch FROM now() - min(staged_at))::float8 AS oldest_age_s
FROM staged_contents GROUP BY node ORDER BY node NULLS FIRST"""

_TABLE_BYTES = """
SELECT pg_total_relation_size('staged_frames') + pg_total_relation_size('staged_contents') AS n"""

_LOCATE = f"""
SELECT {rows.REF_COLUMNS} FROM contents c LEFT JOIN staged_contents g ON g.content_id = c.id
WHERE c.id = ANY ($1::bigint[]) ORDER BY c.id"""

_FIND = f"""
SELECT {rows.REF_COLUMNS} FROM contents c LEFT JOIN staged_contents g ON g.content_id = c.id
WHERE c.hash = ANY ($1::bytea[])"""

# The content is locked before its row of the queue, as everywhere.
_TAKE_OVER = """
WITH known AS MATERIALIZED (
    SELECT id FROM contents WHERE hash = $1 FOR KEY SHARE
), moved AS (
    UPDATE staged_contents g SET node = $2, encoded_bytes = $3, attempts = 0, last_error = NULL,
        lease_node = NULL, lease_until = NULL, next_attempt_at = g.staged_at
    FROM known WHERE g.content_id = known.id AND g.node IS NOT NULL AND g.node IS DISTINCT FROM $2
    RETURNING g.content_id
), frames AS (
    INSERT INTO staged_frames (content_id, n, data)
    SELECT m.content_id, f.n, f.data FROM moved m, unnest($4::bytea[]) WITH ORDINALITY AS f (data, n)
)
SELECT content_id FROM moved"""

_MORE_FRAMES = """
INSERT INTO staged_frames (content_id, n, data)
SELECT $1, $2 + f.n, f.data FROM unnest($3::bytea[]) WITH ORDINALITY AS f (data, n)"""
FRAMES_BATCH = 16  # frames a statement carries


async def take_over(
    db: Database, content_hash: ContentHash, node: str | None, frames: Sequence[bytes], encoded_bytes: int
) -> bool:
    """``UploadStore.take_over``; one statement, or a transaction for more than FRAMES_BATCH frames."""
    arguments = (content_hash, node, encoded_bytes, list(frames[:FRAMES_BATCH]))
    if len(frames) <= FRAMES_BATCH:
        return bool(await db.write(_TAKE_OVER, *arguments, mailboxes=()))
    async with db.transaction(mailboxes=()) as transaction:
        found = await transaction.fetch(_TAKE_OVER, *arguments)
        if found:
            await add_frames(transaction, found[0]["content_id"], frames, FRAMES_BATCH)
    return bool(found)


async def add_frames(transaction: Transaction, content_id: int, frames: Sequence[bytes], start: int) -> None:
    """Those from ``start`` on."""
    for at in range(start, len(frames), FRAMES_BATCH):
        batch = list(frames[at : at + FRAMES_BATCH])
        await transaction.execute(_MORE_FRAMES, content_id, at, batch)


class PostgresUploadStore:
    """``storage.api.UploadStore``."""

    def __init__(self, db: Database) -> None:
        self.db = db

    async def lease(self, node: str, limit: int, lease_s: float) -> list[UploadLease]:
        found = await self.db.write(_LEASE, node, limit, lease_s, mailboxes=())
        return [UploadLease(rows.ref(row), row["attempts"], row["lease_until"]) for row in found]

    async def reclaim(self, node: str) -> int:
        return len(await self.db.write(_RECLAIM, node, mailboxes=()))

    async def staged_frames(self, content_id: ContentId) -> list[bytes] | None:
        found = await self.db.read(_FRAMES, content_id)
        return [row["data"] for row in found] or None

    async def staged_frames_of(self, content_ids: Sequence[ContentId]) -> dict[ContentId, list[bytes]]:
        found: dict[ContentId, list[bytes]] = {}
        for row in await self.db.read(_FRAMES_OF, content_ids):
            found.setdefault(ContentId(row["content_id"]), []).append(row["data"])
        return found

    async def mark_stored(self, content_ids: Sequence[ContentId]) -> list[ContentId]:
        found = await self.db.write(_MARK_STORED, content_ids, mailboxes=())
        return [ContentId(row["id"]) for row in found]

    async def release(self, content_id: ContentId, error: str, retry_in_s: float, *, permanent: bool) -> None:
        await self.db.write(
            _RELEASE, content_id, error[:MAX_ERROR_CHARS], retry_in_s, int(permanent), mailboxes=()
        )

    async def restore_turns(self, content_ids: Sequence[ContentId]) -> None:
        await self.db.write(_RESTORE_TURNS, content_ids, mailboxes=())

    async def staging_level(self) -> StagingLevel:
        places = tuple(StagingPlace(*row) for row in await self.db.read(_LEVEL))
        return StagingLevel(
            sum(place.contents for place in places),
            sum(place.encoded_bytes for place in places),
            max((place.oldest_age_s for place in places), default=0.0),
            places,
        )

    async def table_bytes(self) -> int:
        """Of the tables of staging on the server's disk, with indexes and what is dead in them."""
        return int((await self.db.read(_TABLE_BYTES))[0]["n"])

    async def locate(self, content_ids: Sequence[ContentId]) -> list[ContentRef]:
        return [rows.ref(row) for row in await self.db.read(_LOCATE, content_ids)]

    async def find(self, hashes: Sequence[ContentHash]) -> dict[ContentHash, ContentRef]:
        found = map(rows.ref, await self.db.read(_FIND, hashes))
        return {ref.hash: ref for ref in found}

    async def take_over(
        self, content_hash: ContentHash, node: str | None, frames: Sequence[bytes], encoded_bytes: int
    ) -> bool:
        return await take_over(self.db, content_hash, node, frames, encoded_bytes)
