"""Failure counts among nodes: each node owns what it counted, and the limiter adds up what all of them did.

An entry is told at once when its count passes a step (1, 2, 4, 8 ...), because the first ones matter most;
what came since the last step follows with the next flush, so a busy guesser costs one entry a second.

A node may have so many entries and no more. Half of them are for addresses that failed twice, so that an
attack from very many addresses, each of which fails once, does not hide those that go on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cluster.facts import RULES, Kind
from node.ratelimit import BadDelta, Failures, decode, encode

from .wire import Unreadable, pack_timed, unpack_timed

if TYPE_CHECKING:
    from cluster.effects import FactChanged
    from node.loginguard import Guards

    from .gossip import Gossip

log = logging.getLogger("sora.cluster")

FLUSH_S = 1.0
MAX_WAITING = 20_000  # addresses between two flushes
MAX_SINGLE = RULES[Kind.FAILURES].max_entries // 2  # addresses that failed once


class FailureBridge:
    """``is_on`` is ``sync_failure_counts``. ``window_s``: the longest in which any server counts."""

    def __init__(self, guards: Guards, gossip: Gossip, *, is_on: bool, window_s: float) -> None:
        self._guards = guards
        self._gossip = gossip
        self.is_on = is_on
        self.window_s = min(window_s, RULES[Kind.FAILURES].max_ttl_s)
        self._waiting: dict[bytes, Failures] = {}
        self._single: dict[bytes, float] = {}  # told with a count of one, and until when; oldest first
        self.dropped = 0
        self.unreadable = 0

    # --- ours ---

    def tell(self, delta: Failures) -> None:
        if not self.is_on:
            return
        key = _key(delta)
        if delta.count & (delta.count - 1) == 0:
            self._waiting.pop(key, None)
            if self._has_room(key, delta):
                self._put(key, delta)
            else:
                self.dropped += 1
        elif key in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[key] = delta
        else:
            self.dropped += 1  # its next step, or failure, tells it

    def _has_room(self, key: bytes, delta: Failures) -> bool:
        self._single.pop(key, None)
        if delta.count > 1:
            return True
        now = self._guards.clock()
        while self._single and (first := next(iter(self._single.items())))[1] <= now:
            del self._single[first[0]]
        if len(self._single) >= MAX_SINGLE:
            return False
        self._single[key] = delta.since + self.window_s
        return True

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for key, delta in waiting.items():
            self._put(key, delta)

    def _put(self, key: bytes, delta: Failures) -> None:
        now = self._guards.clock()
        ttl_s = delta.since + self.window_s - now
        if ttl_s > 0:
            self._gossip.put(Kind.FAILURES, {key: pack_timed(encode(delta), now, ttl_s)}, ttl_s)

    def turn(self, *, is_on: bool) -> bool:
        """Off: what the others told counts until it ends, and nothing more is told. Whether it is on anew,
        and so has missed what they told meanwhile."""
        was_on, self.is_on = self.is_on, is_on
        if not is_on:
            self._waiting.clear()
            self._single.clear()
        return is_on and not was_on

    # --- theirs ---

    def heard(self, fact: FactChanged) -> None:
        try:
            if fact.value is None:
                self._guards.forget(_read_subject(fact.key), fact.origin)
            elif self.is_on:
                self._guards.absorb(self._read(fact.origin, fact.value, fact.ttl_s))
        except (Unreadable, BadDelta) as error:
            self.unreadable += 1
            log.debug("a count of %s cannot be read: %s", fact.origin, error)

    def _read(self, origin: str, value: bytes, left_s: float) -> Failures:
        """Raises Unreadable, BadDelta."""
        plain, ahead_s = unpack_timed(value, left_s, self._guards.clock())
        delta = decode(plain)
        if not isinstance(delta, Failures) or delta.origin != origin:
            raise Unreadable("not its own count")
        return delta.moved(ahead_s)


def _key(delta: Failures) -> bytes:
    return str(delta.subject).encode()


def _read_subject(key: bytes) -> int:
    """Raises Unreadable."""
    if not (key.isdigit() and len(key) <= 42):
        raise Unreadable("not a subject")
    return int(key)
