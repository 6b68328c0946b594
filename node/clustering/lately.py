"""What counters did lately: a fault that was mended an hour ago is none any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

LATELY_S: Final = 300.0
SAMPLE_EVERY_S: Final = 30.0

Figures = Mapping[str, int | float]


class Lately:
    """Of counters that only rise, and begin anew when what counts is started again."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Figures]] = deque()  # from LATELY_S ago on

    def note(self, figures: Figures, now: float) -> None:
        """``now`` is monotonic. Keeps one of the samples that come within ``SAMPLE_EVERY_S``."""
        if self._samples and now - self._samples[-1][0] < SAMPLE_EVERY_S:
            return
        self._samples.append((now, dict(figures)))
        while len(self._samples) > 1 and now - self._samples[1][0] >= LATELY_S:
            self._samples.popleft()

    def rise(self, name: str, figures: Figures) -> float:
        """How much a counter rose, until ``figures``, in the last ``LATELY_S`` or a little more."""
        after = figures.get(name, 0)
        before = self._samples[0][1].get(name, 0) if self._samples else 0
        return after - before if after >= before else after
