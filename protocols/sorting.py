"""Asks the recipients' scripts where one content goes, and has sent what they want sent.

What scripts send (``sending``) is with the relay before any copy is written: a redirect that cannot go
becomes a copy. Scripts that cannot be read now (451), or that go wrong (kept), never give way to another
script.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from storage.dsn import DsnRequest, MessageDsn, Notify, RecipientDsn
from storage.errors import StorageError
from storage.mime.structure import decode_structure
from storage.model import MailboxId, ModSeq, Recipient, StagedContent

from .copies import Delivery, NewCopy, note_unfiled, settle
from .envelope import Destination, Envelope, Outcome, Refused
from .filing import Placement, placements
from .filtering import remember
from .incoming import Incoming
from .junk import JUNK
from .ports import MailboxChanged, Services
from .sending.occasion import Occasion
from .sending.ownernote import tell_owner
from .sending.sending import STORES, Carried, without_sending
from .sieve.fields import Fields
from .sieve.outcome import FileInto, Redirect, Reject
from .sieve.outcome import Outcome as Decision

log = logging.getLogger("sora.delivery")


class SortingDesk:
    """Asks the recipients' scripts where one content goes."""

    def __init__(
        self, services: Services, envelope: Envelope, staged: StagedContent, data: bytes | mmap.mmap
    ) -> None:
        self._services = services
        self._envelope = envelope
        self._content = staged.content
        self._data = data

    async def file(self, delivery: Delivery, outcomes: list[Outcome]) -> list[NewCopy]:
        """The copies to write for it; none when it is refused, discarded or cannot be decided now."""
        recipient = delivery.destination.recipient
        mail_filter = self._services.filter
        if mail_filter is None or not mail_filter.applies(recipient.script):
            return await self._unscripted(delivery, outcomes)
        fields = Fields(delivery.prefix + self._content.header)
        if mail_filter.is_idle(recipient.script, fields):
            return await self._unscripted(delivery, outcomes)
        try:
            decision = await mail_filter.decide(
                recipient.account_id, recipient.script, self._incoming(delivery, fields)
            )
            carried = await self._send(delivery, decision)
            decision = delivery.seen = carried.outcome
            self._report(delivery.destination, decision)
            refusal = next((each for each in decision.actions if isinstance(each, Reject)), None)
            if refusal is not None:
                settle(
                    outcomes, delivery.positions, Refused(refusal.reason, is_utf8=self._envelope.takes_utf8)
                )
                return []
            place = partial(placements, mail_filter.names, recipient, created=self._created(recipient))
            copies = delivery.copies(await place(decision.actions))
        except StorageError as error:
            settle(outcomes, delivery.positions, error)
            return []
        copies += await self._own_mail(delivery, carried, place)
        for copy in copies:
            if copy.rewritten is not None:
                copy.body_start = decode_structure(self._content.structure).body_start
        return copies

    async def _own_mail(
        self,
        delivery: Delivery,
        carried: Carried,
        place: Callable[[list[FileInto]], Awaitable[list[Placement]]],
    ) -> list[NewCopy]:
        try:
            places = [found for own in carried.copies for found in await place([own])]
        except StorageError as error:
            note_unfiled(delivery.destination, error)
            return []
        return delivery.own_mail(places)

    async def _unscripted(self, delivery: Delivery, outcomes: list[Outcome]) -> list[NewCopy]:
        recipient, mail_filter = delivery.destination.recipient, self._services.filter
        if mail_filter is None or not mail_filter.is_junk(self._content.header):
            return delivery.copies([Placement(recipient.inbox_id)])
        try:
            return delivery.copies(
                await placements(mail_filter.names, recipient, [JUNK], created=self._created(recipient))
            )
        except StorageError as error:
            settle(outcomes, delivery.positions, error)
            return []

    async def _send(self, delivery: Delivery, decision: Decision) -> Carried:
        """Everything that is to be sent is with the relay when this returns."""
        sending = self._services.sending
        if sending is None:
            return Carried(without_sending(decision))
        if not sending.concerns(decision):
            return Carried(decision)
        carried = await sending.carry_out(await self._occasion(delivery, decision), decision)
        delivery.is_handed_on = _leaves(decision) and not any(
            isinstance(each, STORES) for each in carried.outcome.actions
        )
        return carried

    async def _occasion(self, delivery: Delivery, decision: Decision) -> Occasion:
        recipient, content = delivery.destination.recipient, self._content
        return Occasion(
            account_id=recipient.account_id,
            primary_address=recipient.primary_address,
            own_addresses=await self._services.accounts.addresses(recipient.account_id),
            sender=self._envelope.reverse_path,
            recipient=delivery.destination.address,
            trace=delivery.prefix,
            header=content.header,
            structure=content.structure,
            data=self._data,
            size_bytes=content.size_bytes,
            delivery_key=delivery.key,
            received_at=self._envelope.received_at,
            hostname=self._envelope.hostname,
            takes_utf8=self._envelope.takes_utf8,
            dsn=_handed_wishes(self._envelope.dsn, delivery.destination.dsn, decision),
        )

    def _created(self, recipient: Recipient) -> Callable[[MailboxId], None]:
        def tell(mailbox_id: MailboxId) -> None:
            self._services.feed.publish(MailboxChanged(recipient.account_id, mailbox_id, ModSeq(0)))

        return tell

    def _incoming(self, delivery: Delivery, fields: Fields) -> Incoming:
        envelope = self._envelope
        return Incoming(
            sender=envelope.reverse_path,
            recipient=delivery.destination.address,
            trace=delivery.prefix,
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
            fields=fields,
        )

    def _report(self, destination: Destination, decision: Decision) -> None:
        address = destination.recipient.primary_address
        if decision.fault:
            log.warning("Sieve script of %s failed, the message is kept: %s", address, decision.fault)
        for note in decision.notes:
            log.warning("Sieve script of %s: %s", address, note)

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Sequence[Outcome]) -> None:
        """Of what was delivered: what duplicate has seen, and a note about a script that failed."""
        mail_filter = self._services.filter
        if mail_filter is None:
            return
        for delivery in deliveries:
            delivered = all(outcomes[position] is None for position in delivery.positions)
            if delivery.seen is not None and delivered:
                recipient = delivery.destination.recipient
                await remember(mail_filter.scripts, recipient.account_id, delivery.seen)
                if recipient.script and delivery.seen.fault.startswith(f"{recipient.script.name}: "):
                    await tell_owner(
                        self._services,
                        mail_filter.scripts,
                        recipient,
                        delivery.seen.fault,
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
