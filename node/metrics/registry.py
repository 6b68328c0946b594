"""Who knows which figures: sources are asked when a snapshot is wanted, so that gauges cannot drift."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from .catalogue import FAMILIES
from .counting import Distribution
from .family import Family, Labels, Snapshot

# (family, label values, value): several of the same family and labels are added up.
Reading: TypeAlias = tuple[str, Labels, float | Distribution]
Source: TypeAlias = Callable[[], Iterable[Reading]]


class Registry:
    """The sources of one process."""

    def __init__(self, families: Iterable[Family] = FAMILIES) -> None:
        self.families = tuple(families)
        self._by_name = {family.name: family for family in self.families}
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def snapshot(self) -> Snapshot:
        """Plain data, see ``family``. Raises KeyError or ValueError for readings the catalogue does not
        have."""
        snapshot: Snapshot = {}
        for source in self._sources:
            for name, labels, value in source():
                family = self._by_name[name]
                numbers = value.numbers if isinstance(value, Distribution) else (float(value),)
                if len(labels) != len(family.labels) or len(numbers) != family.width:
                    raise ValueError(f"{name}: labels {labels}, {len(numbers)} numbers")
                samples = snapshot.setdefault(name, {})
                if labels in samples:
                    numbers = tuple(a + b for a, b in zip(samples[labels], numbers, strict=True))
                samples[labels] = numbers
        return snapshot
