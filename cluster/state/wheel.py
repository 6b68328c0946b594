"""When to look at which record: buckets of half a second, so that a record costs O(1) whatever its time."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Final

from .records import Record

GRAIN_S: Final = 0.5


class Wheel:
    def __init__(self) -> None:
        self._buckets: dict[float, list[Record]] = {}
        self._times: list[float] = []

    def schedule(self, record: Record, when: float) -> None:
        """Look at it at ``when`` or up to ``GRAIN_S`` later. A later time than the one it has is found out
        then, so extending costs nothing."""
        when = math.ceil(when / GRAIN_S) * GRAIN_S
        if record.due and record.due <= when:
            return
        record.due = when
        bucket = self._buckets.get(when)
        if bucket is None:
            self._buckets[when] = bucket = []
            heappush(self._times, when)
        bucket.append(record)

    def next_time(self) -> float:
        return self._times[0] if self._times else math.inf

    def due(self, now: float) -> list[Record]:
        """Taken out; the caller schedules those anew that stay."""
        found: list[Record] = []
        while self._times and self._times[0] <= now:
            when = heappop(self._times)
            for record in self._buckets.pop(when):
                if record.due == when and not record.is_gone:
                    record.due = 0.0
                    found.append(record)
        return found
