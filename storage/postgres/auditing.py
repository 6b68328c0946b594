"""What an audit asks the database, in pages of bounded size, and the repairs that it may make.

Each page is one statement, hence one snapshot: what is compared within it belongs together. Nothing is locked
but the one row that is repaired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.model import AccountId, ContentHash, ContentId, ContentRef, MailboxId

from . import rows
from .pool import Database, Record

FRAME_BYTES = 256 * 1024  # of a row of staged_frames
FRAMES_BATCH = 16

# LIMIT keeps the planner from hashing whole tables for each page
_FACTS = f"""
SELECT {rows.REF_COLUMNS}, (SELECT true FROM messages m WHERE m.content_id = c.id LIMIT 1) AS is_used,
       (SELECT true FROM purge_candidates p WHERE p.content_id = c.id LIMIT 1) AS is_candidate,
       (SELECT true FROM doomed_objects d
        WHERE d.content_id = c.id AND d.forgotten_at IS NULL LIMIT 1) AS is_doomed
FROM page c LEFT JOIN staged_contents g ON g.content_id = c.id"""

_BY_HASH = f"""
WITH page AS MATERIALIZED (
    SELECT id, hash, size_bytes FROM contents WHERE hash > $1 AND hash < $2 ORDER BY hash LIMIT $3
) {_FACTS} ORDER BY c.hash"""
_OF_ACCOUNT = f"""
WITH ids AS MATERIALIZED (
    SELECT DISTINCT m.content_id AS id FROM mailboxes b JOIN messages m ON m.mailbox_id = b.id
    WHERE b.account_id = $1 AND m.content_id > $2 ORDER BY 1 LIMIT $3
), page AS MATERIALIZED (
    SELECT c.id, c.hash, c.size_bytes FROM ids JOIN contents c ON c.id = ids.id
) {_FACTS} ORDER BY c.id"""

_LAST_ID = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS last FROM contents_id_seq"

_KNOWN = """
SELECT id FROM contents WHERE id = ANY ($1::bigint[])
UNION SELECT content_id FROM doomed_objects WHERE content_id = ANY ($1) AND forgotten_at IS NULL"""

_KNOWN_HASHES = "SELECT hash FROM contents WHERE hash = ANY ($1::bytea[])"

_STAGED = f"""
SELECT {rows.REF_COLUMNS}, g.encoded_bytes, g.attempts, coalesce(g.last_error, '') AS last_error,
       extract(epoch FROM now() - g.staged_at)::float8 AS age_s,
       (SELECT sum(octet_length(f.data)) FROM staged_frames f
        WHERE f.content_id = c.id)::bigint AS frame_bytes
FROM staged_contents g JOIN contents c ON c.id = g.content_id
WHERE g.content_id > $1
  AND ($3::bigint IS NULL
       OR (SELECT true FROM messages m JOIN mailboxes b ON b.id = m.mailbox_id
           WHERE m.content_id = c.id AND b.account_id = $3 LIMIT 1))
ORDER BY g.content_id LIMIT $2"""

# The counters of deleted mailboxes mean nothing any more.
_MAILBOXES = """
WITH page AS MATERIALIZED (
    SELECT * FROM mailboxes WHERE id > $1 AND ($3::bigint IS NULL OR account_id = $3) ORDER BY id LIMIT $2
)
SELECT p.id, p.account_id, p.name, p.deleted_at IS NOT NULL AS is_deleted, c.n,
       ARRAY[p.messages, p.unseen, p.deleted, p.size_bytes] AS counted,
       ARRAY[c.n, c.unseen, c.deleted, c.size_bytes] AS recounted,
       p.uidnext, p.highestmodseq,
       greatest((SELECT max(uid) FROM messages WHERE mailbox_id = p.id),
                (SELECT max(uid) FROM expunged WHERE mailbox_id = p.id), 0) AS top_uid,
       greatest(c.top_modseq, (SELECT max(modseq) FROM expunged WHERE mailbox_id = p.id), 0) AS top_modseq
