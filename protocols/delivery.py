"""One received message to its local recipients: durable for each that is told so, and never twice.

Theory: the content is taken in once and appended to all INBOXes in one call. What differs by recipient is a
small prefix of trace headers. Every message carries a *delivery key*; a second append with it does nothing,
so the MTA may repeat after a lost reply, and an unknown commit is resolved by asking for the key.

Decisions:

* The key covers reverse-path, account, detail and content. Two addresses of one account (aliases) in one
  transaction, or in two within the retry window, make one copy; ``user`` and ``user+detail`` make two.
* ``for`` stands in Received only where there is one recipient: recipients do not learn of each other.
* 250 means durable: commit, then publish, then speak.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from storage.addresses import BadAddress, canonical
from storage.api import Spool
from storage.errors import CommitUnknown, NotFound, StorageError, Unavailable
from storage.model import (
    Appended,
    ContentHash,
    MailboxId,
    ModSeq,
    NewMessage,
    Recipient,
    StagedContent,
)

from .ports import MailboxChanged, Services

log = logging.getLogger("sora.delivery")

# RFC 5321 §6.3: a large count of Received fields means a loop, and 100 is what that takes.
MAX_RECEIVED_FIELDS = 100
# Waits between questions for the fate of an unknown commit; the MTA waits 10 minutes for our reply.
READ_BACK_DELAYS_S = (0.0, 0.5, 2.0, 5.0)

_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_DELIVERED_TO = re.compile(rb"^delivered-to[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
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


Outcome = StorageError | MailLoop | None  # None: durable
Resolve = Callable[[str], Awaitable[Destination | None]]


# --- pure parts ---------------------------------------------------------------------------------------


def trace_headers(envelope: Envelope, address: str, *, is_only_recipient: bool) -> bytes:
    """Return-Path, Delivered-To and Received (RFC 5321 §4.4) of one recipient's message.

    Everything that came from the peer is stripped of what could start another header field.
    """
    to = _CONTROLS.sub("", address)
    helo = _UNSAFE_IN_TRACE.sub("?", envelope.helo) or "unknown"
    client = f"[{envelope.client_ip}]" if envelope.client_ip else "local"
    by_for = f"\r\n\tfor <{to}>" if is_only_recipient else ""
    text = (
        f"Return-Path: <{_CONTROLS.sub('', envelope.reverse_path)}>\r\n"
        f"Delivered-To: {to}\r\n"
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


@dataclass(frozen=True, slots=True)
class Trace:
    """What a header block says about the way of the message so far."""

    received_fields: int
    delivered_to: frozenset[str]  # canonical

    def is_looping(self, address: str) -> bool:
        """Whether the message was at ``address`` before, or travels for ever."""
        return self.received_fields > MAX_RECEIVED_FIELDS or address in self.delivered_to


def read_trace(header: bytes) -> Trace:
    addresses = set()
    for match in _DELIVERED_TO.finditer(header):
        try:
            addresses.add(canonical(match[1].decode("utf-8").strip().strip("<>")))
        except (UnicodeDecodeError, BadAddress):
            continue
    return Trace(sum(1 for _ in _RECEIVED.finditer(header)), frozenset(addresses))


# --- delivery -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Copy:
    """One message to be written, and which recipients of the envelope it answers for."""

    destination: Destination
    message: NewMessage
    positions: list[int]


async def deliver(
    services: Services,
    envelope: Envelope,
    spool: Spool,
    destinations: Sequence[Destination],
    resolve: Resolve,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Outcome]:
    """Deliver to every destination; outcomes in their order. Consumes the spool.

    One write transaction for all, unless a mailbox vanished since RCPT: then ``resolve`` is asked again for
    each recipient and the messages are written one by one.
    """
    try:
        staged = await services.intake.take(spool)
    except StorageError as error:
        return [error] * len(destinations)
    outcomes: list[Outcome] = [None] * len(destinations)
    copies = _plan(envelope, staged, destinations, outcomes)
    writer = _Writer(services, staged, sleep)
    if copies:
        await writer.write(copies, outcomes, resolve)
    if not writer.may_be_written:
        await _discard(services, staged)
    return outcomes


def _plan(
    envelope: Envelope,
    staged: StagedContent,
    destinations: Sequence[Destination],
    outcomes: list[Outcome],
) -> list[_Copy]:
    """One copy for each delivery key; loops are refused right here."""
    copies: dict[bytes, _Copy] = {}
    trace = read_trace(staged.content.header)
    for position, destination in enumerate(destinations):
        if trace.is_looping(destination.address):
            outcomes[position] = MailLoop()
            continue
        key = delivery_key(envelope.reverse_path, destination, staged.content.hash)
        if key not in copies:
            prefix = trace_headers(envelope, destination.address, is_only_recipient=len(destinations) == 1)
            message = NewMessage(destination.recipient.inbox_id, prefix=prefix, delivery_key=key)
            copies[key] = _Copy(destination, message, [])
        copies[key].positions.append(position)
    return list(copies.values())


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
            for position in copy.positions:
                outcomes[position] = outcome

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
            inbox = destination.recipient.inbox_id
            copy.destination = destination
            copy.message = NewMessage(
                inbox, prefix=copy.message.prefix, delivery_key=copy.message.delivery_key
            )
            return (await self._append([copy]))[0]
        except NotFound:
            # the account exists and its INBOX came and went meanwhile: not for the sender to know
            return Unavailable("the mailbox is changing")
        except StorageError as error:
            return error

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
        inbox = copy.destination.recipient.inbox_id
        try:
            modseqs = await self._services.mail.modseqs([inbox])
        except StorageError as error:
            log.info("views learn of a delivery by their own poll: %s", error)
            return
        if inbox in modseqs:
            self._tell(copy, modseqs[inbox])

    def _tell(self, copy: _Copy, modseq: int) -> None:
        recipient = copy.destination.recipient
        self._services.feed.publish(MailboxChanged(recipient.account_id, recipient.inbox_id, ModSeq(modseq)))


async def _discard(services: Services, staged: StagedContent) -> None:
    try:
        await services.intake.discard(staged)
    except StorageError as error:
        log.warning("staged content was left for the sweep: %s", error)
