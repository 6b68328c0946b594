"""The members as this node knows them, and what happened to them lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cluster.admission import MAX_MEMBERS
from cluster.effects import Change, MemberView
from cluster.messages import State

from .leading import SORA_TAG

if TYPE_CHECKING:
    from cluster.effects import MemberChanged

MAX_EVENTS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Happened:
    """``number`` rises by one; ``at``: seconds of the epoch."""

    number: int
    at: float
    kind: str
    node: str
    detail: str


class Roster:
    """``peers_changed`` is told of the addresses of all other nodes that may connect to this one."""

    def __init__(self, own_name: str, wall_clock: Callable[[], float]) -> None:
        self.own_name = own_name
        self._wall_clock = wall_clock
        self._members: dict[str, MemberView] = {}
        self._events: deque[Happened] = deque(maxlen=MAX_EVENTS)
        self._numbers = 0
        self._peers: tuple[str, ...] = ()
        self.others: tuple[str, ...] = ()  # names of the other nodes of Sora that are there
        self.peers_changed: Callable[[tuple[str, ...]], None] = lambda _peers: None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[MemberView]:
        """By name."""
        return iter([self._members[name] for name in sorted(self._members)])

    @property
    def is_full(self) -> bool:
        """Gossip takes no more, but in the place of who is gone."""
        return len(self._members) >= MAX_MEMBERS

    def get(self, name: str) -> MemberView | None:
        return self._members.get(name)

    @property
    def alive(self) -> list[MemberView]:
        """With this node."""
        return [each for each in self if each.is_live]

    def peers(self) -> tuple[str, ...]:
        """Addresses of the other nodes, failed ones included: they come back."""
        return self._peers

    # --- what happens ---

    def changed(self, change: MemberChanged) -> None:
        """``look`` follows, once for all that changed together."""
        member = change.member
        if change.change is Change.REAPED:
            self._members.pop(member.name, None)
        else:
            self._members[member.name] = member
        detail = str(member.address) if change.change in (Change.JOINED, Change.UPDATED) else ""
        self.note(change.change.value, member.name, detail)

    def replace(self, members: Iterable[MemberView]) -> None:
        """As of now: round trips and incarnations change without an event."""
        self._members = {each.name: each for each in members}
        self.look()

    def look(self) -> None:
        """What follows from all members: ``others`` and ``peers``. O(n log n)."""
        others = [each for each in self if each.name != self.own_name]
        peers = tuple(sorted({each.address.ip for each in others if each.state is not State.LEFT}))
        self.others = tuple(each.name for each in others if each.is_live and SORA_TAG in each.tags)
        if peers != self._peers:
            self._peers = peers
            self.peers_changed(peers)

    # --- events ---

    def note(self, kind: str, node: str, detail: str = "") -> None:
        self._numbers += 1
        self._events.append(Happened(self._numbers, self._wall_clock(), kind, node, detail))

    def events(self, after: int = 0) -> list[Happened]:
        return [each for each in self._events if each.number > after]
