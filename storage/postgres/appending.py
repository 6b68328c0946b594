"""Adding messages: the one place that assigns uids.

Invariants: a uid and its modseq are assigned by the one UPDATE that also counts the message, under the
mailbox row lock; a delivery key, its message, its content and the body become visible in one commit.

A statement sees one snapshot, taken before it waits for a lock. Values of a row that others may have
changed meanwhile are therefore taken only from ``FOR UPDATE`` and ``RETURNING``, which give the row as
locked, or from ``ON CONFLICT``, which asks the index.

The same bytes may have come before and wait on the disk of another node, which may be gone; ``moved`` then
brings the content here, also for a message that is a duplicate: no acknowledgement rests on a foreign disk.

There are two statements with the same effect. The general one takes any number of messages and mailboxes;
the other is for one message, which is nearly every delivery, and costs the server two thirds of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.api import RETRY_WINDOW
from storage.errors import NotFound
from storage.flags import canonical_keywords
from storage.model import Appended, MailboxId, ModSeq, NewMessage, StagedContent, Uid, UidValidity

from .part import Part
from .pool import Record

FRAMES_INLINE = 4  # bodies up to so many frames ride in the one statement; a frame is about 256 KiB
FRAMES_BATCH = 16  # frames a further statement carries

# Each part feeds the next, which fixes their order: the mailbox is locked, then the key, then the content. No
# mailbox, or a key that is there already: nothing flows on.
_ONE = """
WITH target AS MATERIALIZED (
    SELECT m.id, m.account_id, m.uidvalidity, m.highestmodseq FROM mailboxes m
    WHERE m.id = $9 AND m.deleted_at IS NULL
      AND EXISTS (SELECT FROM accounts a WHERE a.id = m.account_id AND a.deleted_at IS NULL)
    FOR NO KEY UPDATE OF m
), fresh AS ({fresh}
), content AS (
    INSERT INTO contents (hash, size_bytes, header, envelope, structure)
    SELECT $1::bytea, $2::bigint, $3::bytea, $4::bytea, $5::bytea FROM fresh
    ON CONFLICT (hash) DO UPDATE SET last_taken_at = now()
    RETURNING id, xmax = 0 AS is_new
), staged AS (
    INSERT INTO staged_contents (content_id, node, encoded_bytes)
    SELECT id, $6::text, $7::bigint FROM content WHERE is_new
), moved AS (
    UPDATE staged_contents g SET node = $6, encoded_bytes = $7, attempts = 0, lease_node = NULL,
        lease_until = NULL, next_attempt_at = g.staged_at
    FROM contents c
    WHERE EXISTS (SELECT FROM target) AND c.hash = $1 AND g.content_id = c.id
      AND g.node IS NOT NULL AND g.node IS DISTINCT FROM $6
    RETURNING g.content_id
), frames AS (
    INSERT INTO staged_frames (content_id, n, data)
    SELECT c.id, f.n, f.data
    FROM (SELECT id FROM content WHERE is_new UNION ALL SELECT content_id FROM moved) c,
         unnest($8::bytea[]) WITH ORDINALITY AS f (data, n)
), bump AS (
    UPDATE mailboxes m
    SET uidnext = m.uidnext + 1, highestmodseq = m.highestmodseq + 1, messages = m.messages + 1,
        unseen = m.unseen + 1 - ($11::smallint & 1), deleted = m.deleted + ($11 & 8) / 8,
        size_bytes = m.size_bytes + $2 + length($10::bytea)
    FROM content c WHERE m.id = $9
    RETURNING m.id, m.uidnext - 1 AS uid, m.highestmodseq, c.id AS content_id, c.is_new
), stored AS (
    INSERT INTO messages (mailbox_id, uid, content_id, prefix, size_bytes, internaldate)
    SELECT id, uid, content_id, $10, $2 + length($10), coalesce($13::timestamptz, now()) FROM bump
), states AS (
    INSERT INTO message_state (mailbox_id, uid, modseq, flags, keywords, size_bytes, internaldate)
    SELECT id, uid, highestmodseq, $11, string_to_array($12::text, ' '), $2 + length($10),
           floor(extract(epoch FROM coalesce($13, now())))::bigint
    FROM bump
)
SELECT t.account_id, t.id AS mailbox_id, t.uidvalidity, coalesce(b.uid, 0) AS uid,
       coalesce(b.highestmodseq, t.highestmodseq) AS modseq, b.uid IS NULL AS duplicate,
       coalesce(b.content_id, v.content_id) AS content_id,
       coalesce(b.is_new, false) OR v.content_id IS NOT NULL AS takes_frames
