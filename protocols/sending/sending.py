"""Carries out what scripts decided to send, before anything of the message is stored.

Decisions:

* **Sends come first, then the local copies, then the answer.** A redirect that may not go (limit, loop, no
  relay) becomes a keep, and the copies have to know. Both halves may be repeated: what was sent is
  found in the account's log of handovers; local copies have delivery keys. So trouble at any place is 451,
  and the attempt that follows does what is missing.
* **A kind of action is one row of a table** and gets all actions of its kind at once. It raises StorageError
  for "not now"; everything else is its own to settle, and what it cannot send it keeps.
* Redirects and reports are durable in the relay queue before they are claimed, and held there until they
  are (``handover``): of several attempts' copies one goes. Replies and notifications are remembered before
  they are sent: one of them too many annoys more than one too few.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from protocols.sieve.outcome import (
    Action,
    Discard,
    FileInto,
    Keep,
    Notify,
    Outcome,
    Redirect,
    Reject,
    Vacation,
)

from .means import Means
from .notify import notify
from .occasion import Occasion, Sent
from .redirect import redirect
from .reject import reject
from .vacation import vacation

Sender = Callable[[Means, Occasion, Sequence[Any]], Awaitable[Sent]]

STORES = Keep | FileInto | Reject  # what leaves the message in a mailbox, or with its sender


SENDS = Redirect | Vacation | Notify


@dataclass(frozen=True, slots=True)
class Carried:
    """What is left for delivery. ``copies``: mail of our own to be filed too (RFC 8580)."""

    outcome: Outcome
    copies: tuple[FileInto, ...] = ()


def without_sending(outcome: Outcome) -> Outcome:
    """Where nothing can be sent: refusals stay, a redirect becomes a keep unless the message stays anyhow."""
    unsent = [each for each in outcome.actions if isinstance(each, SENDS)]
    if not unsent:
        return outcome
    left = tuple(each for each in outcome.actions if not isinstance(each, SENDS))
    if any(isinstance(each, Redirect) for each in unsent) and not any(
        isinstance(each, STORES) for each in left
    ):
        left = (Keep(None),)
    what = ", ".join(sorted({type(each).__name__.lower() for each in unsent}))
    note = f"{what}: not carried out, nothing is sent from here"
    return replace(outcome, actions=left, notes=(*outcome.notes, note))


# In this order: who comes later sees what was kept in place of what could not go.
SENDERS: Mapping[type[Action], Sender] = {
    Reject: reject,
    Redirect: redirect,
    Vacation: vacation,
    Notify: notify,
}


class Sending:
    """One per LMTP server; stateless."""

    def __init__(self, means: Means, senders: Mapping[type[Action], Sender] = SENDERS) -> None:
        self.means = means
        self._senders = senders

    def takes_back(self, address: str) -> bool:
        """Whether it looks like a sender of our making (``srs``), to which reports come back."""
        return self.means.srs is not None and self.means.srs.is_ours(address)

    def original_of(self, address: str) -> str:
        """Who sent the mail that went on under this sender. Raises BadSrs."""
        assert self.means.srs is not None
        return self.means.srs.reverse(address, self.means.today())

    def concerns(self, outcome: Outcome) -> bool:
        """Whether there is anything to send."""
        return any(type(action) in self._senders for action in outcome.actions)

    async def carry_out(self, occasion: Occasion, outcome: Outcome) -> Carried:
        """Send what is to be sent; the outcome that returns has none of it. Raises StorageError: not now,
        what was sent is not sent again."""
        left: list[Action] = [each for each in outcome.actions if type(each) not in self._senders]
        notes, keeps = list(outcome.notes), False
        copies: list[FileInto] = []
        for kind, send in self._senders.items():
            actions = [each for each in outcome.actions if type(each) is kind]
            if actions:
                sent = await send(self.means, occasion, actions)
                left += sent.instead
                copies += sent.copies
                notes += sent.notes
                keeps = keeps or sent.keeps
        if keeps and not any(isinstance(each, STORES) for each in left):
            left = [*(each for each in left if not isinstance(each, Discard)), Keep(None)]
        return Carried(replace(outcome, actions=tuple(left), notes=tuple(notes)), tuple(copies))
