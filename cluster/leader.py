"""The leader that every node computes from what it sees: no election, no messages.

Theory: the lowest name of those members that may lead and have been fit to for a settling time. Views of
different nodes agree as soon as membership does. It is a hint for who begins something: each side of a
partition has a leader, and for a moment two nodes may both believe. What must not happen twice is fenced
where it happens.
A leader that leaves, or knows itself to be slow, is passed over at once by all that hear of it, while it is
still there to finish; who becomes fit has to stay so for ``settle_s`` first, so the lead does not flap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from .effects import MemberView
from .serf.tags import is_sora

SETTLE_S: Final = 10.0
ALONE_S: Final = 30.0
ELIGIBLE_TAG: Final = "eligible"  # "no": never leads
SLOW_TAG: Final = "slow"  # "yes": leads only when all others are slow too

_FIT, _SLOW, _UNFIT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """None: nobody leads, as far as this node sees."""

    leader: str | None
    before: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How fit a member is, the lower the better, and monotonic since when at least so."""

    rank: int
    since: float


def rank_of(member: MemberView) -> int:
    """A suspect is taken for alive: most suspicions are refuted, and a lead that flaps helps nobody."""
    tags = member.tags
    if not member.is_live or member.is_leaving or not is_sora(tags):  # agents do not lead
        return _UNFIT
    if tags.get(ELIGIBLE_TAG) == "no":
        return _UNFIT
    return _SLOW if tags.get(SLOW_TAG) == "yes" else _FIT


def leader(standings: Mapping[str, Standing], now: float, *, settle_s: float = SETTLE_S) -> str | None:
    """Of those settled, one that is not slow before one that is, then the lowest name."""
    settled = [
        (standing.rank, name)
        for name, standing in standings.items()
        if standing.rank != _UNFIT and now - standing.since >= settle_s
    ]
    return min(settled)[1] if settled else None


class Leadership:
    """Who leads in the view of one node. ``started``: monotonic. ``waits_for_peer``: peers are configured, so
    a node that sees none leads only after ``alone_s``."""

    def __init__(
        self,
        own_name: str,
        started: float,
        *,
        waits_for_peer: bool,
        settle_s: float = SETTLE_S,
        alone_s: float = ALONE_S,
    ) -> None:
        self.leader: str | None = None
        self._own_name = own_name
        self._settle_s = settle_s
        self._alone_until = started + alone_s if waits_for_peer else started
        self._standings: dict[str, Standing] = {}
        self._next = inf

    @property
    def is_own(self) -> bool:
        return self.leader == self._own_name

    def next_deadline(self) -> float:
        """Monotonic: when to look again though no member changed; infinity: not at all."""
        return self._next

    def look(self, members: Iterable[MemberView], now: float) -> LeaderChanged | None:
        """At all members, this node included: whenever one changed, and at ``next_deadline``. O(members)."""
        self._standings = {member.name: self._standing(member, now) for member in members}
        if any(s.rank != _UNFIT for name, s in self._standings.items() if name != self._own_name):
            self._alone_until = min(self._alone_until, now)  # a peer was met
        chosen = leader(self._standings, now, settle_s=self._settle_s) if now >= self._alone_until else None
        self._next = self._when_next(now)
        before, self.leader = self.leader, chosen
        return LeaderChanged(chosen, before) if chosen != before else None

    def _standing(self, member: MemberView, now: float) -> Standing:
        rank = rank_of(member)
        held = self._standings.get(member.name)
        if held is None:
            return Standing(rank, member.joined)
        is_better = rank < held.rank
        return Standing(rank, max(now if is_better else held.since, member.joined))

    def _when_next(self, now: float) -> float:
        times = [s.since + self._settle_s for s in self._standings.values() if s.rank != _UNFIT]
        return min((when for when in [*times, self._alone_until] if when > now), default=inf)