FROM target t LEFT JOIN bump b ON true LEFT JOIN moved v ON true"""

_ONE_KEYED = _ONE.format(
    fresh="""
    INSERT INTO deliveries AS d (account_id, key) SELECT account_id, $14::bytea FROM target
    ON CONFLICT (account_id, key) DO UPDATE SET delivered_at = now()
        WHERE d.delivered_at < now() - $15::interval
    RETURNING 1"""
)
_ONE_WITHOUT_KEY = _ONE.format(fresh="SELECT FROM target")

# The parts run in this order because each reads the one before it to the end: all mailboxes are locked (by
# id), then the keys, then the content; `target` is empty unless every mailbox is there, and so is the rest.
_MANY = """
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($9::bigint[], $10::bytea[], $11::smallint[], $12::text[], $13::timestamptz[],
                         $14::bytea[])
        WITH ORDINALITY AS i (mailbox_id, prefix, flags, keywords, internaldate, key, n)
), locked AS MATERIALIZED (
    SELECT m.id, m.account_id, m.uidvalidity, m.highestmodseq FROM mailboxes m
    WHERE m.id = ANY ($9) AND m.deleted_at IS NULL
      AND EXISTS (SELECT FROM accounts a WHERE a.id = m.account_id AND a.deleted_at IS NULL)
    ORDER BY m.id FOR NO KEY UPDATE OF m
), target AS MATERIALIZED (
    SELECT * FROM locked WHERE (SELECT count(*) FROM locked) = $15::bigint
), keyed AS (
    INSERT INTO deliveries AS d (account_id, key)
    SELECT DISTINCT t.account_id, i.key FROM input i JOIN target t ON t.id = i.mailbox_id
    WHERE i.key IS NOT NULL ORDER BY 1, 2
    ON CONFLICT (account_id, key) DO UPDATE SET delivered_at = now()
        WHERE d.delivered_at < now() - $16::interval
    RETURNING d.account_id, d.key
), fresh AS MATERIALIZED (
    SELECT i.*, row_number() OVER (PARTITION BY i.mailbox_id ORDER BY i.n) AS rank,
           $2::bigint + length(i.prefix) AS size_bytes, coalesce(i.internaldate, now()) AS received
    FROM (SELECT i.*, t.account_id, row_number() OVER (PARTITION BY t.account_id, i.key ORDER BY i.n) AS turn
          FROM input i JOIN target t ON t.id = i.mailbox_id) i
    LEFT JOIN keyed k ON k.account_id = i.account_id AND k.key = i.key
    WHERE i.key IS NULL OR (k.key IS NOT NULL AND i.turn = 1)
), content AS (
    INSERT INTO contents (hash, size_bytes, header, envelope, structure)
    SELECT $1::bytea, $2, $3::bytea, $4::bytea, $5::bytea WHERE EXISTS (SELECT FROM fresh)
    ON CONFLICT (hash) DO UPDATE SET last_taken_at = now()
    RETURNING id, xmax = 0 AS is_new
), staged AS (
    INSERT INTO staged_contents (content_id, node, encoded_bytes)
    SELECT id, $6::text, $7::bigint FROM content WHERE is_new
), moved AS (
    UPDATE staged_contents g SET node = $6, encoded_bytes = $7, attempts = 0, lease_node = NULL,
        lease_until = NULL, next_attempt_at = g.staged_at
    FROM contents c
    WHERE EXISTS (SELECT FROM target) AND c.hash = $1 AND g.content_id = c.id
      AND g.node IS NOT NULL AND g.node IS DISTINCT FROM $6
    RETURNING g.content_id
), frames AS (
    INSERT INTO staged_frames (content_id, n, data)
    SELECT c.id, f.n, f.data
    FROM (SELECT id FROM content WHERE is_new UNION ALL SELECT content_id FROM moved) c,
         unnest($8::bytea[]) WITH ORDINALITY AS f (data, n)
), bump AS (
    UPDATE mailboxes m
    SET uidnext = m.uidnext + f.added, highestmodseq = m.highestmodseq + 1,
        messages = m.messages + f.added, unseen = m.unseen + f.unseen, deleted = m.deleted + f.deleted,
        size_bytes = m.size_bytes + f.size_bytes
    FROM (SELECT mailbox_id, count(*) AS added, count(*) FILTER (WHERE flags & 1 = 0) AS unseen,
                 count(*) FILTER (WHERE flags & 8 <> 0) AS deleted, sum(size_bytes)::bigint AS size_bytes
          FROM fresh GROUP BY mailbox_id) f
    WHERE m.id = f.mailbox_id
    RETURNING m.id, m.uidnext - f.added AS first_uid, m.highestmodseq
), stored AS (
    INSERT INTO messages (mailbox_id, uid, content_id, prefix, size_bytes, internaldate)
    SELECT f.mailbox_id, b.first_uid + f.rank - 1, c.id, f.prefix, f.size_bytes, f.received
    FROM fresh f JOIN bump b ON b.id = f.mailbox_id CROSS JOIN content c
), states AS (
    INSERT INTO message_state (mailbox_id, uid, modseq, flags, keywords, size_bytes, internaldate)
    SELECT f.mailbox_id, b.first_uid + f.rank - 1, b.highestmodseq, f.flags, string_to_array(f.keywords, ' '),
           f.size_bytes, floor(extract(epoch FROM f.received))::bigint
    FROM fresh f JOIN bump b ON b.id = f.mailbox_id
)
SELECT t.account_id, i.mailbox_id, t.uidvalidity, coalesce(b.first_uid + f.rank - 1, 0) AS uid,
       coalesce(b.highestmodseq, t.highestmodseq) AS modseq, f.n IS NULL AS duplicate,
       coalesce(c.id, v.content_id) AS content_id,
       coalesce(c.is_new, false) OR v.content_id IS NOT NULL AS takes_frames
