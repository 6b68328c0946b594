"""Mail of our own that is sent once or not at all: remembered first, queued then.

The memory is committed in PostgreSQL, so of several nodes one sends, and a message that comes a second time
causes nothing a second time. When the process dies between memory and queue the mail is lost; when the queue
refuses it for certain the memory is taken back, and the next occasion may send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocols.ports import MailKind, Outbox
from storage.addresses import BadAddress
from storage.errors import StorageError

from .composing import Letter
from .means import Means
from .occasion import Occasion

log = logging.getLogger("sora.sieve")


class TooMany(Exception):
    """The account sends more of this kind than it may; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Errand:
    """``key``, ``period_s`` and ``cause`` are those of ``AnswerLog.claim_answer``. ``counted``: what counts
    against ``limit`` (0: nothing does) in ``window_s``."""

    kind: MailKind
    key: bytes
    period_s: int
    cause: bytes
    counted: Sequence[bytes]
    limit: int
    window_s: float
    sender: str  # of the envelope
    recipients: Sequence[str]
    compose: Callable[[], Letter]  # raises BadAddress


async def send_once(means: Means, outbox: Outbox, occasion: Occasion, errand: Errand) -> Letter | None:
    """What was queued; None: it was sent before, or someone does now.

    Raises StorageError, BadAddress, TooMany: nothing was sent.
    """
    account_id = occasion.account_id
    if not await means.answers.claim_answer(account_id, errand.key, errand.period_s, errand.cause):
        return None
    try:
        await _count(means, occasion, errand)
        letter = errand.compose()
        await outbox.submit(
            errand.sender,
            errand.recipients,
            letter.octets,
            kind=errand.kind,
            account=account_id,
            key=errand.cause,
        )
    except (StorageError, BadAddress, TooMany):
        await _take_back(means, occasion, errand)
        raise
    return letter


async def _count(means: Means, occasion: Occasion, errand: Errand) -> None:
    """Raises TooMany, StorageError. All of it goes or nothing."""
    if not errand.limit:
        return
    admitted = await means.redirect_log.admit(
        occasion.account_id,
        errand.counted,
        limit=errand.limit,
        window_s=errand.window_s,
        kind=errand.kind.value,
    )
    if len(admitted) < len(errand.counted):
        raise TooMany(f"the account sends more than {errand.limit} in a short time")


async def _take_back(means: Means, occasion: Occasion, errand: Errand) -> None:
    try:
        await means.answers.release_answer(occasion.account_id, errand.key, errand.cause)
    except StorageError as error:
        log.warning("account %d: mail that was not sent stays remembered: %s", occasion.account_id, error)
