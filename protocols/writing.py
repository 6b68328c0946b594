"""Copies of a message into mailboxes: commit, then publish; who lost the reply to a commit asks for it."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from storage.errors import CommitUnknown, NotFound, StorageError, Unavailable
from storage.model import Appended, MailboxId, ModSeq, StagedContent

from .copies import NewCopy, unite
from .envelope import Outcome, Resolve
from .filing import locate
from .ports import MailboxChanged, Services
from .sieve.outcome import Rewritten

log = logging.getLogger("sora.delivery")

# Waits between questions for the fate of an unknown commit; the MTA waits 10 minutes for our reply.
READ_BACK_DELAYS_S = (0.0, 0.5, 2.0, 5.0)

PIECE_BYTES = 1024 * 1024  # of a body that is written again


@dataclass(slots=True)
class _Content:
    staged: StagedContent
    may_be_written: bool = False  # into a mailbox


class Writer:
    """Of one delivery, whose ``copies`` are written by one call or several. ``outcomes`` learn of trouble;
    ``resolve`` is asked about mailboxes that vanished."""

    def __init__(
        self,
        services: Services,
        copies: Sequence[NewCopy],
        outcomes: list[Outcome],
        resolve: Resolve,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._services = services
        self._copies = copies
        self._outcomes = outcomes
        self._resolve = resolve
        self._sleep = sleep

    async def write(self, staged: StagedContent, copies: Sequence[NewCopy]) -> None:
        """In one transaction, unless a mailbox has vanished. Content that is in no mailbox is let go."""
        content = _Content(staged)
        if copies:
            await self._write(content, copies)
        if not content.may_be_written:
            await self._discard(staged)

    async def write_rewritten(self, copy: NewCopy, rewritten: Rewritten, data: bytes | mmap.mmap) -> None:
        """A copy that a script has changed is a content of its own. ``data``: as it was received."""
        spool = self._services.intake.spool()
        try:
            spool.write(rewritten.header + b"\r\n")
            body, start = (data, copy.body_start) if rewritten.body is None else (rewritten.body, 0)
            for at in range(start, len(body), PIECE_BYTES):
                spool.write(body[at : at + PIECE_BYTES])
            staged = await self._services.intake.take(spool)
        except StorageError as error:
            spool.close()
            copy.conclude(self._outcomes, error)
            return
        await self.write(staged, [copy])

    async def _write(self, content: _Content, copies: Sequence[NewCopy]) -> None:
        try:
            found: list[Outcome] = await self._append(content, copies)
        except NotFound:
            found = await self._write_again(content, copies)
        for copy, outcome in zip(copies, found, strict=True):
            copy.conclude(self._outcomes, outcome)

    async def _append(self, content: _Content, copies: Sequence[NewCopy]) -> list[Outcome]:
        """Raises NotFound; every other trouble is the outcome."""
        try:
            appended = await self._services.mail.append(content.staged, [copy.message for copy in copies])
        except NotFound:
            raise
        except CommitUnknown as error:
            content.may_be_written = True
            log.warning("commit unknown, reading back %d delivery keys", len(copies))
            return await self._read_back(copies, error)
        except StorageError as error:
            return [error] * len(copies)
        content.may_be_written = True
        self._publish(copies, appended)
        return [None] * len(copies)

    async def _write_again(self, content: _Content, copies: Sequence[NewCopy]) -> list[Outcome]:
        """Where they belong now, one by one."""
        troubles = [await self._move(copy) for copy in copies]
        self._unite(copies)
        return [
            trouble if trouble or copy.gave_way else await self._append_alone(content, copy)
            for copy, trouble in zip(copies, troubles, strict=True)
        ]

    async def _move(self, copy: NewCopy) -> Outcome:
        """To the mailbox that it is for now."""
        try:
            destination = await self._resolve(copy.destination.address)
            if destination is None:
                return NotFound("the account is gone")
            copy.destination = destination
            copy.message = replace(copy.message, mailbox_id=await self._place_again(copy))
        except StorageError as error:
            return error
        return None

    def _unite(self, copies: Sequence[NewCopy]) -> None:
        """What fell together with another copy of the same message gives way, here or in another call."""
        by_delivery: dict[int, list[NewCopy]] = {}
        for copy in self._copies:
            if not copy.is_own and not copy.gave_way:
                by_delivery.setdefault(copy.positions[0], []).append(copy)
        here = set(map(id, copies))
        for each in by_delivery.values():
            unite(each, lambda copy: id(copy) not in here)

    async def _append_alone(self, content: _Content, copy: NewCopy) -> Outcome:
        try:
            return (await self._append(content, [copy]))[0]
        except NotFound:
            # the account exists and its INBOX came and went meanwhile: not for the sender to know
            return Unavailable("the mailbox is changing")

    async def _place_again(self, copy: NewCopy) -> MailboxId:
        recipient, mail_filter = copy.destination.recipient, self._services.filter
        if copy.target is None or mail_filter is None:
            return recipient.inbox_id
        found = await locate(
            mail_filter.names, recipient.account_id, copy.target, lambda _made: None, fresh=True
        )
        return found or recipient.inbox_id

    async def _read_back(self, copies: Sequence[NewCopy], unknown: CommitUnknown) -> list[Outcome]:
        """Ask whether the commit happened; of what nobody can tell the MTA has to try again. The waits are
        for all copies together: the client waits as well, however many there are."""
        outcomes: list[Outcome] = []
        for delay in READ_BACK_DELAYS_S:
            if delay:
                await self._sleep(delay)
            try:
                for copy in copies[len(outcomes) :]:
                    outcomes.append(None if await self._is_there(copy) else unknown)
            except StorageError:
                continue
            break
        return outcomes + [unknown] * (len(copies) - len(outcomes))

    async def _is_there(self, copy: NewCopy) -> bool:
        key = copy.message.delivery_key
        assert key is not None
        if not await self._services.mail.delivered(copy.message.mailbox_id, key):
            return False
        await self._tell_late(copy)
        return True

    def _publish(self, copies: Sequence[NewCopy], appended: Sequence[Appended]) -> None:
        highest: dict[MailboxId, tuple[int, NewCopy]] = {}
        for copy, result in zip(copies, appended, strict=True):
            if not result.duplicate and result.modseq > highest.get(result.mailbox_id, (-1, copy))[0]:
                highest[result.mailbox_id] = (result.modseq, copy)
        for modseq, copy in highest.values():
            self._tell(copy, modseq)

    async def _tell_late(self, copy: NewCopy) -> None:
        """Publish a commit whose modseq was lost with its reply."""
        mailbox_id = copy.message.mailbox_id
        try:
            modseqs = await self._services.mail.modseqs([mailbox_id])
        except StorageError as error:
            log.info("views learn of a delivery by their own poll: %s", error)
            return
        if mailbox_id in modseqs:
            self._tell(copy, modseqs[mailbox_id])

    def _tell(self, copy: NewCopy, modseq: int) -> None:
        account_id = copy.destination.recipient.account_id
        self._services.feed.publish(MailboxChanged(account_id, copy.message.mailbox_id, ModSeq(modseq)))

    async def _discard(self, staged: StagedContent) -> None:
        try:
            await self._services.intake.discard(staged)
        except StorageError as error:
            log.warning("staged content was left for the sweep: %s", error)
