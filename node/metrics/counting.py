"""Counting on the hot path: plain numbers in dictionaries, made into metrics when somebody asks.

A call costs some 0.2 us; the counters of a metrics library lock, and cost ten times that. One object per
protocol, used on the loop thread only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence


class Distribution:
    """A histogram: how many values were at most each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last: above all bounds
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def numbers(self) -> tuple[float, ...]:
        """A sample of a snapshot: the counts, then the sum."""
        return (*map(float, self.counts), self.total)


# Seconds. A password check is 0.03, a statement 0.001, a patient client gives up after some 30.
DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)  # seconds
SIZES = (1e3, 4e3, 16e3, 64e3, 256e3, 1e6, 4e6, 16e6, 64e6)  # bytes


class ProtocolInstruments:
    """``protocols.ports.Instruments`` of one protocol."""

    __slots__ = ("commands", "deliveries", "durations", "sizes")

    def __init__(self) -> None:
        self.commands: defaultdict[tuple[bytes, bytes], int] = defaultdict(int)  # (name, status)
        self.durations: dict[bytes, Distribution] = {}  # of commands that had to wait
        self.deliveries: Counter[str] = Counter()
        self.sizes = Distribution(SIZES)

    def command_ended(self, name: bytes, status: bytes, work_s: float) -> None:
        self.commands[name, status] += 1
        if work_s:
            durations = self.durations.get(name)
            if durations is None:
                durations = self.durations[name] = Distribution(DURATIONS)
            durations.add(work_s)

    def delivered(self, result: str) -> None:
        self.deliveries[result] += 1

    def message_in(self, size_bytes: int) -> None:
        self.sizes.add(size_bytes)
