"""Scripts for what happens to messages in mailboxes (RFC 6785): which one runs, and what comes of it.

Decisions:

* **Scripts run after the command**, from a bounded queue (``eventqueue``). The message is stored whatever the
  script does (§3.1), so the client need not wait for it, and nothing that goes wrong in a script can fail a
  command. Cost: changes come a moment after the reply, as from another client; what waits when a process dies
  is not run.
* **At most once.** What fails for want of the database is logged and not tried again: a second attempt might
  file or send a message twice.
* What would lose a message is not done: \\Deleted is set only when everything that was to take the message's
  place is there. Nothing is expunged (§2.2.4).
* What a script does is never an event, so there are no loops. Of a message that came just now, flags that the
  script gives it are its first ones and no change (§2.2.3); after a change, none may follow from the script.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from protocols.filing import NO_FLAGS, flag_names, flags_from, locate
from protocols.filtering import MailFilter, remember
from protocols.incoming import Incoming
from protocols.messageevents import Happened, Touched
from protocols.ports import MailboxChanged, Services
from protocols.sending.occasion import Occasion
from protocols.sending.ownernote import tell_owner
from protocols.sending.sending import Carried, without_sending
from protocols.sieve.outcome import FileInto, Keep, Outcome, Rewritten
from storage.errors import CommitUnknown, NotFound, StorageError
from storage.mime.structure import decode_structure
from storage.model import (
    INBOX,
    ActiveScript,
    FlagChange,
    Flags,
    MailboxId,
    MessageRow,
    ModSeq,
    NewMessage,
    Recipient,
    SystemFlag,
    Uid,
    Wanted,
)

from .events import without

if TYPE_CHECKING:
    from protocols.annotations import Annotations

log = logging.getLogger("sora.sieve")

PIECE_BYTES: Final = 1024 * 1024
_MESSAGES_BETWEEN_TURNS: Final = 16  # of other tasks
_DELETED: Final = Flags(SystemFlag.DELETED)


@dataclass(slots=True)
class _Plan:
    """What is to be done to the messages of a slice, gathered so that each kind is one write.

    ``copies``: by target and flags (None: as they are); ``changes``: by flags to add and to take.
    """

    copies: dict[tuple[MailboxId, Flags | None], tuple[FileInto, list[Uid]]] = field(default_factory=dict)
    changes: dict[tuple[Flags, Flags], list[Uid]] = field(default_factory=dict)
    deleted: set[Uid] = field(default_factory=set)
    outcomes: dict[Uid, Outcome] = field(default_factory=dict)


class EventScripts:
    """One per process. ``services`` are those of IMAP sessions, with a filter and annotations."""

    def __init__(
        self,
        services: Services,
        hostname: str,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        token: Callable[[int], bytes] = secrets.token_bytes,
        results: Counter[str] | None = None,
    ) -> None:
        """``results`` counts messages by what became of their scripts: ran, failed, missing, unavailable."""
        self.results = Counter[str]() if results is None else results
        self.services = services
        self.hostname = hostname
        self.now = now
        self.token = token

    @property
    def filter(self) -> MailFilter:
        assert self.services.filter is not None
        return self.services.filter

    @property
    def _annotations(self) -> Annotations:
        assert self.services.annotations is not None
        return self.services.annotations

    async def run(self, event: Happened) -> None:
        """On each message. Never raises StorageError."""
        try:
            script = await self._script(event)
            if script is None:
                return
            rows = await self.services.mail.fetch(
                event.mailbox_id, [each.uid for each in event.messages], Wanted.HEADER | Wanted.STRUCTURE
            )
        except StorageError as error:
            log.warning("%s: no script runs on %d messages: %s", event.email, len(event.messages), error)
            self.results["unavailable"] += len(event.messages)
            return
        await _Slice(self, event, script).run({row.uid: row for row in rows})

    async def _script(self, event: Happened) -> ActiveScript | None:
        """The one that is named, if it exists; never another in its place (RFC 6785 §2.3.1)."""
        name = await self._annotations.script_of(event.account_id, event.mailbox_id)
        if name is None:
            return None
        found = await self.filter.scripts.contents(event.account_id, [name])
        if name not in found:
            log.info("%s: there is no script %r for what happens in %r", event.email, name, event.mailbox)
            self.results["missing"] += len(event.messages)
            return None
        return ActiveScript(name, found[name])


class _Slice:
    """Some messages of one event, and its script."""

    def __init__(self, owner: EventScripts, event: Happened, script: ActiveScript) -> None:
        self._owner = owner
        self._services = owner.services
        self._filter = owner.filter
        self._event = event
        self._script = script
        self._plan = _Plan()
        self._targets: dict[tuple[str, str, str, bool], MailboxId | None] = {}

    async def run(self, rows: Mapping[Uid, MessageRow]) -> None:
        for position, touched in enumerate(self._event.messages):
            row = rows.get(touched.uid)
            if row is None:
                continue  # it is gone by now
            if position % _MESSAGES_BETWEEN_TURNS == _MESSAGES_BETWEEN_TURNS - 1:
                await asyncio.sleep(0)
            if not await self._tried(self._run_one(touched, row)):
                self._owner.results["unavailable"] += 1
        await self._carry_out()

    # --- deciding ---

    async def _run_one(self, touched: Touched, row: MessageRow) -> None:
        decision = await self._filter.decide_event(
            self._event.account_id, self._script, self._incoming(touched, row)
        )
        if decision.fault:
            self._owner.results["failed"] += 1
            await self._report(decision.fault)
            return
        carried = await self._send(decision, row)
        for note in carried.outcome.notes:
            log.warning("Sieve script of %s: %s", self._event.email, note)
        is_filed = await self._file(touched, row, carried)
        actions = carried.outcome.actions
        kept = next((each for each in decision.actions if isinstance(each, Keep)), None)
        if kept is not None:
            self._change_flags(touched, flags_from(kept.flags))
        elif is_filed and not any(isinstance(each, Keep) for each in actions):
            self._plan.deleted.add(touched.uid)
        self._plan.outcomes[touched.uid] = decision
        self._owner.results["ran"] += 1

    def _incoming(self, touched: Touched, row: MessageRow) -> Incoming:
        event = self._event
        return Incoming(
            sender="",
            recipient="",
            trace=row.prefix,
            header=row.header,
            size_bytes=row.ref.size_bytes,
            structure=row.structure,
            data=None,
            environment={
                "domain": self._owner.hostname.partition(".")[2],
                "host": self._owner.hostname,
                "location": "MS",
                "name": "Sora",
                "phase": "post",
                "version": "1",
                "imap.user": event.user,
                "imap.email": event.email,
                "imap.cause": event.cause.value,
                "imap.mailbox": event.mailbox,
                "imap.changedflags": " ".join(touched.changed),
            },
            flags=flag_names(touched.flags),
            is_delivery=False,
            load=partial(self._load, row),
        )

    async def _load(self, row: MessageRow) -> bytes:
        return await (await self._services.bodies.open(row.ref)).read()

    async def _report(self, fault: str) -> None:
        event = self._event
        log.warning("Sieve script of %s failed in %r, nothing is done: %s", event.email, event.mailbox, fault)
        inbox = (await self._filter.names.of(event.account_id)).named(INBOX)
        if inbox is not None:
            recipient = Recipient(event.account_id, event.email, inbox.id, self._script)
            await tell_owner(
                self._services,
                self._filter.scripts,
                recipient,
                fault,
                at=self._owner.now(),
                hostname=self._owner.hostname,
            )

    # --- carrying out ---

    async def _send(self, decision: Outcome, row: MessageRow) -> Carried:
        """The owner of the mailbox is the sender (RFC 6785 §3.4)."""
        sending, event = self._services.sending, self._event
        if sending is None:
            return Carried(without_sending(decision))
        if not sending.concerns(decision):
            return Carried(decision)
        occasion = Occasion(
            account_id=event.account_id,
            primary_address=event.email,
            own_addresses=await self._services.accounts.addresses(event.account_id),
            sender=event.email,
            recipient=event.email,
            trace=row.prefix,
            header=row.header,
            structure=row.structure,
            data=await self._load(row),
            size_bytes=row.ref.size_bytes,
            delivery_key=self._owner.token(32),
            received_at=self._owner.now(),
            hostname=self._owner.hostname,
        )
        return await sending.carry_out(occasion, decision)

    async def _file(self, touched: Touched, row: MessageRow, carried: Carried) -> bool:
        """Whether every filing has its place."""
        is_filed = True
        for action in carried.outcome.actions:
            if isinstance(action, FileInto):
                is_filed = await self._file_one(touched, row, action) and is_filed
        for copy in carried.copies:
            await self._file_one(touched, row, copy)
        return is_filed

    async def _file_one(self, touched: Touched, row: MessageRow, action: FileInto) -> bool:
        target = await self._target(action)
        if target is None:
            log.info("%s: no mailbox %r, the message is kept", self._event.email, action.mailbox)
            return False
        flags = flags_from(action.flags)
        if action.message is None:
            wanted = None if flags == touched.flags else flags
            self._plan.copies.setdefault((target, wanted), (action, []))[1].append(touched.uid)
        else:
            await self._into(action, partial(self._write, row, flags, action.message))
        return True

    async def _into(self, action: FileInto, work: Callable[[MailboxId], Awaitable[None]]) -> None:
        """Once more, if the mailbox that was known is gone by now and there is another."""
        target = await self._target(action)
        if target is not None:
            with contextlib.suppress(NotFound):
                await work(target)
                return
        target = await self._target(action, fresh=True)
        if target is None:
            raise NotFound(f"no mailbox {action.mailbox!r}")
        await work(target)

    async def _target(self, action: FileInto, *, fresh: bool = False) -> MailboxId | None:
        """Looked for once in a slice, also where there is none."""
        key = (action.mailbox, action.mailbox_id, action.special_use, action.create)
        if fresh or key not in self._targets:
            self._targets[key] = await locate(
                self._filter.names, self._event.account_id, action, self._created, fresh=fresh
            )
        return self._targets[key]

    def _created(self, mailbox_id: MailboxId) -> None:
        self._publish(mailbox_id, ModSeq(0))

    def _publish(self, mailbox_id: MailboxId, modseq: ModSeq) -> None:
        self._services.feed.publish(MailboxChanged(self._event.account_id, mailbox_id, modseq))

    async def _write(self, row: MessageRow, flags: Flags, message: Rewritten, target: MailboxId) -> None:
        """A message that a script has changed is another one."""
        body = message.body
        if body is None:
            body = (await self._load(row))[decode_structure(row.structure).body_start :]
        intake = self._services.intake
        spool = intake.spool()
        try:
            spool.write(message.header + b"\r\n")
            for at in range(0, len(body), PIECE_BYTES):
                spool.write(body[at : at + PIECE_BYTES])
        except StorageError:
            spool.close()
            raise
        staged = await intake.take(spool)
        try:
            (appended,) = await self._services.mail.append(staged, [NewMessage(target, flags=flags)])
        except CommitUnknown:
            raise
        except StorageError:
            await intake.discard(staged)
            raise
        self._publish(target, appended.modseq)

    def _change_flags(self, touched: Touched, flags: Flags) -> None:
        add, take = without(flags, touched.flags), without(touched.flags, flags)
        if add != NO_FLAGS or take != NO_FLAGS:
            self._plan.changes.setdefault((add, take), []).append(touched.uid)

    async def _carry_out(self) -> None:
        plan, unfiled = self._plan, set[Uid]()
        for (_, flags), (action, uids) in plan.copies.items():
            if not await self._tried(self._into(action, partial(self._copy, uids, flags))):
                unfiled.update(uids)
        for (add, take), uids in plan.changes.items():
            await self._tried(self._change(uids, add, take))
        gone = sorted(plan.deleted - unfiled)
        if gone:
            await self._tried(self._delete(gone))
        for uid, outcome in plan.outcomes.items():
            if uid not in unfiled:
                await remember(self._filter.scripts, self._event.account_id, outcome)

    async def _tried(self, work: Awaitable[None]) -> bool:
        """Whether it was done."""
        try:
            await work
        except StorageError as error:
            event = self._event
            log.warning(
                "%s: what the script %r does in %r is not whole: %s",
                event.email,
                self._script.name,
                event.mailbox,
                error,
            )
            return False
        return True

    async def _copy(self, uids: Sequence[Uid], flags: Flags | None, target: MailboxId) -> None:
        mail = self._services.mail
        copied = await mail.copy(self._event.mailbox_id, uids, target)
        modseq = copied.target_modseq
        if flags is not None and copied.pairs:
            new = [uid for _, uid in copied.pairs]
            modseq = (await mail.store_flags(target, new, FlagChange.REPLACE, flags)).highestmodseq
        self._publish(target, modseq)

    async def _change(self, uids: Sequence[Uid], add: Flags, take: Flags) -> None:
        """By difference: what somebody else changed meanwhile stays."""
        for change, flags in ((FlagChange.ADD, add), (FlagChange.REMOVE, take)):
            if flags != NO_FLAGS:
                await self._store(uids, change, flags)

    async def _delete(self, uids: Sequence[Uid]) -> None:
        await self._store(uids, FlagChange.ADD, _DELETED)

    async def _store(self, uids: Sequence[Uid], change: FlagChange, flags: Flags) -> None:
        mailbox_id = self._event.mailbox_id
        stored = await self._services.mail.store_flags(mailbox_id, uids, change, flags)
        if stored.changed:
            self._publish(mailbox_id, stored.highestmodseq)
