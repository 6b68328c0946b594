"""What was deleted, by day: read-only mailboxes that are no rows of ``mailboxes``.

Every look first brings the numbers up to date, in a transaction under the account's counter row: what was
deleted since the last look gets uids, in the order of its deletion; what was restored or purged is marked as
gone. After the lock is had, a second statement looks with a snapshot of its own, so two looks at once cannot
number a message twice. Nothing is locked but that row, and nobody waits for it but other looks.

A copy takes references, as COPY does: the foreign key of the new row holds off the purge of its content, and
when the purge was first, a second look does not find the message any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import asyncpg

from storage.errors import NotFound
from storage.model import (
    AccountId,
    Copied,
    Mailbox,
    MailboxChanges,
    MailboxId,
    MessageRow,
    ModSeq,
    Uid,
    UidValidity,
    Wanted,
)
from storage.recovery import account_and_day, day_id, day_name
from storage.view import LoadedView

from . import rows
from .copying import ARRIVE, COUNTED, PAIRS, copied
from .messages import columns_of, message_row
from .pool import Database, Record

NUMBERED_AT_ONCE = 20_000  # messages, in one transaction

_LOCK = """
INSERT INTO recovered_accounts AS r (account_id, uidvalidity) VALUES ($1, extract(epoch FROM now())::bigint)
ON CONFLICT (account_id) DO UPDATE SET modseq = r.modseq"""

# $2, $3: first day and the one after the last; NULL: no bound
NUMBER = """
WITH lost AS MATERIALIZED (
    SELECT e.* FROM mailboxes b CROSS JOIN LATERAL (
        SELECT e.mailbox_id, e.uid, e.expunged_at AS at FROM expunged e
        WHERE e.mailbox_id = b.id AND e.purged_at IS NULL
          AND e.expunged_at >= coalesce($2::date, '-infinity')::timestamp AT TIME ZONE 'UTC'
          AND e.expunged_at < coalesce($3::date, 'infinity')::timestamp AT TIME ZONE 'UTC' OFFSET 0
    ) e WHERE b.account_id = $1
    UNION ALL
    SELECT b.id, s.uid, b.deleted_at FROM mailboxes b CROSS JOIN LATERAL (
        SELECT s.uid FROM message_state s WHERE s.mailbox_id = b.id OFFSET 0
    ) s WHERE b.account_id = $1
      AND b.deleted_at >= coalesce($2::date, '-infinity')::timestamp AT TIME ZONE 'UTC'
      AND b.deleted_at < coalesce($3::date, 'infinity')::timestamp AT TIME ZONE 'UTC'
), fresh AS MATERIALIZED (
    SELECT l.*, row_number() OVER (ORDER BY l.at, l.mailbox_id, l.uid) AS rank FROM lost l
    WHERE (SELECT true FROM recovered r
           WHERE r.mailbox_id = l.mailbox_id AND r.message_uid = l.uid LIMIT 1) IS NULL
    ORDER BY l.at, l.mailbox_id, l.uid LIMIT $4
), counter AS MATERIALIZED (
    SELECT uidnext, modseq + 1 AS modseq FROM recovered_accounts WHERE account_id = $1
), gone AS (
    UPDATE recovered r SET is_gone = true, modseq = c.modseq FROM counter c
    WHERE r.account_id = $1 AND r.day >= coalesce($2::date, '-infinity')
      AND r.day < coalesce($3::date, 'infinity') AND NOT r.is_gone
      AND NOT EXISTS (SELECT FROM lost l WHERE l.mailbox_id = r.mailbox_id AND l.uid = r.message_uid)
    RETURNING r.uid
), added AS (
    INSERT INTO recovered (account_id, day, uid, modseq, mailbox_id, message_uid)
    SELECT $1, (f.at AT TIME ZONE 'UTC')::date, c.uidnext + f.rank - 1, c.modseq, f.mailbox_id, f.uid
    FROM fresh f CROSS JOIN counter c
    RETURNING uid
)
UPDATE recovered_accounts SET uidnext = uidnext + (SELECT count(*) FROM added), modseq = modseq + 1
WHERE account_id = $1 AND (EXISTS (SELECT FROM added) OR EXISTS (SELECT FROM gone))
RETURNING (SELECT count(*) FROM added) AS added"""

# Messages as they were, and are no more, with the columns that a view wants and those that a copy takes.
# LATERAL with LIMIT or OFFSET: by index, whatever the planner believes of tables that grow and shrink.
# A comparison of rows and its order fit the one right index only, and lead to the very row at once.
# {source}: of `r`; {which}: of it
_ALL = "recovered r"
_SOME = """(SELECT DISTINCT unnest($3::bigint[]) AS uid) u CROSS JOIN LATERAL (
        SELECT * FROM recovered r WHERE (r.account_id, r.day, r.uid) >= ($1::bigint, $2::date, u.uid)
        ORDER BY r.account_id, r.day, r.uid LIMIT 1
    ) r"""
_IS_THAT_ROW = "r.account_id = $1 AND r.day = $2 AND r.uid = u.uid"
_STATES = """
    SELECT r.day, r.uid, r.modseq, (coalesce(e.flags, s.flags) & ~8::smallint)::smallint AS flags,
           m.size_bytes, floor(extract(epoch FROM m.internaldate))::bigint AS internaldate,
           coalesce(e.keywords, s.keywords) AS keywords, m.content_id, m.prefix, m.internaldate AS received
    FROM {source} CROSS JOIN LATERAL (
        SELECT m.size_bytes, m.internaldate, m.content_id, m.prefix FROM messages m
        WHERE m.mailbox_id = r.mailbox_id AND m.uid = r.message_uid LIMIT 1
    ) m LEFT JOIN LATERAL (
        SELECT * FROM expunged e WHERE (e.mailbox_id, e.uid) >= (r.mailbox_id, r.message_uid)
        ORDER BY e.mailbox_id, e.uid LIMIT 1
    ) e ON e.mailbox_id = r.mailbox_id AND e.uid = r.message_uid AND e.purged_at IS NULL LEFT JOIN LATERAL (
        SELECT * FROM message_state s WHERE (s.mailbox_id, s.uid) >= (r.mailbox_id, r.message_uid)
        ORDER BY s.mailbox_id, s.uid LIMIT 1
    ) s ON s.mailbox_id = r.mailbox_id AND s.uid = r.message_uid
    WHERE r.account_id = $1 AND NOT r.is_gone AND {which}
    ORDER BY r.uid"""


def _box(more: str = "") -> str:
    """One snapshot: counters of the whole day, states of what is newer than $3."""
    return f"""
