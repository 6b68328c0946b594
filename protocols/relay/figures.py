"""What the relay counts."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

# Seconds of one transaction, connecting included.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class RelayFigures:
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind of mail, fate)
    bounces: Counter[str] = field(default_factory=Counter)  # by result
    submitted: Counter[str] = field(default_factory=Counter)  # by kind, in this process
    relay_failures: int = 0
    last_failure: str = ""
    expired: int = 0  # failed messages that were removed after their time
    bugs: int = 0
    trouble: str = ""  # with the queue itself, now
    pending: int = 0  # as of the last look, brought forward since
    failed: int = 0
    duration_counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    duration_total_s: float = 0.0

    def took(self, seconds: float) -> None:
        self.duration_counts[bisect_left(BOUNDS, seconds)] += 1
        self.duration_total_s += seconds
