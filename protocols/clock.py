"""How long a session has lasted and how fast its client sends what it owes: a pure model.

Time and byte counts are arguments; the driver asks when the wheel says so and does what the verdict says.

Theory: time in which the client idles (IDLE) is not session time, so that a client which idles all day is
not cut off when it says DONE. A client *owes* bytes from the moment a line, a literal or message data has
begun until it has ended; only then its speed is looked at. A debt younger than ``EXEMPT_S`` is not judged,
an older one by its average over about ``WINDOW_S``: a train may go through a tunnel.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

WINDOW_S = 180.0
EXEMPT_S = 120.0
LOOK_S = 60.0  # between two looks at a debt


class Verdict(enum.Enum):
    """``EXPIRED``: end it between commands. ``OVERDUE``: it has had as much time again to come to an end."""

    ON_TIME = "on time"
    TOO_SLOW = "too slow"
    EXPIRED = "expired"
    OVERDUE = "overdue"


@dataclass(frozen=True, slots=True)
class ClockSettings:
    """``None`` switches a check off."""

    session_s: float | None = None
    min_bytes_per_minute: int | None = None


class SessionClock:
    """One session's; ``now`` is seconds of any steady clock, ``received`` the bytes received so far."""

    __slots__ = ("_counted_from", "_idle_since", "_marks", "_settings")

    def __init__(self, settings: ClockSettings, now: float) -> None:
        self._settings = settings
        self._counted_from = now  # moves on with the time spent idling
        self._idle_since: float | None = None
        self._marks: list[tuple[float, int]] = []  # of the debt: when, and what had been received

    # --- idling ---

    def pause(self, now: float) -> None:
        """The client begins to idle."""
        if self._idle_since is None:
            self._idle_since = now
            self.settle()

    def resume(self, now: float) -> None:
        if self._idle_since is not None:
            self._counted_from += now - self._idle_since
            self._idle_since = None

    @property
    def is_paused(self) -> bool:
        return self._idle_since is not None

    # --- debts ---

    def owe(self, now: float, received: int) -> bool:
        """The client has begun something and not ended it; whether that is news."""
        if self._marks or self._idle_since is not None or self._settings.min_bytes_per_minute is None:
            return False
        self._marks.append((now, received))
        return True

    def settle(self) -> None:
        """Nothing is owed any more."""
        if self._marks:
            self._marks = []

    # --- verdicts ---

    def verdict(self, now: float, received: int) -> Verdict:
        limit = self._settings.session_s
        if limit is not None and self._idle_since is None:
            over_s = now - self._counted_from - limit
            if over_s >= limit:
                return Verdict.OVERDUE
            if over_s >= 0:
                return Verdict.EXPIRED if not self._is_slow(now, received) else Verdict.TOO_SLOW
        return Verdict.TOO_SLOW if self._is_slow(now, received) else Verdict.ON_TIME

    def next_look(self, now: float) -> float | None:
        """When a verdict may change next; None: not before something happens."""
        looks = [self._marks[-1][0] + LOOK_S] if self._marks else []
        if self._settings.session_s is not None and self._idle_since is None:
            due = self._counted_from + self._settings.session_s
            looks.append(due if due > now else due + self._settings.session_s)
        later = [look if look > now else now + LOOK_S for look in looks]
        return min(later, default=None)

    def _is_slow(self, now: float, received: int) -> bool:
        minimum = self._settings.min_bytes_per_minute
        if not self._marks or minimum is None:
            return False
        if now - self._marks[-1][0] < LOOK_S:
            return False
        owed_since = self._marks[0][0]
        base_at, base = self._marks[0]
        if now - owed_since >= EXEMPT_S and (received - base) * 60 < minimum * (now - base_at):
            return True
        self._marks.append((now, received))
        while now - self._marks[0][0] >= WINDOW_S:
            del self._marks[0]
        return False
