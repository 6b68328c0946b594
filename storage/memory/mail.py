"""``storage.api.MailStore`` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from storage.api import RETRY_WINDOW
from storage.errors import AlreadyExists, InvalidName, NotFound, NotPermitted
from storage.flags import canonical_keywords, changed
from storage.model import (
    INBOX,
    AccountId,
    Appended,
    ContentId,
    Copied,
    DeletedMessage,
    Expunged,
    FlagChange,
    Flags,
    FlagsStored,
    Mailbox,
    MailboxChanges,
    MailboxId,
    MailboxList,
    MessageRow,
    ModSeq,
    NewMessage,
    SpecialUse,
    StagedContent,
    SystemFlag,
    Uid,
    Wanted,
)
from storage.names import checked, is_inside, sought, with_parents
from storage.view import LoadedView

from .tables import StoredContent, StoredMailbox, StoredMessage, Tables


class _Tree:
    """Mailboxes and subscriptions."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    async def list_mailboxes(self, account_id: AccountId) -> MailboxList:
        account = self.tables.accounts.get(account_id)
        mailboxes = self.tables.of_account(account_id).values()
        return MailboxList(
            tuple(mailbox.snapshot() for mailbox in mailboxes),
            frozenset(account.subscribed if account else ()),
        )

    async def get_mailbox(self, account_id: AccountId, name: str) -> Mailbox:
        return self._named(account_id, sought(name)).snapshot()

    def _named(self, account_id: AccountId, name: str) -> StoredMailbox:
        mailbox = self.tables.of_account(account_id).get(name)
        if mailbox is None:
            raise NotFound(f"no mailbox {name!r}")
        return mailbox

    async def create_mailbox(
        self, account_id: AccountId, name: str, special_use: SpecialUse | None = None
    ) -> Mailbox:
        name = checked(name)
        self.tables.live_account(account_id)
        present = self.tables.of_account(account_id)
        if name in present:
            raise AlreadyExists(f"mailbox {name!r} exists")
        if special_use and any(mailbox.special_use is special_use for mailbox in present.values()):
            raise AlreadyExists(f"there is a mailbox for {special_use.value!r} already")
        self._create_missing(account_id, with_parents(name)[:-1])
        return self.tables.add_mailbox(account_id, name, special_use).snapshot()

    def _create_missing(self, account_id: AccountId, names: list[str]) -> None:
        present = self.tables.of_account(account_id)
        for name in names:
            if name not in present:
                self.tables.add_mailbox(account_id, name, None)

    async def delete_mailbox(self, account_id: AccountId, name: str) -> None:
        name = sought(name)
        if name == INBOX:
            raise NotPermitted("INBOX cannot be deleted")
        self._named(account_id, name).deleted_at = self.tables.now()

    async def rename_mailbox(self, account_id: AccountId, old: str, new: str) -> None:
        old, new = sought(old), checked(new)
        if old == new:
            raise AlreadyExists(f"mailbox {new!r} exists")
        if is_inside(new, old) and old != INBOX:
            raise InvalidName("a mailbox cannot be moved into itself")
        self.tables.live_account(account_id)
        present = self.tables.of_account(account_id)
        moving = {name: box for name, box in present.items() if name == old or is_inside(name, old)}
        if not moving:
            raise NotFound(f"no mailbox {old!r}")
        if new in present:
            raise AlreadyExists(f"mailbox {new!r} exists")
        if old == INBOX:
            mailbox = self._named(account_id, old)
            target = await self.create_mailbox(account_id, new)
            _move(self.tables, mailbox, list(mailbox.messages), self.tables.live(target.id))
            return
        renamed = {new + name[len(old) :]: box for name, box in moving.items()}
        if any(name in present and name not in moving for name in renamed):
            raise AlreadyExists(f"a mailbox below {new!r} exists")
        self._create_missing(account_id, with_parents(new)[:-1])
        for name, box in renamed.items():
            box.name = name

    async def set_subscribed(self, account_id: AccountId, name: str, *, subscribed: bool) -> None:
        name, account = checked(name), self.tables.accounts.get(account_id)
        if account is None:
            raise NotFound("the account is gone")
        if subscribed:
            account.subscribed.add(name)
        else:
            account.subscribed.discard(name)

    async def claim_recent(self, mailbox_id: MailboxId, upto: Uid) -> None:
        mailbox = self.tables.mailboxes[mailbox_id]
        mailbox.recent_uid = max(mailbox.recent_uid, upto)


