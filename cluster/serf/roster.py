"""What Serf knows of each member beyond membership: whether it means to go, and why it is gone.

Theory: who leaves says so first (an intent with a Lamport time); who is gone without one has failed. Intents
about a member are ordered by that time: the latest counts, whatever came first. A member that is said to
leave and is there says that it has joined, with a later time.
Invariant: every intent that is taken raises the time that is stored, so that none is forwarded for ever.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ..effects import MemberView
from ..instant import Instant
from ..messages import State
from ..profile import Profile

_REMEMBERED_S: Final = 300.0
_MAX_REMEMBERED: Final = 4096


class Status(enum.Enum):
    """The values are what an agent says."""

    ALIVE = "alive"
    LEAVING = "leaving"
    LEFT = "left"
    FAILED = "failed"


@dataclass(slots=True)
class Standing:
    """``view``: as membership last told it; ``gone``: since when, monotonic."""

    view: MemberView
    status: Status = Status.ALIVE
    ltime: int = 0
    gone: float = 0.0


@dataclass(frozen=True, slots=True)
class _Intent:
    is_leave: bool
    ltime: int
    heard: float


class Verdict(enum.Enum):
    """What an intent did."""

    OLD = "old"  # known already: not forwarded
    TAKEN = "taken"
    LEFT = "left"  # one that had failed has left after all


class Roster:
    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._standings: dict[str, Standing] = {}
        self._intents: dict[str, _Intent] = {}  # about nodes that are not known, in the order they were heard
        self._failed: dict[str, None] = {}  # both in the order they went
        self._left: dict[str, None] = {}

    def __iter__(self) -> Iterator[Standing]:
        return iter(self._standings.values())

    def __len__(self) -> int:
        return len(self._standings)

    def get(self, name: str) -> Standing | None:
        return self._standings.get(name)

    def left(self) -> tuple[str, ...]:
        return tuple(self._left)

    # --- membership ---

    def came(self, view: MemberView) -> Standing:
        """A member is there, new or again; intents that were heard before it count."""
        standing = self._standings.get(view.name)
        if standing is None:
            standing = self._standings[view.name] = Standing(view)
            intent = self._intents.pop(view.name, None)
            if intent is not None:
                standing.ltime = intent.ltime
                standing.status = Status.LEAVING if intent.is_leave else Status.ALIVE
            return standing
        standing.view = view
        if standing.status in (Status.LEFT, Status.FAILED):
            self._failed.pop(view.name, None)
            self._left.pop(view.name, None)
            standing.status = Status.ALIVE
        return standing

    def went(self, view: MemberView, at: Instant, *, said_so: bool) -> Standing:
        """``said_so``: its own last message was that it goes."""
        standing = self._standings.get(view.name) or self.came(view)
        standing.view = view
        if standing.status in (Status.LEFT, Status.FAILED):
            return standing
        standing.gone = at.now
        is_meant = said_so or standing.status is Status.LEAVING
        standing.status = Status.LEFT if is_meant else Status.FAILED
        (self._left if is_meant else self._failed)[view.name] = None
        return standing

    def forget(self, name: str) -> None:
        self._standings.pop(name, None)
        self._failed.pop(name, None)
        self._left.pop(name, None)

    # --- intents ---

    def is_news(self, name: str, ltime: int) -> bool:
        """Whether an intent of this time would change anything."""
        standing = self._standings.get(name)
        return standing is None or ltime > standing.ltime

    def heard_leave(self, name: str, ltime: int, at: Instant) -> Verdict:
        standing = self._standings.get(name)
        if standing is None:
            return self._remember(name, ltime, at, is_leave=True)
        if ltime <= standing.ltime:
            return Verdict.OLD
        standing.ltime = ltime
        if standing.status is Status.ALIVE:
            standing.status = Status.LEAVING
        elif standing.status is Status.FAILED:
            standing.status = Status.LEFT
            standing.gone = at.now
            self._failed.pop(name, None)
            self._left[name] = None
            return Verdict.LEFT
        return Verdict.TAKEN

    def heard_join(self, name: str, ltime: int, at: Instant) -> Verdict:
        standing = self._standings.get(name)
        if standing is None:
            return self._remember(name, ltime, at, is_leave=False)
        if ltime <= standing.ltime:
            return Verdict.OLD
        standing.ltime = ltime
        if standing.status is Status.LEAVING:
            standing.status = Status.ALIVE
        return Verdict.TAKEN

    def _remember(self, name: str, ltime: int, at: Instant, *, is_leave: bool) -> Verdict:
        known = self._intents.get(name)
        if known is not None and known.ltime >= ltime:
            return Verdict.OLD
        self._forget_intents(at)
        self._intents.pop(name, None)
        if len(self._intents) >= _MAX_REMEMBERED:
            del self._intents[next(iter(self._intents))]
        self._intents[name] = _Intent(is_leave, ltime, at.now)
        return Verdict.TAKEN

    def _forget_intents(self, at: Instant) -> None:
        while self._intents:
            first = next(iter(self._intents))
            if self._intents[first].heard > at.now - _REMEMBERED_S:
                return
            del self._intents[first]

    # --- time ---

    def next_deadline(self) -> float:
        """Monotonic: when the first is to be forgotten; infinity when nobody is gone."""
        first = (self._standings[next(iter(gone))].gone + wait for gone, wait in self._waits() if gone)
        return min(first, default=math.inf)

    def _waits(self) -> tuple[tuple[dict[str, None], float], ...]:
        return (self._failed, self._profile.forget_failed_s), (self._left, self._profile.forget_left_s)

    def due(self, at: Instant) -> list[Standing]:
        """Those to be forgotten now."""
        self._forget_intents(at)
        found: list[Standing] = []
        for gone, wait in self._waits():
            for name in gone:
                standing = self._standings[name]
                if standing.gone + wait > at.now:
                    break
                found.append(standing)
        return found

    # --- to look at ---

    def seen(self, standing: Standing, view: MemberView | None) -> MemberView:
        """``view``, or the last one, with what only intents tell."""
        shown = view or standing.view
        is_leaving = standing.status is Status.LEAVING
        state = State.LEFT if standing.status is Status.LEFT else shown.state
        if is_leaving == shown.is_leaving and state is shown.state:
            return shown
        return replace(shown, is_leaving=is_leaving, state=state)
