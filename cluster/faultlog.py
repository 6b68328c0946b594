"""Log lines about what goes wrong all the time, at a rate that an attacker cannot choose."""

from __future__ import annotations

import logging
from collections import Counter

from .effects import Rejected
from .errors import Reason

log = logging.getLogger("sora.cluster")

SUMMARY_EVERY_S = 60.0


class RejectionLog:
    """The first packet dropped for a reason is logged, the others are in one line a minute."""

    def __init__(self) -> None:
        self._since: dict[Reason, Counter[str]] = {}
        self._next = float("inf")

    def note(self, rejected: Rejected, now: float) -> None:
        counts = self._since.get(rejected.reason)
        if counts is None:
            self._since[rejected.reason] = Counter()
            self._next = min(self._next, now + SUMMARY_EVERY_S)
            fields = {"ip": rejected.source.ip, "reason": rejected.reason.value, "detail": rejected.detail}
            log.warning("dropped what another node sent", extra={"fields": fields})
        elif rejected.source.ip in counts or len(counts) < _MAX_SOURCES:
            counts[rejected.source.ip] += 1
        else:
            counts[_OTHERS] += 1

    def summarize(self, now: float) -> None:
        """When it is time. A reason that was quiet for a minute is new again."""
        if now < self._next:
            return
        for reason, counts in list(self._since.items()):
            if not counts:
                del self._since[reason]
                continue
            most, _ = counts.most_common(1)[0]
            fields = {"ip": most, "reason": reason.value, "count": counts.total(), "senders": len(counts)}
            log.warning("dropped more of what other nodes sent", extra={"fields": fields})
            counts.clear()
        self._next = now + SUMMARY_EVERY_S if self._since else float("inf")


_MAX_SOURCES = 64
_OTHERS = "others"


class FaultLog:
    """Exceptions nobody foresaw: the first with its traceback, then one a minute."""

    def __init__(self) -> None:
        self.count = 0
        self._quiet_until = float("-inf")

    def note(self, fault: Exception, what: str, now: float) -> None:
        self.count += 1
        if now >= self._quiet_until:
            self._quiet_until = now + SUMMARY_EVERY_S
            log.error("fault in %s, number %d", what, self.count, exc_info=fault)
