"""What is to be told to everyone: each message goes along with a bounded number of packets.

Theory: epidemic dissemination. A message that every holder sends ``limit`` times reaches all of N nodes with
high probability when the limit grows with log N; those missed learn it from a push/pull.
Order: fewest transmissions first, so that news overtakes what has been around; then larger first, so that
small ones fill the gaps; then newest first.
Cost: O(log n) for each message added or taken, plus moving a list's tail; nothing when the queue is empty.

References: SWIM (Das, Gupta, Motivala 2002) §4.1; Demers et al., Epidemic Algorithms (1987).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import NamedTuple

from .profile import Profile


def retransmissions(profile: Profile, count: int) -> int:
    """The limit for a cluster of ``count`` members."""
    return profile.retransmit_mult * math.ceil(math.log10(count + 1)) + profile.retransmit_extra


class _Entry(NamedTuple):
    """The first two fields are the order within a tier; the serial is unique, so no comparison goes on."""

    minus_size: int
    minus_serial: int
    raw: bytes
    key: str


class TransmitQueue:
    """``limit``: how often a message is transmitted, asked anew each time since the cluster grows.

    At most ``max_items`` are kept: beyond that the one that was transmitted most often goes, of those the
    oldest small one; ``dropped`` counts them.
    """

    def __init__(self, limit: Callable[[], int], *, max_items: int = 16_384) -> None:
        self._limit = limit
        self._max_items = max_items
        self._tiers: list[list[_Entry]] = []  # by number of transmissions
        self._keyed: dict[str, tuple[int, _Entry]] = {}
        self._serial = 0
        self._size = 0
        self.dropped = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: str) -> bool:
        """Whether a message added with this key is still to be transmitted."""
        return key in self._keyed

    def add(self, raw: bytes, key: str = "") -> None:
        """The same ``key`` replaces what was said before; "" replaces nothing."""
        if key:
            self.discard(key)
        if self._size >= self._max_items:
            self._drop_one()
        self._serial += 1
        self._insert(0, _Entry(-len(raw), -self._serial, raw, key))

    def discard(self, key: str) -> None:
        held = self._keyed.get(key)
        if held is not None:
            tier, entry = held
            self._remove(tier, bisect_left(self._tiers[tier], entry))

    def take(self, room: int, overhead: int) -> list[bytes]:
        """Messages for one packet of ``room`` bytes, each taking ``overhead`` bytes more than its own."""
        if not self._size:
            return []
        taken: list[tuple[int, _Entry]] = []
        for tier, entries in enumerate(self._tiers):
            while entries:
                at = bisect_left(entries, (overhead - room,))
                if at == len(entries):
                    break
                entry = self._remove(tier, at)
                room -= len(entry.raw) + overhead
                taken.append((tier + 1, entry))
        limit = self._limit() if taken else 0
        for transmissions, entry in taken:
            if transmissions < limit:
                self._insert(transmissions, entry)
        return [entry.raw for _, entry in taken]

    def _insert(self, tier: int, entry: _Entry) -> None:
        while len(self._tiers) <= tier:
            self._tiers.append([])
        insort(self._tiers[tier], entry)
        self._size += 1
        if entry.key:
            self._keyed[entry.key] = (tier, entry)

    def _remove(self, tier: int, at: int) -> _Entry:
        entry = self._tiers[tier].pop(at)
        self._size -= 1
        if entry.key:
            del self._keyed[entry.key]
        return entry

    def _drop_one(self) -> None:
        tier = max(tier for tier, entries in enumerate(self._tiers) if entries)
        self._remove(tier, len(self._tiers[tier]) - 1)
        self.dropped += 1
