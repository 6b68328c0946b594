"""COPY, MOVE and the recovery of expunged messages: references move, bodies never do.

The new rows' foreign key takes a share lock on each content, which the purge's own lock excludes: a
content is either copied or purged, never both.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from storage.errors import NotFound
from storage.model import (
    AccountId,
    Copied,
    DeletedMessage,
    MailboxId,
    ModSeq,
    Uid,
    UidValidity,
)
from storage.names import sought

from .part import Part
from .pool import Record

# Rows `taken (rank, uid, content_id, prefix, flags, keywords, size_bytes, received, internaldate)` become new
# messages of mailbox `{target}`, whose row `bump` has moved on by their number.
ARRIVE = """
arrived AS (
    INSERT INTO messages (mailbox_id, uid, content_id, prefix, size_bytes, internaldate)
    SELECT b.id, b.first_uid + t.rank - 1, t.content_id, t.prefix, t.size_bytes, t.received
    FROM taken t CROSS JOIN bump b WHERE b.id = {target}
), states AS (
    INSERT INTO message_state (mailbox_id, uid, modseq, flags, keywords, size_bytes, internaldate)
    SELECT b.id, b.first_uid + t.rank - 1, b.highestmodseq, t.flags, t.keywords, t.size_bytes, t.internaldate
    FROM taken t CROSS JOIN bump b WHERE b.id = {target}
)"""

COUNTED = """
counted AS (
    SELECT count(*) AS n, count(*) FILTER (WHERE flags & 1 = 0) AS unseen,
           count(*) FILTER (WHERE flags & 8 <> 0) AS deleted,
           coalesce(sum(size_bytes), 0)::bigint AS size_bytes
    FROM taken
)"""

PAIRS = """
    (SELECT array_agg(uid ORDER BY uid) FROM taken) AS uids,
    b.first_uid, b.highestmodseq AS target_modseq"""

_COPY = f"""
WITH source AS MATERIALIZED (
    SELECT id FROM mailboxes WHERE id = $1 AND deleted_at IS NULL
), target AS MATERIALIZED (
    SELECT id, account_id, uidvalidity, highestmodseq FROM mailboxes
    WHERE id = $3 AND deleted_at IS NULL AND EXISTS (SELECT FROM source) FOR NO KEY UPDATE
), taken AS MATERIALIZED (
    SELECT row_number() OVER (ORDER BY s.uid) AS rank, s.uid, m.content_id, m.prefix, s.flags, s.keywords,
           s.size_bytes, m.internaldate AS received, s.internaldate
    FROM message_state s JOIN messages m ON m.mailbox_id = s.mailbox_id AND m.uid = s.uid
    WHERE s.mailbox_id = $1 AND s.uid = ANY ($2::bigint[]) AND EXISTS (SELECT FROM target)
), {COUNTED}, bump AS (
    UPDATE mailboxes m
    SET uidnext = m.uidnext + c.n, highestmodseq = m.highestmodseq + 1, messages = m.messages + c.n,
        unseen = m.unseen + c.unseen, deleted = m.deleted + c.deleted,
        size_bytes = m.size_bytes + c.size_bytes
    FROM counted c WHERE m.id = $3 AND c.n > 0
    RETURNING m.id, m.uidnext - c.n AS first_uid, m.highestmodseq
), {ARRIVE.format(target="$3")}
SELECT t.account_id, t.uidvalidity, t.highestmodseq, NULL::bigint AS source_modseq, {PAIRS}
FROM target t LEFT JOIN bump b ON true"""

# Both mailboxes are locked by id before anything is read; they may be one and the same.
_MOVE = f"""
WITH locked AS MATERIALIZED (
    SELECT id, account_id, uidvalidity, highestmodseq FROM mailboxes
    WHERE id IN ($1, $3) AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE
), both_there AS MATERIALIZED (
    SELECT * FROM locked
    WHERE (SELECT count(*) FROM locked) = CASE WHEN $1::bigint = $3::bigint THEN 1 ELSE 2 END
), gone AS (
    DELETE FROM message_state s
    WHERE s.mailbox_id = (SELECT id FROM both_there WHERE id = $1){{only}}
    RETURNING s.uid, s.flags, s.keywords, s.size_bytes, s.internaldate
), taken AS MATERIALIZED (
    SELECT row_number() OVER (ORDER BY g.uid) AS rank, g.*, m.content_id, m.prefix, m.internaldate AS received
    FROM gone g JOIN messages m ON m.mailbox_id = $1 AND m.uid = g.uid
), {COUNTED}, deltas AS (
    SELECT id, sum(uids) AS uids, sum(messages) AS messages FROM counted c,
        LATERAL (VALUES ($1::bigint, 0::bigint, -1), ($3::bigint, c.n, 1)) AS d (id, uids, messages)
    WHERE c.n > 0 GROUP BY id
), bump AS (
    UPDATE mailboxes m
    SET uidnext = m.uidnext + d.uids, highestmodseq = m.highestmodseq + 1,
        messages = m.messages + d.messages * c.n, unseen = m.unseen + d.messages * c.unseen,
        deleted = m.deleted + d.messages * c.deleted, size_bytes = m.size_bytes + d.messages * c.size_bytes
    FROM deltas d CROSS JOIN counted c WHERE m.id = d.id
    RETURNING m.id, (m.uidnext - d.uids)::bigint AS first_uid, m.highestmodseq
), log AS (
    INSERT INTO expunged (mailbox_id, uid, modseq, flags, keywords, purged_at)
    SELECT b.id, g.uid, b.highestmodseq, g.flags, g.keywords, now()
    FROM gone g CROSS JOIN bump b WHERE b.id = $1
), left_behind AS (
    DELETE FROM messages m USING gone g WHERE m.mailbox_id = $1 AND m.uid = g.uid
), {ARRIVE.format(target="$3")}
SELECT t.account_id, t.uidvalidity, t.highestmodseq, {PAIRS},
       (SELECT coalesce(max(highestmodseq), t.highestmodseq) FROM (
            SELECT highestmodseq FROM bump WHERE id = $1
            UNION ALL SELECT highestmodseq FROM both_there WHERE id = $1) x) AS source_modseq
