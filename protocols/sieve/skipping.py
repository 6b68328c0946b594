"""Rules that cannot hold are passed over together.

Theory: most rules compare header fields with constants, and most do not hold. Such a test *needs* one of its
keys (or a piece of a pattern) to be in one of its fields. All keys of a group of rules are looked for at
once, field by field; a rule with nothing found is not run. What is left runs in its order, so nothing is
decided here.

Invariant: a rule is skipped only where running it would have had no effect but its steps. Rules that change
the header end the skipping; long values are left to the rules, which pay for them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .comparators import ascii_upper
from .control import sequence
from .fields import Fields, Mailbox
from .spec import Do

if TYPE_CHECKING:
    from .run import Run

# Below this a group costs more than it spares.
FEWEST_RULES = 4
# A script that stops early should not have paid for all its rules.
MOST_RULES = 64
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


def header_source(name: str) -> Source:
    return Source(name, name.lower(), lambda fields: fields.values(name))


def address_source(name: str, part: str, reader: Callable[[Mailbox], str | None]) -> Source:
    return Source((name, part), name.lower(), lambda fields: fields.address_parts(name, part, reader))


def capitals(fields: Fields, source: Source) -> tuple[list[str], int]:
    """The values in capitals, and the steps that looking through them takes; made once for all rules."""
    found = fields.uppers.get(source.key)
    if found is None:
        values = source.read(fields)
        steps = sum(map(len, values)) // CHARS_PER_STEP + len(values) // 64
        found = fields.uppers[source.key] = [ascii_upper(value) for value in values], steps
    return found


class _Wanted:
    """What a group of rules looks for in one source, and which of the rules do."""

    __slots__ = ("parts", "source", "wholes")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.wholes: dict[str, list[int]] = {}
        self.parts: dict[str, list[int]] = {}


def passing_over(steps: Sequence[tuple[Do, Needs | None]]) -> Do:
    """The commands in their order. Those without ``Needs`` always run."""
    if sum(needs is not None for _, needs in steps) < FEWEST_RULES:
        return sequence([step for step, _ in steps])
    return sequence([_group(steps[at : at + MOST_RULES]) for at in range(0, len(steps), MOST_RULES)])


def _group(steps: Sequence[tuple[Do, Needs | None]]) -> Do:
    every = [step for step, _ in steps]
    always = [number for number, (_, needs) in enumerate(steps) if needs is None]
    wanted = _index(steps)
    plain = sequence(every)

    def run_due(run: Run) -> None:
        fields = run.fields
        uppers, due, present = fields.uppers, set(always), fields.names
        for source, wholes, parts in wanted:
            if source.field not in present:
                continue
            values, long = uppers.get(source.key) or capitals(fields, source)
            if long:
                plain(run)
                return
            for value in values:
                if value in wholes:
                    due.update(wholes[value])
                for part, rules in parts:
                    if part in value:
                        due.update(rules)
            run.budget.spend(len(values) * len(parts) // KEYS_PER_STEP)
        run.budget.spend(len(every))
        for number in sorted(due):
            every[number](run)
            if fields.uppers is not uppers:  # the header was changed
                for step in every[number + 1 :]:
                    step(run)
                return

    return run_due


def _index(
    steps: Sequence[tuple[Do, Needs | None]],
) -> list[tuple[Source, dict[str, list[int]], list[tuple[str, list[int]]]]]:
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
    return [(each.source, each.wholes, list(each.parts.items())) for each in found.values()]
