"""reject and ereject (RFC 5429): the answer to the sending server is a refusal, and its sender hears of it.

LMTP answers for each recipient, so a refusal is always possible and no report of ours is needed, with one
exception: words that are not ASCII, to a client that does not read others. ``ereject`` refuses then as well,
without the words; ``reject`` takes the message and sends them in a report (RFC 5429 §2.2), unless the sender
wants none (RFC 3461 §4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.ports import MailKind
from protocols.relay.dsn import Failure, bounce
from protocols.sieve.outcome import Reject
from storage.errors import InvalidName
from storage.relayfile import Fate, RelayEnvelope, Verdict

from .handover import HELD_S, Handover
from .means import Means
from .occasion import Occasion, Sent

STATUS = "5.7.1"  # RFC 3463 §3.8: delivery not authorised


async def reject(means: Means, occasion: Occasion, actions: Sequence[Reject]) -> Sent:
    """A row of ``sending.SENDERS``. What stays in the outcome is refused by delivery."""
    action = actions[0]
    if action.extended or action.reason.isascii() or occasion.takes_utf8 or not occasion.sender:
        return Sent(instead=(action,))
    if means.outbox is None or not occasion.dsn.of(0).wants_failure:
        return Sent(instead=(action,))
    key = occasion.key("reject")
    handover = Handover(means, means.outbox, occasion)
    if not await handover.unsent([key]):
        return Sent()
    try:
        name = await means.outbox.submit(
            "",
            [occasion.sender],
            _report(occasion, action.reason, key),
            kind=MailKind.REJECT,
            account=occasion.account_id,
            key=key,
            held_s=HELD_S,
        )
    except InvalidName:  # no report can reach such a sender, a refusal can
        return Sent(instead=(action,))
    handover.queued(key, name)
    await handover.finish()
    return Sent()


def _report(occasion: Occasion, reason: str, key: bytes) -> bytes:
    arrived = occasion.received_at.timestamp()
    envelope = RelayEnvelope(
        key.hex()[:24],
        occasion.sender,
        (occasion.recipient,),
        MailKind.REJECT.value,
        occasion.account_id,
        arrived,
        occasion.size_bytes,
        occasion.dsn,
    )
    words = "\r\n    ".join(["The recipient's mail filter says:", *reason.strip().splitlines()])
    orcpt = occasion.dsn.of(0).orcpt
    failure = Failure(occasion.recipient, Verdict(Fate.REFUSED, STATUS, words), orcpt)
    return bounce(envelope, [failure], occasion.header, hostname=occasion.hostname, at=arrived)