FROM both_there t LEFT JOIN bump b ON b.id = t.id WHERE t.id = $3"""

_MOVE_SOME = _MOVE.format(only=" AND s.uid = ANY ($2::bigint[])")
MOVE_ALL = _MOVE.format(only="").replace("$3", "$2")

# $1: where they are, $3: where they go, which may be the same. A deleted mailbox has states still, and nobody
# but the purge touches it, which wants its row. `purged_at IS NULL` would lead by a partial index to
# all that was deleted in the mailbox.
_UNDELETE = f"""
WITH locked AS MATERIALIZED (
    SELECT id, account_id, uidvalidity, highestmodseq, deleted_at FROM mailboxes
    WHERE id IN ($1, $3) ORDER BY id FOR NO KEY UPDATE
), target AS MATERIALIZED (
    SELECT * FROM locked WHERE id = $3 AND deleted_at IS NULL
), source AS MATERIALIZED (
    SELECT l.id, l.deleted_at FROM locked l JOIN target t ON t.account_id = l.account_id WHERE l.id = $1
), back AS (
    UPDATE expunged e SET purged_at = now()
    WHERE e.mailbox_id = (SELECT id FROM source) AND e.uid = ANY ($2::bigint[])
      AND coalesce(e.purged_at, 'infinity') = 'infinity'
    RETURNING e.uid, e.flags, e.keywords
), left_behind AS (
    DELETE FROM message_state s
    WHERE s.mailbox_id = (SELECT id FROM source WHERE deleted_at IS NOT NULL) AND s.uid = ANY ($2)
    RETURNING s.uid, s.flags, s.keywords
), found AS (
    SELECT * FROM back UNION ALL SELECT * FROM left_behind
), unearthed AS (
    DELETE FROM messages m USING found f WHERE m.mailbox_id = $1 AND m.uid = f.uid
    RETURNING m.uid, m.content_id, m.prefix, (f.flags & ~8::smallint)::smallint AS flags, f.keywords,
              m.size_bytes, m.internaldate AS received
), taken AS MATERIALIZED (
    SELECT row_number() OVER (ORDER BY u.uid) AS rank, u.*,
           floor(extract(epoch FROM u.received))::bigint AS internaldate
    FROM unearthed u
), {COUNTED}, bump AS (
    UPDATE mailboxes m
    SET uidnext = m.uidnext + c.n, highestmodseq = m.highestmodseq + 1, messages = m.messages + c.n,
        unseen = m.unseen + c.unseen, size_bytes = m.size_bytes + c.size_bytes
    FROM counted c WHERE m.id = $3 AND c.n > 0
    RETURNING m.id, m.uidnext - c.n AS first_uid, m.highestmodseq
), {ARRIVE.format(target="$3")}
SELECT t.account_id, t.uidvalidity, t.highestmodseq, NULL::bigint AS source_modseq, {PAIRS}
FROM target t LEFT JOIN bump b ON true"""

_LIST_DELETED = """
WITH lost AS (
    SELECT e.mailbox_id, b.name, e.uid, e.expunged_at, b.deleted_at IS NOT NULL AS is_mailbox_deleted
    FROM mailboxes b CROSS JOIN LATERAL (
        SELECT * FROM expunged e WHERE e.mailbox_id = b.id AND e.purged_at IS NULL
          AND e.expunged_at >= coalesce($4::timestamptz, '-infinity') OFFSET 0
    ) e WHERE b.account_id = $1 AND ($2::text IS NULL OR b.name = $2)
    UNION ALL
    SELECT b.id, b.name, s.uid, b.deleted_at, true
    FROM mailboxes b CROSS JOIN LATERAL (
        SELECT uid FROM message_state s WHERE s.mailbox_id = b.id OFFSET 0
    ) s
    WHERE b.account_id = $1 AND ($2::text IS NULL OR b.name = $2)
      AND b.deleted_at >= coalesce($4::timestamptz, '-infinity')
), latest AS (
    SELECT * FROM lost ORDER BY expunged_at DESC, mailbox_id, uid DESC LIMIT $3
)
SELECT l.*, m.size_bytes, m.internaldate, c.envelope
FROM latest l CROSS JOIN LATERAL (
    SELECT * FROM messages m WHERE m.mailbox_id = l.mailbox_id AND m.uid = l.uid LIMIT 1
) m CROSS JOIN LATERAL (SELECT envelope FROM contents c WHERE c.id = m.content_id LIMIT 1) c
ORDER BY l.expunged_at DESC, l.mailbox_id, l.uid DESC"""


class Copying(Part):
    async def copy(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        async with self.queue.turn((target,)):
            try:
                found = await self.db.write(_COPY, source, uids, target, mailboxes=(target,))
            except asyncpg.ForeignKeyViolationError:
                # While this waited for the target, a message was expunged and its content purged. A second
                # look does not find it any more.
                found = await self.db.write(_COPY, source, uids, target, mailboxes=(target,))
        self._wrote_accounts(found)
        return copied(found)

    async def move(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        async with self.queue.turn((source, target)):
            found = await self.db.write(_MOVE_SOME, source, uids, target, mailboxes=(source, target))
        self._wrote_accounts(found)
        return copied(found)

    async def undelete(
        self, mailbox_id: MailboxId, uids: Sequence[Uid], into: MailboxId | None = None
    ) -> Copied:
        target = mailbox_id if into is None else into
        async with self.queue.turn((mailbox_id, target)):
            found = await self.db.write(_UNDELETE, mailbox_id, uids, target, mailboxes=(mailbox_id, target))
        self._wrote_accounts(found)
        return copied(found)

    async def list_deleted(
        self,
        account_id: AccountId,
        mailbox: str | None = None,
        limit: int = 1000,
        *,
        since: datetime | None = None,
    ) -> list[DeletedMessage]:
        name = None if mailbox is None else sought(mailbox)
        found = await self.db.read(_LIST_DELETED, account_id, name, limit, since, account=account_id)
        return [_deleted(row) for row in found]


def copied(found: list[Record]) -> Copied:
    """The answer of a statement that ends in PAIRS. Raises NotFound when it has none."""
    if not found:
        raise NotFound("the mailbox is gone")
    (row,) = found
    uids = row["uids"] or ()
    pairs = tuple((Uid(uid), Uid(row["first_uid"] + n)) for n, uid in enumerate(uids))
    source_modseq = row["source_modseq"]
    return Copied(
        UidValidity(row["uidvalidity"]),
        pairs,
        ModSeq(row["target_modseq"] or row["highestmodseq"]),
        None if source_modseq is None else ModSeq(source_modseq),
    )


def _deleted(row: Record) -> DeletedMessage:
    return DeletedMessage(
        MailboxId(row["mailbox_id"]),
        row["name"],
        Uid(row["uid"]),
        row["size_bytes"],
        row["internaldate"],
        row["expunged_at"],
        row["envelope"],
        row["is_mailbox_deleted"],
    )
