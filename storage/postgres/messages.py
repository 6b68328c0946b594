"""Adding messages and reading them.

Invariants: a uid and its modseq are assigned by the one UPDATE that also counts the message, under the
mailbox row lock; a delivery key, its message, its content and the body become visible in one commit.

A statement sees one snapshot, taken before it waits for a lock. Values of a row that others may have
changed meanwhile are therefore taken only from ``FOR UPDATE`` and ``RETURNING``, which give the row as
locked, or from ``ON CONFLICT``, which asks the index.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.api import RETRY_WINDOW
from storage.errors import NotFound
from storage.flags import canonical_keywords
from storage.model import (
    Appended,
    MailboxId,
    MessageRow,
    ModSeq,
    NewMessage,
    StagedContent,
    Uid,
    UidValidity,
    Wanted,
)

from . import rows
from .part import Part
from .pool import Record

FRAMES_INLINE = 4  # bodies up to so many frames ride in the one statement; a frame is about 256 KiB
FRAMES_BATCH = 16  # frames a further statement carries

# The parts run in this order because each reads the one before it to the end: all mailboxes are locked (by
# id), then the keys, then the content; `target` is empty unless every mailbox is there, and so is the rest.
_APPEND = """
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
), frames AS (
    INSERT INTO staged_frames (content_id, n, data)
    SELECT c.id, f.n, f.data FROM content c, unnest($8::bytea[]) WITH ORDINALITY AS f (data, n)
    WHERE c.is_new
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
       c.id AS content_id, c.is_new
FROM input i JOIN target t ON t.id = i.mailbox_id
LEFT JOIN fresh f ON f.n = i.n LEFT JOIN bump b ON b.id = f.mailbox_id LEFT JOIN content c ON true
ORDER BY i.n"""

_MORE_FRAMES = """
INSERT INTO staged_frames (content_id, n, data)
SELECT $1, $2 + f.n, f.data FROM unnest($3::bytea[]) WITH ORDINALITY AS f (data, n)"""

_DELIVERED = """
SELECT FROM mailboxes m JOIN deliveries d ON d.account_id = m.account_id
WHERE m.id = $1 AND d.key = $2 AND d.delivered_at >= now() - $3::interval"""

_COLUMNS = {Wanted.HEADER: "header", Wanted.ENVELOPE: "envelope", Wanted.STRUCTURE: "structure"}


def _fetch_sql(wanted: Wanted) -> str:
    columns = "".join(f", c.{name}" for flag, name in _COLUMNS.items() if flag in wanted)
    return f"""
SELECT s.uid, m.prefix, {rows.REF_COLUMNS}{columns}
FROM message_state s JOIN messages m ON m.mailbox_id = s.mailbox_id AND m.uid = s.uid
JOIN contents c ON c.id = m.content_id LEFT JOIN staged_contents g ON g.content_id = c.id
WHERE s.mailbox_id = $1 AND s.uid = ANY ($2::bigint[]) ORDER BY s.uid"""


_FETCH = {Wanted(bits): _fetch_sql(Wanted(bits)) for bits in range(2 ** len(_COLUMNS))}


class Messages(Part):
    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        ids = {message.mailbox_id for message in messages}
        if not ids:
            return []
        arguments = _append_arguments(staged, messages, len(ids))
        async with self.queue.turn(ids):
            if len(staged.frames) <= FRAMES_INLINE:
                found = await self.db.write(_APPEND, *arguments, mailboxes=ids)
            else:
                found = await self._append_large(staged, arguments, ids)
        if not found:
            raise NotFound("one of the mailboxes is gone")
        self._wrote_accounts(found)
        return [_appended(row) for row in found]

    async def _append_large(
        self, staged: StagedContent, arguments: list[object], ids: set[MailboxId]
    ) -> list[Record]:
        """The frames that do not fit follow in the same transaction."""
        async with self.db.transaction(mailboxes=ids) as transaction:
            found = await transaction.fetch(_APPEND, *arguments)
            if found and found[0]["is_new"]:
                content_id = found[0]["content_id"]
                for start in range(FRAMES_INLINE, len(staged.frames), FRAMES_BATCH):
                    batch = list(staged.frames[start : start + FRAMES_BATCH])
                    await transaction.execute(_MORE_FRAMES, content_id, start, batch)
        return found

    async def delivered(self, mailbox_id: MailboxId, delivery_key: bytes) -> bool:
        return bool(await self.db.read(_DELIVERED, mailbox_id, delivery_key, RETRY_WINDOW))

    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        sql = _FETCH[wanted]
        found = await self.db.read(sql, mailbox_id, uids, mailbox=mailbox_id)
        if self.db.has_replicas and len(found) < len(uids):
            # another process wrote what this replica has not got yet; rows never change, so few is the
            # only way for a replica to be wrong
            found = await self.db.read(sql, mailbox_id, uids)
        return [_message_row(row, wanted) for row in found]


def _append_arguments(staged: StagedContent, messages: Sequence[NewMessage], mailboxes: int) -> list[object]:
    content = staged.content
    return [
        content.hash,
        content.size_bytes,
        content.header,
        content.envelope,
        content.structure,
        staged.node,
        staged.encoded_bytes,
        list(staged.frames[:FRAMES_INLINE]),
        [message.mailbox_id for message in messages],
        [message.prefix for message in messages],
        [int(message.flags.system) for message in messages],
        [" ".join(canonical_keywords(message.flags.keywords)) for message in messages],
        [message.internaldate for message in messages],
        [message.delivery_key for message in messages],
        mailboxes,
        RETRY_WINDOW,
    ]


def _appended(row: Record) -> Appended:
    return Appended(
        MailboxId(row["mailbox_id"]),
        UidValidity(row["uidvalidity"]),
        Uid(row["uid"]),
        ModSeq(row["modseq"]),
        row["duplicate"],
    )


def _message_row(row: Record, wanted: Wanted) -> MessageRow:
    columns = {name: row[name] for flag, name in _COLUMNS.items() if flag in wanted}
    return MessageRow(Uid(row["uid"]), row["prefix"], rows.ref(row), **columns)
