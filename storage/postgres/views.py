"""Opening a mailbox and keeping it fresh.

Opening and refreshing are one statement each, hence one snapshot: the mailbox row and the states belong
together. ``changes_since`` always asks the primary: it usually follows a hint about another process's
commit, which a replica need not have yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from storage.errors import NotFound
from storage.model import AccountId, MailboxChanges, MailboxId, ModSeq, Uid
from storage.names import sought
from storage.view import LoadedView

from . import rows
from .part import Part

_LOAD_COLUMNS = f"""
SELECT {rows.MAILBOX_COLUMNS}, v.uids, v.modseqs, v.flags, v.sizes, v.internaldates, v.keyword_uids,
       v.keyword_lists
FROM mailboxes m, LATERAL (
    SELECT {rows.PACKED_STATES}
    FROM (SELECT uid, modseq, flags, size_bytes, internaldate, keywords
          FROM message_state WHERE mailbox_id = m.id ORDER BY uid) s) v
WHERE m.deleted_at IS NULL AND """
_LOAD = f"{_LOAD_COLUMNS} m.id = $1"
_LOAD_NAMED = f"{_LOAD_COLUMNS} m.account_id = $1 AND m.name = $2"

# The inner ORDER BY makes the modseq index the obvious way whatever the planner thinks of $2.
_CHANGES = f"""
SELECT {rows.MAILBOX_COLUMNS}, v.uids, v.modseqs, v.flags, v.sizes, v.internaldates, v.keyword_uids,
       v.keyword_lists, (SELECT array_agg(e.uid ORDER BY e.uid) FROM expunged e
                         WHERE e.mailbox_id = m.id AND e.modseq > $2) AS expunged
FROM mailboxes m, LATERAL (
    SELECT {rows.PACKED_STATES}
    FROM (SELECT uid, modseq, flags, size_bytes, internaldate, keywords FROM (
              SELECT uid, modseq, flags, size_bytes, internaldate, keywords
              FROM message_state WHERE mailbox_id = m.id AND modseq > $2
              ORDER BY mailbox_id, modseq OFFSET 0) t
          ORDER BY uid) s) v
WHERE m.id = $1 AND m.deleted_at IS NULL"""

_MODSEQS = "SELECT id, highestmodseq FROM mailboxes WHERE id = ANY ($1::bigint[]) AND deleted_at IS NULL"


class Views(Part):
    async def load_view(self, mailbox_id: MailboxId) -> LoadedView:
        found = await self.db.read(_LOAD, mailbox_id, mailbox=mailbox_id)
        if not found:
            raise NotFound("the mailbox is gone")
        return rows.view(rows.mailbox(found[0]), found[0])

    async def load_named_view(self, account_id: AccountId, name: str) -> LoadedView:
        name = sought(name)
        found = await self.db.read(_LOAD_NAMED, account_id, name, account=account_id)
        if not found:
            raise NotFound(f"no mailbox {name!r}")
        return rows.view(rows.mailbox(found[0]), found[0])

    async def changes_since(self, mailbox_id: MailboxId, modseq: ModSeq) -> MailboxChanges:
        found = await self.db.read(_CHANGES, mailbox_id, modseq)
        if not found:
            raise NotFound("the mailbox is gone")
        (row,) = found
        view = rows.view(rows.mailbox(row), row)
        expunged = tuple(Uid(uid) for uid in row["expunged"] or ())
        if self.db.has_replicas and (view.uids or expunged):
            # what was seen once stays seen: a replica that lags must not open the mailbox as it was before
            self.db.wrote(account=view.mailbox.account_id, mailboxes=(mailbox_id,))
        return MailboxChanges(view.mailbox, view.states(), expunged)

    async def modseqs(self, mailbox_ids: Sequence[MailboxId]) -> Mapping[MailboxId, ModSeq]:
        found = await self.db.read(_MODSEQS, mailbox_ids)
        return {MailboxId(row["id"]): ModSeq(row["highestmodseq"]) for row in found}
