"""The members that understand our messages, whom of them to choose, and which owners are away too long."""

from __future__ import annotations

from math import inf, log10
from typing import TYPE_CHECKING, Final

from ..address import Address
from ..broadcast import retransmissions
from ..delegate import Members
from ..effects import Change, MemberView
from ..profile import Profile
from ..serf.tags import is_sora

if TYPE_CHECKING:
    from random import Random

MAX_DIRECT: Final = 128  # members that one of them may write to at once
_GONE: Final = frozenset({Change.FAILED, Change.LEFT, Change.REAPED})


class Peers:
    def __init__(self, profile: Profile, rng: Random) -> None:
        self._profile = profile
        self._rng = rng
        self._members: Members | None = None
        self._places: dict[str, int] = {}
        self.names: list[str] = []
        self._away: dict[str, float] = {}  # until when their entries still count

    def attach(self, members: Members) -> None:
        self._members = members
        for view in members.alive():
            self._note(view)

    # --- who is there ---

    def changed(self, change: Change, view: MemberView) -> None:
        if change in _GONE or not view.is_live:
            self._remove(view.name)
        else:
            self._note(view)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self.names)

    @property
    def are_few(self) -> bool:
        return len(self.names) <= MAX_DIRECT

    def address(self, name: str) -> Address | None:
        view = self._members.get(name) if self._members is not None and name in self._places else None
        return view.address if view is not None else None

    def some(self, count: int, *, but: frozenset[str] = frozenset()) -> list[str]:
        """At most ``count`` at random."""
        if count + len(but) >= len(self.names):
            others = [name for name in self.names if name not in but]
            return others if len(others) <= count else self._rng.sample(others, count)
        chosen = self._rng.sample(self.names, count + len(but))
        return [name for name in chosen if name not in but][:count]

    def _note(self, view: MemberView) -> None:
        if not is_sora(view.tags) or (self._members is not None and view.name == self._members.own_name):
            self._remove(view.name)
        elif view.name not in self._places:
            self._places[view.name] = len(self.names)
            self.names.append(view.name)

    def _remove(self, name: str) -> None:
        place = self._places.pop(name, None)
        if place is None:
            return
        last = self.names.pop()
        if last != name:
            self.names[place] = last
            self._places[last] = place

    # --- timings that depend on how many there are ---

    @property
    def members(self) -> int:
        return self._members.count if self._members is not None else 1

    def transmissions(self) -> int:
        return retransmissions(self._profile, self.members)

    def grace_s(self) -> float:
        """Twice the shortest suspicion: for a member that was only thought dead."""
        profile = self._profile
        scale = max(1.0, log10(max(self.members, 1)))
        return 2.0 * profile.suspicion_mult * scale * profile.probe_interval_s

    # --- owners that are away ---

    def away(self, name: str, now: float) -> None:
        """Nothing is known of this owner's node, or it is gone."""
        self._away.setdefault(name, now + self.grace_s())

    def back(self, name: str) -> None:
        self._away.pop(name, None)

    def next_time(self) -> float:
        return min(self._away.values(), default=inf)

    def away_too_long(self, now: float) -> list[str]:
        """Each is named once."""
        due = [name for name, until in self._away.items() if until <= now]
        for name in due:
            del self._away[name]
        return due
