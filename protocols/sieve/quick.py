"""The tests that most rules consist of, without detours: ``:is`` and ``:contains`` of i;ascii-casemap with
constant keys on whole fields. What they compare is put into capitals once for all rules.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from .comparators import ascii_upper
from .fields import Fields, Mailbox
from .spec import Holds

if TYPE_CHECKING:
    from .run import Run

CHARS_PER_STEP = 512

_Source: TypeAlias = tuple[Hashable, Callable[[Fields], Sequence[str]]]


def header_test(names: Sequence[str], keys: Sequence[str], *, is_whole: bool) -> Holds:
    """``keys`` are in capitals; ``is_whole``: :is, else :contains."""

    def source(name: str) -> _Source:
        return name, lambda fields: fields.values(name)

    return _test([source(name) for name in names], keys, is_whole)


def address_test(
    names: Sequence[str],
    part: str,
    reader: Callable[[Mailbox], str | None],
    keys: Sequence[str],
    *,
    is_whole: bool,
) -> Holds:
    def source(name: str) -> _Source:
        return (name, part), lambda fields: fields.address_parts(name, part, reader)

    return _test([source(name) for name in names], keys, is_whole)


def _test(sources: Sequence[_Source], keys: Sequence[str], is_whole: bool) -> Holds:
    wanted, several = tuple(keys), len(keys)

    def holds(run: Run) -> bool:
        fields = run.fields
        for key, read in sources:
            found = fields.uppers.get(key)
            if found is None:
                found = fields.uppers[key] = _in_capitals(read(fields))
            values, steps = found
            if steps:  # short values are paid with the rule
                run.budget.spend(steps * several)
            for value in values:
                if is_whole:
                    if value in wanted:
                        return True
                    continue
                for part in wanted:
                    if part in value:
                        return True
        return False

    return holds


def _in_capitals(values: Sequence[str]) -> tuple[list[str], int]:
    """And what looking through them costs."""
    return [ascii_upper(value) for value in values], sum(map(len, values)) // CHARS_PER_STEP + len(
        values
    ) // 64
