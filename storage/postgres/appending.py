"""Adding messages: the one place that assigns uids.

Invariants: a uid and its modseq are assigned by the one UPDATE that also counts the message, under the
mailbox row lock; a delivery key, its message, its content and the body become visible in one commit.

A statement sees one snapshot, taken before it waits for a lock. Values of a row that others may have
changed meanwhile are therefore taken only from ``FOR UPDATE`` and ``RETURNING``, which give the row as
locked, or from ``ON CONFLICT``, which asks the index.

The same bytes may have come before and wait on the disk of another node, which may be gone; ``moved`` then
brings the content here, also for a message that is a duplicate: no acknowledgement rests on a foreign disk.
They may also have come since the snapshot, while the statement waited: a content that is neither new nor in
the snapshot, and what the first copy of a duplicate brought (``may_be_elsewhere``). Then a second statement
looks once more, with a snapshot of its own.

There are three statements with the same effect. The general one takes any number of messages of one content;
the second is for one message, which is nearly every delivery, and costs the server two thirds of it; the
third is for single messages that come at the same time (``grouping.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.api import RETRY_WINDOW
from storage.errors import NotFound
from storage.flags import canonical_keywords
from storage.model import Appended, MailboxId, ModSeq, NewMessage, StagedContent, Uid, UidValidity

from .grouping import AppendGroups, is_groupable
from .part import Part
from .pool import Database, Record
from .queue import MailboxQueue
from .uploads import add_frames, take_over

FRAMES_INLINE = 4  # bodies up to so many frames ride in the one statement; a frame is about 256 KiB

# The body waits for the object store: that of a new content, and of one that waited on another node's disk.
_STAGING = """staged AS (
    INSERT INTO staged_contents (content_id, node, encoded_bytes)
    SELECT id, $6::text, $7::bigint FROM content WHERE is_new
), moved AS (
    UPDATE staged_contents g SET node = $6, encoded_bytes = $7, attempts = 0, lease_node = NULL,
        lease_until = NULL, next_attempt_at = g.staged_at
    WHERE g.content_id = (SELECT id FROM contents WHERE hash = $1) AND EXISTS (SELECT FROM target)
      AND g.node IS NOT NULL AND g.node IS DISTINCT FROM $6
    RETURNING g.content_id
), frames AS (
    INSERT INTO staged_frames (content_id, n, data)
    SELECT c.id, f.n, f.data
    FROM (SELECT id FROM content WHERE is_new UNION ALL SELECT content_id FROM moved) c,
         unnest($8::bytea[]) WITH ORDINALITY AS f (data, n)
)"""

# Each part feeds the next, which fixes their order: the mailbox is locked, then the key, then the content. No
# mailbox, or a key that is there already: nothing flows on.
_ONE = """
WITH target AS MATERIALIZED (
    SELECT m.id, m.account_id, m.uidvalidity, m.highestmodseq FROM mailboxes m
    WHERE m.id = $9 AND m.deleted_at IS NULL
      AND EXISTS (SELECT FROM accounts a WHERE a.id = m.account_id AND a.deleted_at IS NULL)
    FOR NO KEY UPDATE OF m{waiting}
), fresh AS ({fresh}
), content AS (
    INSERT INTO contents (hash, size_bytes, header, envelope, structure)
    SELECT $1::bytea, $2::bigint, $3::bytea, $4::bytea, $5::bytea FROM fresh
    ON CONFLICT (hash) DO UPDATE SET last_taken_at = now()
    RETURNING id, xmax = 0 AS is_new
), {staging}, bump AS (
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
       coalesce(b.is_new, false) OR v.content_id IS NOT NULL AS takes_frames,
       coalesce(NOT b.is_new AND NOT EXISTS (SELECT FROM contents x WHERE x.id = b.content_id),
                v.content_id IS NULL) AS may_be_elsewhere
FROM target t LEFT JOIN bump b ON true LEFT JOIN moved v ON true"""

_KEYED = """
    INSERT INTO deliveries AS d (account_id, key) SELECT account_id, $14::bytea FROM target
    ON CONFLICT (account_id, key) DO UPDATE SET delivered_at = now()
        WHERE d.delivered_at < now() - $15::interval
    RETURNING 1"""
_WITHOUT_KEY = "SELECT FROM target"
# By whether there is a key, and whether it waits for a mailbox that another transaction holds.
_ONES = {
    (has_key, waits): _ONE.format(
        fresh=_KEYED if has_key else _WITHOUT_KEY,
        staging=_STAGING,
        waiting="" if waits else " SKIP LOCKED",
    )
    for has_key in (False, True)
    for waits in (False, True)
}

# The parts run in this order because each reads the one before it to the end: all mailboxes are locked (by
# id), then the keys, then the content; `target` is empty unless every mailbox is there, and so is the rest.
_MANY = f"""
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
), {_STAGING}, bump AS (
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
       coalesce(c.is_new, false) OR v.content_id IS NOT NULL AS takes_frames,
       coalesce(NOT c.is_new AND NOT EXISTS (SELECT FROM contents x WHERE x.id = c.id),
                v.content_id IS NULL) AS may_be_elsewhere
FROM input i JOIN target t ON t.id = i.mailbox_id
LEFT JOIN fresh f ON f.n = i.n LEFT JOIN bump b ON b.id = f.mailbox_id
LEFT JOIN content c ON true LEFT JOIN moved v ON true
ORDER BY i.n"""

# For messages with contents, keys and mailboxes of their own. The order of locks is that above: mailboxes by
# id, keys, contents by hash. A mailbox that another transaction holds is passed over, and so is its message;
# so are bytes that wait on a foreign disk.
_GROUP = """
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[], $6::text[],
                         $7::bigint[], $8::bytea[], $9::bigint[], $10::bytea[], $11::smallint[],
                         $12::text[], $13::timestamptz[], $14::bytea[])
        AS i (hash, body_bytes, header, envelope, structure, node, encoded_bytes, data, mailbox_id, prefix,
              flags, keywords, internaldate, key)
), target AS MATERIALIZED (
    SELECT m.id, m.account_id, m.uidvalidity, m.highestmodseq FROM mailboxes m
    JOIN input i ON i.mailbox_id = m.id
    WHERE m.id = ANY ($9) AND m.deleted_at IS NULL
      AND EXISTS (SELECT FROM accounts a WHERE a.id = m.account_id AND a.deleted_at IS NULL)
      AND NOT EXISTS (SELECT FROM contents c JOIN staged_contents g ON g.content_id = c.id
                      WHERE c.hash = i.hash AND g.node IS NOT NULL AND g.node IS DISTINCT FROM i.node)
    ORDER BY m.id FOR NO KEY UPDATE OF m SKIP LOCKED
), keyed AS (
    INSERT INTO deliveries AS d (account_id, key)
    SELECT t.account_id, i.key FROM input i JOIN target t ON t.id = i.mailbox_id
    WHERE i.key IS NOT NULL ORDER BY 1, 2
    ON CONFLICT (account_id, key) DO UPDATE SET delivered_at = now()
        WHERE d.delivered_at < now() - $15::interval
    RETURNING d.key
), fresh AS MATERIALIZED (
    SELECT i.*, i.body_bytes + length(i.prefix) AS size_bytes, coalesce(i.internaldate, now()) AS received
    FROM input i JOIN target t ON t.id = i.mailbox_id LEFT JOIN keyed k ON k.key = i.key
    WHERE i.key IS NULL OR k.key IS NOT NULL
), content AS (
    INSERT INTO contents (hash, size_bytes, header, envelope, structure)
    SELECT hash, body_bytes, header, envelope, structure FROM fresh ORDER BY hash
    ON CONFLICT (hash) DO UPDATE SET last_taken_at = now()
    RETURNING id, hash, xmax = 0 AS is_new
), staged AS (
    INSERT INTO staged_contents (content_id, node, encoded_bytes)
    SELECT c.id, f.node, f.encoded_bytes FROM content c JOIN fresh f ON f.hash = c.hash WHERE c.is_new
), frames AS (
    INSERT INTO staged_frames (content_id, n, data)
    SELECT c.id, 1, f.data FROM content c JOIN fresh f ON f.hash = c.hash
    WHERE c.is_new AND f.data IS NOT NULL
), bump AS (
    UPDATE mailboxes m
    SET uidnext = m.uidnext + 1, highestmodseq = m.highestmodseq + 1, messages = m.messages + 1,
        unseen = m.unseen + 1 - (f.flags & 1), deleted = m.deleted + (f.flags & 8) / 8,
        size_bytes = m.size_bytes + f.size_bytes
    FROM fresh f JOIN content c ON c.hash = f.hash WHERE m.id = f.mailbox_id
    RETURNING m.id, m.uidnext - 1 AS uid, m.highestmodseq, c.id AS content_id, c.is_new,
              f.prefix, f.size_bytes, f.received, f.flags, f.keywords
), stored AS (
    INSERT INTO messages (mailbox_id, uid, content_id, prefix, size_bytes, internaldate)
    SELECT id, uid, content_id, prefix, size_bytes, received FROM bump
), states AS (
    INSERT INTO message_state (mailbox_id, uid, modseq, flags, keywords, size_bytes, internaldate)
    SELECT id, uid, highestmodseq, flags, string_to_array(keywords, ' '), size_bytes,
           floor(extract(epoch FROM received))::bigint
    FROM bump
)
SELECT t.account_id, t.id AS mailbox_id, t.uidvalidity, coalesce(b.uid, 0) AS uid,
       coalesce(b.highestmodseq, t.highestmodseq) AS modseq, b.uid IS NULL AS duplicate,
       coalesce(NOT b.is_new AND NOT EXISTS (SELECT FROM contents x WHERE x.id = b.content_id), true)
       AS may_be_elsewhere
