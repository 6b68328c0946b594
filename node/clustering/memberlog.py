"""Log lines about members that come and go, at a rate that nobody who makes members up can choose."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Final

from cluster.effects import Change

if TYPE_CHECKING:
    from cluster.effects import MemberChanged

log = logging.getLogger("sora.cluster")

LINES: Final = 200  # in a minute, then one for all others
PERIOD_S: Final = 60.0


class MemberLog:
    """``now`` is monotonic."""

    def __init__(self) -> None:
        self._lines = self._untold = 0
        self._ends = -inf  # of the minute that is counted

    def note(self, changed: MemberChanged, now: float) -> None:
        self.summarize(now)
        if self._lines == LINES:
            self._untold += 1
            return
        if not self._lines:
            self._ends = now + PERIOD_S
        self._lines += 1
        level = logging.WARNING if changed.change is Change.FAILED else logging.INFO
        log.log(level, "node %s %s, at %s", changed.member.name, changed.change.value, changed.member.address)

    def summarize(self, now: float) -> None:
        """When the minute is over."""
        if now < self._ends:
            return
        if self._untold:
            log.warning("%d more changes of members were not logged one by one", self._untold)
        self._lines = self._untold = 0
