"""Changing flags and expunging: one statement each, under the mailbox row lock.

The counters need the flags as they were. A plain join would give them as of the statement's snapshot,
which may be older than the lock; ``FOR UPDATE`` and ``DELETE ... RETURNING`` give them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.errors import NotFound
from storage.flags import canonical_keywords, masks
from storage.model import Expunged, FlagChange, Flags, FlagsStored, MailboxId, ModSeq, Uid

from . import rows
from .part import Part
from .pool import Record

# Spelling: what is there stays, what is new comes last; equal but for ASCII case is equal.
_NEW_KEYWORDS = """
    CASE WHEN s.keywords = '{}' AND $5::text[] = '{}' THEN s.keywords ELSE ARRAY(
        SELECT k.keyword FROM (
            SELECT DISTINCT ON (lower(u.keyword) COLLATE "C") u.keyword
            FROM unnest(s.keywords || CASE WHEN $6 = 'remove' THEN '{}' ELSE $5 END)
                WITH ORDINALITY AS u (keyword, n)
            WHERE CASE $6::text WHEN 'add' THEN true
                WHEN 'remove' THEN lower(u.keyword) <> ALL ($7::text[])
                ELSE lower(u.keyword) = ANY ($7) END
            ORDER BY lower(u.keyword) COLLATE "C", u.n) k
        ORDER BY lower(k.keyword) COLLATE "C") END"""

_STORE = f"""
WITH locked AS MATERIALIZED (
    SELECT id, account_id, highestmodseq FROM mailboxes
    WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE
), present AS MATERIALIZED (
    SELECT s.* FROM message_state s
    WHERE s.mailbox_id = (SELECT id FROM locked) AND s.uid = ANY ($2::bigint[])
    ORDER BY s.uid FOR NO KEY UPDATE
), wanted AS MATERIALIZED (
    SELECT s.uid, s.flags AS old_flags, s.keywords AS old_keywords,
           ((s.flags & $3::smallint) | $4::smallint)::smallint AS flags, {_NEW_KEYWORDS} AS keywords
    FROM present s WHERE $8::bigint IS NULL OR s.modseq <= $8
), changed AS (
    UPDATE message_state s SET modseq = l.highestmodseq + 1, flags = w.flags, keywords = w.keywords
    FROM wanted w CROSS JOIN locked l
    WHERE s.mailbox_id = $1 AND s.uid = w.uid AND (w.flags <> w.old_flags OR w.keywords <> w.old_keywords)
    RETURNING s.uid, s.modseq, s.flags, s.keywords, s.size_bytes, s.internaldate, w.old_flags
), counted AS (
    SELECT count(*) AS n,
           coalesce(sum((old_flags & 1) - (flags & 1)), 0) AS unseen,
           coalesce(sum((flags & 8) / 8 - (old_flags & 8) / 8), 0) AS deleted
    FROM changed
), bump AS (
    UPDATE mailboxes m SET highestmodseq = m.highestmodseq + 1,
        unseen = m.unseen + c.unseen, deleted = m.deleted + c.deleted
    FROM counted c WHERE m.id = $1 AND c.n > 0
)
SELECT 0 AS kind, account_id, NULL::bigint AS uid,
       highestmodseq + CASE WHEN (SELECT n FROM counted) > 0 THEN 1 ELSE 0 END AS modseq,
       NULL::smallint AS flags, NULL::text[] AS keywords, NULL::bigint AS size_bytes,
       NULL::bigint AS internaldate
