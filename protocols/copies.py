"""Delivery keys, and the copies that are written under them.

Every message carries a *delivery key*; a second append with it does nothing, so the MTA may repeat after a
lost reply, and an unknown commit is resolved by asking for the key.

Decisions:

* The key covers reverse-path, account, detail and content. Two addresses of one account (aliases) in one
  transaction, or in two within the retry window, make one copy; ``user`` and ``user+detail`` make two.
* The first copy has the key itself, further ones keys made from it: a script that was changed between two
  attempts makes no second copy where there is one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from storage.model import ContentHash, MailboxId, NewMessage, StagedContent

from .envelope import Destination, Envelope, MailLoop, Outcome, Returned
from .filing import Placement, with_flags
from .fingerprint import fingerprint
from .sending.way import read_way
from .sieve.outcome import FileInto, Rewritten
from .sieve.outcome import Outcome as Decision
from .tracefields import trace_headers

log = logging.getLogger("sora.delivery")


def delivery_key(reverse_path: str, destination: Destination, content: ContentHash) -> bytes:
    """32 bytes that are the same for every attempt to deliver these bytes to this account and detail."""
    return fingerprint(content, reverse_path, str(destination.recipient.account_id), destination.detail)


@dataclass(slots=True)
class Delivery:
    """What one delivery key stands for, and which recipients of the envelope it answers for."""

    destination: Destination
    key: bytes
    prefix: bytes
    positions: list[int]
    seen: Decision | None = None
    is_handed_on: bool = False  # to another system, and no copy stays

    def copies(self, places: Sequence[Placement]) -> list[NewCopy]:
        """Of the message itself."""
        keys = [self.key, *(self._further(number, b"") for number in range(1, len(places)))]
        return [self._copy(place, key) for place, key in zip(places, keys, strict=False)]

    def own_mail(self, places: Sequence[Placement]) -> list[NewCopy]:
        """Of what was sent because of it."""
        copies = [self._copy(place, self._further(number, b"own")) for number, place in enumerate(places)]
        return [replace(copy, is_own=True) for copy in copies]

    def _further(self, number: int, what: bytes) -> bytes:
        return hashlib.sha256(self.key + what + number.to_bytes(4, "big")).digest()

    def _copy(self, place: Placement, key: bytes) -> NewCopy:
        prefix = b"" if place.message else self.prefix
        message = NewMessage(place.mailbox_id, prefix=prefix, flags=place.flags, delivery_key=key)
        return NewCopy(self.destination, message, self.positions, place.target, place.message)


@dataclass(slots=True)
class NewCopy:
    """One message to be written. ``target`` None: to the INBOX."""

    destination: Destination
    message: NewMessage
    positions: list[int]
    target: FileInto | None = None
    rewritten: Rewritten | None = None
    body_start: int = 0  # of what was received
    is_own: bool = False  # of mail that was sent because of the message
    gave_way: bool = False  # to another copy for the same mailbox: it is not to be written

    def conclude(self, outcomes: list[Outcome], outcome: Outcome) -> None:
        """What was sent is not sent again, so a second attempt would have nothing to file."""
        if not self.is_own:
            settle(outcomes, self.positions, outcome)
        elif outcome is not None:
            note_unfiled(self.destination, outcome)


def deliveries(
    envelope: Envelope,
    staged: StagedContent,
    destinations: Sequence[Destination | Returned],
    outcomes: list[Outcome],
) -> list[Delivery]:
    """One for each delivery key; loops are refused right here."""
    found: dict[bytes, Delivery] = {}
    way = read_way(staged.content.header)
    for position, destination in enumerate(destinations):
        if isinstance(destination, Returned):
            continue
        if way.is_looping(destination.address):
            outcomes[position] = MailLoop()
            continue
        key = delivery_key(envelope.reverse_path, destination, staged.content.hash)
        if key not in found:
            prefix = trace_headers(envelope, destination.address, is_only_recipient=len(destinations) == 1)
            found[key] = Delivery(destination, key, prefix, [])
        found[key].positions.append(position)
    return list(found.values())


def unite(copies: Sequence[NewCopy], goes_first: Callable[[NewCopy], bool]) -> None:
    """Of the copies of one delivery that are for one mailbox one is left, with the flags of all: one of those
    that go first (they are written already, or by themselves) if there is one. The keys become those of the
    next attempt, which finds the mailboxes as they are now."""
    keys = [copy.message.delivery_key for copy in copies]
    standing: dict[MailboxId, NewCopy] = {}
    for copy in sorted(copies, key=goes_first, reverse=True):
        first = standing.setdefault(copy.message.mailbox_id, copy)
        if first is not copy:
            copy.gave_way = True
            flags = with_flags(first.message.flags, copy.message.flags)
            first.message = replace(first.message, flags=flags)
    left = [copy for copy in copies if not copy.gave_way]
    for copy, key in zip(left, keys, strict=False):
        copy.message = replace(copy.message, delivery_key=key)


def settle(outcomes: list[Outcome], positions: Sequence[int], outcome: Outcome) -> None:
    """The first trouble of a recipient is its outcome."""
    for position in positions:
        if outcomes[position] is None:
            outcomes[position] = outcome


def note_unfiled(destination: Destination, why: object) -> None:
    log.warning(
        "the copy of what was sent for %s is not filed: %s", destination.recipient.primary_address, why
    )