FROM target t LEFT JOIN bump b ON b.id = t.id"""

_DELIVERED = """
SELECT FROM mailboxes m JOIN deliveries d ON d.account_id = m.account_id
WHERE m.id = $1 AND d.key = $2 AND d.delivered_at >= now() - $3::interval"""


class Appending(Part):
    def __init__(self, db: Database, queue: MailboxQueue) -> None:
        super().__init__(db, queue)
        self._groups = AppendGroups(self._append_one, self._append_free)

    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        if not messages:
            return []
        ids = {message.mailbox_id for message in messages}
        async with self.queue.turn(ids):
            if is_groupable(staged, messages):
                found = await self._groups.append(staged, messages[0])
            elif len(staged.frames) <= FRAMES_INLINE:
                found = await self._append_at_once(staged, messages)
            else:
                found = await self._append_large(staged, messages)
        if not found:
            raise NotFound("one of the mailboxes is gone")
        self._wrote_accounts(found)
        if any(row["may_be_elsewhere"] for row in found):
            size = staged.encoded_bytes
            await take_over(self.db, staged.content.hash, staged.node, staged.frames, size)
        return [_appended(row) for row in found]

    async def _append_at_once(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Record]:
        sql, arguments = _statement(staged, messages)
        ids = {message.mailbox_id for message in messages}
        return await self.db.write(sql, *arguments, mailboxes=ids)

    async def _append_one(self, staged: StagedContent, message: NewMessage) -> list[Record]:
        return await self._append_at_once(staged, (message,))

    async def _append_free(self, letters: Sequence[tuple[StagedContent, NewMessage]]) -> list[Record]:
        """Rows of those messages whose mailbox is there and not held by another transaction."""
        ids = [message.mailbox_id for _, message in letters]
        if len(letters) == 1:
            ((staged, message),) = letters
            sql, arguments = _statement_of_one(staged, message, waits=False)
            return await self.db.write(sql, *arguments, mailboxes=ids)
        columns = zip(*(_group_columns(staged, message) for staged, message in letters), strict=True)
        return await self.db.write(_GROUP, *map(list, columns), RETRY_WINDOW, mailboxes=ids)

    async def _append_large(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Record]:
        """The frames that do not fit follow in the same transaction."""
        sql, arguments = _statement(staged, messages)
        ids = {message.mailbox_id for message in messages}
        async with self.db.transaction(mailboxes=ids) as transaction:
            found = await transaction.fetch(sql, *arguments)
            if found and found[0]["takes_frames"]:
                await add_frames(transaction, found[0]["content_id"], staged.frames, FRAMES_INLINE)
        return found

    async def delivered(self, mailbox_id: MailboxId, delivery_key: bytes) -> bool:
        return bool(await self.db.read(_DELIVERED, mailbox_id, delivery_key, RETRY_WINDOW))


def _statement(staged: StagedContent, messages: Sequence[NewMessage]) -> tuple[str, list[object]]:
    """The statement that fits, and its arguments."""
    if len(messages) == 1:
        return _statement_of_one(staged, messages[0], waits=True)
    columns = map(list, zip(*map(_columns, messages), strict=True))
    count = len({message.mailbox_id for message in messages})
    return _MANY, [*_content_arguments(staged), *columns, count, RETRY_WINDOW]


def _statement_of_one(staged: StagedContent, message: NewMessage, *, waits: bool) -> tuple[str, list[object]]:
    has_key = message.delivery_key is not None
    columns = _columns(message)
    rest = (*columns, RETRY_WINDOW) if has_key else columns[:-1]
    return _ONES[has_key, waits], [*_content_arguments(staged), *rest]


def _content_arguments(staged: StagedContent) -> tuple[object, ...]:
    content = staged.content
    return (
        content.hash,
        content.size_bytes,
        content.header,
        content.envelope,
        content.structure,
        staged.node,
        staged.encoded_bytes,
        list(staged.frames[:FRAMES_INLINE]),
    )


def _group_columns(staged: StagedContent, message: NewMessage) -> tuple[object, ...]:
    *content, frames = _content_arguments(staged)
    assert isinstance(frames, list)
    return (*content, frames[0] if frames else None, *_columns(message))


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
