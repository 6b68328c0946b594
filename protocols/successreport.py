"""Confirmations of delivery for senders that asked for them: NOTIFY=SUCCESS (RFC 3461 §5.2.1).

Failures are the MTA's to report, since it is told of each recipient by LMTP. A confirmation is sent once the
message is durable. When it cannot be queued, the message stays delivered and the log says so: to refuse the
message would have the sender told of a failure that was none.

An MTA that lost our reply hands in the message again, here or at another node. So each attempt queues a
confirmation that is held, for the recipients of whom nobody was told, and the claim of the first one says
whether it goes (``sending.handover``).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence

from storage.errors import StorageError
from storage.model import AccountId
from storage.relayfile import Fate, Verdict
from storage.sending import HandoverLog

from .envelope import Destination, Envelope
from .fingerprint import fingerprint
from .ports import MailKind, Outbox, Services
from .relay.dsn import Action, Failure, Reported, report
from .sending.handover import HELD_S

log = logging.getLogger("sora.delivery")

_DELIVERED = Verdict(Fate.TAKEN, "2.1.5", "delivered to the mailbox")


async def report_deliveries(
    services: Services, envelope: Envelope, delivered: Sequence[Destination], header: bytes
) -> None:
    """One report for all recipients of whom the sender wants to know, and has not been told; none for the
    null path. ``header``: of the message, as received. Two round trips where somebody wants it, more where
    that are several, else none. Never raises StorageError."""
    outbox, handovers = services.outbox, services.handovers
    wanted = [destination for destination in delivered if destination.dsn.wants_success]
    if outbox is None or handovers is None or not wanted or not envelope.reverse_path:
        return
    keys = await _untold(handovers, {_key(envelope, each, header): each for each in wanted})
    try:
        while keys and not await _confirm(outbox, handovers, envelope, keys, header):
            del keys[next(iter(keys))]
    except StorageError as error:
        log.warning("a delivery that was to be confirmed to its sender is not: %s", error)


async def _untold(handovers: HandoverLog, keys: Mapping[bytes, Destination]) -> dict[bytes, Destination]:
    """Where nobody can tell, the claim will."""
    told: set[bytes] = set()
    try:
        for account_id, some in _by_account(keys).items():
            told |= await handovers.handed_over(account_id, some)
    except StorageError as error:
        log.info("whether a delivery was confirmed before, only its claim can say: %s", error)
    return {key: each for key, each in keys.items() if key not in told}


async def _confirm(
    outbox: Outbox,
    handovers: HandoverLog,
    envelope: Envelope,
    keys: Mapping[bytes, Destination],
    header: bytes,
) -> bool:
    """Whether no other attempt has told of the first. Raises StorageError: not queued."""
    first = next(iter(keys))
    account_id = keys[first].recipient.account_id
    message = _report(envelope, list(keys.values()), header, first)
    name = await outbox.submit(
        *("", [envelope.reverse_path], message),
        kind=MailKind.REPORT,
        account=account_id,
        key=first,
        held_s=HELD_S,
    )
    try:
        if not await handovers.claim_handover(account_id, {first: name}):
            await outbox.withdraw(name)
            return False
        rest = {key: each for key, each in keys.items() if key != first}
        for other_id, some in _by_account(rest).items():
            await handovers.claim_handover(other_id, dict.fromkeys(some, name))
    except StorageError as error:
        log.warning("the confirmation of a delivery waits for its claim: %s", error)
        return True
    await outbox.release(name)
    return True


def _report(envelope: Envelope, confirmed: Sequence[Destination], header: bytes, key: bytes) -> bytes:
    at = envelope.received_at.timestamp()
    fates = [Failure(each.address, _DELIVERED, each.dsn.orcpt) for each in confirmed]
    reported = Reported(key.hex(), envelope.reverse_path, at, envelope.dsn.envid)
    return report(Action.DELIVERED, reported, fates, header, hostname=envelope.hostname, at=at)


def _by_account(keys: Mapping[bytes, Destination]) -> dict[AccountId, list[bytes]]:
    found: dict[AccountId, list[bytes]] = {}
    for key, destination in keys.items():
        found.setdefault(destination.recipient.account_id, []).append(key)
    return found


def _key(envelope: Envelope, destination: Destination, header: bytes) -> bytes:
    """The same when an MTA that lost our reply hands in the message again."""
    header_hash = hashlib.sha256(header).digest()
    return fingerprint(
        header_hash, "delivered", envelope.reverse_path, envelope.dsn.envid, destination.address
    )
