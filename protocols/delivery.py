"""One received message to its local recipients: durable for each that is told so, and never twice.

Theory: the content is taken in once and appended to all INBOXes in one call. What differs by recipient is a
small prefix of trace headers. Every message carries a *delivery key*; a second append with it does nothing,
so the MTA may repeat after a lost reply, and an unknown commit is resolved by asking for the key.

Decisions:

* The key covers reverse-path, account, detail and content. Two addresses of one account (aliases) in one
  transaction, or in two within the retry window, make one copy; ``user`` and ``user+detail`` make two.
* ``for`` stands in Received only where there is one recipient: recipients do not learn of each other.
* 250 means durable: commit, then publish, then speak.
* What scripts send (``sending``) is with the relay before any copy is written: a redirect that cannot go
  becomes a copy.
* Sieve decides once for each delivery key. The first copy has the key itself, further ones keys made from it:
  a script that was changed between two attempts makes no second copy where there is one.
* Scripts that cannot be read now (451), or that go wrong (kept), never give way to another script.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import mmap
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import format_datetime
from functools import partial

from storage.api import Spool
from storage.dsn import NO_MESSAGE_WISHES, NO_WISHES, DsnRequest, MessageDsn, Notify, RecipientDsn
from storage.errors import CommitUnknown, NotFound, StorageError, Unavailable
from storage.mime.structure import decode_structure
from storage.model import (
    Appended,
    ContentHash,
    MailboxId,
    ModSeq,
    NewMessage,
    Recipient,
    StagedContent,
)

from .filing import Placement, locate, placements
from .filtering import Incoming, remember
from .junk import JUNK
from .ports import MailboxChanged, MailKind, Services
from .sending.content import Pieces
from .sending.occasion import Occasion
from .sending.ownernote import tell_owner
from .sending.sending import STORES, Carried, without_sending
from .sending.way import MAX_RECEIVED_FIELDS, read_way
from .sieve.outcome import FileInto, Redirect, Reject, Rewritten
from .sieve.outcome import Outcome as Decision
from .successreport import report_deliveries

log = logging.getLogger("sora.delivery")

# Waits between questions for the fate of an unknown commit; the MTA waits 10 minutes for our reply.
READ_BACK_DELAYS_S = (0.0, 0.5, 2.0, 5.0)

PIECE_BYTES = 1024 * 1024  # of a body that is written again

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE_IN_TRACE = re.compile(r"[^\x21-\x7e]|[()<>\\\"]")


class MailLoop(Exception):
    """The message has been delivered to this address before, or has passed too many hosts."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A recipient of the envelope and whose INBOX that is."""

    address: str  # canonical, detail included
    detail: str
    recipient: Recipient
    dsn: RecipientDsn = NO_WISHES


@dataclass(frozen=True, slots=True)
class Returned:
    """A recipient that is no account: a report about mail that we sent on under a sender of our own making
    (``sending.srs``) goes back to ``address``."""

    address: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """How a message came in; for trace headers and the delivery key."""

    reverse_path: str  # as given, without angle brackets; empty for the null path
    helo: str
    client_ip: str
    hostname: str  # ours
    protocol: str  # RFC 3848: LMTP, LMTPS, UTF8LMTP, UTF8LMTPS
    session_id: str
    received_at: datetime  # aware
    client_name: str = ""  # of its address in the DNS, where a proxy has told it
    dsn: MessageDsn = NO_MESSAGE_WISHES

    @property
    def takes_utf8(self) -> bool:
        """The client may be told what is not ASCII (RFC 6531 §3.5)."""
        return self.protocol.startswith("UTF8")


@dataclass(frozen=True, slots=True)
class Refused:
    """The recipient's script rejects the message; ``reason`` is its author's text."""

    reason: str
    is_utf8: bool = False  # the client reads replies that are not ASCII


Outcome = StorageError | MailLoop | Refused | None  # None: durable, or discarded by a script
Resolve = Callable[[str], Awaitable[Destination | None]]


