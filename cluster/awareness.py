"""How much this node trusts its own eyes: 0 is healthy.

Each unit of the score stretches the interval of our own probes, so that a node that is slow or badly
connected accuses others less. It rises with probes that failed without the helpers' nacks, with having to
refute, and with timers that came late; each probe that succeeds lowers it.

References: Lifeguard (Dadgar, Phillips, Currey 2018): the local health multiplier.
"""

from __future__ import annotations

from typing import Final

SLOW_SCORE: Final = 3  # three things went wrong in a row: more than one dead member explains


class Awareness:
    """``maximum``: the score stays below it."""

    __slots__ = ("_maximum", "score")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.score = 0

    def apply(self, delta: int) -> None:
        self.score = max(0, min(self._maximum - 1, self.score + delta))

    def scaled(self, interval_s: float) -> float:
        return interval_s * (self.score + 1)

    @property
    def is_slow(self) -> bool:
        return self.score >= SLOW_SCORE
