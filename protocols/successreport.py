"""Confirmations of delivery for senders that asked for them: NOTIFY=SUCCESS (RFC 3461 §5.2.1).

Failures are the MTA's to report, since it is told of each recipient by LMTP. A confirmation is sent once the
message is durable. When it cannot be queued, the message stays delivered and the log says so: to refuse the
message would have the sender told of a failure that was none.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from storage.errors import StorageError
from storage.relayfile import Fate, Verdict

from .envelope import Destination, Envelope
from .fingerprint import fingerprint
from .ports import MailKind, Outbox
from .relay.dsn import Action, Failure, Reported, report

log = logging.getLogger("sora.delivery")

_DELIVERED = Verdict(Fate.TAKEN, "2.1.5", "delivered to the mailbox")


async def report_deliveries(
    outbox: Outbox | None,
    envelope: Envelope,
    delivered: Sequence[Destination],
    header: bytes,
) -> None:
    """One report for all recipients of whom the sender wants to know; none for the null path. ``header``: of
    the message, as received. Never raises StorageError."""
    wanted = [destination for destination in delivered if destination.dsn.wants_success]
    if outbox is None or not wanted or not envelope.reverse_path:
        return
    at = envelope.received_at.timestamp()
    fates = [Failure(each.address, _DELIVERED, each.dsn.orcpt) for each in wanted]
    name = _name(envelope, wanted, header)
    reported = Reported(name, envelope.reverse_path, at, envelope.dsn.envid)
    message = report(Action.DELIVERED, reported, fates, header, hostname=envelope.hostname, at=at)
    try:
        await outbox.submit(
            *("", [envelope.reverse_path], message),
            kind=MailKind.REPORT,
            account=None,
            key=f"delivered {name}".encode(),
        )
    except StorageError as error:
        log.warning("a delivery that was to be confirmed to its sender is not: %s", error)


def _name(envelope: Envelope, destinations: Sequence[Destination], header: bytes) -> str:
    """The same when an MTA that lost our reply hands in the message again."""
    header_hash = hashlib.sha256(header).digest()
    addresses = (each.address for each in destinations)
    return fingerprint(header_hash, envelope.reverse_path, envelope.dsn.envid, *addresses).hex()
