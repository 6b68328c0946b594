"""Bringing deleted messages back, whichever mailbox they were in and whether it is still there."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from storage.errors import AlreadyExists, NotFound, StorageError
from storage.model import AccountId, DeletedMessage, Mailbox, MailboxId, ModSeq, Uid

if TYPE_CHECKING:
    from storage.api import MailStore

BATCH: Final = 1000  # messages restored by one statement
MAX_LOOKED_THROUGH: Final = 100_000  # of deleted mailboxes, for uids that the live one does not have


@dataclass(frozen=True, slots=True)
class Restored:
    mailbox: str
    uid: Uid
    into: str
    new_uid: Uid


@dataclass(frozen=True, slots=True)
class Selection:
    """``uids`` need ``mailbox``; None: all since ``since``. ``into``: None is where they were."""

    mailbox: str | None = None
    uids: Sequence[range] | None = None
    since: datetime | None = None
    into: str | None = None


class Ambiguous(Exception):
    """Several deleted mailboxes had the name."""


class Restorer:
    """Of one account. ``modseqs`` tells what has become of the mailboxes it wrote to."""

    def __init__(self, mail: MailStore, account_id: AccountId) -> None:
        self._mail = mail
        self._account_id = account_id
        self._targets: dict[str, Mailbox] = {}
        self.modseqs: dict[MailboxId, ModSeq] = {}

    async def restore(self, selection: Selection) -> list[Restored]:
        """What came back; a repetition finds nothing. A mailbox that is not there any more is created.

        Raises NotFound, Ambiguous; InvalidName for ``into``.
        """
        if selection.uids is None:
            return await self._restore_all(selection)
        assert selection.mailbox is not None
        return await self._restore_uids(selection, selection.mailbox, selection.uids)

    async def _restore_all(self, selection: Selection) -> list[Restored]:
        """Each batch takes away what the next would find, so a batch without success is the end."""
        done: list[Restored] = []
        while True:
            found = await self._mail.list_deleted(
                self._account_id, selection.mailbox, BATCH, since=selection.since
            )
            more = await self._bring_back(found, selection.into)
            if not more:
                break
            done += more
        if selection.mailbox is not None and not done:
            await self._check_known(selection.mailbox)
        return done

    async def _check_known(self, name: str) -> None:
        """Raises NotFound for a name that nothing has or had."""
        if not await self._mail.list_deleted(self._account_id, name, 1):
            await self._mail.get_mailbox(self._account_id, name)

    async def _restore_uids(self, selection: Selection, name: str, wanted: Sequence[range]) -> list[Restored]:
        done: list[Restored] = []
        live: Mailbox | None = None
        with contextlib.suppress(NotFound):
            live = await self._mail.get_mailbox(self._account_id, name)
        if live is not None:
            uids = sorted(
                {Uid(u) for each in wanted for u in range(each.start, min(each.stop, live.uidnext))}
            )
            target = live if selection.into is None else await self._target(selection.into)
            for start in range(0, len(uids), BATCH):
                done += await self._undelete(live.id, live.name, uids[start : start + BATCH], target)
        listed = await self._mail.list_deleted(self._account_id, name, MAX_LOOKED_THROUGH)
        back = {each.uid for each in done}
        found = [m for m in listed if m.is_mailbox_deleted and m.uid not in back and _is_in(m.uid, wanted)]
        if live is None and not listed:
            raise NotFound(f"no mailbox {name!r}")
        if len({message.mailbox_id for message in found}) > 1:
            raise Ambiguous(f"several mailboxes with the name {name!r} were deleted: use --all or --since")
        for start in range(0, len(found), BATCH):
            done += await self._bring_back(found[start : start + BATCH], selection.into)
        return done

    async def _bring_back(self, found: Collection[DeletedMessage], into: str | None) -> list[Restored]:
        by_mailbox: dict[MailboxId, list[DeletedMessage]] = {}
        for message in found:
            by_mailbox.setdefault(message.mailbox_id, []).append(message)
        done: list[Restored] = []
        for mailbox_id, messages in sorted(by_mailbox.items()):
            name = messages[0].mailbox_name
            target = await self._target(into or name)
            done += await self._undelete(mailbox_id, name, sorted(m.uid for m in messages), target)
        return done

    async def _undelete(
        self, mailbox_id: MailboxId, name: str, uids: Sequence[Uid], target: Mailbox
    ) -> list[Restored]:
        copied = await self._mail.undelete(mailbox_id, uids, target.id)
        if copied.pairs:
            self.modseqs[target.id] = copied.target_modseq
        return [Restored(name, old, target.name, new) for old, new in copied.pairs]

    async def _target(self, name: str) -> Mailbox:
        known = self._targets.get(name)
        if known is None:
            known = self._targets[name] = await self._get_or_create(name)
        return known

    async def _get_or_create(self, name: str) -> Mailbox:
        for _ in range(2):
            try:
                return await self._mail.get_mailbox(self._account_id, name)
            except NotFound:
                with contextlib.suppress(AlreadyExists):  # by somebody else, meanwhile
                    return await self._mail.create_mailbox(self._account_id, name)
        raise StorageError(f"the mailbox {name!r} comes and goes")


def _is_in(uid: int, wanted: Sequence[range]) -> bool:
    return any(uid in each for each in wanted)
