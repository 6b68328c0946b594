"""Everything two nodes know, exchanged on a stream: how a node joins, and how what gossip missed is repaired.

A join is the same exchange, marked. Peers are joined whenever they are no members, and so is now and then a
member that is held for dead, so that the halves of a partition find each other.

References: Demers et al., Epidemic Algorithms (1987): anti-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from . import codec
from .address import Address
from .admission import is_compatible
from .delegate import Delegate, Outlet
from .effects import Joined
from .errors import PacketRejected, Reason
from .members import MemberTable
from .merging import Merger
from .messages import Alive, Dead, NodeRecord, PushPull, State, Suspect
from .timers import Timer, Timers

if TYPE_CHECKING:
    import random

    from .api import Settings
    from .instant import Instant

MAX_PEERS: Final = 1_000
_SMALL: Final = 16  # members, below which an exchange costs little
_LARGE: Final = 32  # members, above which the interval grows
_REJOINS: Final = 3  # peers tried at a time


@dataclass(frozen=True, slots=True)
class _Pending:
    """``is_told``: its outcome was asked for."""

    address: Address
    is_join: bool
    is_told: bool


class PushPulls:
    def __init__(
        self,
        settings: Settings,
        table: MemberTable,
        merger: Merger,
        timers: Timers,
        outlet: Outlet,
        delegate: Delegate,
        rng: random.Random,
    ) -> None:
        self.done = self.failed = self.records_refused = 0
        self._settings = settings
        self._profile = settings.profile
        self._table = table
        self._merger = merger
        self._timers = timers
        self._outlet = outlet
        self._delegate = delegate
        self._rng = rng
        self._pending: dict[int, _Pending] = {}
        self._peers: dict[Address, None] = {}

    def start(self, now: float) -> None:
        self._timers.add(now + self._rng.random() * self._interval_s(), Timer.PUSH_PULL)
        self._timers.add(now + self._profile.rejoin_interval_s, Timer.REJOIN)

    # --- asking ---

    def join(self, addresses: Iterable[Address], at: Instant) -> None:
        for address in addresses:
            if address == self._table.own.address:
                self._outlet.emit(Joined(address, "the address of this node itself"))
            else:
                self._ask(address, at, is_join=True, is_told=True)

    def set_peers(self, addresses: Iterable[Address], at: Instant) -> None:
        own, before = self._table.own.address, self._peers
        named = dict.fromkeys(each for each in addresses if each != own)
        self._peers = dict.fromkeys(islice(named, MAX_PEERS))
        for address in self._peers:
            if address not in before and self._is_missing(address):
                self._ask(address, at, is_join=True, is_told=True)

    def due(self, at: Instant) -> None:
        self._timers.add(at.now + self._interval_s(), Timer.PUSH_PULL)
        for member in self._table.pick(1, lambda row: row.state is State.ALIVE):
            self._ask(member.address, at, is_join=False, is_told=False)

    def rejoin_due(self, at: Instant) -> None:
        self._timers.add(at.now + self._profile.rejoin_interval_s, Timer.REJOIN)
        missing = [address for address in self._peers if self._is_missing(address)]
        if len(missing) > _REJOINS:
            missing = self._rng.sample(missing, _REJOINS)
        dead = [row.address for row in self._table.rows.values() if row.state is State.DEAD]
        if dead:
            missing.append(self._rng.choice(dead))
        for address in dict.fromkeys(missing):
            self._ask(address, at, is_join=True, is_told=address in self._peers)

    def replied(self, ticket: int, reply: PushPull | None, at: Instant, error: str) -> bool:
        """Whether the ticket was one of these. ``reply`` None: there was none, because of ``error``."""
        pending = self._pending.pop(ticket, None)
        if pending is None:
            return False
        if reply is not None:
            try:
                self._merge(reply, pending.address, at)
                error = ""
            except PacketRejected as e:
                error = str(e)
        self._count(error)
        if pending.is_told:
            self._outlet.emit(Joined(pending.address, error))
        return True

    # --- being asked ---

    def receive(self, asked: PushPull, source: Address, at: Instant) -> PushPull:
        """The reply holds what was known before. Raises PacketRejected: nothing was merged."""
        reply = self._state(at, is_join=asked.is_join, about={record.node for record in asked.nodes})
        try:
            self._merge(asked, source, at)
        except PacketRejected:
            self.failed += 1
            raise
        self.done += 1
        return reply

    # --- how ---

    def _interval_s(self) -> float:
        """Stretched with the size of the cluster: as memberlist does, and from 200 members on by more, since
        each push/pull carries all members and the bytes of a node shall grow no faster than its logarithm."""
        count = self._table.count
        if count < _SMALL:
            return self._profile.push_pull_interval_small_s
        if count <= _LARGE:
            return self._profile.push_pull_interval_s
        memberlists = math.ceil(math.log2(count) - math.log2(_LARGE)) + 1
        even = count / _LARGE * math.log(_LARGE) / math.log(count)
        return self._profile.push_pull_interval_s * max(memberlists, even)

    def _is_missing(self, address: Address) -> bool:
        row = self._table.row_at(address)
        return (row is None or not row.is_live) and all(p.address != address for p in self._pending.values())

    def _ask(self, address: Address, at: Instant, *, is_join: bool, is_told: bool) -> None:
        request = codec.encode(self._state(at, is_join=is_join, about=set()))
        ticket = self._outlet.open_stream(address, request, wants_reply=True)
        self._pending[ticket] = _Pending(address, is_join, is_told)

    def _state(self, at: Instant, *, is_join: bool, about: set[str]) -> PushPull:
        """Who has been dead for long is left out, unless the other one speaks of it."""
        oldest = at.now - self._profile.gossip_to_the_dead_s
        records = tuple(
            NodeRecord(row.name, row.address, row.meta, row.incarnation, row.state, row.vsn)
            for row in self._table.rows.values()
            if row.is_live or row.since >= oldest or row.name in about
        )
        return PushPull(records, self._delegate.local_state(at, is_join=is_join), is_join)

    def _count(self, error: str) -> None:
        if error:
            self.failed += 1
        else:
            self.done += 1

    def _merge(self, said: PushPull, source: Address, at: Instant) -> None:
        """Records that are not believed are passed over one by one, so that a single bad one, whoever brought
        it in, does not keep all others apart. Raises PacketRejected when nothing in it is for us."""
        nodes = [record for record in said.nodes if record.state >= State.DEAD or is_compatible(record.vsn)]
        self.records_refused += len(said.nodes) - len(nodes)
        if _any_live(said.nodes) and not _any_live(nodes):
            raise PacketRejected(Reason.VERSION, "no member of it understands us")
        self._delegate.accepts(nodes)
        if said.user_state:
            self._delegate.merge_state(said.user_state, source, at, is_join=said.is_join)
        for record in nodes:
            self._merge_record(record, at)

    def _merge_record(self, record: NodeRecord, at: Instant) -> None:
        try:
            if record.state is State.LEFT:
                self._merger.dead(Dead(record.incarnation, record.node, record.node), at)
            elif record.state is State.ALIVE:
                said = Alive(record.incarnation, record.node, record.address, record.meta, record.vsn)
                self._merger.alive(said, at)
            elif (row := self._table.rows.get(record.node)) is not None:
                # Dead or suspect for another is suspect here, so that the member can speak for itself.
                self._merger.suspect(Suspect(record.incarnation, row.name, self._table.own.name), at)
        except PacketRejected:
            self.records_refused += 1


def _any_live(records: Iterable[NodeRecord]) -> bool:
    return any(record.state <= State.SUSPECT for record in records)
