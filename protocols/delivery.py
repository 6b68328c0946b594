"""One received message to its local recipients: durable for each that is told so, and never twice.

Theory: the content is taken in once. For each delivery key (``copies``) the recipient's scripts decide, and
what they send is sent (``sorting``); then all copies are appended in one call (``writing``). What differs by
recipient is a small prefix of trace fields (``tracefields``). 250 means durable: commit, then publish, then
speak.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Awaitable, Callable, Sequence

from storage.api import Spool
from storage.errors import StorageError, Unavailable
from storage.model import StagedContent

from .copies import Delivery, deliveries
from .envelope import Destination, Envelope, MailLoop, Outcome, Resolve, Returned
from .fingerprint import fingerprint
from .ports import MailKind, Services
from .sending.content import Pieces
from .sending.way import MAX_RECEIVED_FIELDS, read_way
from .sorting import SortingDesk
from .successreport import report_deliveries
from .tracefields import received_field
from .writing import Writer


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
    keyed = deliveries(envelope, staged, destinations, outcomes)
    for position, each in enumerate(destinations):
        if isinstance(each, Returned):
            outcomes[position] = await _send_back(services, envelope, staged, each, data)
    desk = SortingDesk(services, envelope, staged, data)
    copies = [copy for each in keyed for copy in await desk.file(each, outcomes)]
    writer = Writer(services, copies, outcomes, resolve, sleep)
    await writer.write(staged, [copy for copy in copies if copy.rewritten is None])
    for copy in copies:
        if copy.rewritten is not None:
            await writer.write_rewritten(copy, copy.rewritten, data)
    await desk.settle(keyed, outcomes)
    handed_on = _handed_on(keyed)
    delivered = [
        destination
        for position, destination in enumerate(destinations)
        if isinstance(destination, Destination) and outcomes[position] is None and position not in handed_on
    ]
    await report_deliveries(services, envelope, delivered, staged.content.header)
    return outcomes


def _handed_on(keyed: Sequence[Delivery]) -> set[int]:
    """Recipients whose scripts only send the message on, or tell its sender that it is not wanted: who asked
    for reports gets them from where the message goes (RFC 3461 §5.2.7), or has one already."""
    return {position for each in keyed if each.is_handed_on for position in each.positions}


def _wants_data(services: Services, destinations: Sequence[Destination | Returned]) -> bool:
    """Whether the octets are needed, and not only what is known of them."""
    mail_filter = services.filter
    return any(
        isinstance(each, Returned) or (mail_filter is not None and mail_filter.applies(each.recipient.script))
        for each in destinations
    )


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
    key = fingerprint(staged.content.hash, returned.address)
    message = Pieces(received_field(envelope), data)
    try:
        await services.outbox.submit(
            envelope.reverse_path, [returned.address], message, kind=MailKind.BOUNCE, account=None, key=key
        )
    except StorageError as error:
        return error
    return None