class _Views(_Tree):
    """Opening mailboxes and following them."""

    async def load_view(self, mailbox_id: MailboxId) -> LoadedView:
        mailbox = self.tables.live(mailbox_id)
        return LoadedView.of(mailbox.snapshot(), (message.state for message in mailbox.messages.values()))

    async def load_named_view(self, account_id: AccountId, name: str) -> LoadedView:
        return await self.load_view(self._named(account_id, sought(name)).id)

    async def changes_since(self, mailbox_id: MailboxId, modseq: ModSeq) -> MailboxChanges:
        mailbox = self.tables.live(mailbox_id)
        return MailboxChanges(
            mailbox.snapshot(),
            tuple(message.state for message in mailbox.messages.values() if message.modseq > modseq),
            tuple(sorted(entry.uid for entry in mailbox.expunged.values() if entry.modseq > modseq)),
        )

    async def modseqs(self, mailbox_ids: Sequence[MailboxId]) -> Mapping[MailboxId, ModSeq]:
        found = [
            self.tables.mailboxes[mailbox_id]
            for mailbox_id in mailbox_ids
            if mailbox_id in self.tables.mailboxes
        ]
        return {box.id: ModSeq(box.highestmodseq) for box in found if box.deleted_at is None}


class MemoryMailStore(_Views):
    """Everything about messages."""

    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        boxes = {message.mailbox_id: self.tables.live(message.mailbox_id) for message in messages}
        for box in boxes.values():
            self.tables.live_account(box.account_id)
        fresh = [self._is_fresh(boxes[message.mailbox_id].account_id, message) for message in messages]
        if not any(fresh):
            if (known := self.tables.by_hash.get(staged.content.hash)) is not None:
                known.move_to(staged.node, staged.frames, staged.encoded_bytes)
            return [_duplicate(boxes[message.mailbox_id]) for message in messages]
        content = self._take(staged)
        touched = {message.mailbox_id for message, is_fresh in zip(messages, fresh, strict=True) if is_fresh}
        modseqs = {mailbox_id: boxes[mailbox_id].next_modseq() for mailbox_id in touched}
        return [
            self._add(boxes[message.mailbox_id], message, content, modseqs[message.mailbox_id])
            if is_fresh
            else _duplicate(boxes[message.mailbox_id])
            for message, is_fresh in zip(messages, fresh, strict=True)
        ]

    def _is_fresh(self, account_id: AccountId, message: NewMessage) -> bool:
        """Whether its key is new or long forgotten; it is on record now."""
        if message.delivery_key is None:
            return True
        key, now = (account_id, message.delivery_key), self.tables.now()
        before = self.tables.deliveries.get(key)
        if before is not None and now - before <= RETRY_WINDOW:
            return False
        self.tables.deliveries[key] = now
        return True

    def _take(self, staged: StagedContent) -> StoredContent:
        known = self.tables.by_hash.get(staged.content.hash)
        if known is not None:
            known.move_to(staged.node, staged.frames, staged.encoded_bytes)
            return known
        now, content_id = self.tables.now(), ContentId(self.tables.next_id())
        content = StoredContent(
            content_id, staged.content, staged.node, staged.encoded_bytes, list(staged.frames), now, now
        )
        self.tables.contents[content_id] = self.tables.by_hash[staged.content.hash] = content
        return content

    def _add(
        self, box: StoredMailbox, message: NewMessage, content: StoredContent, modseq: ModSeq
    ) -> Appended:
        flags = Flags(message.flags.system, frozenset(canonical_keywords(message.flags.keywords)))
        size_bytes = len(message.prefix) + content.content.size_bytes
        internaldate = message.internaldate or self.tables.now()
        new = StoredMessage(Uid(0), modseq, flags, content.id, message.prefix, size_bytes, internaldate)
        return Appended(box.id, box.uidvalidity, box.add(new, modseq), modseq)

    async def delivered(self, mailbox_id: MailboxId, delivery_key: bytes) -> bool:
        mailbox = self.tables.mailboxes.get(mailbox_id)
        if mailbox is None:
            return False
        at = self.tables.deliveries.get((mailbox.account_id, delivery_key))
        return at is not None and self.tables.now() - at <= RETRY_WINDOW

    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        mailbox = self.tables.mailboxes[mailbox_id]
        found = [mailbox.messages[uid] for uid in sorted(set(uids)) if uid in mailbox.messages]
        return [message_row(self.tables, message, wanted) for message in found]

    async def store_flags(
        self,
        mailbox_id: MailboxId,
        uids: Sequence[Uid],
        change: FlagChange,
        flags: Flags,
        unchanged_since: ModSeq | None = None,
    ) -> FlagsStored:
        mailbox = self.tables.live(mailbox_id)
        present = [mailbox.messages[uid] for uid in sorted(set(uids)) if uid in mailbox.messages]
        limit = mailbox.highestmodseq if unchanged_since is None else unchanged_since
        conflicts = tuple(message.uid for message in present if message.modseq > limit)
        wanted = {
            message.uid: changed(message.flags, change, flags)
            for message in present
            if message.modseq <= limit
        }
        differing = [uid for uid, new in wanted.items() if new != mailbox.messages[uid].flags]
        if differing:
            modseq = mailbox.next_modseq()
            for uid in differing:
                mailbox.messages[uid] = replace(mailbox.messages[uid], flags=wanted[uid], modseq=modseq)
        states = tuple(mailbox.messages[uid].state for uid in differing)
        return FlagsStored(states, conflicts, ModSeq(mailbox.highestmodseq))

    async def expunge(self, mailbox_id: MailboxId, uids: Sequence[Uid] | None) -> Expunged:
        mailbox = self.tables.live(mailbox_id)
        only = None if uids is None else set(uids)
        gone = [
            message.uid
            for message in mailbox.messages.values()
            if message.flags.system & SystemFlag.DELETED and (only is None or message.uid in only)
        ]
        return self._take_out(mailbox, gone)

    async def remove(self, mailbox_id: MailboxId, uids: Sequence[Uid]) -> Expunged:
        mailbox = self.tables.live(mailbox_id)
        return self._take_out(mailbox, [uid for uid in sorted(set(uids)) if uid in mailbox.messages])

    def _take_out(self, mailbox: StoredMailbox, gone: list[Uid]) -> Expunged:
        if gone:
            mailbox.expunge(gone, self.tables.now(), mailbox.next_modseq(), recoverable=True)
        return Expunged(tuple(gone), ModSeq(mailbox.highestmodseq))

    async def copy(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        origin, goal = self.tables.live(source), self.tables.live(target)
        taken = [origin.messages[uid] for uid in sorted(set(uids)) if uid in origin.messages]
        modseq = goal.next_modseq() if taken else ModSeq(goal.highestmodseq)
        pairs = tuple((message.uid, goal.add(message, modseq)) for message in taken)
        return Copied(goal.uidvalidity, pairs, modseq)

    async def move(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        origin, goal = self.tables.live(source), self.tables.live(target)
        present = [uid for uid in sorted(set(uids)) if uid in origin.messages]
        return _move(self.tables, origin, present, goal)

    async def list_deleted(
        self,
        account_id: AccountId,
        mailbox: str | None = None,
        limit: int = 1000,
        *,
        since: datetime | None = None,
    ) -> list[DeletedMessage]:
        name = None if mailbox is None else sought(mailbox)
        found = [
            DeletedMessage(
                box.id,
                box.name,
                message.uid,
                message.size_bytes,
                message.internaldate,
                deleted_at,
                self.tables.contents[message.content_id].content.envelope,
                box.deleted_at is not None,
            )
            for deleted_at, box, message in self.tables.recoverable(account_id)
            if (name is None or box.name == name) and (since is None or deleted_at >= since)
        ]
        found.sort(key=lambda entry: (entry.expunged_at, -entry.mailbox_id, entry.uid), reverse=True)
        return found[:limit]

    async def undelete(
        self, mailbox_id: MailboxId, uids: Sequence[Uid], into: MailboxId | None = None
    ) -> Copied:
        target = self.tables.live(mailbox_id if into is None else into)
        wanted = set(uids)
        back = [
            (source, message)
            for _, source, message in self.tables.recoverable(target.account_id)
            if source.id == mailbox_id and message.uid in wanted
        ]
        back.sort(key=lambda each: each[1].uid)
        modseq = target.next_modseq() if back else ModSeq(target.highestmodseq)
        pairs = []
        for source, message in back:
            pairs.append((message.uid, target.add(undeleted(message), modseq)))
            source.forget(message.uid)
        return Copied(target.uidvalidity, tuple(pairs), modseq)


def message_row(tables: Tables, message: StoredMessage, wanted: Wanted) -> MessageRow:
    stored = tables.contents[message.content_id]
    content = stored.content
    return MessageRow(
        message.uid,
        message.prefix,
        stored.ref,
        content.header if Wanted.HEADER in wanted else b"",
        content.envelope if Wanted.ENVELOPE in wanted else b"",
        content.structure if Wanted.STRUCTURE in wanted else b"",
    )


def undeleted(message: StoredMessage) -> StoredMessage:
    flags = Flags(message.flags.system & ~SystemFlag.DELETED, message.flags.keywords)
    return replace(message, flags=flags)


def _move(tables: Tables, source: StoredMailbox, uids: list[Uid], target: StoredMailbox) -> Copied:
    if not uids:
        return Copied(target.uidvalidity, (), ModSeq(target.highestmodseq), ModSeq(source.highestmodseq))
    source_modseq = source.next_modseq()
    modseq = source_modseq if target is source else target.next_modseq()
    taken = [source.messages[uid] for uid in uids]
    source.expunge(uids, tables.now(), source_modseq, recoverable=False)
    pairs = tuple((message.uid, target.add(message, modseq)) for message in taken)
    return Copied(target.uidvalidity, pairs, modseq, source_modseq)


def _duplicate(box: StoredMailbox) -> Appended:
    return Appended(box.id, box.uidvalidity, Uid(0), ModSeq(box.highestmodseq), duplicate=True)
