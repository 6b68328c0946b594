"""Blocks and what nodes tell each other about them.

Theory: for every key (subject, user, by a rule or by an operator) there is one register whose value is the
latest word on it: a Block, or the Lifted that ended it. Merging takes the larger version, so order and
repetition of messages cannot matter. A Lifted is kept as long as an older block might still arrive.

Failure counts travel as state ("node a counted 7 since 12:00"), never as increments.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from .subjects import Subject, kind_of

Key = tuple[Subject, str, bool]

BY_USER, BY_ADDRESS, BY_FAST, BY_ADMIN = "user", "address", "fast", "admin"
RULES = (BY_USER, BY_ADDRESS, BY_FAST, BY_ADMIN)
MAX_RULE_BLOCKS = 100_000
MAX_ADMIN_BLOCKS = 10_000
MAX_TEXT_CHARS = 320
KEEP_LIFTED_S = 86_400.0
KEEP_ENDED_S = 600.0  # so that an older word that was delayed does not count as the latest
# Clocks of nodes differ; a block from further in the future is a broken clock.
MAX_SKEW_S = 300.0
TICK_S = 0.001
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
    since: float
    until: float
    count: int = 0  # failures that led to it
    level: int = 0  # blocks before this one that are not forgotten
    last_user: str = ""
    reason: str = ""  # an operator's words

    @property
    def key(self) -> Key:
        return (self.subject, self.user, self.rule == BY_ADMIN)

    @property
    def version(self) -> tuple[object, ...]:
        return (self.since, False, self.until, self.origin, self.rule, self.count, self.last_user)


@dataclass(frozen=True, slots=True)
class Lifted:
    """An operator ended the block of this key."""

    subject: Subject
    user: str
    is_admin: bool  # which block: an operator's or a rule's
    origin: str
    at: float

    @property
    def key(self) -> Key:
        return (self.subject, self.user, self.is_admin)

    @property
    def version(self) -> tuple[object, ...]:
        return (self.at, True, self.at, self.origin, "", 0, "")


@dataclass(frozen=True, slots=True)
class Failures:
    """``origin`` has counted so many failures of an address in the window that began at ``since``."""

    subject: Subject
    origin: str
    since: int
    count: int


Delta = Block | Lifted | Failures


def encode(delta: Delta) -> list[object]:
    """Plain values in a fixed order, for msgpack or JSON."""
    if isinstance(delta, Failures):
        return ["failures", str(delta.subject), delta.origin, delta.since, delta.count]
    if isinstance(delta, Lifted):
        return ["lifted", str(delta.subject), delta.user, delta.is_admin, delta.origin, delta.at]
    return [
        *("block", str(delta.subject), delta.user, delta.rule, delta.origin, delta.since, delta.until),
        *(delta.count, delta.level, delta.last_user, delta.reason),
    ]


def decode(values: object) -> Delta:
    """Raises BadDelta for anything that cannot be a delta."""
    match values:
        case ["failures", str(subject), str(origin), int(since), int(count)]:
            return _checked(Failures(_subject(subject), origin, since, count))
        case ["lifted", str(subject), str(user), bool(is_admin), str(origin), int() | float() as at]:
            return _checked(Lifted(_subject(subject), user, is_admin, origin, float(at)))
        case ["block", str(subject), str(user), str(rule), str(origin), *rest] if rule in RULES:
            return _decode_block(_subject(subject), user, rule, origin, rest)
    raise BadDelta("unknown form")


def _decode_block(subject: Subject, user: str, rule: str, origin: str, rest: list[object]) -> Block:
    match rest:
        case [
            int() | float() as since,
            int() | float() as until,
            int(count),
            int(level),
            str(last_user),
            str(reason),
        ]:
            times = (float(since), float(until))
            return _checked(Block(subject, user, rule, origin, *times, count, level, last_user, reason))
    raise BadDelta("unknown form of a block")


D = TypeVar("D", Block, Lifted, Failures)


def _checked(delta: D) -> D:
    for name in delta.__slots__:
        value = getattr(delta, name)
        if isinstance(value, float) and not (math.isfinite(value) and 0 <= value <= FOREVER):
            raise BadDelta(f"{name} is out of range")
        if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
            raise BadDelta(f"{name} is too long")
    if isinstance(delta, Failures) and not (0 <= delta.since < 2**32 and 0 <= delta.count < 2**31):
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

    def __init__(self, max_rule_blocks: int = MAX_RULE_BLOCKS) -> None:
        self._max_rule_blocks = max_rule_blocks
        self._by_rule: OrderedDict[Key, Block | Lifted] = OrderedDict()
        self._by_admin: dict[Key, Block | Lifted] = {}
        self.kinds: tuple[int, ...] = ()  # of all subjects here

    def __len__(self) -> int:
        return len(self._by_rule) + len(self._by_admin)

    def of(self, subject: Subject, user: str, now: float, *, is_admin: bool) -> Block | None:
        registers = self._by_admin if is_admin else self._by_rule
        found = registers.get((subject, user, is_admin))
        return found if isinstance(found, Block) and found.until > now else None

    def active(self, now: float) -> Iterator[Block]:
        for registers in (self._by_admin, self._by_rule):
            for each in registers.values():
                if isinstance(each, Block) and each.until > now:
                    yield each

    def later(self, key: Key, now: float) -> float:
        """``now``, or a little after the latest word on ``key``: this node's next word is to hold, also when
        the clock has not moved, or was set back."""
        held = (self._by_admin if key[2] else self._by_rule).get(key)
        if held is None:
            return now
        return max(now, (held.since if isinstance(held, Block) else held.at) + TICK_S)

    def merge(self, entry: Block | Lifted) -> bool:
        """Take the later word; whether ``entry`` was it.

        When there are too many the oldest rule blocks go; an operator's are not taken any more.
        """
        registers = self._by_admin if entry.key[2] else self._by_rule
        held = registers.get(entry.key)
        if held is not None and held.version >= entry.version:
            return False
        if held is None and registers is self._by_admin and len(registers) >= MAX_ADMIN_BLOCKS:
            return False
        registers[entry.key] = entry
        if (kind := kind_of(entry.subject)) not in self.kinds:
            self.kinds = (*self.kinds, kind)
        if registers is self._by_rule:
            self._by_rule.move_to_end(entry.key)
            if len(self._by_rule) > self._max_rule_blocks:
                self._by_rule.popitem(last=False)
        return True

    def sweep(self, now: float) -> None:
        """O(blocks)."""
        for registers in (self._by_admin, self._by_rule):
            for key in [key for key, entry in registers.items() if _is_over(entry, now)]:
                del registers[key]
        kinds = {kind_of(key[0]) for registers in (self._by_admin, self._by_rule) for key in registers}
        self.kinds = tuple(sorted(kinds))


def _is_over(entry: Block | Lifted, now: float) -> bool:
    if isinstance(entry, Lifted):
        return entry.at + KEEP_LIFTED_S <= now
    return entry.until + KEEP_ENDED_S <= now