FROM page p, LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE flags & 1 = 0) AS unseen,
           count(*) FILTER (WHERE flags & 8 <> 0) AS deleted,
           coalesce(sum(size_bytes), 0)::bigint AS size_bytes, max(modseq) AS top_modseq
    FROM message_state s WHERE s.mailbox_id = p.id
) c ORDER BY p.id"""

_LOST = """
SELECT m.mailbox_id, m.uid FROM messages m WHERE m.mailbox_id = ANY ($1::bigint[])
AND (SELECT (s.mailbox_id, s.uid) = (m.mailbox_id, m.uid) FROM message_state s
     WHERE (s.mailbox_id, s.uid) >= (m.mailbox_id, m.uid) ORDER BY s.mailbox_id, s.uid LIMIT 1) IS NOT TRUE
AND (SELECT (e.mailbox_id, e.uid) = (m.mailbox_id, m.uid) AND e.purged_at IS NULL FROM expunged e
     WHERE (e.mailbox_id, e.uid) >= (m.mailbox_id, m.uid) ORDER BY e.mailbox_id, e.uid LIMIT 1) IS NOT TRUE
ORDER BY 1, 2 LIMIT $2"""

_EMPTY_LOGS = """
SELECT e.mailbox_id, e.uid FROM expunged e WHERE e.mailbox_id = ANY ($1::bigint[]) AND e.purged_at IS NULL
AND (SELECT true FROM messages m WHERE m.mailbox_id = e.mailbox_id AND m.uid = e.uid LIMIT 1) IS NULL
ORDER BY 1, 2 LIMIT $2"""

_DOOM = """
INSERT INTO doomed_objects (content_id, key)
SELECT o.id, o.key FROM unnest($1::bigint[], $2::text[]) AS o (id, key)
WHERE NOT EXISTS (SELECT FROM contents c WHERE c.id = o.id)
  AND NOT EXISTS (SELECT FROM doomed_objects d WHERE d.key = o.key AND d.forgotten_at IS NULL)
RETURNING 1"""

_UNDOOM = """
DELETE FROM doomed_objects d USING contents c
WHERE d.content_id = ANY ($1::bigint[]) AND c.id = d.content_id RETURNING 1"""

# Locked: a candidate whose content is being dropped would stay for ever.
_NOTE_UNUSED = """
WITH known AS MATERIALIZED (
    SELECT id FROM contents WHERE id = ANY ($1::bigint[]) ORDER BY id FOR KEY SHARE
)
INSERT INTO purge_candidates (content_id) SELECT id FROM known
ON CONFLICT DO NOTHING"""

_LOCK_MAILBOX = "SELECT id FROM mailboxes WHERE id = $1 FOR NO KEY UPDATE"
_RECOUNT = """
UPDATE mailboxes m SET messages = c.n, unseen = c.unseen, deleted = c.deleted, size_bytes = c.size_bytes,
    uidnext = greatest(m.uidnext, 1 + coalesce((SELECT max(uid) FROM messages WHERE mailbox_id = $1), 0),
                       1 + coalesce((SELECT max(uid) FROM expunged WHERE mailbox_id = $1), 0)),
    highestmodseq = 1 + greatest(m.highestmodseq, c.top_modseq,
                                 (SELECT max(modseq) FROM expunged WHERE mailbox_id = $1))
FROM (SELECT count(*) AS n, count(*) FILTER (WHERE flags & 1 = 0) AS unseen,
             count(*) FILTER (WHERE flags & 8 <> 0) AS deleted,
             coalesce(sum(size_bytes), 0)::bigint AS size_bytes, max(modseq) AS top_modseq
      FROM message_state WHERE mailbox_id = $1) c
WHERE m.id = $1"""

# What has an open log entry is not lost: a cleaner may be purging it, and has its row.
_LOG_LOST = """
WITH bump AS (
    UPDATE mailboxes SET highestmodseq = highestmodseq + 1 WHERE id = $1 RETURNING id, highestmodseq
)
INSERT INTO expunged (mailbox_id, uid, modseq, flags, keywords)
SELECT b.id, m.uid, b.highestmodseq, 0, '{}' FROM bump b JOIN messages m ON m.mailbox_id = b.id
WHERE m.uid = ANY ($2::bigint[])
  AND NOT EXISTS (SELECT FROM message_state s WHERE s.mailbox_id = m.mailbox_id AND s.uid = m.uid)
  AND NOT EXISTS (SELECT FROM expunged e
                  WHERE e.mailbox_id = m.mailbox_id AND e.uid = m.uid AND e.purged_at IS NULL)
