"""Rules that cannot hold are passed over together.

Theory: most rules compare header fields with constants, and most do not hold. Such a test *needs* one of its
keys (or a piece of a pattern) to be in one of its fields. All keys of a group of rules are looked for at
once, field by field; a rule with nothing found is not run. What is left runs in its order, so nothing is
decided here. A script of such rules only *idles* where nothing is found for any of them: it need not be run.

Invariant: a rule is skipped only where running it would have had no effect but its steps. Rules that change
the header end the skipping; long values are left to the rules, which pay for them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .budget import Budget
from .comparators import ascii_upper
from .control import sequence
from .fields import Fields, Mailbox, Seeker
from .spec import Do

if TYPE_CHECKING:
    from .run import Run

# Below this a group costs more than it spares.
FEWEST_RULES = 4
# A script that stops early should not have paid for all its rules.
MOST_RULES = 64
# Fields of more names than these are read with all others.
MOST_SOUGHT = 24
CHARS_PER_STEP = 512
KEYS_PER_STEP = 32


class Source(NamedTuple):
    """Where values come from. ``key`` is the same for the same values."""

    key: Hashable
    field: str  # that has to be there, in lower case
    read: Callable[[Fields], Sequence[str]]


class Need(NamedTuple):
    """Some value of the source is one of ``wholes`` or contains one of ``parts``; both are in capitals."""

    source: Source
    wholes: Sequence[str]
    parts: Sequence[str]


# One of them must be met; empty: can never hold.
Needs = tuple[Need, ...]
Idles = Callable[[Fields, Budget], bool]


def header_source(name: str) -> Source:
    return Source(name, name.lower(), lambda fields: fields.values(name))


def address_source(name: str, part: str, reader: Callable[[Mailbox], str | None]) -> Source:
    def read(fields: Fields) -> Sequence[str]:
        return [value for box in fields.addresses(name) if (value := reader(box)) is not None]

    return Source((name, part), name.lower(), read)


def capitals(fields: Fields, source: Source) -> tuple[list[str], int]:
    """The values in capitals, and the steps that looking through them takes; made once for all rules."""
    found = fields.uppers.get(source.key)
    if found is None:
        values = source.read(fields)
        if len(values) == 1:  # as nearly always
            found = [ascii_upper(values[0])], len(values[0]) // CHARS_PER_STEP
        else:
            steps = sum(map(len, values)) // CHARS_PER_STEP + len(values) // 64
            found = [ascii_upper(value) for value in values], steps
        fields.uppers[source.key] = found
    return found


class _Wanted:
    """What a group of rules looks for in one source, and which of the rules do."""

    __slots__ = ("parts", "source", "wholes")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.wholes: dict[str, list[int]] = {}
        self.parts: dict[str, list[int]] = {}


class Block(NamedTuple):
    """The commands of a block."""

    run: Do
    idles: Idles | None  # whether running it would have no effect; None: it may have one with any message


def passing_over(steps: Sequence[tuple[Do, Needs | None]], *, is_script: bool = False) -> Block:
    """The commands in their order. Those without ``Needs`` always run. ``is_script``: they are the whole of
    it, so that it matters whether they idle."""
    rules = sum(needs is not None for _, needs in steps)
    may_idle, are_few = is_script and rules == len(steps), rules < FEWEST_RULES
    groups = []
    if may_idle or not are_few:
        groups = [_Group(steps[at : at + MOST_RULES]) for at in range(0, len(steps), MOST_RULES)]
    run = sequence([step for step, _ in steps] if are_few else [group.run for group in groups])
    return Block(run, _all_idle(groups) if may_idle else None)


def _all_idle(groups: Sequence[_Group]) -> Idles:
    if len(groups) == 1:
        return groups[0].idles

    def idles(fields: Fields, budget: Budget) -> bool:
        return all(group.idles(fields, budget) for group in groups)

    return idles


class _Group:
    """Up to ``MOST_RULES`` commands that follow each other."""

    __slots__ = ("_always", "_every", "_plain", "_seeker", "_wanted")

    def __init__(self, steps: Sequence[tuple[Do, Needs | None]]) -> None:
        self._every = [step for step, _ in steps]
        self._always = [number for number, (_, needs) in enumerate(steps) if needs is None]
        self._wanted = _index(steps)
        self._plain = sequence(self._every)
        names = {source.field for source, _, _ in self._wanted}
        self._seeker = Seeker(tuple(names)) if len(names) <= MOST_SOUGHT else None

    def idles(self, fields: Fields, budget: Budget) -> bool:
        """Whether no command is due. Raises OverBudget."""
        return self._due(fields, budget) == set()

    def run(self, run: Run) -> None:
        fields, every = run.fields, self._every
        uppers = fields.uppers
        due = self._due(fields, run.budget)
        if due is None:
            self._plain(run)
            return
        for number in sorted(due):
            every[number](run)
            if fields.uppers is not uppers:  # the header was changed
                for step in every[number + 1 :]:
                    step(run)
                return

    def _due(self, fields: Fields, budget: Budget) -> set[int] | None:
        """The commands that have to be run; None: values are too long to say. Raises OverBudget."""
        if self._seeker is not None:
            fields.seek(self._seeker)
        uppers, due, raw_values = fields.uppers, set(self._always), fields.raw_values
        for source, wholes, parts in self._wanted:
            if not raw_values(source.field):
                continue
            values, long = uppers.get(source.key) or capitals(fields, source)
            if long:
                return None
            for value in values:
                if value in wholes:
                    due.update(wholes[value])
                for part in parts:
                    if part in value:
                        due.update(parts[part])
            budget.spend(len(values) * len(parts) // KEYS_PER_STEP)
        budget.spend(len(self._every))
        return due


def _index(
    steps: Sequence[tuple[Do, Needs | None]],
) -> list[tuple[Source, dict[str, list[int]], dict[str, list[int]]]]:
    found: dict[Hashable, _Wanted] = {}
    for number, (_, needs) in enumerate(steps):
        for source, wholes, parts in needs or ():
            here = found.get(source.key)
            if here is None:
                here = found[source.key] = _Wanted(source)
            for key in wholes:
                here.wholes.setdefault(key, []).append(number)
            for key in parts:
                here.parts.setdefault(key, []).append(number)
    return [(each.source, each.wholes, each.parts) for each in found.values()]
