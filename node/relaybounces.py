"""Reports of undeliverable mail to their senders: into a local INBOX, or by the relay to another system."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from protocols.delivery import deliver
from protocols.envelope import Destination, Envelope, MailLoop
from protocols.ports import MailKind, Outbox
from protocols.sending.means import DAY_S
from protocols.sending.srs import BadSrs, Srs
from storage.addresses import BadAddress, canonical
from storage.errors import InvalidName, StorageError, Unavailable

if TYPE_CHECKING:
    from protocols.ports import Services

log = logging.getLogger("sora.relay")

Resolve = Callable[[str], Awaitable[Destination | None]]
PIECE_BYTES: Final = 256 * 1024


class LocalBouncer:
    """``protocols.relay.queue.Bouncer``. ``resolve``: the local account of an address, None when it has none.
    ``srs``: the rewriting of senders, None: they are as they came."""

    def __init__(
        self,
        services: Services,
        resolve: Resolve,
        outbox: Outbox,
        hostname: str,
        *,
        srs: Srs | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._services = services
        self._resolve = resolve
        self._outbox = outbox
        self._hostname = hostname
        self._srs = srs
        self._clock = clock

    async def bounce(self, sender: str, report: bytes, key: bytes) -> str:
        sender = self._original(sender)
        try:
            destination = await self._resolve(canonical(sender))
        except BadAddress:
            destination = None  # not one of ours, whatever it is
        if destination is not None:
            return await self._deliver(destination, report, key)
        try:
            await self._outbox.submit("", [sender], report, kind=MailKind.BOUNCE, account=None, key=key)
        except InvalidName as error:
            log.warning("nobody can be told of mail that failed: %s", error)
            return "undeliverable"
        return "queued"

    def _original(self, sender: str) -> str:
        """Whose mail it was that went on under a sender of ours."""
        if self._srs is None or not self._srs.is_ours(sender):
            return sender
        try:
            return self._srs.reverse(sender, int(self._clock() // DAY_S))
        except BadSrs as error:
            log.warning("mail failed whose sender is not of our making: %s", error)
            return sender

    async def _deliver(self, destination: Destination, report: bytes, key: bytes) -> str:
        spool = self._services.intake.spool()
        try:
            for start in range(0, len(report), PIECE_BYTES):
                spool.write(report[start : start + PIECE_BYTES])
        except StorageError:
            spool.close()
            raise
        envelope = Envelope("", "localhost", "", self._hostname, "ESMTP", key.hex()[-16:], datetime.now(UTC))
        (outcome,) = await deliver(self._services, envelope, spool, [destination], self._resolve)
        if outcome is None:
            return "delivered"
        if isinstance(outcome, MailLoop):
            log.warning("a report of failed mail goes in circles and is dropped")
            return "undeliverable"
        if isinstance(outcome, StorageError) and outcome.transient:
            raise Unavailable(f"the report cannot be delivered now: {outcome}") from outcome
        log.warning("the sender of mail that failed takes no report: %s", outcome)
        return "undeliverable"
