"""SEARCH evaluation: as much as possible from memory, then headers, then bodies.

Theory: every key is given two sets of messages, those that match for *sure* and those that are
*possible*. For keys the view can answer (flags, numbers, sizes, dates) both are the same; for text
keys nothing is sure and everything possible. AND, OR and NOT combine them as set algebra, so one pass
leaves three groups: sure, out, and the few whose text must be read. Of these, the same tree is decided
message by message in three values: first with the header, and with the body only where that left
``None``.

A set is one integer with a byte for each message, 0 or 1: combining 100,000 messages costs
microseconds, and a column of flags becomes a set by one ``bytes.translate``.

Invariant: the outcome is what ``decide`` would give for each message with everything read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, Protocol

from storage.model import SystemFlag

from .searchkeys import (
    And,
    BodyHas,
    HasFlag,
    HasKeyword,
    HeaderHas,
    InSeqSet,
    InternalDate,
    InUidSet,
    IsRecent,
    Key,
    ModSeqFrom,
    Not,
    Or,
    SentDate,
    SizeAbove,
    SizeBelow,
    TextHas,
    When,
    Younger,
)
from .sentdate import DAY_S, midnight
from .textfacts import TextFacts

CHUNK_MESSAGES: Final = 1_000  # of one read

Decide = Callable[[int, TextFacts], "bool | None"]


class Columns(Protocol):
    """The messages a search is about, as parallel columns ascending by sequence number."""

    @property
    def count(self) -> int: ...

    @property
    def flags(self) -> bytes:
        """SystemFlag bits, one octet a message."""
        ...

    @property
    def modseqs(self) -> Sequence[int]: ...

    @property
    def sizes(self) -> Sequence[int]: ...

    @property
    def internaldates(self) -> Sequence[int]: ...

    def with_keyword(self, keyword: str) -> Sequence[int]:
        """Positions."""
        ...

    def recent(self) -> Sequence[int]: ...

    def of_set(self, key: InSeqSet | InUidSet) -> Sequence[int]: ...


class TextReader(Protocol):
    """Reads what a search needs of messages given by position."""

    def rows(self, positions: Sequence[int], *, bodies: bool) -> AsyncIterator[tuple[int, TextFacts]]:
        """In the given order, with headers; one read for all."""
        ...

    async def read_body(self, facts: TextFacts) -> None:
        """Complete ``facts`` with the body's text. Raises Unavailable, Corrupt."""
        ...


@dataclass(frozen=True, slots=True)
class _Node:
    """One key, compiled."""

    sure: int
    possible: int
    cost: int  # 0: the view, 1: headers, 2: bodies
    decide: Decide


_COST_VIEW, _COST_HEADER, _COST_BODY = range(3)
_FLAG_TABLES = {
    flag: bytes(1 if bits & flag.value else 0 for bits in range(256))
    for flag in (
        SystemFlag.SEEN,
        SystemFlag.ANSWERED,
        SystemFlag.FLAGGED,
        SystemFlag.DELETED,
        SystemFlag.DRAFT,
    )
}