# --- pure parts ---------------------------------------------------------------------------------------


def trace_headers(envelope: Envelope, address: str, *, is_only_recipient: bool) -> bytes:
    """Return-Path, Delivered-To and Received (RFC 5321 §4.4) of one recipient's message.

    Everything that came from the peer is stripped of what could start another header field.
    """
    to = _CONTROLS.sub("", address)
    text = f"Return-Path: <{_CONTROLS.sub('', envelope.reverse_path)}>\r\nDelivered-To: {to}\r\n"
    return text.encode("utf-8", "replace") + _received(envelope, to if is_only_recipient else "")


def _received(envelope: Envelope, to: str = "") -> bytes:
    helo = _UNSAFE_IN_TRACE.sub("?", envelope.helo) or "unknown"
    name = _UNSAFE_IN_TRACE.sub("?", envelope.client_name)
    client = f"[{envelope.client_ip}]" if envelope.client_ip else "local"
    client = f"{name} {client}" if name else client
    by_for = f"\r\n\tfor <{to}>" if to else ""
    text = (
        f"Received: from {helo} ({client})\r\n"
        f"\tby {envelope.hostname} with {envelope.protocol} id {envelope.session_id}{by_for};\r\n"
        f"\t{format_datetime(envelope.received_at)}\r\n"
    )
    return text.encode("utf-8", "replace")


def delivery_key(reverse_path: str, destination: Destination, content: ContentHash) -> bytes:
    """32 bytes that are the same for every attempt to deliver these bytes to this account and detail."""
    digest = hashlib.sha256(content)
    for field in (reverse_path, str(destination.recipient.account_id), destination.detail):
        raw = field.encode("utf-8", "surrogateescape")
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.digest()


# --- delivery -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Letter:
    """What one delivery key stands for, and which recipients of the envelope it answers for."""

    destination: Destination
    key: bytes
    prefix: bytes
    positions: list[int]
    seen: Decision | None = None
    is_handed_on: bool = False  # to another system, and no copy stays

    def copies(self, places: Sequence[Placement]) -> list[_Copy]:
        """Of the message itself."""
        keys = [self.key, *(self._further(number, b"") for number in range(1, len(places)))]
        return [self._copy(place, key) for place, key in zip(places, keys, strict=False)]

    def own_mail(self, places: Sequence[Placement]) -> list[_Copy]:
        """Of what was sent because of it."""
        copies = [self._copy(place, self._further(number, b"own")) for number, place in enumerate(places)]
        return [replace(copy, is_own=True) for copy in copies]

    def _further(self, number: int, what: bytes) -> bytes:
        return hashlib.sha256(self.key + what + number.to_bytes(4, "big")).digest()

    def _copy(self, place: Placement, key: bytes) -> _Copy:
        prefix = b"" if place.message else self.prefix
        message = NewMessage(place.mailbox_id, prefix=prefix, flags=place.flags, delivery_key=key)
        return _Copy(self.destination, message, self.positions, place.target, place.message)


@dataclass(slots=True)
class _Copy:
    """One message to be written. ``target`` None: to the INBOX."""

    destination: Destination
    message: NewMessage
    positions: list[int]
    target: FileInto | None = None
    rewritten: Rewritten | None = None
    body_start: int = 0  # of what was received
    is_own: bool = False  # of mail that was sent because of the message

    def conclude(self, outcomes: list[Outcome], outcome: Outcome) -> None:
        """What was sent is not sent again, so a second attempt would have nothing to file."""
        if not self.is_own:
            _settle(outcomes, self.positions, outcome)
        elif outcome is not None:
            _note_unfiled(self.destination, outcome)


