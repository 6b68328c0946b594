"""All maps, merged: what arrives, what runs out, what may be seen, and how much of it is kept.

Merging is idempotent and its order does not matter: a record is replaced by one with a higher number of the
same life only. A record that took the place of another is kept as long as a node that missed it could believe
the other (``Record.shadow``), so nothing comes back.
A full node sheds what is worth least, says of that map that it is partial, and passes it on no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from ..effects import FactChanged
from ..facts import Entry, Kind
from ..instant import Instant
from .clock import HybridClock, seconds
from .codec import Item, Range
from .digest import Digest
from .records import ENTRY_OVERHEAD_BYTES, KINDS, EpochMap, Owner, Record, rule_of
from .wheel import Wheel

MAX_OWNERS: Final = 4_096
MAX_EPOCHS: Final = 8  # of one owner, with something left in them
RETRY_PARTIAL_S: Final = 60.0
MAX_AHEAD_KEYS: Final = 10_000
# Worth least first; a kind that is not here, of a newer version, before all.
SHED_ORDER: Final = (
    Kind.FAILURES,
    Kind.AFFINITY,
    Kind.SESSIONS,
    Kind.CONNECTIONS,
    Kind.NODE,
    Kind.CHALLENGE,
    Kind.CERTIFICATE,
    Kind.KICK,
    Kind.BLOCK,
)
_WORTH: Final[dict[int, int]] = {int(kind): worth for worth, kind in enumerate(SHED_ORDER, 1)}


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of the records of all nodes. ``max_bytes`` of keys and values, with ``ENTRY_OVERHEAD_BYTES`` each;
    Python takes about five times as much."""

    max_entries: int = 300_000
    max_bytes: int = 20 * 1024 * 1024


