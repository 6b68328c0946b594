"""Blocks among nodes: one decided or lifted on one node holds on all.

Theory: the limiter keeps, for each key, the latest word on it. A node writes its own words into its map; the
others merge them. A Lifted has to outlive every block it ended, or a node that comes later would believe the
block; a node whose own block was lifted elsewhere takes it back.

Words carry times of their author's clock and are moved to ours (``skew``), so that a block ends when it
should.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.facts import RULES, Kind
from node.ratelimit import BadDelta, Block, Failures, Lifted, decode, encode
from node.ratelimit.blocks import FOREVER, KEEP_LIFTED_S

from .wire import Unreadable, is_value, pack, unpack

if TYPE_CHECKING:
    from cluster.effects import FactChanged
    from node.loginguard import Guards

    from .gossip import Gossip
    from .skew import Skews

log = logging.getLogger("sora.cluster")

MAX_TTL_S = RULES[Kind.BLOCK].max_ttl_s
MAX_WORDS = 50_000  # of other nodes, remembered
TELL_AGAIN_S = 86_400.0  # a block that lasts longer than an entry may
_CUT_CHARS = 60

Word = Block | Lifted


class BlockBridge:
    """``is_on`` is ``sync_blocks``."""

    def __init__(self, guards: Guards, gossip: Gossip, skews: Skews, *, is_on: bool) -> None:
        self._guards = guards
        self._gossip = gossip
        self._skews = skews
        self.is_on = is_on
        # by the key of the entry
        self._own: dict[bytes, tuple[Word, float]] = {}  # our words, and when they were told
        self._heard: dict[bytes, Word] = {}  # the latest of others
        self.unreadable = 0

    def __len__(self) -> int:
        """Own words that others know."""
        return len(self._own)

    # --- ours ---

    def tell(self, delta: Word) -> None:
        """Blocks of a pair stay on their node."""
        if not self.is_on or delta.user:
            return
        now = self._guards.clock()
        lasts_s = self._lasts_s(delta, now)
        if lasts_s <= 0:
            return
        ttl_s = min(lasts_s, MAX_TTL_S)
        key = key_of(delta)
        self._own[key] = (delta, now)
        self._gossip.put(Kind.BLOCK, {key: _value(delta, now, ttl_s)}, ttl_s)

    def _lasts_s(self, delta: Word, now: float) -> float:
        if isinstance(delta, Block):
            return delta.until - now
        key = key_of(delta)
        words = [self._heard.get(key), self._own[key][0] if key in self._own else None]
        until = max((word.until for word in words if isinstance(word, Block)), default=now)
        return max(KEEP_LIFTED_S, until - now)

    def refresh(self) -> None:
        """Now and then: tell again what lasts longer than an entry may, forget what is over. O(own words)."""
        now = self._guards.clock()
        for key, (word, told) in tuple(self._own.items()):
            if isinstance(word, Lifted):
                if now - told > KEEP_LIFTED_S:
                    del self._own[key]
            elif word.until <= now:
                del self._own[key]
            elif word.until - told > MAX_TTL_S and now - told > TELL_AGAIN_S:
                self.tell(word)

    def turn(self, *, is_on: bool) -> None:
        """Off: what we told is taken back, what the others told stays until it ends."""
        was_on, self.is_on = self.is_on, is_on
        if was_on and not is_on:
            self._gossip.remove(Kind.BLOCK, tuple(self._own))
            self._own.clear()
        elif is_on and not was_on:
            limiter = self._guards.limiter
            for delta in limiter.deltas(self._guards.clock()):
                if isinstance(delta, Block) and delta.origin == limiter.node:
                    self.tell(delta)

    def retell(self) -> None:
        """The cluster has forgotten what we told."""
        for word, _ in tuple(self._own.values()):
            self.tell(word)

    # --- theirs ---

    def heard(self, fact: FactChanged) -> None:
        if fact.value is None:
            self._forget(fact)
            return
        if not self.is_on:
            return
        try:
            word = self._read(fact.origin, fact.value, fact.ttl_s)
        except (Unreadable, BadDelta) as error:
            self.unreadable += 1
            log.debug("a block of %s cannot be read: %s", fact.origin, error)
            return
        self._take(key_of(word), word)

    def _take(self, key: bytes, word: Word) -> None:
        held = self._heard.get(key)
        if held is not None and held.version > word.version:
            return
        if held is not None or len(self._heard) < MAX_WORDS:
            self._heard[key] = word
        own = self._own.get(key)
        if own is not None and isinstance(word, Lifted) and word.version > own[0].version:
            del self._own[key]
            self._gossip.remove(Kind.BLOCK, [key])
        self._guards.absorb(word)

    def _read(self, origin: str, value: bytes, left_s: float) -> Word:
        """Raises Unreadable, BadDelta."""
        match unpack(value):
            case [int() | float() as said, int() | float() as ttl_s, list() as plain]:
                delta = decode(plain)
                skew = self._skews.measure(origin, said, ttl_s, left_s, self._guards.clock())
                return _moved(delta, skew)
        raise Unreadable("unknown form")

    def _forget(self, fact: FactChanged) -> None:
        """The entry of one node is gone; its word was merged, and ends by itself."""
        held = self._heard.get(fact.key)
        if held is not None and held.origin == fact.origin:
            del self._heard[fact.key]


def key_of(word: Word) -> bytes:
    """Of the entry."""
    subject, _, is_admin = word.key
    return pack([str(subject), is_admin])


def _value(word: Word, now: float, ttl_s: float) -> bytes:
    """What people wrote is cut when it does not fit."""
    raw = pack([now, ttl_s, encode(word)])
    if not is_value(raw) and isinstance(word, Block):
        short = replace(word, reason=word.reason[:_CUT_CHARS], last_user=word.last_user[:_CUT_CHARS])
        raw = pack([now, ttl_s, encode(short)])
    return raw


def _moved(delta: Block | Lifted | Failures, skew: float) -> Word:
    """Raises Unreadable."""
    if isinstance(delta, Failures) or delta.user:
        raise Unreadable("not a block of an address")
    if isinstance(delta, Lifted):
        return replace(delta, at=max(0.0, delta.at + skew))
    until = delta.until if delta.until >= FOREVER else min(FOREVER, delta.until + skew)
    return replace(delta, since=max(0.0, delta.since + skew), until=until)