async def deliver(
    services: Services,
    envelope: Envelope,
    spool: Spool,
    destinations: Sequence[Destination | Returned],
    resolve: Resolve,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Outcome]:
    """Deliver to every destination; outcomes in their order. Consumes the spool.

    One write transaction for all, and one more for each copy that a script has changed; unless a mailbox
    vanished since RCPT: then ``resolve`` is asked again for each recipient and the messages are written one
    by one.
    """
    try:
        data = spool.buffer() if _wants_data(services, destinations) else b""
        staged = await services.intake.take(spool)
    except StorageError as error:
        spool.close()
        return [error] * len(destinations)
    outcomes: list[Outcome] = [None] * len(destinations)
    letters = _plan(envelope, staged, destinations, outcomes)
    for position, each in enumerate(destinations):
        if isinstance(each, Returned):
            outcomes[position] = await _send_back(services, envelope, staged, each, data)
    desk = _Desk(services, envelope, staged, data)
    copies = [copy for letter in letters for copy in await desk.file(letter, outcomes)]
    writer = _Writer(services, staged, sleep)
    plain = [copy for copy in copies if copy.rewritten is None]
    if plain:
        await writer.write(plain, outcomes, resolve)
    if not writer.may_be_written:
        await _discard(services, staged)
    for copy in copies:
        if copy.rewritten is not None:
            await _write_rewritten(services, copy, copy.rewritten, data, (outcomes, resolve, sleep))
    await desk.settle(letters, outcomes)
    handed_on = _handed_on(letters)
    delivered = [
        destination
        for position, destination in enumerate(destinations)
        if isinstance(destination, Destination) and outcomes[position] is None and position not in handed_on
    ]
    await report_deliveries(services.outbox, envelope, delivered, staged.content.header)
    return outcomes


def _handed_on(letters: Sequence[_Letter]) -> set[int]:
    """Recipients whose scripts only send the message on, or tell its sender that it is not wanted: who asked
    for reports gets them from where the message goes (RFC 3461 §5.2.7), or has one already."""
    return {position for letter in letters if letter.is_handed_on for position in letter.positions}


def _wants_data(services: Services, destinations: Sequence[Destination | Returned]) -> bool:
    """Whether the octets are needed, and not only what is known of them."""
    mail_filter = services.filter
    return any(
        isinstance(each, Returned) or (mail_filter is not None and mail_filter.applies(each.recipient.script))
        for each in destinations
    )


def _plan(
    envelope: Envelope,
    staged: StagedContent,
    destinations: Sequence[Destination | Returned],
    outcomes: list[Outcome],
) -> list[_Letter]:
    """One letter for each delivery key; loops are refused right here."""
    letters: dict[bytes, _Letter] = {}
    way = read_way(staged.content.header)
    for position, destination in enumerate(destinations):
        if isinstance(destination, Returned):
            continue
        if way.is_looping(destination.address):
            outcomes[position] = MailLoop()
            continue
        key = delivery_key(envelope.reverse_path, destination, staged.content.hash)
        if key not in letters:
            prefix = trace_headers(envelope, destination.address, is_only_recipient=len(destinations) == 1)
            letters[key] = _Letter(destination, key, prefix, [])
        letters[key].positions.append(position)
    return list(letters.values())