ON CONFLICT (mailbox_id, uid) DO UPDATE SET purged_at = NULL, expunged_at = now()
RETURNING 1"""

_CLOSE_LOGS = """
UPDATE expunged e SET purged_at = now() WHERE e.mailbox_id = $1 AND e.uid = ANY ($2::bigint[])
AND e.purged_at IS NULL
AND NOT EXISTS (SELECT FROM messages m WHERE m.mailbox_id = e.mailbox_id AND m.uid = e.uid) RETURNING 1"""

_LOCK_CONTENT = "SELECT id FROM contents WHERE id = $1 FOR KEY SHARE"
_STAGE = """
INSERT INTO staged_contents AS g (content_id, node, encoded_bytes) VALUES ($1, NULL, $2)
ON CONFLICT (content_id) DO UPDATE SET node = NULL, encoded_bytes = $2, attempts = 0, last_error = NULL,
    lease_until = NULL, lease_node = NULL, next_attempt_at = now()"""
_DROP_FRAMES = "DELETE FROM staged_frames WHERE content_id = $1"
_FRAMES = """
INSERT INTO staged_frames (content_id, n, data)
SELECT $1, $2 + f.n, f.data FROM unnest($3::bytea[]) WITH ORDINALITY AS f (data, n)"""


@dataclass(frozen=True, slots=True)
class ContentFacts:
    ref: ContentRef
    is_used: bool  # by a message
    is_candidate: bool  # the cleaner knows of it
    is_doomed: bool  # its object is queued for deletion


@dataclass(frozen=True, slots=True)
class StagedFacts:
    ref: ContentRef
    encoded_bytes: int
    frame_bytes: int | None  # in the database
    age_s: float
    attempts: int
    last_error: str


@dataclass(frozen=True, slots=True)
class MailboxFacts:
    """``counted``: messages, unseen, deleted, bytes."""

    id: MailboxId
    account_id: AccountId
    name: str
    is_deleted: bool
    counted: Sequence[int]
    recounted: Sequence[int]
    uidnext: int
    top_uid: int
    highestmodseq: int
    top_modseq: int

    def faults(self) -> list[str]:
        found = []
        for name, counted, recounted in zip(
            ("messages", "unseen", "deleted", "bytes"), self.counted, self.recounted, strict=True
        ):
            if counted != recounted:
                found.append(f"{name} {counted}, really {recounted}")
        if self.uidnext <= self.top_uid:
            found.append(f"uidnext {self.uidnext}, uid {self.top_uid} is used")
        if self.highestmodseq < self.top_modseq:
            found.append(f"highestmodseq {self.highestmodseq}, a row has {self.top_modseq}")
        return [] if self.is_deleted else found


class PostgresAudit:
    """All reads ask the primary."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._timeout_s = db.settings.search_timeout_s

    async def last_content_id(self) -> int:
        """No content ever had a greater one."""
        ((last,),) = await self.db.read(_LAST_ID)
        return int(last)

    async def by_hash(self, after: bytes, before: bytes, limit: int) -> list[ContentFacts]:
        found = await self.db.read(_BY_HASH, after, before, limit, timeout_s=self._timeout_s)
        return [_content_facts(row) for row in found]

    async def of_account(self, account_id: AccountId, after: int, limit: int) -> list[ContentFacts]:
        found = await self.db.read(_OF_ACCOUNT, account_id, after, limit, timeout_s=self._timeout_s)
        return [_content_facts(row) for row in found]

    async def known(self, ids: Sequence[ContentId]) -> set[ContentId]:
        """Those that are there, or whose object is queued for deletion."""
        return {ContentId(row["id"]) for row in await self.db.read(_KNOWN, ids)}

    async def known_hashes(self, hashes: Sequence[ContentHash]) -> set[ContentHash]:
        return {ContentHash(row["hash"]) for row in await self.db.read(_KNOWN_HASHES, hashes)}

    async def staged(self, after: int, limit: int, account_id: AccountId | None) -> list[StagedFacts]:
        found = await self.db.read(_STAGED, after, limit, account_id, timeout_s=self._timeout_s)
        return [
            StagedFacts(
                rows.ref(row),
                row["encoded_bytes"],
                row["frame_bytes"],
                row["age_s"],
                row["attempts"],
                row["last_error"],
            )
            for row in found
        ]

    async def mailboxes(self, after: int, limit: int, account_id: AccountId | None) -> list[MailboxFacts]:
        found = await self.db.read(_MAILBOXES, after, limit, account_id, timeout_s=self._timeout_s)
        return [
            MailboxFacts(
                MailboxId(row["id"]),
                AccountId(row["account_id"]),
                row["name"],
                row["is_deleted"],
                row["counted"],
                row["recounted"],
                row["uidnext"],
                row["top_uid"],
                row["highestmodseq"],
                row["top_modseq"],
            )
            for row in found
        ]

    async def lost(self, mailbox_ids: Sequence[MailboxId], limit: int) -> Mapping[MailboxId, list[int]]:
        """Uids of messages without state and log entry."""
        return _by_mailbox(await self.db.read(_LOST, mailbox_ids, limit, timeout_s=self._timeout_s))

    async def empty_logs(self, mailbox_ids: Sequence[MailboxId], limit: int) -> Mapping[MailboxId, list[int]]:
        """Uids of open log entries without message."""
        return _by_mailbox(await self.db.read(_EMPTY_LOGS, mailbox_ids, limit, timeout_s=self._timeout_s))

    # --- repairs: each looks once more at what it changes ---

    async def doom(self, objects: Mapping[ContentId, str]) -> int:
        """Queue objects for deletion whose contents are not there; how many."""
        done = await self.db.write(_DOOM, list(objects), list(objects.values()), mailboxes=())
        return len(done)

    async def undoom(self, ids: Sequence[ContentId]) -> int:
        return len(await self.db.write(_UNDOOM, ids, mailboxes=()))

    async def note_unused(self, ids: Sequence[ContentId]) -> None:
        await self.db.write(_NOTE_UNUSED, ids, mailboxes=())

    async def recount(self, mailbox_id: MailboxId) -> None:
        async with self.db.transaction(mailboxes=(mailbox_id,)) as transaction:
            await transaction.fetch(_LOCK_MAILBOX, mailbox_id)
            await transaction.execute(_RECOUNT, mailbox_id)

    async def log_lost(self, mailbox_id: MailboxId, uids: Sequence[int]) -> int:
        async with self.db.transaction(mailboxes=(mailbox_id,)) as transaction:
            await transaction.fetch(_LOCK_MAILBOX, mailbox_id)
            return len(await transaction.fetch(_LOG_LOST, mailbox_id, uids))

    async def close_logs(self, mailbox_id: MailboxId, uids: Sequence[int]) -> int:
        return len(await self.db.write(_CLOSE_LOGS, mailbox_id, uids, mailboxes=()))

    async def stage(self, content_id: ContentId, encoded: bytes) -> bool:
        """The body goes to the object store once more; False: the content is gone."""
        pieces = [encoded[at : at + FRAME_BYTES] for at in range(0, len(encoded), FRAME_BYTES)]
        async with self.db.transaction(mailboxes=()) as transaction:
            if not await transaction.fetch(_LOCK_CONTENT, content_id):
                return False
            await transaction.execute(_STAGE, content_id, len(encoded))
            await transaction.execute(_DROP_FRAMES, content_id)
            for start in range(0, len(pieces), FRAMES_BATCH):
                await transaction.execute(_FRAMES, content_id, start, pieces[start : start + FRAMES_BATCH])
        return True


def _content_facts(row: Record) -> ContentFacts:
    return ContentFacts(
        rows.ref(row), bool(row["is_used"]), bool(row["is_candidate"]), bool(row["is_doomed"])
    )


def _by_mailbox(found: Sequence[Record]) -> dict[MailboxId, list[int]]:
    by_mailbox: dict[MailboxId, list[int]] = {}
    for row in found:
        by_mailbox.setdefault(MailboxId(row["mailbox_id"]), []).append(row["uid"])
    return by_mailbox
