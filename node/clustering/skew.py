"""Clocks of nodes differ. What another node says of a time is moved to where this node's clock has it.

Whoever writes an entry puts into it what his clock says and how long it is to live; whoever hears it knows
what is left of that, from timers and not from clocks. So the difference of the clocks is known with every
entry, up to the time it was on its way.

Small differences count as none: then all nodes compare the same numbers, and agree which word was the latest.
"""

from __future__ import annotations

TOLERATED_S = 2.0


class Skews:
    """The clocks of other nodes against this one's, by name. One estimate is kept until another is clearly
    different, so that what was moved once is moved the same way again."""

    def __init__(self) -> None:
        self._kept: dict[str, float] = {}

    def of(self, origin: str) -> float:
        """Seconds to add to what ``origin`` says; positive: its clock is behind ours."""
        return self._kept.get(origin, 0.0)

    def measure(self, origin: str, said: float, ttl_s: float, left_s: float, now: float) -> float:
        """``said`` by its clock, when it gave ``ttl_s``, of which ``left_s`` are left at ``now`` of ours."""
        measured = now - (said + ttl_s - left_s)
        if abs(measured) <= TOLERATED_S:
            measured = 0.0
        kept = self._kept.get(origin)
        if kept is None or abs(kept - measured) > TOLERATED_S:
            kept = self._kept[origin] = float(round(measured))
        return kept

    def forget(self, origin: str) -> None:
        self._kept.pop(origin, None)

    def large(self) -> dict[str, float]:
        """Those that are not tolerated."""
        return {name: skew for name, skew in self._kept.items() if skew}
