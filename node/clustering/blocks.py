"""Blocks among nodes: one decided or lifted on one node holds on all.

Theory: the limiter keeps, for each key, the latest word on it. A node writes its own words into its map; the
others merge them. A word has to outlive every older one, or a node that comes later would believe that: so
its entry lives for as long (``covers``), its author adds what it hears of later, and takes it back when
another has the last word.

What a word says of times is by its author's clock and moved to ours with each entry (``wire.unpack_timed``),
so a block ends when it should. No time decides which word is the latest, see ``node.ratelimit.blocks``.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.facts import RULES, Kind
from node.ratelimit import BadDelta, Block, Failures, Lifted, Word, decode, encode

from .wire import Unreadable, is_value, pack, pack_timed, unpack_timed

if TYPE_CHECKING:
    from cluster.effects import FactChanged
    from node.loginguard import Guards

    from .gossip import Gossip

log = logging.getLogger("sora.cluster")

MAX_TTL_S = RULES[Kind.BLOCK].max_ttl_s
TELL_AGAIN_S = 86_400.0  # a block that lasts longer than an entry may
SAME_S = 5.0  # ends of words that differ by less are one: each was moved by what it was on its way
_CUT_CHARS = 60


class BlockBridge:
    """``is_on`` is ``sync_blocks``."""

    def __init__(self, guards: Guards, gossip: Gossip, *, is_on: bool) -> None:
        self._guards = guards
        self._gossip = gossip
        self.is_on = is_on
        # our words by the key of the entry, and when they were told
        self._own: dict[bytes, tuple[Word, float]] = {}
        self.unreadable = 0

    def __len__(self) -> int:
        """Own words that others know."""
        return len(self._own)

    # --- ours ---

    def tell(self, word: Word) -> None:
        """Blocks of a pair stay on their node."""
        if not self.is_on or word.user:
            return
        now = self._guards.clock()
        ttl_s = min(word.matters_until - now, MAX_TTL_S)
        if ttl_s > 0:
            key = key_of(word)
            self._own[key] = (word, now)
            self._gossip.put(Kind.BLOCK, {key: _value(word, now, ttl_s)}, ttl_s)

    def refresh(self) -> None:
        """Now and then: tell again what lasts longer than an entry may, forget what is over. O(own words)."""
        now = self._guards.clock()
        for key, (word, told) in tuple(self._own.items()):
            if word.matters_until <= now:
                del self._own[key]
            elif word.matters_until - told > MAX_TTL_S and now - told > TELL_AGAIN_S:
                self.tell(word)

    def turn(self, *, is_on: bool) -> bool:
        """Off: what we told is taken back, what the others told stays until it ends. Whether it is on anew,
        and so has missed what they told meanwhile."""
        was_on, self.is_on = self.is_on, is_on
        if was_on and not is_on:
            self._gossip.remove(Kind.BLOCK, tuple(self._own))
            self._own.clear()
        elif is_on and not was_on:
            limiter = self._guards.limiter
            for word in limiter.words(self._guards.clock()):
                if word.origin == limiter.node:
                    self.tell(word)
        return is_on and not was_on

    def retell(self) -> None:
        """The cluster has forgotten what we told."""
        for word, _ in tuple(self._own.values()):
            self.tell(word)

    # --- theirs ---

    def heard(self, fact: FactChanged) -> None:
        """What is gone of an entry was merged, and ends by itself."""
        if fact.value is None or not self.is_on:
            return
        now = self._guards.clock()
        try:
            plain, ahead_s = unpack_timed(fact.value, fact.ttl_s, now)
            word = _checked(decode(plain))
        except (Unreadable, BadDelta) as error:
            self.unreadable += 1
            log.debug("a block of %s cannot be read: %s", fact.origin, error)
            return
        word = word.moved(ahead_s)
        if fact.origin == self._gossip.name:
            self._reclaim(word, now)
        self._guards.absorb(word)
        self._settle(word)

    def _reclaim(self, word: Word, now: float) -> None:
        """An earlier life's is ours to take back. Of several lives' the latest: the older may be heard first,
        and what we take back of a key is the word of all our lives."""
        key = key_of(word)
        held = self._own.get(key)
        if held is None or _rank(word) > _rank(held[0]):
            self._own[key] = (word, now)

    def _settle(self, heard: Word) -> None:
        key = key_of(heard)
        if key not in self._own:
            return
        own, _ = self._own[key]
        latest = self._guards.limiter.latest(own.key)
        if latest is not None and latest.version > own.version:
            del self._own[key]
            self._gossip.remove(Kind.BLOCK, [key])
        elif heard.version < own.version and heard.matters_until > own.matters_until + SAME_S:
            self.tell(replace(own, covers=heard.matters_until))


def _rank(word: Word) -> tuple[object, ...]:
    """Of what one node told: the later word, and of two copies of it the one that covers more."""
    return (*word.version, word.matters_until)


def key_of(word: Word) -> bytes:
    """Of the entry."""
    subject, _, is_admin = word.key
    return pack([str(subject), is_admin])


def _value(word: Word, now: float, ttl_s: float) -> bytes:
    """What people wrote is cut when it does not fit."""
    raw = pack_timed(encode(word), now, ttl_s)
    if not is_value(raw) and isinstance(word, Block):
        short = replace(word, reason=word.reason[:_CUT_CHARS], last_user=word.last_user[:_CUT_CHARS])
        raw = pack_timed(encode(short), now, ttl_s)
    return raw


def _checked(delta: Block | Lifted | Failures) -> Word:
    """Raises Unreadable."""
    if isinstance(delta, Failures) or delta.user:
        raise Unreadable("not a block of an address")
    return delta
