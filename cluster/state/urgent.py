"""The urgent lane: what cannot wait for gossip goes to everyone at once.

Up to ``peers.MAX_DIRECT`` members hear from the writer itself, one datagram each, and the same once more a
little later for those that a loss kept from it. In larger clusters some members at random do, and whoever
hears of it so for the first time sends it on to three others. Writes within ``WINDOW_S`` share datagrams.
What is more than the token bucket has in it goes by gossip, and at once by comparing with some members what
both know.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isqrt
from typing import Final

from ..instant import Instant
from .codec import Lane, Page, pages
from .mailer import Mailer
from .peers import Peers
from .rumours import Rumours
from .store import Store

WINDOW_S: Final = 0.005
AGAIN_S: Final = 0.025
PUSH_ON: Final = 3
RATE_PER_S: Final = 200.0
BURST: Final = 400.0
_MAX_AGAIN: Final = 4  # datagrams to each; of a burst the digests find what was lost


class TokenBucket:
    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = -inf

    def take(self, count: int, now: float, *, leave: float = 0.0) -> bool:
        """All or nothing, and only when ``leave`` are left then."""
        if now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
            self._at = now
        if count + leave > self._level:
            return False
        self._level -= count
        return True


class UrgentLane:
    """``overflowed``: called when not all could be sent."""

    def __init__(
        self,
        store: Store,
        peers: Peers,
        mailer: Mailer,
        rumours: Rumours,
        overflowed: Callable[[Instant], None],
    ) -> None:
        self._store = store
        self._peers = peers
        self._mailer = mailer
        self._rumours = rumours
        self._overflowed = overflowed
        self._bucket = TokenBucket(RATE_PER_S, BURST)
        self._sent = 0  # of our numbers
        self._due = inf
        self._not_before = -inf
        self._again: tuple[float, list[Page]] = (inf, [])

    def next_time(self) -> float:
        return min(self._due, self._again[0])

    def wrote(self, at: Instant) -> None:
        """There are new numbers of ours. The first of them go at once."""
        if self._due == inf:
            self._due = max(self._not_before, at.now)
            if self._due <= at.now:
                self.tick(at)

    def skip(self) -> None:
        """All our numbers so far were sent otherwise."""
        self._sent = self._store.own.known.upto

    def restart(self) -> None:
        """They were given anew from 1."""
        self._sent = 0
        self._again = (inf, [])

    def tick(self, at: Instant) -> None:
        if self._due <= at.now:
            self.finish(at)
        when, found = self._again
        if when <= at.now:
            self._again = (inf, [])
            self._repeat(found, at)

    def finish(self, at: Instant) -> None:
        """Nothing of ours waits any longer."""
        if self._due < inf:
            self._due = inf
            self._not_before = at.now + WINDOW_S
            self._volley(at)

    def pass_on(self, found: list[Page], but: frozenset[str], at: Instant) -> None:
        """What was pushed to us, for the first time."""
        self._to(self._peers.some(PUSH_ON, but=but), found, Lane.PUSH, at)

    def _volley(self, at: Instant) -> None:
        own = self._store.own
        found = pages(own, self._sent, own.known.upto, self._mailer.room)
        count = len(self._peers)
        if count:
            self._rumours.add(own, self._sent, own.known.upto, is_pressing=True)
        self._sent = own.known.upto
        if self._peers.are_few:
            names, lane = list(self._peers.names), Lane.FULL
        else:
            names, lane = self._peers.some(isqrt(count) + PUSH_ON), Lane.PUSH
        sent = self._to(names, found, lane, at)
        if sent < len(found):
            self._overflowed(at)
        if lane is Lane.FULL and names and sent <= _MAX_AGAIN:
            self._again = (at.now + AGAIN_S, (self._again[1] + found)[-_MAX_AGAIN:])

    def _repeat(self, found: list[Page], at: Instant) -> None:
        """What is left of them by now, when the bucket is not needed for news."""
        left = [(home, after, upto, home.between(after, upto)) for home, after, upto, _ in found]
        left = [page for page in left if page[3]]
        self._to(list(self._peers.names), left, Lane.FULL, at, leave=BURST / 2)

    def _to(self, names: list[str], found: list[Page], lane: Lane, at: Instant, *, leave: float = 0.0) -> int:
        """How many of the pages went, to all of these."""
        for number, page in enumerate(found):
            if not self._bucket.take(len(names), at.now, leave=leave):
                self._store.counted["overflows"] += 1
                return number
            raw = self._mailer.delta((page,), lane, at)
            for name in names:
                self._mailer.send_raw(name, raw)
        return len(found)
