"""What all nodes know together, as one node has it: the parts of this package put together.

Invariants: our writes are numbered in the order in which they leave; a number is given when the urgent lane
or a batch takes the write, so whatever is overwritten before costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import TYPE_CHECKING, Final

from ..address import Address
from ..api import Settings
from ..delegate import Members, Outlet
from ..effects import Change, FactChanged, MemberView
from ..errors import PacketRejected, Reason
from ..facts import MAX_KEY_BYTES, MAX_VALUE_BYTES, Entry, Kind, NoticeKind
from ..instant import Instant
from ..serf.tags import EPOCH_TAG
from .codec import MAX_EPOCH, Body, Delta, Lane, Notices, Summary, Vector, Want, decode, pages
from .mailer import Mailer
from .notices import Incoming, Outgoing
from .peers import Peers
from .records import EpochMap, Record, rule_of
from .repair import Repair
from .rumours import Rumours
from .store import Capacity, Store
from .urgent import UrgentLane

if TYPE_CHECKING:
    from random import Random

BATCH_S: Final = 0.5  # what is not urgent waits for as long, for company
MAX_DIRECT_BATCH: Final = 16  # members that get a batch from its writer; more hear of it by gossip
MAX_BATCH: Final = 500  # writes; a node has no more to say in a second than two of these
FRESH: Final = 0.9  # of its time an entry may have lost before the same value is written again
LARGE_REPAIR: Final = 100  # entries: whoever got so many tells others at once
MAX_STRANGERS: Final = 64
RAISE_S: Final = 1.0  # between new epochs of our own, doubled each time, while another uses our name
MAX_RAISE_S: Final = 60.0
_ROOM_FOR_ONE: Final = 120


class SharedState:
    """See ``cluster/README.md``; the operations of ``api.ClusterEngine`` mean the same here."""

    def __init__(
        self, settings: Settings, outlet: Outlet, rng: Random, *, capacity: Capacity | None = None
    ) -> None:
        self._name = settings.name
        self._outlet = outlet
        self._at = Instant(0.0, 0.0)
        self._peers = Peers(settings.profile, rng)
        self._store = Store(
            settings.name, settings.epoch, capacity or Capacity(), self._emit_fact, self._new_owner
        )
        self._counted = self._store.counted
        self._mailer = Mailer(settings.name, settings.epoch, outlet, self._peers, self._counted)
        self._rumours = Rumours(self._peers.transmissions)
        self._repair = Repair(self._store, self._peers, self._mailer)
        self._urgent = UrgentLane(self._store, self._peers, self._mailer, self._rumours, self._repair.hurry)
        self._outgoing = Outgoing(self._mailer, self._peers)
        self._incoming = Incoming()
        self._pending: dict[Record, None] = {}
        self._batch_due = inf
        self._raise_after = -inf
        self._raise_wait = RAISE_S
        self._skews: dict[str, float] = {}
        self._strangers: dict[str, None] = {}  # to compare with as soon as they are members

    def attach(self, members: Members) -> None:
        self._peers.attach(members)

    @property
    def epoch(self) -> int:
        return self._mailer.epoch

    # --- our own entries ---

    def put(self, kind: Kind, key: bytes, value: bytes, ttl_s: float, at: Instant) -> bool:
        """False also for a key or value that is too long. ``ttl_s`` not above 0: the same as ``remove``."""
        self._at = at
        if len(key) > MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            self._counted["refused"] += 1
            return False
        if ttl_s <= 0.0:
            self.remove(kind, key, at)
            return True
        held = self._store.own_record(kind, key)
        ttl_s = min(ttl_s, rule_of(kind).max_ttl_s)
        if held is not None and held.home is self._store.own and held.value == value:
            left = held.deadline - at.now
            if FRESH * ttl_s <= left <= ttl_s:
                return True
        return self._write(kind, key, value, ttl_s, at)

    def remove(self, kind: Kind, key: bytes, at: Instant) -> None:
        """Nothing when there is no such entry of ours."""
        self._at = at
        held = self._store.own_record(kind, key)
        if held is None or held.value is None:
            return
        if held.is_pending and not held.seq and held.shadow <= at.now:
            self._pending.pop(held, None)
            self._store.forget_unsaid(held, at)
            return
        self._write(kind, key, None, 0.0, at)

    def _write(self, kind: Kind, key: bytes, value: bytes | None, ttl_s: float, at: Instant) -> bool:
        record = self._store.write(kind, key, value, ttl_s, at)
        if record is None:
            return False
        record.is_pending = True
        self._pending[record] = None
        if rule_of(kind).is_urgent:
            self._number(record)
            self._urgent.wrote(at)
        elif self._batch_due == inf:
            self._batch_due = at.now + BATCH_S
        return True

    def _number(self, record: Record) -> None:
        del self._pending[record]
        self._store.number(record)

    def _flush(self, at: Instant) -> None:
        self._urgent.finish(at)
        own = self._store.own
        after = own.known.upto
        for record in list(self._pending)[:MAX_BATCH]:
            self._number(record)
        self._urgent.skip()
        self._batch_due = at.now + BATCH_S if self._pending else inf
        if len(self._peers) > MAX_DIRECT_BATCH:
            self._rumours.add(own, after, own.known.upto, is_pressing=False)
            return
        for page in pages(own, after, own.known.upto, self._mailer.room):
            raw = self._mailer.delta((page,), Lane.REPAIR, at)
            for name in self._peers.names:
                self._mailer.send_raw(name, raw)

    def tell(
        self, kind: NoticeKind, payload: bytes, at: Instant, *, to: Collection[str] | None = None
    ) -> None:
        """Raises ValueError for more than ``MAX_VALUE_BYTES``."""
        self._at = at
        self._outgoing.add(kind, payload, list(self._peers.names if to is None else to), at)

    def entries(self, kind: Kind, at: Instant) -> list[Entry]:
        """O(entries of this kind)."""
        return list(self._store.visible(kind, at))

    # --- what comes in ---

    def receive(self, raw: bytes, source: Address, at: Instant) -> None:
        """Raises PacketRejected."""
        self._at = at
        self._accept(decode(raw), at)

    def merge_part(self, raw: bytes, at: Instant) -> None:
        """Of a push/pull. Raises PacketRejected."""
        self._at = at
        body = decode(raw)
        if not isinstance(body, Summary | Vector):
            raise PacketRejected(Reason.MALFORMED, "state of a push/pull")
        if body.sender not in self._peers:
            if len(self._strangers) >= MAX_STRANGERS:
                del self._strangers[next(iter(self._strangers))]
            self._strangers[body.sender] = None  # its record comes with the same push/pull
        self._accept(body, at, by_stream=True)

    def push_pull_part(self, at: Instant) -> bytes:
        self._at = at
        return self._repair.opening(at)

    def digest(self) -> bytes:
        return self._store.digest.total().to_bytes(8, "big")

    def heard_digest(self, node: str, digest: bytes, at: Instant) -> None:
        self._at = at
        self._repair.heard_digest(node, digest, at)

    def _accept(self, body: Body, at: Instant, *, by_stream: bool = False) -> None:
        if body.sender == self._name:
            raise PacketRejected(Reason.FORGED, "state in our own name")
        is_gossip = isinstance(body, Delta) and body.lane == Lane.GOSSIP  # written a little earlier
        if body.sender in self._peers and not is_gossip:
            self._skews[body.sender] = body.wall_ms / 1000.0 - at.wall
        self._store.advance(body.sender, body.epoch, at)
        match body:
            case Delta():
                self._on_delta(body, at)
            case Summary():
                self._repair.on_summary(body, at)
            case Vector():
                self._on_vector(body, at, by_stream=by_stream)
            case Want():
                self._repair.on_want(body, at)
            case Notices():
                self._on_notices(body, at)

    def _on_delta(self, delta: Delta, at: Instant) -> None:
        found = []
        merged = self._counted["merged"]
        for part in delta.ranges:
            if part.owner == self._name and self._is_too_new(part.epoch, part.upto):
                self._raise_epoch(part.epoch, at)
            elif (news := self._store.merge(part, at)) is not None:
                found.append(news)
        merged = self._counted["merged"] - merged
        if delta.lane == Lane.REPAIR:
            if merged >= LARGE_REPAIR:
                self._repair.hurry(at)
            return
        for home, after, upto in found:
            if not home.is_gone and not home.is_partial:
                # When its writer sent it to everyone, gossip has little to mend.
                is_pressing = delta.lane != Lane.FULL and _is_urgent(home, after, upto)
                self._rumours.add(home, after, upto, is_pressing=is_pressing)
                if delta.lane == Lane.PUSH:
                    news_pages = pages(home, after, upto, self._mailer.room)
                    self._urgent.pass_on(news_pages, frozenset((delta.sender, home.owner.name)), at)

    def _on_vector(self, message: Vector, at: Instant, *, by_stream: bool) -> None:
        for element in message.elements:
            if element.owner == self._name and self._is_too_new(element.epoch, element.known):
                self._raise_epoch(element.epoch, at)
            else:
                self._store.advance(element.owner, element.epoch, at)
        self._repair.on_vector(message, at, by_stream=by_stream)

    def _on_notices(self, message: Notices, at: Instant) -> None:
        for heard in self._incoming.take(message):
            self._counted["notices"] += 1
            self._outlet.emit(heard)

    # --- our own name, said by another ---

    def _is_too_new(self, epoch: int, number: int) -> bool:
        own = self._store.own
        return epoch > own.epoch or (epoch == own.epoch and number > own.known.upto)

    def _raise_epoch(self, claimed: int, at: Instant) -> None:
        """Somebody holds entries of ours that we did not write in this life: they are of an earlier one, when
        our clock was ahead, or of another node with our name. We begin a life after that."""
        self._counted["epoch_raised"] += 1
        if at.now < self._raise_after or claimed >= MAX_EPOCH:
            return
        is_again = at.now < self._raise_after + MAX_RAISE_S
        self._raise_wait = min(2 * self._raise_wait, MAX_RAISE_S) if is_again else RAISE_S
        self._raise_after = at.now + self._raise_wait
        epoch = max(claimed + 1, int(at.wall * 1000.0))
        self._store.begin_epoch(epoch, at)
        self._mailer.epoch = epoch
        self._pending.clear()
        self._batch_due = inf
        self._urgent.restart()
        self._urgent.wrote(at)

    # --- members ---

    def member_changed(self, change: Change, view: MemberView, at: Instant) -> None:
        self._at = at
        name = view.name
        if name == self._name:
            return
        self._peers.changed(change, view)
        if name in self._peers:
            self._is_here(name, view, at)
        else:
            self._is_gone(change, name, at)

    def _is_here(self, name: str, view: MemberView, at: Instant) -> None:
        self._peers.back(name)
        epoch = view.tags.get(EPOCH_TAG, "")
        if epoch.isascii() and epoch.isdigit() and len(epoch) < 20:
            self._store.advance(name, min(int(epoch), MAX_EPOCH), at)
        self._store.count(name, at)
        if name in self._strangers:
            del self._strangers[name]
            self._repair.begin(name, at)

    def _is_gone(self, change: Change, name: str, at: Instant) -> None:
        self._repair.forget(name)
        self._skews.pop(name, None)
        if name in self._store.owners and self._store.owners[name].is_counted:
            self._peers.away(name, at.now)
        if change is Change.REAPED:
            self._store.forget_owner(name)

    def _new_owner(self, name: str, at: Instant) -> None:
        if name not in self._peers:
            self._peers.away(name, at.now)

    # --- what goes out, and time ---

    def broadcasts(self, room: int, overhead: int, to: str) -> list[bytes]:
        """At most one message, for a member that understands it."""
        room -= overhead + self._mailer.heading_bytes
        if not len(self._rumours) or room < _ROOM_FOR_ONE or to not in self._peers:
            return []
        found = self._rumours.take(min(room, self._mailer.room))
        return [self._mailer.delta(found, Lane.GOSSIP, self._at)] if found else []

    def has_broadcasts(self) -> bool:
        """Whether ``broadcasts`` has something for some member."""
        return len(self._rumours) > 0 and len(self._peers) > 0

    def tick(self, at: Instant) -> None:
        self._at = at
        self._urgent.tick(at)
        self._outgoing.tick(at)
        if self._batch_due <= at.now:
            self._flush(at)
        for name in self._peers.away_too_long(at.now):
            self._store.discount(name, at)
        self._store.sweep(at)

    def next_deadline(self) -> float:
        return min(
            self._urgent.next_time(),
            self._outgoing.next_time(),
            self._batch_due,
            self._peers.next_time(),
            self._store.next_time(),
        )

    # --- to look at ---

    def skews(self) -> dict[str, float]:
        """See ``ClusterEngine.skews``."""
        return dict(self._skews)

    def figures(self) -> dict[str, int | float]:
        """``state_…``: levels, and counters of ``COUNTERS`` from 0."""
        found: dict[str, int | float] = {f"state_{name}_total": self._counted[name] for name in COUNTERS}
        found["state_rumours_dropped_total"] = self._rumours.dropped
        found["state_notices_dropped_total"] = self._outgoing.dropped
        found["state_notices_duplicate_total"] = self._incoming.duplicates
        found["state_entries"] = self._store.entries
        found["state_bytes"] = self._store.bytes
        found["state_owners"] = len(self._store.owners)
        found["state_rumours"] = len(self._rumours)
        found["state_pending"] = len(self._pending)
        found["state_skew_max_s"] = max(map(abs, self._skews.values()), default=0.0)
        return found

    def _emit_fact(self, fact: FactChanged) -> None:
        self._outlet.emit(fact)


def _is_urgent(home: EpochMap, after: int, upto: int) -> bool:
    return any(rule_of(record.kind).is_urgent for record in home.between(after, upto))


COUNTERS: Final = (
    "merged",  # entries of others taken over
    "duplicates",  # entries heard again
    "expired",
    "shed",  # forgotten for want of room
    "refused",  # not taken, for want of room or a limit
    "clock_ahead",  # entries written by a clock more than a minute ahead
    "epoch_raised",  # times another spoke in our name
    "exchanges",  # begun, after digests that differed
    "unserved",  # answers not given to a peer that asked too often
    "overflows",  # urgent batches that were more than the token bucket held
    "datagrams",
    "streams",
    "bytes",
    "repair_bytes",
    "notices",  # heard
)
