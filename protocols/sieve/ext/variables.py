"""variables (RFC 5229): set and string."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..bound import Bound
from ..matching import MATCH_TAGS, Matching
from ..spec import STRING, STRINGS, Command, Do, Extension, Holds, Row, Slot, Test

if TYPE_CHECKING:
    from ..run import Run

_NAME = re.compile(r"(?:global\.)?[A-Za-z_][A-Za-z0-9_]*")
_WILD = re.compile(r"[*?\\]")
_SPECIAL_IN_REGEX = re.compile(r"[][\\^$.|?*+(){}]")

# Highest precedence first (RFC 5229 §4.1); of equal ones only one may be given.
MODIFIERS: tuple[tuple[int, str, Callable[[str], str]], ...] = (
    (40, "lower", str.lower),
    (40, "upper", str.upper),
    (30, "lowerfirst", lambda value: value[:1].lower() + value[1:]),
    (30, "upperfirst", lambda value: value[:1].upper() + value[1:]),
    (20, "quotewildcard", lambda value: _WILD.sub(r"\\\g<0>", value)),
    (20, "quoteregex", lambda value: _SPECIAL_IN_REGEX.sub(r"\\\g<0>", value)),
    (15, "encodeurl", lambda value: quote(value, safe="")),
    (10, "length", lambda value: str(len(value))),
)


def _group(precedence: int) -> str:
    return f"modifier{precedence}"


def variable_name(bound: Bound, slot: str) -> str:
    """Raises BadScript."""
    name = bound.constant(bound.text(slot), "the name of a variable")
    if not _NAME.fullmatch(name) or (
        name.lower().startswith("global.") and not bound.compiler.has("include")
    ):
        raise bound.fail(f'"{name[:60]}" is no name of a variable')
    return name


def modifiers(bound: Bound) -> list[Callable[[str], str]]:
    """Those given, in the order in which they act."""
    levels = {_group(level) for level, _, _ in MODIFIERS}
    given = {bound.chosen(level) for level in levels}
    return [change for _, name, change in MODIFIERS if name in given]


def _set(bound: Bound) -> Do:
    name, value, changes = variable_name(bound, "name"), bound.text("value"), modifiers(bound)

    def set_variable(run: Run) -> None:
        text = value.value(run)
        for change in changes:
            text = change(text)
            run.budget.hold(len(text))
        run.set_variable(name, text)

    return set_variable


def _string(bound: Bound) -> Holds:
    source = bound.texts("source")
    matching = Matching(bound, bound.texts("keys"))

    def holds(run: Run) -> bool:
        values = source.values(run)
        if matching.counts:  # RFC 5229 §5: empty strings do not count
            values = [value for value in values if value]
        return matching.holds(run, values)

    return holds


def _rows(*names: str) -> tuple[Row, ...]:
    return tuple(Row(name, group=_group(level)) for level, name, _ in MODIFIERS if name in names)


MODIFIER_ROWS = _rows("lower", "upper", "lowerfirst", "upperfirst", "quotewildcard", "length")

EXTENSIONS = (
    Extension(
        "variables",
        commands=(
            Command(
                "set",
                _set,
                (Slot("name", STRING), Slot("value", STRING)),
                MODIFIER_ROWS,
            ),
        ),
        tests=(Test("string", _string, (Slot("source", STRINGS), Slot("keys", STRINGS)), MATCH_TAGS),),
    ),
    Extension("regex", tags={"set": _rows("quoteregex")}),
    Extension("enotify", tags={"set": _rows("encodeurl")}),
)