class Store:
    """``emit`` hears of everything that others wrote. ``heard_of`` is called with the name of a new owner."""

    def __init__(
        self,
        own_name: str,
        epoch: int,
        capacity: Capacity,
        emit: Callable[[FactChanged], None],
        heard_of: Callable[[str, Instant], None],
    ) -> None:
        self.digest = Digest()
        self.clock = HybridClock()
        self.counted: Counter[str] = Counter()
        self.entries = 0
        self.bytes = 0
        self._capacity = capacity
        self._emit = emit
        self._heard_of = heard_of
        self._wheel = Wheel()
        self._kinds: dict[int, dict[Record, None]] = {}
        self._own_kinds: dict[int, dict[Record, None]] = {}
        self._ahead: dict[tuple[int, bytes], int] = {}  # stamps our clock did not follow
        self._partial: dict[EpochMap, float] = {}  # when to ask for all of it again
        own = Owner(own_name, epoch)
        self.owners: dict[str, Owner] = {own_name: own}
        self.own = own.epochs[epoch] = EpochMap(own, epoch)

    # --- what others wrote ---

    def merge(self, part: Range, at: Instant) -> tuple[EpochMap, int, int] | None:
        """What of it is new, as a range; None: nothing."""
        home = self.home_of(part.owner, part.epoch, at)
        if home is None or home.known.covers(part.after, part.upto):
            self.counted["duplicates"] += len(part.items)
            return None
        known = home.known
        for item in part.items:
            if not known.has(item.seq):
                self._take(home, item, at)
        after = max(part.after, known.upto)
        known.add(part.after, part.upto)
        self._close_if_over(home)
        return home, after, part.upto

    def home_of(self, name: str, epoch: int, at: Instant) -> EpochMap | None:
        """The map for what ``name`` wrote in that life; None: there is no place for it."""
        owner = self.owners.get(name)
        if owner is None:
            if len(self.owners) >= MAX_OWNERS and not self._forget_empty():
                self.counted["refused"] += 1
                return None
            owner = self.owners[name] = Owner(name, epoch)
            self._heard_of(name, at)
        home = owner.epochs.get(epoch)
        if home is not None:
            return home
        self.advance(name, epoch, at)
        if not self._make_place(owner, epoch, at):
            return None
        home = owner.epochs[epoch] = EpochMap(owner, epoch)
        return home

    def advance(self, name: str, epoch: int, at: Instant) -> None:
        """``name`` is in this life now: what was only good for earlier ones is over."""
        owner = self.owners.get(name)
        if owner is None or epoch <= owner.current:
            return
        owner.current = epoch
        for home in list(owner.epochs.values()):
            for record in list(home.records.values()) if home.epoch < epoch else ():
                if not rule_of(record.kind).is_lasting:
                    self._drop(record, at)
            self._close_if_over(home)

    def _make_place(self, owner: Owner, epoch: int, at: Instant) -> bool:
        """The newest lives are kept, on all nodes alike."""
        if len(owner.epochs) < MAX_EPOCHS:
            return True
        oldest = owner.epochs[min(owner.epochs)]
        if epoch < oldest.epoch or oldest is self.own:
            self.counted["refused"] += 1
            return False
        for record in list(oldest.records.values()):
            self.counted["shed"] += 1
            self._drop(record, at)
        self._close_if_over(oldest)
        return True

    def _take(self, home: EpochMap, item: Item, at: Instant) -> None:
        owner, rule = home.owner, rule_of(item.kind)
        if home.epoch < owner.current and not rule.is_lasting:
            return
        now = at.now
        deadline = now + min(item.ttl_ms / 1000.0, rule.max_ttl_s) if item.value is not None else now
        shadow = now + min(item.shadow_ms / 1000.0, rule.max_ttl_s) if item.shadow_ms else 0.0
        record = home.records.get((item.kind, item.key))
        if record is None:
            if deadline <= now and shadow <= now:
                return
            if not self._has_room(home, item, at):
                self._mark_partial(home, now)
                return
            record = self._insert(home, item.kind, item.key)
        elif record.seq >= item.seq:
            return
        self._place(record, item.seq)
        self._set(record, item.value, item.stamp, deadline, shadow)
        self.counted["merged"] += 1
        if not self.clock.witness(item.stamp, at.wall):
            self.counted["clock_ahead"] += 1
            if len(self._ahead) >= MAX_AHEAD_KEYS:
                del self._ahead[next(iter(self._ahead))]
            self._ahead[item.kind, item.key] = max(item.stamp, self._ahead.get((item.kind, item.key), 0))
        self._tell(record, at)

    # --- what we write ---

    def write(self, kind: Kind, key: bytes, value: bytes | None, ttl_s: float, at: Instant) -> Record | None:
        """Not numbered yet, see ``number``. None: there is no room."""
        rule = rule_of(kind)
        held = self.own.owner.held((kind, key))
        record = held[0] if held and held[0].home is self.own else None
        if record is None:
            if not self._has_room(self.own, Item(kind, 0, key, value, 0, 0, 0), at):
                return None
            record = self._insert(self.own, kind, key)
        shadow = max((max(other.shadow, other.deadline) for other in held), default=0.0)
        deadline = at.now + min(ttl_s, rule.max_ttl_s) if value is not None else at.now
        after = max(self._ahead.pop((kind, key), 0), record.stamp)
        self._set(record, value, self.clock.stamp(at.wall, after=after), deadline, shadow)
        self._tell(record, at)
        return record

    def number(self, record: Record) -> None:
        """Our next write is this one."""
        self._place(record, self.own.known.upto + 1)
        self.own.known.upto += 1
        record.is_pending = False
        self.digest.touch(self.own)

    def own_record(self, kind: Kind, key: bytes) -> Record | None:
        """The one that is seen, of this life or an earlier one."""
        held = self.own.owner.held((kind, key))
        return held[0] if held else None

    def forget_unsaid(self, record: Record, at: Instant) -> None:
        """Of an entry that nobody has heard of."""
        self._drop(record, at)

    def begin_epoch(self, epoch: int, at: Instant) -> None:
        """A new life of our own, with all that was written in this one, numbered anew from 1."""
        old, owner = self.own, self.own.owner
        self.own = owner.epochs[epoch] = EpochMap(owner, epoch)
        owner.current = epoch
        self.own.records, old.records = old.records, self.own.records
        self.own.counts, old.counts = old.counts, self.own.counts
        old.by_seq.clear()
        for record in self.own.records.values():
            record.home, record.seq = self.own, 0
            self.number(record)
        self._close_if_over(old)

    # --- whose entries count ---

    def discount(self, name: str, at: Instant) -> None:
        """What is not lasting of this owner counts no more, until ``count``."""
        self._set_counted(name, at, is_counted=False)

    def count(self, name: str, at: Instant) -> None:
        self._set_counted(name, at, is_counted=True)

    def _set_counted(self, name: str, at: Instant, *, is_counted: bool) -> None:
        owner = self.owners.get(name)
        if owner is None or owner.is_counted is is_counted or owner is self.own.owner:
            return
        owner.is_counted = is_counted
        for home in owner.epochs.values():
            for record in home.records.values():
                if not rule_of(record.kind).is_lasting:
                    self._tell(record, at)

    def visible(self, kind: Kind, at: Instant) -> Iterator[Entry]:
        is_lasting = rule_of(kind).is_lasting
        for record in chain(self._own_kinds.get(kind, ()), self._kinds.get(kind, ())):
            owner = record.home.owner
            value = record.value
            if value is None or record.deadline <= at.now or not (is_lasting or owner.is_counted):
                continue
            if len(owner.epochs) == 1 or owner.held((kind, record.key))[0] is record:
                yield Entry(kind, owner.name, record.key, value, seconds(record.stamp), record.deadline)

    # --- time ---

    def next_time(self) -> float:
        return min(self._wheel.next_time(), min(self._partial.values(), default=float("inf")))

    def sweep(self, at: Instant) -> None:
        """What has run out is told and, unless it hides something older, forgotten."""
        now = at.now
        for record in self._wheel.due(now):
            if record.value is not None and record.deadline <= now:
                self.bytes -= len(record.value)
                record.value = None
                self.counted["expired"] += 1
                self._tell(record, at)
            if record.keep_until <= now and not record.is_pending:
                self._drop(record, at)
            else:
                self._schedule(record, now)
        self._retry_partial(now)

    def _forget_empty(self) -> bool:
        """Whether there is room for another owner now."""
        for name in list(self.owners):
            self.forget_owner(name)
        return len(self.owners) < MAX_OWNERS

    def forget_owner(self, name: str) -> None:
        """Of a member that is forgotten itself; nothing happens while it has entries."""
        owner = self.owners.get(name)
        if owner is None or owner is self.own.owner:
            return
        if not any(home.records for home in owner.epochs.values()):
            for home in owner.epochs.values():
                self._partial.pop(home, None)
                home.is_gone = True
                self.digest.touch(home)
            del self.owners[name]

    def _retry_partial(self, now: float) -> None:
        """With room again, know nothing of such a map, so that all of it comes back."""
        due = [home for home, when in self._partial.items() if when <= now]
        for home in due:
            is_roomy = (
                self.entries < 0.8 * self._capacity.max_entries
                and self.bytes < 0.8 * self._capacity.max_bytes
            )
            if is_roomy:
                del self._partial[home]
                home.is_partial = False
                home.known.forget()
                self.digest.touch(home)
            else:
                self._partial[home] = now + RETRY_PARTIAL_S

    # --- one record ---

    def _insert(self, home: EpochMap, kind: int, key: bytes) -> Record:
        record = Record(home, kind, key)
        home.records[kind, key] = record
        home.counts[kind] = home.counts.get(kind, 0) + 1
        self._index(record).setdefault(kind, {})[record] = None
        self.entries += 1
        self.bytes += record.size
        return record

    def _index(self, record: Record) -> dict[int, dict[Record, None]]:
        return self._own_kinds if record.home is self.own else self._kinds

    def _place(self, record: Record, seq: int) -> None:
        numbered = record.home.by_seq
        if record.seq:
            del numbered[record.seq]
        record.seq = seq
        numbered[seq] = record

    def _set(self, record: Record, value: bytes | None, stamp: int, deadline: float, shadow: float) -> None:
        before = record.size
        record.value = value
        record.stamp = stamp
        record.deadline = deadline
        record.shadow = shadow
        self.bytes += record.size - before
        self._schedule(record, 0.0)

    def _schedule(self, record: Record, now: float) -> None:
        """Never at once again: a pending one is looked at when it may be gone."""
        when = record.deadline if record.value is not None else record.keep_until
        self._wheel.schedule(record, max(when, now + 0.1))

    def _drop(self, record: Record, at: Instant) -> None:
        home, place = record.home, (record.kind, record.key)
        self._tell(record, at, is_dropped=True)
        del self._index(record)[record.kind][record]
        del home.records[place]
        home.counts[record.kind] -= 1
        self.entries -= 1
        self.bytes -= record.size
        record.is_gone = True
        if record.seq:
            del home.by_seq[record.seq]
        if len(home.owner.epochs) > 1 and (hidden := home.owner.held(place)):
            self._tell(hidden[0], at)
        self._close_if_over(home)

    def _close_if_over(self, home: EpochMap) -> None:
        """Maps of earlier lives go when nothing is left in them."""
        self.digest.touch(home)
        if home.records or home.epoch == home.owner.current or home is self.own:
            return
        self._partial.pop(home, None)
        home.is_gone = True
        home.owner.epochs.pop(home.epoch, None)

    def _tell(self, record: Record, at: Instant, *, is_dropped: bool = False) -> None:
        """The outside hears of the one of the newest life, and of none that we wrote in this."""
        kind, owner = KINDS.get(record.kind), record.home.owner
        was_told, is_hidden = record.is_told, is_dropped
        if len(owner.epochs) > 1:
            for other in owner.held((record.kind, record.key)):
                if other.home.epoch > record.home.epoch:
                    is_hidden = True
                elif other.is_told:
                    was_told, other.is_told = True, False
        if kind is None or record.home is self.own:
            return
        left = record.deadline - at.now
        counts = owner.is_counted or rule_of(kind).is_lasting
        value = record.value if left > 0 and counts and not is_hidden else None
        record.is_told = value is not None
        if value is not None or was_told:
            written = seconds(record.stamp)
            self._emit(FactChanged(kind, owner.name, record.key, value, max(left, 0.0), written))

    # --- room ---

    def _has_room(self, home: EpochMap, item: Item, at: Instant) -> bool:
        if home.counts.get(item.kind, 0) >= rule_of(item.kind).max_entries:
            self.counted["refused"] += 1
            return False
        size = len(item.key) + len(item.value or b"") + ENTRY_OVERHEAD_BYTES
        limit = self._capacity
        while self.entries >= limit.max_entries or self.bytes + size > limit.max_bytes:
            if not self._shed_for(item.kind, at):
                self.counted["refused"] += 1
                return False
        return True

    def _shed_for(self, kind: int, at: Instant) -> bool:
        """One record of others, worth less than ``kind``, goes: the one that is here longest."""
        worth = _WORTH.get(kind, 0)
        for victims in sorted(self._kinds, key=lambda other: _WORTH.get(other, 0)):
            if _WORTH.get(victims, 0) >= worth:
                return False
            if self._kinds[victims]:
                record = next(iter(self._kinds[victims]))
                self._mark_partial(record.home, at.now)
                self._drop(record, at)
                self.counted["shed"] += 1
                return True
        return False

    def _mark_partial(self, home: EpochMap, now: float) -> None:
        if not home.is_partial:
            home.is_partial = True
            self._partial[home] = now + RETRY_PARTIAL_S
            self.digest.touch(home)
