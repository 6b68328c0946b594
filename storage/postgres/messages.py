"""Reading messages: whatever a FETCH needs beyond the view, in one statement for each range."""

from __future__ import annotations

from collections.abc import Sequence

from storage.model import MailboxId, MessageRow, Uid, Wanted

from . import rows
from .part import Part
from .pool import Record

_COLUMNS = {Wanted.HEADER: "header", Wanted.ENVELOPE: "envelope", Wanted.STRUCTURE: "structure"}


def columns_of(wanted: Wanted) -> list[str]:
    """Of ``contents``, beside the reference."""
    return [name for flag, name in _COLUMNS.items() if flag in wanted]


def _fetch_sql(wanted: Wanted) -> str:
    columns = "".join(f", c.{name}" for name in columns_of(wanted))
    return f"""
SELECT s.uid, m.prefix, {rows.REF_COLUMNS}{columns}
FROM message_state s JOIN messages m ON m.mailbox_id = s.mailbox_id AND m.uid = s.uid
JOIN contents c ON c.id = m.content_id LEFT JOIN staged_contents g ON g.content_id = c.id
WHERE s.mailbox_id = $1 AND s.uid = ANY ($2::bigint[]) ORDER BY s.uid"""


_FETCH = {Wanted(bits): _fetch_sql(Wanted(bits)) for bits in range(2 ** len(_COLUMNS))}


class Messages(Part):
    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        sql = _FETCH[wanted]
        found = await self.db.read(sql, mailbox_id, uids, mailbox=mailbox_id)
        if self.db.has_replicas and len(found) < len(uids):
            # another process wrote what this replica has not got yet; rows never change, so few is the
            # only way for a replica to be wrong
            found = await self.db.read(sql, mailbox_id, uids)
        return [message_row(row, wanted) for row in found]


def message_row(row: Record, wanted: Wanted) -> MessageRow:
    columns = {name: row[name] for name in columns_of(wanted)}
    return MessageRow(Uid(row["uid"]), row["prefix"], rows.ref(row), **columns)