class Plan:
    """A search compiled against one state of a mailbox.

    ``now`` is seconds since the epoch (YOUNGER, OLDER). Nothing is read from the columns later.
    """

    def __init__(self, key: Key, columns: Columns, now: float) -> None:
        self._columns = columns
        self._now = now
        self._count = columns.count
        self._every = int.from_bytes(b"\x01" * self._count, "little")
        self._root = self._compile(key)

    @property
    def needs_bodies(self) -> bool:
        return self._root.cost == _COST_BODY

    def sure(self) -> list[int]:
        """Positions that match whatever their text is."""
        return self._positions(self._root.sure)

    def undecided(self) -> list[int]:
        """Positions whose text must be read."""
        return self._positions(self._root.possible & ~self._root.sure)

    def decide(self, position: int, facts: TextFacts) -> bool | None:
        """None: the body is needed and not there yet."""
        return self._root.decide(position, facts)

    def _positions(self, members: int) -> list[int]:
        return list(compress(range(self._count), self._octets(members)))

    def _octets(self, members: int) -> bytes:
        return members.to_bytes(self._count, "little")

    # --- compilation ---

    def _compile(self, key: Key) -> _Node:
        match key:
            case And(keys):
                return self._all([self._compile(part) for part in keys])
            case Or(left, right):
                return self._negate(
                    self._all([self._negate(self._compile(left)), self._negate(self._compile(right))])
                )
            case Not(inner):
                return self._negate(self._compile(inner))
            case HeaderHas() | SentDate() | BodyHas() | TextHas():
                return self._text(key)
            case _:
                return self._known(self._members(key))

    def _known(self, members: int) -> _Node:
        octets = self._octets(members)
        return _Node(members, members, _COST_VIEW, lambda position, _facts: octets[position] == 1)

    def _text(self, key: HeaderHas | SentDate | BodyHas | TextHas) -> _Node:
        cost, decide = _decider(key, self._columns.internaldates)
        return _Node(0, self._every, cost, decide)

    def _negate(self, node: _Node) -> _Node:
        def decide(position: int, facts: TextFacts) -> bool | None:
            outcome = node.decide(position, facts)
            return None if outcome is None else not outcome

        return _Node(self._every & ~node.possible, self._every & ~node.sure, node.cost, decide)

    def _all(self, nodes: list[_Node]) -> _Node:
        sure = possible = self._every
        for node in nodes:
            sure &= node.sure
            possible &= node.possible
        texts = sorted((node for node in nodes if node.cost), key=lambda node: node.cost)
        if not texts:
            return self._known(sure)
        if len(texts) < len(nodes):
            known = self._every
            for node in nodes:
                known &= self._every if node.cost else node.sure
            texts.insert(0, self._known(known))
        return _Node(sure, possible, texts[-1].cost, _conjunction([node.decide for node in texts]))

    # --- keys the view answers ---

    def _members(self, key: Key) -> int:
        columns = self._columns
        match key:
            case HasFlag(flag):
                return int.from_bytes(columns.flags.translate(_FLAG_TABLES[flag]), "little")
            case HasKeyword(keyword):
                return self._at(columns.with_keyword(keyword))
            case IsRecent():
                return self._at(columns.recent())
            case InSeqSet() | InUidSet():
                return self._at(columns.of_set(key))
            case SizeAbove(size):
                return self._where(columns.sizes, size.__lt__)
            case SizeBelow(size):
                return self._where(columns.sizes, size.__gt__)
            case ModSeqFrom(modseq):
                return self._where(columns.modseqs, modseq.__le__)
            case Younger(seconds):
                return self._where(columns.internaldates, int(self._now - seconds).__lt__)
            case InternalDate(when, day):
                return self._dated(when, midnight(day))
        raise AssertionError(key)

    def _dated(self, when: When, start: int) -> int:
        """BEFORE excludes the day itself, SINCE includes it (RFC 9051 §6.4.4)."""
        dates = self._columns.internaldates
        if when is When.BEFORE:
            return self._where(dates, start.__gt__)
        since = self._where(dates, start.__le__)
        return since if when is When.SINCE else since & self._where(dates, (start + DAY_S).__gt__)

    def _where(self, column: Sequence[int], test: Callable[[int], bool]) -> int:
        return int.from_bytes(bytes(map(test, column)), "little")

    def _at(self, positions: Sequence[int]) -> int:
        octets = bytearray(self._count)
        for position in positions:
            octets[position] = 1
        return int.from_bytes(octets, "little")


def _conjunction(parts: list[Decide]) -> Decide:
    """False as soon as one part is; None when a part is not decided yet and none is False."""

    def decide(position: int, facts: TextFacts) -> bool | None:
        outcome: bool | None = True
        for part in parts:
            found = part(position, facts)
            if found is False:
                return False
            if found is None:
                outcome = None
        return outcome

    return decide


def _decider(
    key: HeaderHas | SentDate | BodyHas | TextHas, internaldates: Sequence[int]
) -> tuple[int, Decide]:
    match key:
        case HeaderHas(name, text):
            needle = TextFacts.fold_field(text)
            return _COST_HEADER, lambda _position, facts: facts.field_has(name, needle)
        case SentDate(when, day):
            wanted = midnight(day)
            return _COST_HEADER, lambda position, facts: _is_sent(
                when, wanted, facts.sent_day(internaldates[position])
            )
        case BodyHas(text):
            needle = TextFacts.fold(text)
            return _COST_BODY, lambda _position, facts: facts.body_has(needle)
        case TextHas(text):
            needle, of_header = TextFacts.fold(text), TextFacts.fold_field(text)
            return _COST_BODY, lambda _position, facts: facts.text_has(of_header, needle)


def _is_sent(when: When, wanted: int, start: int) -> bool:
    """Both are midnights."""
    if when is When.ON:
        return start == wanted
    return start < wanted if when is When.BEFORE else start >= wanted


# --- running --------------------------------------------------------------------------------------


async def find_all(plan: Plan, reader: TextReader) -> list[int]:
    """All matching positions, ascending. Without text keys this reads nothing."""
    matches = plan.sure()
    undecided = plan.undecided()
    if not undecided:
        return matches
    for start in range(0, len(undecided), CHUNK_MESSAGES):
        matches += [p async for p in _decided(plan, reader, undecided[start : start + CHUNK_MESSAGES])]
    return sorted(matches)


async def find_end(plan: Plan, reader: TextReader, *, last: bool) -> int | None:
    """The first match, or the last one; stops reading as soon as it is known."""
    sure, undecided = plan.sure(), plan.undecided()
    end = (sure[-1] if last else sure[0]) if sure else None
    if end is not None:
        undecided = [p for p in undecided if (p > end if last else p < end)]
    if last:
        undecided.reverse()
    for start in range(0, len(undecided), CHUNK_MESSAGES):
        async for position in _decided(plan, reader, undecided[start : start + CHUNK_MESSAGES]):
            return position
    return end


async def _decided(plan: Plan, reader: TextReader, positions: list[int]) -> AsyncIterator[int]:
    """Those that match, in the given order; messages that are gone meanwhile are left out."""
    async for position, facts in reader.rows(positions, bodies=plan.needs_bodies):
        outcome = plan.decide(position, facts)
        if outcome is None:
            await reader.read_body(facts)
            outcome = plan.decide(position, facts)
        if outcome:
            yield position
