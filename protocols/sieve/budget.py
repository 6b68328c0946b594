"""What one run of scripts may cost: steps, time and memory. The clock is an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import OverBudget

# The clock is asked once in so many steps; a step is some microseconds at most.
STEPS_PER_LOOK = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """What scripts may do to one message, all scripts of a delivery together."""

    steps: int = 2_000_000  # a command, a test, a new state of a pattern, a position in a match
    time_s: float = 2.0
    memory_chars: int = 16_000_000  # characters of values that were put together
    value_chars: int = 65_536  # of one variable; longer ones are cut (RFC 5229 §3 asks for 4,000)
    variables: int = 1_024  # of one script (RFC 5229 §3 asks for 128)
    actions: int = 128
    redirects: int = 16
    includes: int = 64  # scripts in all
    include_depth: int = 10


class Budget:
    """Counts down. ``clock`` gives monotonic seconds."""

    __slots__ = ("_clock", "_deadline", "_next_look", "_steps", "limits", "memory_left")

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.memory_left = limits.memory_chars
        self._clock = clock
        self._deadline = clock() + limits.time_s
        self._steps = 0
        self._next_look = STEPS_PER_LOOK

    @property
    def steps(self) -> int:
        return self._steps

    def spend(self, steps: int) -> None:
        """Raises OverBudget."""
        self._steps += steps
        if self._steps >= self._next_look:
            self._look()

    def _look(self) -> None:
        self._next_look = self._steps + STEPS_PER_LOOK
        if self._steps > self.limits.steps:
            raise OverBudget(f"the script takes more than {self.limits.steps} steps")
        if self._clock() > self._deadline:
            raise OverBudget(f"the script runs longer than {self.limits.time_s:g} s")

    def hold(self, chars: int) -> None:
        """Raises OverBudget."""
        self.memory_left -= chars
        if self.memory_left < 0:
            raise OverBudget(f"the script makes more than {self.limits.memory_chars} characters of text")