FROM locked
UNION ALL SELECT 1, NULL, uid, modseq, flags, keywords, size_bytes, internaldate FROM changed
UNION ALL SELECT 2, NULL, uid, modseq, NULL, NULL, NULL, NULL FROM present WHERE modseq > $8
ORDER BY kind, uid"""

# {which}: a condition on the states that are to go
_EXPUNGE = """
WITH locked AS MATERIALIZED (
    SELECT id, account_id, highestmodseq FROM mailboxes
    WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE
), gone AS (
    DELETE FROM message_state s
    WHERE s.mailbox_id = (SELECT id FROM locked) AND {which}
    RETURNING s.uid, s.flags, s.keywords, s.size_bytes
), log AS (
    INSERT INTO expunged (mailbox_id, uid, modseq, flags, keywords)
    SELECT l.id, g.uid, l.highestmodseq + 1, g.flags, g.keywords FROM gone g CROSS JOIN locked l
), counted AS (
    SELECT count(*) AS n, count(*) FILTER (WHERE flags & 1 = 0) AS unseen,
           count(*) FILTER (WHERE flags & 8 <> 0) AS deleted,
           coalesce(sum(size_bytes), 0)::bigint AS size_bytes
    FROM gone
), bump AS (
    UPDATE mailboxes m SET highestmodseq = m.highestmodseq + 1, messages = m.messages - c.n,
        unseen = m.unseen - c.unseen, deleted = m.deleted - c.deleted,
        size_bytes = m.size_bytes - c.size_bytes
    FROM counted c WHERE m.id = $1 AND c.n > 0
)
SELECT l.account_id, l.highestmodseq + CASE WHEN c.n > 0 THEN 1 ELSE 0 END AS modseq,
       (SELECT array_agg(uid ORDER BY uid) FROM gone) AS uids
FROM locked l CROSS JOIN counted c"""

_IS_DELETED, _IS_GIVEN = "(s.flags & 8) <> 0", "s.uid = ANY ($2::bigint[])"
_EXPUNGE_ALL = _EXPUNGE.format(which=_IS_DELETED)
_EXPUNGE_SOME = _EXPUNGE.format(which=f"{_IS_DELETED} AND {_IS_GIVEN}")
_REMOVE = _EXPUNGE.format(which=_IS_GIVEN)

_HEAD, _CHANGED, _CONFLICT = range(3)


class FlagChanges(Part):
    async def store_flags(
        self,
        mailbox_id: MailboxId,
        uids: Sequence[Uid],
        change: FlagChange,
        flags: Flags,
        unchanged_since: ModSeq | None = None,
    ) -> FlagsStored:
        keep, put = masks(change, flags)
        keywords = canonical_keywords(flags.keywords)
        lowered = [keyword.lower() for keyword in keywords]
        async with self.queue.turn((mailbox_id,)):
            found = await self.db.write(
                _STORE,
                mailbox_id,
                uids,
                keep,
                put,
                keywords,
                change.value,
                lowered,
                unchanged_since,
                mailboxes=(mailbox_id,),
            )
        if not found:
            raise NotFound("the mailbox is gone")
        self._wrote_accounts(found[:1])
        return _flags_stored(found)

    async def expunge(self, mailbox_id: MailboxId, uids: Sequence[Uid] | None) -> Expunged:
        if uids is None:
            return await self._take_out(_EXPUNGE_ALL, mailbox_id)
        return await self._take_out(_EXPUNGE_SOME, mailbox_id, uids)

    async def remove(self, mailbox_id: MailboxId, uids: Sequence[Uid]) -> Expunged:
        return await self._take_out(_REMOVE, mailbox_id, uids)

    async def _take_out(self, sql: str, mailbox_id: MailboxId, *arguments: Sequence[Uid]) -> Expunged:
        async with self.queue.turn((mailbox_id,)):
            found = await self.db.write(sql, mailbox_id, *arguments, mailboxes=(mailbox_id,))
        if not found:
            raise NotFound("the mailbox is gone")
        self._wrote_accounts(found)
        return Expunged(tuple(found[0]["uids"] or ()), ModSeq(found[0]["modseq"]))


def _flags_stored(found: list[Record]) -> FlagsStored:
    changed = tuple(rows.state(row) for row in found if row["kind"] == _CHANGED)
    conflicts = tuple(Uid(row["uid"]) for row in found if row["kind"] == _CONFLICT)
    return FlagsStored(changed, conflicts, ModSeq(found[_HEAD]["modseq"]))