class _Desk:
    """Asks the recipients' scripts where one content goes."""

    def __init__(
        self, services: Services, envelope: Envelope, staged: StagedContent, data: bytes | mmap.mmap
    ) -> None:
        self._services = services
        self._envelope = envelope
        self._content = staged.content
        self._data = data

    async def file(self, letter: _Letter, outcomes: list[Outcome]) -> list[_Copy]:
        """The copies to write for it; none when it is refused, discarded or cannot be decided now."""
        recipient = letter.destination.recipient
        mail_filter = self._services.filter
        if mail_filter is None or not mail_filter.applies(recipient.script):
            return await self._unscripted(letter, outcomes)
        try:
            decision = await mail_filter.decide(
                recipient.account_id, recipient.script, self._incoming(letter)
            )
            carried = await self._send(letter, decision)
            decision = letter.seen = carried.outcome
            self._report(letter.destination, decision)
            refusal = next((each for each in decision.actions if isinstance(each, Reject)), None)
            if refusal is not None:
                _settle(
                    outcomes, letter.positions, Refused(refusal.reason, is_utf8=self._envelope.takes_utf8)
                )
                return []
            place = partial(placements, mail_filter.names, recipient, created=self._created(recipient))
            copies = letter.copies(await place(decision.actions))
        except StorageError as error:
            _settle(outcomes, letter.positions, error)
            return []
        copies += await self._own_mail(letter, carried, place)
        for copy in copies:
            if copy.rewritten is not None:
                copy.body_start = decode_structure(self._content.structure).body_start
        return copies

    async def _own_mail(
        self, letter: _Letter, carried: Carried, place: Callable[[list[FileInto]], Awaitable[list[Placement]]]
    ) -> list[_Copy]:
        try:
            places = [found for own in carried.copies for found in await place([own])]
        except StorageError as error:
            _note_unfiled(letter.destination, error)
            return []
        return letter.own_mail(places)

    async def _unscripted(self, letter: _Letter, outcomes: list[Outcome]) -> list[_Copy]:
        recipient, mail_filter = letter.destination.recipient, self._services.filter
        if mail_filter is None or not mail_filter.is_junk(self._content.header):
            return letter.copies([Placement(recipient.inbox_id)])
        try:
            return letter.copies(
                await placements(mail_filter.names, recipient, [JUNK], created=self._created(recipient))
            )
        except StorageError as error:
            _settle(outcomes, letter.positions, error)
            return []

    async def _send(self, letter: _Letter, decision: Decision) -> Carried:
        """Everything that is to be sent is with the relay when this returns."""
        sending = self._services.sending
        if sending is None:
            return Carried(without_sending(decision))
        if not sending.concerns(decision):
            return Carried(decision)
        carried = await sending.carry_out(await self._occasion(letter, decision), decision)
        letter.is_handed_on = _leaves(decision) and not any(
            isinstance(each, STORES) for each in carried.outcome.actions
        )
        return carried

    async def _occasion(self, letter: _Letter, decision: Decision) -> Occasion:
        recipient, content = letter.destination.recipient, self._content
        return Occasion(
            account_id=recipient.account_id,
            primary_address=recipient.primary_address,
            own_addresses=await self._services.accounts.addresses(recipient.account_id),
            sender=self._envelope.reverse_path,
            recipient=letter.destination.address,
            trace=letter.prefix,
            header=content.header,
            structure=content.structure,
            data=self._data,
            size_bytes=content.size_bytes,
            delivery_key=letter.key,
            received_at=self._envelope.received_at,
            hostname=self._envelope.hostname,
            takes_utf8=self._envelope.takes_utf8,
            dsn=_handed_wishes(self._envelope.dsn, letter.destination.dsn, decision),
        )

    def _created(self, recipient: Recipient) -> Callable[[MailboxId], None]:
        def tell(mailbox_id: MailboxId) -> None:
            self._services.feed.publish(MailboxChanged(recipient.account_id, mailbox_id, ModSeq(0)))

        return tell

    def _incoming(self, letter: _Letter) -> Incoming:
        envelope = self._envelope
        return Incoming(
            sender=envelope.reverse_path,
            recipient=letter.destination.address,
            trace=letter.prefix,
            header=self._content.header,
            size_bytes=self._content.size_bytes,
            structure=self._content.structure,
            data=self._data,
            environment={
                "domain": envelope.hostname.partition(".")[2],
                "host": envelope.hostname,
                "location": "MDA",
                "name": "Sora",
                "phase": "during",
                "remote-ip": envelope.client_ip,
                "remote-host": envelope.helo,
                "version": "1",
            },
        )

    def _report(self, destination: Destination, decision: Decision) -> None:
        address = destination.recipient.primary_address
        if decision.fault:
            log.warning("Sieve script of %s failed, the message is kept: %s", address, decision.fault)
        for note in decision.notes:
            log.warning("Sieve script of %s: %s", address, note)

    async def settle(self, letters: Sequence[_Letter], outcomes: Sequence[Outcome]) -> None:
        """Of letters that were delivered: what duplicate has seen, and a note about a script that failed."""
        mail_filter = self._services.filter
        if mail_filter is None:
            return
        for letter in letters:
            delivered = all(outcomes[position] is None for position in letter.positions)
            if letter.seen is not None and delivered:
                recipient = letter.destination.recipient
                await remember(mail_filter.scripts, recipient.account_id, letter.seen)
                if recipient.script and letter.seen.fault.startswith(f"{recipient.script.name}: "):
                    await tell_owner(
                        self._services,
                        mail_filter.scripts,
                        recipient,
                        letter.seen.fault,
                        at=self._envelope.received_at,
                        hostname=self._envelope.hostname,
                    )