SELECT a.uidvalidity, n.*, c.*, v.*{more}
FROM recovered_accounts a, LATERAL (
    SELECT max(uid) + 1 AS uidnext, max(modseq) AS highestmodseq
    FROM recovered r WHERE r.account_id = $1 AND r.day = $2
) n, LATERAL (
    SELECT count(*) AS messages, count(*) FILTER (WHERE s.flags & 1 = 0) AS unseen,
           coalesce(sum(s.size_bytes), 0)::bigint AS size_bytes
    FROM ({_STATES.format(source=_ALL, which="r.day = $2")}) s
) c, LATERAL (
    SELECT {rows.PACKED_STATES} FROM ({_STATES.format(source=_ALL, which="r.day = $2 AND r.modseq > $3")}) s
) v WHERE a.account_id = $1 AND n.uidnext IS NOT NULL"""


_LOAD = _box()
_CHANGES = _box(
    """, (SELECT array_agg(r.uid ORDER BY r.uid) FROM recovered r
     WHERE r.account_id = $1 AND r.day = $2 AND r.is_gone AND r.modseq > $3) AS expunged"""
)

_COUNTERS = f"""
SELECT a.uidvalidity, n.*, count(s.uid) AS messages, count(s.uid) FILTER (WHERE s.flags & 1 = 0) AS unseen,
       coalesce(sum(s.size_bytes), 0)::bigint AS size_bytes
FROM recovered_accounts a CROSS JOIN (
    SELECT r.day, max(uid) + 1 AS uidnext, max(modseq) AS highestmodseq
    FROM recovered r WHERE r.account_id = $1 AND {{which}} GROUP BY r.day
) n LEFT JOIN ({_STATES.format(source=_ALL, which="{which}")}) s ON s.day = n.day
WHERE a.account_id = $1
GROUP BY a.uidvalidity, n.day, n.uidnext, n.highestmodseq ORDER BY n.day"""
_OF_ACCOUNT = _COUNTERS.format(which="true")
_OF_DAY = _COUNTERS.format(which="r.day = $2")

_MODSEQ = """
SELECT max(modseq) AS highestmodseq FROM recovered WHERE account_id = $1 AND day = $2"""


def _fetch_sql(wanted: Wanted) -> str:
    columns = "".join(f", c.{name}" for name in columns_of(wanted))
    return f"""
