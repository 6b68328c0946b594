"""Leaves a relay alone that keeps failing. Pure: ``now`` is monotonic seconds.

closed -> open after ``threshold`` failures in a row; open -> trying after ``timeout_s``; trying -> closed
after ``max_requests`` deliveries went well, or ``timeout_s`` after the last that did when there are no more,
and -> open at the first that did not.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class BreakerState(enum.IntEnum):
    CLOSED = 0
    TRYING = 1
    OPEN = 2


@dataclass(slots=True)
class Breaker:
    threshold: int
    timeout_s: float
    max_requests: int
    _failures: int = 0
    _opened_at: float | None = None
    _trials: int = 0
    _well_at: float = 0.0
    _is_trying: bool = False

    def state(self, now: float) -> BreakerState:
        if self._is_trying and self._trials and now >= self._well_at + self.timeout_s:
            self._close()  # a queue that is nearly empty has no more to try
        if self._is_trying:
            return BreakerState.TRYING
        if self._opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.TRYING if now >= self._opened_at + self.timeout_s else BreakerState.OPEN

    def permits(self, now: float, running: int) -> bool:
        """Whether another delivery may begin while ``running`` others are under way."""
        state = self.state(now)
        if state is BreakerState.TRYING:
            self._is_trying = True
            return running < self.max_requests - self._trials
        return state is BreakerState.CLOSED

    def reopens_in(self, now: float) -> float:
        """Seconds until deliveries are tried again; 0 when they may be now."""
        if self._is_trying or self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self.timeout_s - now)

    def went_well(self, now: float) -> None:
        self._failures = 0
        if self._is_trying:
            self._trials += 1
            self._well_at = now
            if self._trials >= self.max_requests:
                self._close()

    def failed(self, now: float) -> bool:
        """Whether this opened it."""
        self._failures += 1
        if not self._is_trying and (self._opened_at is not None or self._failures < self.threshold):
            return False
        self._is_trying, self._opened_at, self._trials = False, now, 0
        return True

    def _close(self) -> None:
        self._is_trying, self._opened_at, self._trials = False, None, 0
