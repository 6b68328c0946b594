"""What a metric is, as plain data: families, samples, snapshots, and merging the snapshots of processes.

A snapshot maps the name of a family to its samples; a sample is its label values and its numbers: one for
a counter or gauge; for a histogram the count of each bucket (not cumulated), then the sum. So it crosses a
link as it is, and merging is arithmetic.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Labels: TypeAlias = tuple[str, ...]
Numbers: TypeAlias = tuple[float, ...]
Snapshot: TypeAlias = dict[str, dict[Labels, Numbers]]

PROCESS_LABEL = "process"


class Kind(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Across(enum.Enum):
    """What the samples of several processes make together."""

    SUM = "sum"
    MAX = "max"  # all processes look at the same thing; the worst view counts
    MIN = "min"
    EACH = "each"  # one series a process, with a label for it


_FOLD: Mapping[Across, Callable[[float, float], float]] = {
    Across.SUM: lambda a, b: a + b,
    Across.MAX: max,
    Across.MIN: min,
}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``name`` ends with its unit, and with ``_total`` when it only rises."""

    name: str
    kind: Kind
    doc: str
    labels: Labels = ()
    across: Across = Across.SUM
    bounds: Numbers = ()  # of a histogram

    @property
    def all_labels(self) -> Labels:
        """Those of a merged snapshot."""
        return (*self.labels, PROCESS_LABEL) if self.across is Across.EACH else self.labels

    @property
    def width(self) -> int:
        """Numbers in a sample."""
        return len(self.bounds) + 2 if self.kind is Kind.HISTOGRAM else 1


def merge(families: Iterable[Family], snapshots: Mapping[str, Snapshot]) -> Snapshot:
    """One snapshot of a whole node from those of its processes, by process name. The order of the processes
    does not matter. Families that a process does not know are absent from it."""
    merged: Snapshot = {}
    for family in families:
        together: dict[Labels, Numbers] = {}
        for process, snapshot in snapshots.items():
            for labels, numbers in snapshot.get(family.name, {}).items():
                key = (*labels, process) if family.across is Across.EACH else labels
                together[key] = _fold(family, together[key], numbers) if key in together else numbers
        if together:
            merged[family.name] = together
    return merged


def _fold(family: Family, one: Numbers, other: Numbers) -> Numbers:
    fold = _FOLD[family.across]
    return tuple(fold(a, b) for a, b in zip(one, other, strict=True))