def _leaves(decision: Decision) -> bool:
    return any(isinstance(each, Redirect | Reject) for each in decision.actions)


def _handed_wishes(message: MessageDsn, recipient: RecipientDsn, decision: Decision) -> DsnRequest:
    """What the next system is to report of mail that is sent on (RFC 3461 §5.2.7): a success only where that
    is the message's one way."""
    ways = [each for each in decision.actions if isinstance(each, Redirect | STORES)]
    if recipient.notify is not None and len(ways) > 1:
        notify = recipient.notify - {Notify.SUCCESS}
        recipient = replace(recipient, notify=notify or frozenset({Notify.NEVER}))
    return DsnRequest(message, (recipient,))


async def _send_back(
    services: Services,
    envelope: Envelope,
    staged: StagedContent,
    returned: Returned,
    data: bytes | mmap.mmap,
) -> Outcome:
    """A report to who sent the mail that we sent on. It is no delivery: nothing is stored here."""
    if services.outbox is None:
        return Unavailable("this node has no relay now")
    if read_way(staged.content.header).received_fields > MAX_RECEIVED_FIELDS:
        return MailLoop()
    key = hashlib.sha256(staged.content.hash + returned.address.encode("utf-8", "surrogateescape")).digest()
    message = Pieces(_received(envelope), data)
    try:
        await services.outbox.submit(
            envelope.reverse_path, [returned.address], message, kind=MailKind.BOUNCE, account=None, key=key
        )
    except StorageError as error:
        return error
    return None


def _settle(outcomes: list[Outcome], positions: Sequence[int], outcome: Outcome) -> None:
    """The first trouble of a recipient is its outcome."""
    for position in positions:
        if outcomes[position] is None:
            outcomes[position] = outcome


def _note_unfiled(destination: Destination, why: object) -> None:
    log.warning(
        "the copy of what was sent for %s is not filed: %s", destination.recipient.primary_address, why
    )


async def _write_rewritten(
    services: Services,
    copy: _Copy,
    rewritten: Rewritten,
    data: bytes | mmap.mmap,
    rest: tuple[list[Outcome], Resolve, Callable[[float], Awaitable[None]]],
) -> None:
    """A copy that a script has changed is a content of its own."""
    outcomes, resolve, sleep = rest
    spool = services.intake.spool()
    try:
        spool.write(rewritten.header + b"\r\n")
        body, start = (data, copy.body_start) if rewritten.body is None else (rewritten.body, 0)
        for at in range(start, len(body), PIECE_BYTES):
            spool.write(body[at : at + PIECE_BYTES])
        staged = await services.intake.take(spool)
    except StorageError as error:
        spool.close()
        copy.conclude(outcomes, error)
        return
    writer = _Writer(services, staged, sleep)
    await writer.write([copy], outcomes, resolve)
    if not writer.may_be_written:
        await _discard(services, staged)


