"""The members this node knows of: rows, their order, and who is picked.

Rows of the dead and the left stay until the layer above forgets them, so that an old incarnation cannot come
back. The *ring* holds those that still take part in timers, probing and gossip: all but this node, the dead
for some time longer.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .address import Address
from .admission import MAX_MEMBERS
from .effects import MemberView
from .errors import PacketRejected, Reason
from .messages import VSN, State
from .suspicion import Suspicion

if TYPE_CHECKING:
    import random

_ROUND_TRIP_GAIN = 0.125  # as TCP smooths its round trip
_TELL_INTERVAL_S = 1.0


class Member:
    """One row. Change ``state`` through the table, and call ``touch`` after changing another field."""

    __slots__ = (
        "_view",
        "address",
        "incarnation",
        "is_listed",
        "joined",
        "meta",
        "name",
        "round_trip_s",
        "since",
        "state",
        "suspicion",
        "tags",
        "tell_at",
        "vsn",
    )

    def __init__(self, name: str, address: Address, now: float) -> None:
        self.name = name
        self.address = address
        self.state = State.DEAD
        self.incarnation = 0
        self.meta = b""
        self.tags: dict[str, str] = {}
        self.vsn = VSN
        self.since = self.joined = now
        self.suspicion: Suspicion | None = None
        self.round_trip_s: float | None = None
        self.tell_at = now  # not earlier may it be told again that it is dead
        self.is_listed = False  # in the ring
        self._view: MemberView | None = None

    @property
    def is_live(self) -> bool:
        """Alive or suspect."""
        return self.state <= State.SUSPECT

    def touch(self) -> None:
        self._view = None

    def may_be_told(self, now: float) -> bool:
        """Once a second; asking takes the turn."""
        if now < self.tell_at:
            return False
        self.tell_at = now + _TELL_INTERVAL_S
        return True

    def heard_in(self, round_trip_s: float) -> None:
        known = self.round_trip_s
        self.round_trip_s = (
            round_trip_s if known is None else known + _ROUND_TRIP_GAIN * (round_trip_s - known)
        )
        self._view = None

    def view(self) -> MemberView:
        if self._view is None:
            self._view = MemberView(
                name=self.name,
                address=self.address,
                state=self.state,
                incarnation=self.incarnation,
                tags=self.tags,
                vsn=self.vsn,
                since=self.since,
                joined=self.joined,
                round_trip_s=self.round_trip_s,
            )
        return self._view


class MemberTable:
    """Implements what others read of ``delegate.Members``."""

    def __init__(self, own: Member, rng: random.Random) -> None:
        self.own = own
        self.own_name = own.name
        self.rows: dict[str, Member] = {own.name: own}
        self.ring: list[Member] = []
        self._rng = rng
        self._names: list[str] = [own.name]
        self._gone: dict[str, Member] = {}  # dead and left, in the order they went
        self._by_address: dict[Address, Member] = {}
        self._counts = [0, 0, 0, 0]
        self._counts[own.state] = 1
        self._alive: tuple[MemberView, ...] | None = None
        self._position = 0  # in the ring, of the next to probe

    # --- reading ---

    def get(self, name: str) -> MemberView | None:
        row = self.rows.get(name)
        return row.view() if row else None

    def by_address(self, address: Address) -> MemberView | None:
        row = self._by_address.get(address)
        return row.view() if row else None

    def row_at(self, address: Address) -> Member | None:
        return self._by_address.get(address)

    def alive(self) -> Sequence[MemberView]:
        """The round trips in it may be older than those of ``get``."""
        if self._alive is None:
            rows = (self.rows[name] for name in self._names)
            self._alive = tuple(row.view() for row in rows if row.is_live and row is not self.own)
        return self._alive

    def __iter__(self) -> Iterator[MemberView]:
        return iter([self.rows[name].view() for name in self._names])

    @property
    def count(self) -> int:
        return len(self.ring) + 1

    def in_state(self, state: State) -> int:
        return self._counts[state]

    # --- changing ---

    def add(self, name: str, address: Address, now: float) -> Member:
        """A new row, dead and of incarnation 0. Raises PacketRejected: OVERLOAD, see ``in_the_way``."""
        if len(self.rows) >= MAX_MEMBERS:
            raise PacketRejected(Reason.OVERLOAD, f"more than {MAX_MEMBERS} members")
        row = Member(name, address, now)
        self.rows[name] = row
        insort(self._names, name)
        self._counts[row.state] += 1
        return row

    def set_state(self, row: Member, state: State, now: float) -> None:
        self._counts[row.state] -= 1
        self._counts[state] += 1
        if not row.is_live:
            row.joined = now
        row.state = state
        row.since = now
        self._gone.pop(row.name, None)
        if not row.is_live and row is not self.own:
            self._gone[row.name] = row
        self.changed(row)
        if row.is_live:
            self._enlist(row)

    def changed(self, row: Member) -> None:
        """A field that others see is different."""
        row.touch()
        self._alive = None

    def move(self, row: Member, address: Address) -> None:
        """``row`` is at ``address``: of several that were there, the last one is found."""
        if self._by_address.get(row.address) is row:
            del self._by_address[row.address]
        row.address = address
        self._by_address[address] = row

    def forget(self, name: str) -> bool:
        """Whether there was such a row that is neither live nor this node's."""
        row = self.rows.get(name)
        if row is None or row.is_live or row is self.own:
            return False
        del self.rows[name]
        self._gone.pop(name, None)
        del self._names[bisect_left(self._names, name)]
        self._counts[row.state] -= 1
        if self._by_address.get(row.address) is row:
            del self._by_address[row.address]
        if row.is_listed:
            self._unlist(self.ring.index(row))
        return True

    def in_the_way(self) -> Member | None:
        """At the limit, the row that has been dead or left for the longest time: to be forgotten for a new
        one."""
        return next(iter(self._gone.values()), None) if len(self.rows) >= MAX_MEMBERS else None

    # --- choosing ---

    def _enlist(self, row: Member) -> None:
        """At a random place, so that the first probe of a new one takes as long as any."""
        if row.is_listed or row is self.own:
            return
        row.is_listed = True
        self.ring.append(row)
        at = self._rng.randrange(len(self.ring))
        self.ring[at], self.ring[-1] = self.ring[-1], self.ring[at]

    def _unlist(self, at: int) -> None:
        self.ring[at].is_listed = False
        self.ring[at] = self.ring[-1]
        self.ring.pop()

    def next_to_probe(self, forget_before: float) -> Member | None:
        """Round robin. At the wrap the order changes, and those dead since before ``forget_before`` go."""
        for _ in range(len(self.ring) + 1):
            if self._position >= len(self.ring):
                self._wrap(forget_before)
            if self._position >= len(self.ring):
                return None
            row = self.ring[self._position]
            self._position += 1
            if row.is_live:
                return row
        return None

    def _wrap(self, forget_before: float) -> None:
        for at in range(len(self.ring) - 1, -1, -1):
            if not self.ring[at].is_live and self.ring[at].since < forget_before:
                self._unlist(at)
        self._rng.shuffle(self.ring)
        self._position = 0

    def pick(self, number: int, is_wanted: Callable[[Member], bool]) -> list[Member]:
        """At most ``number`` different ones of the ring, at random. O(number) when most are wanted."""
        ring = self.ring
        if len(ring) <= 4 * number:
            found = [row for row in ring if is_wanted(row)]
            return found if len(found) <= number else self._rng.sample(found, number)
        picked: dict[str, Member] = {}
        for _ in range(8 * number):
            row = ring[int(self._rng.random() * len(ring))]
            if row.name not in picked and is_wanted(row):
                picked[row.name] = row
                if len(picked) == number:
                    return list(picked.values())
        found = [row for row in ring if row.name not in picked and is_wanted(row)]
        missing = min(number - len(picked), len(found))
        return [*picked.values(), *self._rng.sample(found, missing)]
