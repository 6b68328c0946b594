"""A mail store with a namespace in which users find what was deleted, by day, to copy it back.

Whoever holds it sees one mail store: what concerns a mailbox of the namespace goes to ``RecoveredMail``, all
else to the store itself. Nothing in the namespace can be changed. A mailbox of the user's own that has such a
name, made before there was a namespace, or by a delivery, comes first: nothing real is ever hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn

from .api import MailboxView, MailStore, RecoveredMail
from .errors import NotFound, ReadOnly
from .model import (
    AccountId,
    Appended,
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
    Uid,
    Wanted,
)
from .names import canonical, is_inside
from .recovery import is_day, named_day


class RecoverableMail:
    """``storage.api.MailStore``."""

    def __init__(self, mail: MailStore, recovered: RecoveredMail) -> None:
        self._mail = mail
        self._recovered = recovered

    def _is_ours(self, name: str) -> bool:
        name, root = canonical(name), self._recovered.root
        return name == root or is_inside(name, root)

    def _side(self, mailbox_id: MailboxId) -> MailStore | RecoveredMail:
        return self._recovered if is_day(mailbox_id) else self._mail

    # --- mailboxes ---

    async def list_mailboxes(self, account_id: AccountId) -> MailboxList:
        """Those of the user's own."""
        return await self._mail.list_mailboxes(account_id)

    async def get_mailbox(self, account_id: AccountId, name: str) -> Mailbox:
        day = named_day(self._recovered.root, canonical(name))
        try:
            return await self._mail.get_mailbox(account_id, name)
        except NotFound:
            if day is None:
                raise
        return await self._recovered.get(account_id, day)

    async def create_mailbox(
        self, account_id: AccountId, name: str, special_use: SpecialUse | None = None
    ) -> Mailbox:
        if self._is_ours(name):
            _refuse()
        return await self._mail.create_mailbox(account_id, name, special_use)

    async def delete_mailbox(self, account_id: AccountId, name: str) -> None:
        try:
            await self._mail.delete_mailbox(account_id, name)
        except NotFound:
            if self._is_ours(name):
                _refuse()
            raise

    async def rename_mailbox(self, account_id: AccountId, old: str, new: str) -> None:
        if self._is_ours(new):
            _refuse()
        try:
            await self._mail.rename_mailbox(account_id, old, new)
        except NotFound:
            if self._is_ours(old):
                _refuse()
            raise

    async def set_subscribed(self, account_id: AccountId, name: str, *, subscribed: bool) -> None:
        await self._mail.set_subscribed(account_id, name, subscribed=subscribed)

    async def claim_recent(self, mailbox_id: MailboxId, upto: Uid) -> None:
        """Nothing is recent in what cannot be changed."""
        if not is_day(mailbox_id):
            await self._mail.claim_recent(mailbox_id, upto)

    # --- views ---

    async def load_view(self, mailbox_id: MailboxId) -> MailboxView:
        return await self._side(mailbox_id).load_view(mailbox_id)

    async def load_named_view(self, account_id: AccountId, name: str) -> MailboxView:
        return await self.load_view((await self.get_mailbox(account_id, name)).id)

    async def changes_since(self, mailbox_id: MailboxId, modseq: ModSeq) -> MailboxChanges:
        return await self._side(mailbox_id).changes_since(mailbox_id, modseq)

    async def modseqs(self, mailbox_ids: Sequence[MailboxId]) -> Mapping[MailboxId, ModSeq]:
        days = [mailbox_id for mailbox_id in mailbox_ids if is_day(mailbox_id)]
        if not days:
            return await self._mail.modseqs(mailbox_ids)
        own = [mailbox_id for mailbox_id in mailbox_ids if not is_day(mailbox_id)]
        return {**await self._mail.modseqs(own), **await self._recovered.modseqs(days)}

    # --- messages ---

    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        if any(is_day(message.mailbox_id) for message in messages):
            _refuse()
        return await self._mail.append(staged, messages)

    async def delivered(self, mailbox_id: MailboxId, delivery_key: bytes) -> bool:
        return not is_day(mailbox_id) and await self._mail.delivered(mailbox_id, delivery_key)

    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        return await self._side(mailbox_id).fetch(mailbox_id, uids, wanted)

    async def store_flags(
        self,
        mailbox_id: MailboxId,
        uids: Sequence[Uid],
        change: FlagChange,
        flags: Flags,
        unchanged_since: ModSeq | None = None,
    ) -> FlagsStored:
        return await self._changeable(mailbox_id).store_flags(
            mailbox_id, uids, change, flags, unchanged_since
        )

    async def expunge(self, mailbox_id: MailboxId, uids: Sequence[Uid] | None) -> Expunged:
        return await self._changeable(mailbox_id).expunge(mailbox_id, uids)

    async def remove(self, mailbox_id: MailboxId, uids: Sequence[Uid]) -> Expunged:
        return await self._changeable(mailbox_id).remove(mailbox_id, uids)

    async def copy(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        self._changeable(target)
        return await self._side(source).copy(source, uids, target)

    async def move(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        self._changeable(target)
        return await self._changeable(source).move(source, uids, target)

    # --- recovery ---

    async def list_deleted(
        self,
        account_id: AccountId,
        mailbox: str | None = None,
        limit: int = 1000,
        *,
        since: datetime | None = None,
    ) -> list[DeletedMessage]:
        return await self._mail.list_deleted(account_id, mailbox, limit, since=since)

    async def undelete(
        self, mailbox_id: MailboxId, uids: Sequence[Uid], into: MailboxId | None = None
    ) -> Copied:
        self._changeable(mailbox_id if into is None else into)
        return await self._changeable(mailbox_id).undelete(mailbox_id, uids, into)

    def _changeable(self, mailbox_id: MailboxId) -> MailStore:
        if is_day(mailbox_id):
            _refuse()
        return self._mail


def _refuse() -> NoReturn:
    raise ReadOnly("what was deleted can be read and copied, not changed")