FROM input i JOIN target t ON t.id = i.mailbox_id
LEFT JOIN fresh f ON f.n = i.n LEFT JOIN bump b ON b.id = f.mailbox_id
LEFT JOIN content c ON true LEFT JOIN moved v ON true
ORDER BY i.n"""

_MORE_FRAMES = """
INSERT INTO staged_frames (content_id, n, data)
SELECT $1, $2 + f.n, f.data FROM unnest($3::bytea[]) WITH ORDINALITY AS f (data, n)"""

_DELIVERED = """
SELECT FROM mailboxes m JOIN deliveries d ON d.account_id = m.account_id
WHERE m.id = $1 AND d.key = $2 AND d.delivered_at >= now() - $3::interval"""


class Appending(Part):
    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        if not messages:
            return []
        ids = {message.mailbox_id for message in messages}
        sql, arguments = _statement(staged, messages)
        async with self.queue.turn(ids):
            if len(staged.frames) <= FRAMES_INLINE:
                found = await self.db.write(sql, *arguments, mailboxes=ids)
            else:
                found = await self._append_large(staged, sql, arguments, ids)
        if not found:
            raise NotFound("one of the mailboxes is gone")
        self._wrote_accounts(found)
        return [_appended(row) for row in found]

    async def _append_large(
        self, staged: StagedContent, sql: str, arguments: list[object], ids: set[MailboxId]
    ) -> list[Record]:
        """The frames that do not fit follow in the same transaction."""
        async with self.db.transaction(mailboxes=ids) as transaction:
            found = await transaction.fetch(sql, *arguments)
            if found and found[0]["takes_frames"]:
                content_id = found[0]["content_id"]
                for start in range(FRAMES_INLINE, len(staged.frames), FRAMES_BATCH):
                    batch = list(staged.frames[start : start + FRAMES_BATCH])
                    await transaction.execute(_MORE_FRAMES, content_id, start, batch)
        return found

    async def delivered(self, mailbox_id: MailboxId, delivery_key: bytes) -> bool:
        return bool(await self.db.read(_DELIVERED, mailbox_id, delivery_key, RETRY_WINDOW))


def _statement(staged: StagedContent, messages: Sequence[NewMessage]) -> tuple[str, list[object]]:
    """The statement that fits, and its arguments."""
    content = staged.content
    arguments: list[object] = [
        content.hash,
        content.size_bytes,
        content.header,
        content.envelope,
        content.structure,
        staged.node,
        staged.encoded_bytes,
        list(staged.frames[:FRAMES_INLINE]),
    ]
    columns = [_columns(message) for message in messages]
    if len(messages) > 1:
        count = len({message.mailbox_id for message in messages})
        return _MANY, [*arguments, *map(list, zip(*columns, strict=True)), count, RETRY_WINDOW]
    if messages[0].delivery_key is None:
        return _ONE_WITHOUT_KEY, [*arguments, *columns[0][:-1]]
    return _ONE_KEYED, [*arguments, *columns[0], RETRY_WINDOW]


def _columns(message: NewMessage) -> tuple[object, ...]:
    keywords = message.flags.keywords
    return (
        message.mailbox_id,
        message.prefix,
        int(message.flags.system),
        " ".join(canonical_keywords(keywords)) if keywords else "",
        message.internaldate,
        message.delivery_key,
    )


def _appended(row: Record) -> Appended:
    return Appended(
        MailboxId(row["mailbox_id"]),
        UidValidity(row["uidvalidity"]),
        Uid(row["uid"]),
        ModSeq(row["modseq"]),
        row["duplicate"],
    )
