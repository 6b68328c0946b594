"""Which ranges still travel with gossip: each so many times from this node, fewest first.

A range is encoded when it is sent: what was overwritten meanwhile stays behind, and what is left of the times
is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .codec import Page, page_bytes, pages
from .records import EpochMap

MAX_RUMOURS: Final = 512  # about 200 kB; a digest finds what was dropped
RUMOUR_BYTES: Final = 400  # of one range, so that several fit, and fit beside other messages
FEW: Final = 4  # transmissions by each holder: 98 % of nodes hear it so, and a digest shows it to the rest
_MAX_MISSES: Final = 4

Rumour = tuple[EpochMap, int, int, bool]


class Rumours:
    """``limit``: how often a pressing one is sent, asked anew each time since the cluster grows."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._tiers: list[list[Rumour]] = []  # by number of transmissions, newest last
        self._size = 0
        self.dropped = 0

    def __len__(self) -> int:
        return self._size

    def add(self, home: EpochMap, after: int, upto: int, *, is_pressing: bool) -> None:
        """``is_pressing``: transmit it so often that hardly a node is missed; else ``FEW`` times."""
        for _, first, last, _ in pages(home, after, upto, RUMOUR_BYTES):
            if self._size >= MAX_RUMOURS:
                self._drop_one()
            self._put(0, (home, first, last, is_pressing))

    def take(self, room: int) -> list[Page]:
        """Ranges that together take at most ``room`` bytes; the newest of those sent least."""
        taken: list[tuple[int, Rumour, Page]] = []
        misses = 0
        for tier, rumours in enumerate(self._tiers):
            position = len(rumours)
            while position and misses < _MAX_MISSES:
                position -= 1
                home, after, upto, _ = rumours[position]
                page = (home, after, upto, home.between(after, upto))
                if home.is_gone or home.is_partial:
                    rumours.pop(position)
                    self._size -= 1
                elif (size := page_bytes(page)) <= room:
                    room -= size
                    taken.append((tier + 1, rumours.pop(position), page))
                    self._size -= 1
                else:
                    misses += 1
        self._put_back(taken)
        return [page for _, _, page in taken]

    def _put_back(self, taken: list[tuple[int, Rumour, Page]]) -> None:
        limit = self._limit() if taken else 0
        for tier, rumour, _ in taken:
            if tier < (limit if rumour[3] else FEW):
                self._put(tier, rumour)

    def _put(self, tier: int, rumour: Rumour) -> None:
        while len(self._tiers) <= tier:
            self._tiers.append([])
        self._tiers[tier].append(rumour)
        self._size += 1

    def _drop_one(self) -> None:
        """The oldest of those sent most often."""
        next(rumours for rumours in reversed(self._tiers) if rumours).pop(0)
        self._size -= 1
        self.dropped += 1
