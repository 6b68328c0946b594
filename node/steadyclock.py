"""Seconds of the epoch that never step: what a block or a count is timed by.

The wall clock is read once, at the start; from then on the monotonic clock goes on from there. So nothing
ends early or late because somebody, or NTP, sets the clock of a node; only what people read is moved to where
the wall clock has it now.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Of one process: another has begun at another reading, so what they tell each other carries ``now``."""

    def __init__(
        self,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._began = wall_clock() - monotonic()

    def __call__(self) -> float:
        return self._began + self._monotonic()
