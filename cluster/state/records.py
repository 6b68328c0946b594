"""What a node holds of the maps of all nodes: records, by owner and by the epoch they were written in.

The maps of different lives of an owner do not touch each other: what is in one follows from what was written
in that life alone, so that nodes which heard of them in different order agree. Of a key, the newest life that
has a record hides the older ones.
Invariant: a record is in ``by_seq`` of its home under its number, unless it was not numbered yet (``seq`` 0,
only our own).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from ..facts import RULES, Kind, Rule
from .known import Known

BUCKETS: Final = 64
GRAVE_SLACK_S: Final = 30.0  # for what ages on its way between nodes
ENTRY_OVERHEAD_BYTES: Final = 44  # on the wire, at most; counted for memory also
UNKNOWN_KIND: Final = Rule(is_lasting=False, is_urgent=False, max_ttl_s=86_400.0, max_entries=1_000)
_RULES: Final[dict[int, Rule]] = {int(kind): rule for kind, rule in RULES.items()}
KINDS: Final[dict[int, Kind]] = {int(kind): kind for kind in Kind}

Key = tuple[int, bytes]


def rule_of(kind: int) -> Rule:
    """Kinds of a newer version are kept and passed on, not told."""
    return _RULES.get(kind, UNKNOWN_KIND)


class Record:
    """One entry. ``value`` None: a tombstone. ``stamp``: of the hybrid clock. ``deadline``: monotonic, of the
    value. ``shadow``: monotonic, the last deadline of any earlier value of this key, as its owner knows it:
    nodes that missed this record may believe that one until then."""

    __slots__ = (
        "deadline",
        "due",
        "home",
        "is_gone",
        "is_pending",
        "is_told",
        "key",
        "kind",
        "seq",
        "shadow",
        "stamp",
        "value",
    )

    def __init__(self, home: EpochMap, kind: int, key: bytes) -> None:
        self.home = home
        self.kind = kind
        self.key = key
        self.value: bytes | None = None
        self.seq = 0
        self.stamp = 0
        self.deadline = 0.0
        self.shadow = 0.0
        self.due = 0.0  # when the wheel looks at it
        self.is_told = False  # the outside knows the value
        self.is_pending = False  # written here, and not numbered since
        self.is_gone = False

    @property
    def keep_until(self) -> float:
        return self.shadow + GRAVE_SLACK_S if self.shadow > self.deadline else self.deadline

    @property
    def size(self) -> int:
        return len(self.key) + (len(self.value) if self.value else 0) + ENTRY_OVERHEAD_BYTES


class EpochMap:
    """What an owner wrote in one of its lives. ``is_partial``: not all of it could be kept, so nobody else
    may learn it from here. ``mark``: its part of the digest."""

    __slots__ = (
        "bucket",
        "by_seq",
        "counts",
        "epoch",
        "is_gone",
        "is_partial",
        "known",
        "mark",
        "owner",
        "prefix",
        "records",
    )

    def __init__(self, owner: Owner, epoch: int) -> None:
        self.owner = owner
        self.epoch = epoch
        self.known = Known()
        self.records: dict[Key, Record] = {}
        self.by_seq: dict[int, Record] = {}
        self.counts: dict[int, int] = {}
        self.is_partial = False
        self.is_gone = False
        self.mark = 0
        self.prefix = owner.name.encode() + b"\0" + epoch.to_bytes(8, "big")
        self.bucket = blake2b(self.prefix, digest_size=1).digest()[0] % BUCKETS

    @property
    def matters(self) -> bool:
        """Whether there is something that another node could lack."""
        return bool(self.by_seq) or self.is_partial

    def between(self, after: int, upto: int) -> list[Record]:
        """Records numbered in (after, upto], in order."""
        held = self.by_seq
        if upto - after <= 2 * len(held):
            return [held[seq] for seq in range(after + 1, upto + 1) if seq in held]
        return [held[seq] for seq in sorted(seq for seq in held if after < seq <= upto)]


class Owner:
    """``current``: its newest epoch heard of. ``is_counted``: what is not lasting counts now."""

    __slots__ = ("current", "epochs", "is_counted", "name")

    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        self.current = epoch
        self.epochs: dict[int, EpochMap] = {}
        self.is_counted = True

    def held(self, place: Key) -> list[Record]:
        """The records of a key, that of the newest life first."""
        found = [record for home in self.epochs.values() if (record := home.records.get(place)) is not None]
        if len(found) > 1:
            found.sort(key=lambda record: -record.home.epoch)
        return found
