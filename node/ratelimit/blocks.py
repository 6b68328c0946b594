"""Blocks and what nodes tell each other about them.

Theory: for every key (subject, user, by a rule or by an operator) there is one register whose value is the
latest word on it: a Block, or the Lifted that ended it. Merging takes the larger version, so order and
repetition of messages cannot matter. Which word is the latest is told by stamps of a hybrid clock, which are
above those of all words their author had heard of. A Lifted has the stamp of the block that it ends, and
beats it: so it ends that one and older ones, whatever the clocks say, and none that its author had not heard
of and that came after. Times (``since``, ``until`` …) order nothing: each node has them by its own
clock (``Block.moved``). A word is kept as long as an older one may still be believed somewhere (``covers``).

Failure counts travel as state ("node a counted 7 since 12:00"), never as increments.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from cluster.state.clock import MAX_STAMP, HybridClock

from .subjects import Subject, kind_of

Key = tuple[Subject, str, bool]

BY_USER, BY_ADDRESS, BY_FAST, BY_ADMIN = "user", "address", "fast", "admin"
RULES = (BY_USER, BY_ADDRESS, BY_FAST, BY_ADMIN)
MAX_RULE_BLOCKS = 100_000
MAX_ADMIN_BLOCKS = 10_000
MAX_TEXT_CHARS = 320
KEEP_LIFTED_S = 86_400.0
KEEP_ENDED_S = 600.0  # so that an older word that was delayed does not count as the latest
MAX_COVERED_S = 400 * 86_400.0  # as long as any node believes a word that is not said again
# Stamps further ahead than this are answered, on their key, but not followed: one broken clock would take
# those of all nodes to the end of time.
MAX_FOLLOWED_S = 86_400.0
MAX_AGE_ERROR_S = 300.0  # of a count, on its way
FOREVER = 4_102_444_800.0  # 2100-01-01, an end that every format can spell


class BadDelta(ValueError):
    """Not something that ``encode`` wrote."""


@dataclass(frozen=True, slots=True)
class Block:
    """Times are seconds of the epoch; ``user`` empty: the whole subject."""

    subject: Subject
    user: str
    rule: str
    origin: str  # the node that decided
    stamp: int  # of its hybrid clock
    since: float
    until: float
    covers: float = 0.0  # until when an older word that lasts longer may be believed somewhere
    count: int = 0  # failures that led to it
    level: int = 0  # blocks before this one that are not forgotten
    last_user: str = ""
    reason: str = ""  # an operator's words

    @property
    def key(self) -> Key:
        return (self.subject, self.user, self.rule == BY_ADMIN)

    @property
    def version(self) -> tuple[object, ...]:
        """The same on all nodes: nothing that is moved is in it."""
        return (self.stamp, False, self.origin, self.rule, self.count, self.level, self.last_user)

    @property
    def matters_until(self) -> float:
        return max(self.until, self.covers)

    def moved(self, by_s: float) -> Block:
        """The same by a clock that is so much ahead; what lasts for ever still does."""
        since, until, covers = (_moved(time, by_s) for time in (self.since, self.until, self.covers))
        return replace(self, since=since, until=until, covers=covers)


@dataclass(frozen=True, slots=True)
class Lifted:
    """An operator ended the block of this key and stamp."""

    subject: Subject
    user: str
    is_admin: bool  # which block: an operator's or a rule's
    origin: str
    stamp: int
    covers: float  # as of a Block

    @property
    def key(self) -> Key:
        return (self.subject, self.user, self.is_admin)

    @property
    def version(self) -> tuple[object, ...]:
        return (self.stamp, True, self.origin, "", 0, 0, "")

    @property
    def matters_until(self) -> float:
        return self.covers

    def moved(self, by_s: float) -> Lifted:
        return replace(self, covers=_moved(self.covers, by_s))


@dataclass(frozen=True, slots=True)
class Failures:
    """``origin`` has counted so many failures of an address in the window that began at ``since``, by its own
    clock at ``stamp``."""

    subject: Subject
    origin: str
    stamp: int
    since: float
    count: int

    def moved(self, by_s: float) -> Failures:
        return replace(self, since=_moved(self.since, by_s))


Delta = Block | Lifted | Failures
Word = Block | Lifted
D = TypeVar("D", Block, Lifted, Failures)


def _moved(time: float, by_s: float) -> float:
    return min(max(time + by_s, 0.0), FOREVER) if 0.0 < time < FOREVER else time


def encode(delta: Delta) -> list[object]:
    """Plain values in a fixed order, for msgpack or JSON."""
    if isinstance(delta, Failures):
        return ["failures", str(delta.subject), delta.origin, delta.stamp, delta.since, delta.count]
    subject, user = str(delta.subject), delta.user
    if isinstance(delta, Lifted):
        return ["lifted", subject, user, delta.is_admin, delta.origin, delta.stamp, delta.covers]
    return [
        *("block", subject, user, delta.rule, delta.origin, delta.stamp),
        *(delta.since, delta.until, delta.covers),
        *(delta.count, delta.level, delta.last_user, delta.reason),
    ]


def decode(values: object) -> Delta:
    """Raises BadDelta for anything that cannot be a delta."""
    match values:
        case ["failures", str(subject), str(origin), int(stamp), int() | float() as since, int(count)]:
            return _checked(Failures(_subject(subject), origin, stamp, float(since), count))
        case [
            "lifted",
            str(subject),
            str(user),
            bool(is_admin),
            str(origin),
            int(stamp),
            int() | float() as covers,
        ]:
            return _checked(Lifted(_subject(subject), user, is_admin, origin, stamp, float(covers)))
        case ["block", str(subject), str(user), str(rule), str(origin), *rest] if rule in RULES:
            return _decode_block(_subject(subject), user, rule, origin, rest)
    raise BadDelta("unknown form")


def _decode_block(subject: Subject, user: str, rule: str, origin: str, rest: list[object]) -> Block:
    match rest:
        case [
            int(stamp),
            int() | float() as since,
            int() | float() as until,
            int() | float() as covers,
            int(count),
            int(level),
            str(last_user),
            str(reason),
        ]:
            times = (float(since), float(until), float(covers))
            return _checked(
                Block(subject, user, rule, origin, stamp, *times, count, level, last_user, reason)
            )
    raise BadDelta("unknown form of a block")


def _checked(delta: D) -> D:
    for name in delta.__slots__:
        value = getattr(delta, name)
        if isinstance(value, float) and not (math.isfinite(value) and 0 <= value <= FOREVER):
            raise BadDelta(f"{name} is out of range")
        if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
            raise BadDelta(f"{name} is too long")
    if isinstance(delta.stamp, bool) or not 0 <= delta.stamp <= MAX_STAMP:
        raise BadDelta("stamp out of range")
    if isinstance(delta, Failures) and not 0 <= delta.count < 2**31:
        raise BadDelta("count out of range")
    if isinstance(delta, Block) and not (0 <= delta.count < 2**31 and 0 <= delta.level < 256):
        raise BadDelta("count out of range")
    return delta


def _subject(text: str) -> Subject:
    if not (text.isascii() and text.isdigit() and len(text) <= 42):
        raise BadDelta("not a subject")
    number = int(text)
    bits = 128 if number & 1 else 32
    prefix = (number >> 1) & 0xFF
    if prefix > bits or number >> 9 >= 1 << prefix:
        raise BadDelta("not a subject")
    return Subject(number)


class BlockTable:
    """The registers. What is over is as good as absent; ``sweep`` frees it."""

    def __init__(
        self, max_rule_blocks: int = MAX_RULE_BLOCKS, max_admin_blocks: int = MAX_ADMIN_BLOCKS
    ) -> None:
        self._max_rule_blocks = max_rule_blocks
        self._max_admin_blocks = max_admin_blocks
        self._by_rule: OrderedDict[Key, Word] = OrderedDict()
        self._by_admin: dict[Key, Word] = {}
        self._stamps = HybridClock(max_ahead_s=MAX_FOLLOWED_S)
        self.kinds: tuple[int, ...] = ()  # of all subjects here

    def __len__(self) -> int:
        return len(self._by_rule) + len(self._by_admin)

    def of(self, subject: Subject, user: str, now: float, *, is_admin: bool) -> Block | None:
        found = self.latest((subject, user, is_admin))
        return found if isinstance(found, Block) and found.until > now else None

    def latest(self, key: Key) -> Word | None:
        """What is over may be here still."""
        return (self._by_admin if key[2] else self._by_rule).get(key)

    def active(self, now: float) -> Iterator[Block]:
        for registers in (self._by_admin, self._by_rule):
            for each in registers.values():
                if isinstance(each, Block) and each.until > now:
                    yield each

    def next_stamp(self, key: Key, now: float) -> int:
        """Of this node's next word on ``key``: above all that it has heard of, so that it holds."""
        held = self.latest(key)
        return self._stamps.stamp(now, after=held.stamp if held is not None else 0)

    def covered(self, key: Key, now: float) -> float:
        """Until when what was said of ``key`` so far may be believed somewhere."""
        held = self.latest(key)
        return min(held.matters_until, now + MAX_COVERED_S) if held is not None else 0.0

    def merge(self, entry: Word, now: float) -> bool:
        """Take the later word; whether ``entry`` was it.

        When there are too many the oldest rule blocks go; an operator's are not taken any more.
        """
        self._stamps.witness(entry.stamp, now)
        registers = self._by_admin if entry.key[2] else self._by_rule
        held = registers.get(entry.key)
        if held is not None and held.version >= entry.version:
            return False
        if held is None and registers is self._by_admin and not self._has_room():
            return False
        registers[entry.key] = entry
        if (kind := kind_of(entry.subject)) not in self.kinds:
            self.kinds = (*self.kinds, kind)
        if registers is self._by_rule:
            self._by_rule.move_to_end(entry.key)
            if len(self._by_rule) > self._max_rule_blocks:
                self._by_rule.popitem(last=False)
        return True

    def _has_room(self) -> bool:
        """For an operator's block; one that was lifted makes place."""
        if len(self._by_admin) < self._max_admin_blocks:
            return True
        lifted = next((key for key, each in self._by_admin.items() if isinstance(each, Lifted)), None)
        if lifted is None:
            return False
        del self._by_admin[lifted]
        return True

    def sweep(self, now: float) -> None:
        """O(blocks)."""
        for registers in (self._by_admin, self._by_rule):
            for key in [key for key, entry in registers.items() if _is_over(entry, now)]:
                del registers[key]
        kinds = {kind_of(key[0]) for registers in (self._by_admin, self._by_rule) for key in registers}
        self.kinds = tuple(sorted(kinds))


def _is_over(entry: Word, now: float) -> bool:
    return entry.matters_until + KEEP_ENDED_S <= now
