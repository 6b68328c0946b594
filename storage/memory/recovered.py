"""``RecoveredMail`` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from storage.errors import NotFound
from storage.model import (
    AccountId,
    Copied,
    Mailbox,
    MailboxChanges,
    MailboxId,
    MessageRow,
    ModSeq,
    SystemFlag,
    Uid,
    UidValidity,
    Wanted,
)
from storage.recovery import account_and_day, day_id, day_name, day_of
from storage.view import LoadedView

from .mail import message_row, undeleted
from .tables import Numbered, Recovered, StoredMessage, Tables


class MemoryRecoveredMail:
    """``storage.api.RecoveredMail``."""

    def __init__(self, tables: Tables, root: str) -> None:
        self.tables = tables
        self.root = root

    async def mailboxes(self, account_id: AccountId) -> tuple[Mailbox, ...]:
        days = sorted({entry.day for entry in self._number(account_id).entries if not entry.is_gone})
        return tuple(self._mailbox(account_id, day) for day in days)

    async def get(self, account_id: AccountId, day: date) -> Mailbox:
        self._number(account_id)
        return self._mailbox(account_id, day)

    async def load_view(self, mailbox_id: MailboxId) -> LoadedView:
        account_id, day = account_and_day(mailbox_id)
        mailbox = await self.get(account_id, day)
        return LoadedView.of(mailbox, (message.state for message in self._messages(account_id, day).values()))

    async def changes_since(self, mailbox_id: MailboxId, modseq: ModSeq) -> MailboxChanges:
        account_id, day = account_and_day(mailbox_id)
        mailbox = await self.get(account_id, day)
        found = self._messages(account_id, day).values()
        gone = [e.uid for e in self._entries(account_id, day) if e.is_gone and e.modseq > modseq]
        return MailboxChanges(
            mailbox, tuple(each.state for each in found if each.modseq > modseq), tuple(sorted(gone))
        )

    async def modseqs(self, mailbox_ids: Sequence[MailboxId]) -> Mapping[MailboxId, ModSeq]:
        found = {}
        for mailbox_id in mailbox_ids:
            account_id, day = account_and_day(mailbox_id)
            self._number(account_id)
            if self._entries(account_id, day):
                found[mailbox_id] = self._mailbox(account_id, day).highestmodseq
        return found

    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        messages = self._messages(*account_and_day(mailbox_id))
        found = [messages[uid] for uid in sorted(set(uids)) if uid in messages]
        return [message_row(self.tables, message, wanted) for message in found]

    async def copy(self, mailbox_id: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        account_id, day = account_and_day(mailbox_id)
        goal, messages = self.tables.live(target), self._messages(account_id, day)
        if goal.account_id != account_id:
            raise NotFound("the mailbox is another account's")
        taken = [messages[uid] for uid in sorted(set(uids)) if uid in messages]
        modseq = goal.next_modseq() if taken else ModSeq(goal.highestmodseq)
        pairs = tuple((message.uid, goal.add(message, modseq)) for message in taken)
        return Copied(goal.uidvalidity, pairs, modseq)

    # --- numbers ---

    def _number(self, account_id: AccountId) -> Numbered:
        validity = UidValidity(int(self.tables.now().timestamp()))
        numbered = self.tables.numbered.setdefault(account_id, Numbered(validity))
        lost = {(box.id, message.uid): at for at, box, message in self.tables.recoverable(account_id)}
        known = {(entry.mailbox_id, entry.message_uid) for entry in numbered.entries}
        modseq = ModSeq(numbered.modseq + 1)
        gone = [e for e in numbered.entries if not e.is_gone and (e.mailbox_id, e.message_uid) not in lost]
        for entry in gone:
            entry.is_gone, entry.modseq = True, modseq
        fresh = sorted((at, *place) for place, at in lost.items() if place not in known)
        for at, mailbox_id, uid in fresh:
            numbered.entries.append(Recovered(Uid(numbered.uidnext), modseq, day_of(at), mailbox_id, uid))
            numbered.uidnext += 1
        if gone or fresh:
            numbered.modseq = modseq
        return numbered

    def _entries(self, account_id: AccountId, day: date) -> list[Recovered]:
        numbered = self.tables.numbered.get(account_id)
        return [entry for entry in numbered.entries if entry.day == day] if numbered else []

    def _messages(self, account_id: AccountId, day: date) -> dict[Uid, StoredMessage]:
        """Under their uids of this day."""
        lost = {(box.id, message.uid): message for _, box, message in self.tables.recoverable(account_id)}
        found = {}
        for entry in self._entries(account_id, day):
            message = lost.get((entry.mailbox_id, entry.message_uid))
            if message is not None:
                found[entry.uid] = undeleted(message).renumbered(entry.uid, entry.modseq)
        return found

    def _mailbox(self, account_id: AccountId, day: date) -> Mailbox:
        entries = self._entries(account_id, day)
        if not entries:
            raise NotFound(f"nothing that was deleted on {day} can be had back")
        messages = self._messages(account_id, day).values()
        uidnext = Uid(max(entry.uid for entry in entries) + 1)
        return Mailbox(
            day_id(account_id, day),
            account_id,
            day_name(self.root, day),
            self.tables.numbered[account_id].uidvalidity,
            uidnext,
            ModSeq(max(entry.modseq for entry in entries)),
            len(messages),
            sum(not message.flags.system & SystemFlag.SEEN for message in messages),
            0,
            sum(message.size_bytes for message in messages),
            None,
            uidnext,
            is_read_only=True,
        )
