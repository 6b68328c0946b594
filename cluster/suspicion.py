"""How long a suspected member has to say that it is alive, and how confirmations shorten that.

Theory: a suspicion starts with a long timeout. Each *other* member that suspects the same brings it down,
fast at first, to the minimum at ``confirmations``: one node that is slow itself accuses alone and gets
nowhere.

    T(c) = max - (max - min) * ln(c + 1) / ln(k + 1)

References: Lifeguard (Dadgar, Phillips, Currey 2018): suspicion timeouts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .profile import Profile


class Timing(NamedTuple):
    """``confirmations``: those wanted from others; 0: no one could, the minimum holds."""

    confirmations: int
    min_s: float
    max_s: float


def timing(profile: Profile, count: int) -> Timing:
    """For a cluster of ``count`` members, this one and the suspect included."""
    wanted = profile.suspicion_confirmations
    scale = max(1.0, math.log10(max(1, count)))
    min_s = profile.suspicion_mult * scale * profile.probe_interval_s
    return Timing(wanted if count - 2 >= wanted else 0, min_s, profile.suspicion_max_mult * min_s)


class Suspicion:
    """One suspicion of one incarnation. ``deadline``: when the member is dead; it only comes nearer, but for
    ``postpone``."""

    __slots__ = ("_confirmed", "_started", "accuser", "timing")

    def __init__(self, timing: Timing, accuser: str, now: float) -> None:
        self.timing = timing
        self.accuser = accuser
        self._started = now
        self._confirmed: dict[str, None] = {}

    @property
    def confirmations(self) -> int:
        return len(self._confirmed)

    @property
    def deadline(self) -> float:
        wanted, min_s, max_s = self.timing
        if not wanted:
            return self._started + min_s
        shorter = (max_s - min_s) * math.log(self.confirmations + 1) / math.log(wanted + 1)
        return self._started + max(min_s, math.floor((max_s - shorter) * 1000) / 1000)

    def confirm(self, accuser: str) -> bool:
        """Whether this was news, to be passed on: a new accuser, and one was still wanted."""
        if accuser == self.accuser or accuser in self._confirmed:
            return False
        if self.confirmations >= self.timing.confirmations:
            return False
        self._confirmed[accuser] = None
        return True

    def postpone(self, late_s: float) -> None:
        """We ourselves stood still for so long, and could not have heard a refutation."""
        self._started += late_s
