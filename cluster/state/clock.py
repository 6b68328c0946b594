"""A hybrid logical clock: order of writes across nodes that survives clocks which jump.

Theory: a stamp is 48 bits of wall milliseconds and a 16-bit counter. A node's stamps rise even while its wall
clock stands still or goes back, and follow every stamp it has heard of. One node with a clock far ahead would
drag all others along: stamps more than ``max_ahead_s`` ahead of the wall clock are not followed. What is
written *in answer* to such a stamp is put behind it one by one (``after``).
References: Kulkarni et al., Logical Physical Clocks (2014).
"""

from __future__ import annotations

from typing import Final

MAX_AHEAD_S: Final = 60.0
MAX_STAMP: Final = 2**63 - 1
_COUNTER_BITS: Final = 16
_COUNTER_LIMIT: Final = 2_000  # in one millisecond; so that each step shows in a float, see ``seconds``
_STEP_S: Final = 2.0**-21  # of a float until the year 2106; 2,000 of them are less than a millisecond


class HybridClock:
    def __init__(self, max_ahead_s: float = MAX_AHEAD_S) -> None:
        self._max_ahead_s = max_ahead_s
        self._last = 0

    def stamp(self, wall: float, *, after: int = 0) -> int:
        """For a write now: larger than every stamp of this clock before, and than ``after``."""
        self._last = _following(max(_of(wall) - 1, self._last))
        return self._last if self._last > after else min(_following(after), MAX_STAMP)

    def witness(self, stamp: int, wall: float) -> bool:
        """Follow what another node has written. False: it is too far ahead and was not followed."""
        if stamp > _of(wall + self._max_ahead_s):
            return False
        self._last = max(self._last, stamp)
        return True


def seconds(stamp: int) -> float:
    """Seconds of the epoch; larger for a larger stamp."""
    return (stamp >> _COUNTER_BITS) / 1000.0 + (stamp & 0xFFFF) * _STEP_S


def _of(wall: float) -> int:
    return max(int(wall * 1000.0), 0) << _COUNTER_BITS


def _following(stamp: int) -> int:
    stamp += 1
    if stamp & 0xFFFF >= _COUNTER_LIMIT:
        stamp = ((stamp >> _COUNTER_BITS) + 1) << _COUNTER_BITS
    return stamp