class _Writer:
    """Appends copies of one content, and knows whether any of them may have been written."""

    def __init__(
        self, services: Services, staged: StagedContent, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._services = services
        self._staged = staged
        self._sleep = sleep
        self.may_be_written = False

    async def write(self, copies: Sequence[_Copy], outcomes: list[Outcome], resolve: Resolve) -> None:
        try:
            found: list[Outcome] = await self._append(copies)
        except NotFound:
            found = [await self._write_again(copy, resolve) for copy in copies]
        for copy, outcome in zip(copies, found, strict=True):
            copy.conclude(outcomes, outcome)

    async def _append(self, copies: Sequence[_Copy]) -> list[Outcome]:
        """Raises NotFound; every other trouble is the outcome."""
        try:
            appended = await self._services.mail.append(self._staged, [copy.message for copy in copies])
        except NotFound:
            raise
        except CommitUnknown as error:
            self.may_be_written = True
            log.warning("commit unknown, reading back %d delivery keys", len(copies))
            return [await self._read_back(copy, error) for copy in copies]
        except StorageError as error:
            return [error] * len(copies)
        self.may_be_written = True
        self._publish(copies, appended)
        return [None] * len(copies)

    async def _write_again(self, copy: _Copy, resolve: Resolve) -> Outcome:
        try:
            destination = await resolve(copy.destination.address)
            if destination is None:
                return NotFound("the account is gone")
            copy.destination = destination
            copy.message = replace(copy.message, mailbox_id=await self._place_again(copy))
            return (await self._append([copy]))[0]
        except NotFound:
            # the account exists and its INBOX came and went meanwhile: not for the sender to know
            return Unavailable("the mailbox is changing")
        except StorageError as error:
            return error

    async def _place_again(self, copy: _Copy) -> MailboxId:
        recipient, mail_filter = copy.destination.recipient, self._services.filter
        if copy.target is None or mail_filter is None:
            return recipient.inbox_id
        found = await locate(
            mail_filter.names, recipient.account_id, copy.target, lambda _made: None, fresh=True
        )
        return found or recipient.inbox_id

    async def _read_back(self, copy: _Copy, unknown: CommitUnknown) -> Outcome:
        """Ask whether the commit happened; when nobody can tell, the MTA has to try again."""
        key = copy.message.delivery_key
        assert key is not None
        for delay in READ_BACK_DELAYS_S:
            if delay:
                await self._sleep(delay)
            try:
                if await self._services.mail.delivered(copy.message.mailbox_id, key):
                    await self._tell_late(copy)
                    return None
            except StorageError:
                continue
            return unknown
        return unknown

    def _publish(self, copies: Sequence[_Copy], appended: Sequence[Appended]) -> None:
        highest: dict[MailboxId, tuple[int, _Copy]] = {}
        for copy, result in zip(copies, appended, strict=True):
            if not result.duplicate and result.modseq > highest.get(result.mailbox_id, (-1, copy))[0]:
                highest[result.mailbox_id] = (result.modseq, copy)
        for modseq, copy in highest.values():
            self._tell(copy, modseq)

    async def _tell_late(self, copy: _Copy) -> None:
        """Publish a commit whose modseq was lost with its reply."""
        mailbox_id = copy.message.mailbox_id
        try:
            modseqs = await self._services.mail.modseqs([mailbox_id])
        except StorageError as error:
            log.info("views learn of a delivery by their own poll: %s", error)
            return
        if mailbox_id in modseqs:
            self._tell(copy, modseqs[mailbox_id])

    def _tell(self, copy: _Copy, modseq: int) -> None:
        account_id = copy.destination.recipient.account_id
        self._services.feed.publish(MailboxChanged(account_id, copy.message.mailbox_id, ModSeq(modseq)))


async def _discard(services: Services, staged: StagedContent) -> None:
    try:
        await services.intake.discard(staged)
    except StorageError as error:
        log.warning("staged content was left for the sweep: %s", error)
