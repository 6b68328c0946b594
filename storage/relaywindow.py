"""The messages that are due next: a bounded part of a queue of any length, in memory.

The directory is the queue. A window holds the ``size`` earliest of it; when they are used up and there were
more, the directory is looked through again.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from itertools import islice
from typing import Final

WINDOW: Final = 10_000  # messages, some 2 MB


class DueWindow:
    def __init__(self, size: int = WINDOW) -> None:
        self._size = size
        self._heap: list[tuple[float, str]] = []
        self._horizon = -math.inf  # what is due later may be missing

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def must_refill(self) -> bool:
        """Nothing is left, and there is more than was seen."""
        return not self._heap and self._horizon < math.inf

    def replace(self, earliest: list[tuple[float, str]]) -> None:
        """With what ``earliest`` found, in a thread as it were."""
        self._heap = earliest
        self._horizon = earliest[-1][0] if len(earliest) == self._size else math.inf

    def earliest(self, entries: Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
        """``entries``: due time and id of everything, in any order. O(entries), memory O(size)."""
        return heapq.nsmallest(self._size, entries)

    def offer(self, due_at: float, message_id: str) -> None:
        """A message has just been queued. One that does not fit is found by the next look; one that is here
        twice is harmless, as the queue looks at the file before it takes it."""
        if due_at > self._horizon:
            return
        if len(self._heap) >= 2 * self._size:
            self._horizon = min(self._horizon, due_at)
            return
        heapq.heappush(self._heap, (due_at, message_id))

    def take(self, now: float, limit: int) -> list[tuple[float, str]]:
        """Up to ``limit`` that are due, the earliest first."""
        return list(islice(self._due(now), limit))

    def _due(self, now: float) -> Iterable[tuple[float, str]]:
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)

    def next_due(self) -> float:
        """Infinity when none is known."""
        return self._heap[0][0] if self._heap else math.inf