SELECT r.uid, m.prefix, {rows.REF_COLUMNS}{columns}
FROM {_SOME} CROSS JOIN LATERAL (
    SELECT m.content_id, m.prefix FROM messages m
    WHERE m.mailbox_id = r.mailbox_id AND m.uid = r.message_uid LIMIT 1
) m CROSS JOIN LATERAL (SELECT * FROM contents c WHERE c.id = m.content_id LIMIT 1) c
LEFT JOIN staged_contents g ON g.content_id = c.id
WHERE {_IS_THAT_ROW} AND NOT r.is_gone ORDER BY r.uid"""


_COPY = f"""
WITH target AS MATERIALIZED (
    SELECT id, account_id, uidvalidity, highestmodseq FROM mailboxes
    WHERE id = $4 AND account_id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE
), taken AS MATERIALIZED (
    SELECT row_number() OVER (ORDER BY s.uid) AS rank, s.*
    FROM ({_STATES.format(source=_SOME, which=_IS_THAT_ROW)}) s
    WHERE EXISTS (SELECT FROM target)
), {COUNTED}, bump AS (
    UPDATE mailboxes m
    SET uidnext = m.uidnext + c.n, highestmodseq = m.highestmodseq + 1, messages = m.messages + c.n,
        unseen = m.unseen + c.unseen, size_bytes = m.size_bytes + c.size_bytes
    FROM counted c WHERE m.id = $4 AND c.n > 0
    RETURNING m.id, m.uidnext - c.n AS first_uid, m.highestmodseq
), {ARRIVE.format(target="$4")}
SELECT t.account_id, t.uidvalidity, t.highestmodseq, NULL::bigint AS source_modseq, {PAIRS}
FROM target t LEFT JOIN bump b ON true"""


class PostgresRecoveredMail:
    """``storage.api.RecoveredMail``. Reads come from the primary: a look has just written."""

    def __init__(self, db: Database, root: str) -> None:
        self.db = db
        self.root = root

    async def mailboxes(self, account_id: AccountId) -> tuple[Mailbox, ...]:
        await self._number(account_id, None)
        found = await self.db.read(_OF_ACCOUNT, account_id)
        return tuple(self._mailbox(account_id, row["day"], row) for row in found if row["messages"])

    async def get(self, account_id: AccountId, day: date) -> Mailbox:
        await self._number(account_id, day)
        found = await self.db.read(_OF_DAY, account_id, day)
        if not found:
            raise _nothing(day)
        return self._mailbox(account_id, day, found[0])

    async def load_view(self, mailbox_id: MailboxId) -> LoadedView:
        account_id, day = account_and_day(mailbox_id)
        await self._number(account_id, day)
        found = await self.db.read(_LOAD, account_id, day, 0)
        if not found:
            raise _nothing(day)
        return rows.view(self._mailbox(account_id, day, found[0]), found[0])

    async def changes_since(self, mailbox_id: MailboxId, modseq: ModSeq) -> MailboxChanges:
        account_id, day = account_and_day(mailbox_id)
        await self._number(account_id, day)
        found = await self.db.read(_CHANGES, account_id, day, modseq)
        if not found:
            raise _nothing(day)
        (row,) = found
        view = rows.view(self._mailbox(account_id, day, row), row)
        return MailboxChanges(view.mailbox, view.states(), tuple(Uid(uid) for uid in row["expunged"] or ()))

    async def modseqs(self, mailbox_ids: Sequence[MailboxId]) -> Mapping[MailboxId, ModSeq]:
        found: dict[MailboxId, ModSeq] = {}
        for mailbox_id in mailbox_ids:
            account_id, day = account_and_day(mailbox_id)
            await self._number(account_id, day)
            ((modseq,),) = await self.db.read(_MODSEQ, account_id, day)
            if modseq is not None:
                found[mailbox_id] = ModSeq(modseq)
        return found

    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        account_id, day = account_and_day(mailbox_id)
        found = await self.db.read(_fetch_sql(wanted), account_id, day, uids)
        return [message_row(row, wanted) for row in found]

    async def copy(self, mailbox_id: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        account_id, day = account_and_day(mailbox_id)
        arguments = (account_id, day, uids, target)
        try:
            found = await self.db.write(_COPY, *arguments, account=account_id, mailboxes=(target,))
        except asyncpg.ForeignKeyViolationError:  # purged while this waited for the target
            found = await self.db.write(_COPY, *arguments, account=account_id, mailboxes=(target,))
        return copied(found)

    async def _number(self, account_id: AccountId, day: date | None) -> None:
        """``day``: None is all days."""
        after = None if day is None else day + timedelta(days=1)
        is_behind = True
        while is_behind:
            async with self.db.transaction(mailboxes=()) as transaction:
                await transaction.execute(_LOCK, account_id)
                done = await transaction.fetch(NUMBER, account_id, day, after, NUMBERED_AT_ONCE)
            is_behind = bool(done) and done[0]["added"] == NUMBERED_AT_ONCE

    def _mailbox(self, account_id: AccountId, day: date, row: Record) -> Mailbox:
        return Mailbox(
            day_id(account_id, day),
            account_id,
            day_name(self.root, day),
            UidValidity(row["uidvalidity"]),
            Uid(row["uidnext"]),
            ModSeq(row["highestmodseq"]),
            row["messages"],
            row["unseen"],
            0,
            row["size_bytes"],
            None,
            Uid(row["uidnext"]),
            is_read_only=True,
        )


def _nothing(day: date) -> NotFound:
    return NotFound(f"nothing that was deleted on {day} can be had back")
