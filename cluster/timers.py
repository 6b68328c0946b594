"""What is due when, as data: one heap of (deadline, serial, what, about whom).

Nothing is cancelled. Who set a timer looks, when it is due, whether it still means something.
"""

from __future__ import annotations

import enum
import math
from heapq import heappop, heappush


class Timer(enum.IntEnum):
    SUSPICION = 1  # about: name of the member
    RELAY_AGAIN = 2  # about: sequence number of the ping sent for another
    RELAY_NACK = 3
    RELAY_END = 4
    PUSH_PULL = 5
    REJOIN = 6
    LEAVE = 7
    INSIST = 8


class Timers:
    """Cost: O(log n) each. The serial keeps those of one deadline in the order in which they were set."""

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer, str | int]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def deadline(self) -> float:
        return self._heap[0][0] if self._heap else math.inf

    def add(self, deadline: float, timer: Timer, about: str | int = "") -> None:
        self._serial += 1
        heappush(self._heap, (deadline, self._serial, timer, about))

    def pop(self, now: float) -> tuple[Timer, str | int] | None:
        """One that is due."""
        if not self._heap or self._heap[0][0] > now:
            return None
        _, _, timer, about = heappop(self._heap)
        return timer, about
