"""imap4flags (RFC 5232)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ..bound import Bound
from ..errors import RunFault
from ..matching import MATCH_TAGS, Matching
from ..phrases import Phrase
from ..spec import STRING, STRINGS, Command, Do, Extension, Holds, Row, Slot, Test

if TYPE_CHECKING:
    from ..run import Run

SYSTEM = {name.lower(): name for name in ("\\Answered", "\\Deleted", "\\Draft", "\\Flagged", "\\Seen")}
_KEYWORD = re.compile(r"[^\x00-\x20\x7f-\U0010ffff(){%*\"\\\]]+")
MAX_FLAGS = 100


def split_flags(texts: Iterable[str]) -> tuple[str, ...]:
    """Flags from strings that hold one or several (RFC 5232 §2). What is no flag is left out; each comes
    once, spelled as first met."""
    found: dict[str, str] = {}
    for flag in (each for text in texts for each in text.split()):
        key = flag.lower()
        if key in SYSTEM:
            found.setdefault(key, SYSTEM[key])
        elif _KEYWORD.fullmatch(flag):
            found.setdefault(key, flag)
    if len(found) > MAX_FLAGS:
        raise RunFault(f"more than {MAX_FLAGS} flags")
    return tuple(found.values())


def flags_of(bound: Bound) -> Callable[[Run], tuple[str, ...]]:
    """Of an action: its :flags, else the internal variable (RFC 5232 §5)."""
    given = bound.tag_texts("flags")
    if given is None:
        return lambda run: run.flags
    return lambda run: split_flags(given.values(run))


def _current(run: Run, variable: Phrase | None) -> tuple[str, ...]:
    return run.flags if variable is None else split_flags([run.variable(variable.value(run).lower())])


def _store(run: Run, variable: Phrase | None, flags: Sequence[str]) -> None:
    if variable is None:
        run.flags = tuple(flags)
    else:
        run.set_variable(variable.value(run), " ".join(flags))


def _set(_old: Sequence[str], given: Sequence[str]) -> Sequence[str]:
    return given


def _add(old: Sequence[str], given: Sequence[str]) -> Sequence[str]:
    return split_flags((*old, *given))


def _remove(old: Sequence[str], given: Sequence[str]) -> Sequence[str]:
    gone = {flag.lower() for flag in given}
    return [flag for flag in old if flag.lower() not in gone]


def _change(how: Callable[[Sequence[str], Sequence[str]], Sequence[str]]) -> Callable[[Bound], Do]:
    def build(bound: Bound) -> Do:
        variable, given = _variable(bound), bound.texts("flags")

        def change(run: Run) -> None:
            flags = split_flags(given.values(run))
            _store(run, variable, how(_current(run, variable), flags))

        return change

    return build


def _variable(bound: Bound) -> Phrase | None:
    if not bound.has("variable"):
        return None
    if not bound.compiler.has("variables"):
        raise bound.fail('the name of a variable needs require "variables"')
    return bound.text("variable")


def _hasflag(bound: Bound) -> Holds:
    names = bound.texts("variables") if bound.has("variables") else None
    if names is not None and not bound.compiler.has("variables"):
        raise bound.fail('the names of variables need require "variables"')
    matching = Matching(bound, bound.texts("flags"))

    def holds(run: Run) -> bool:
        if names is None:
            return matching.holds(run, run.flags)
        texts = [run.variable(name.lower()) for name in names.values(run) if name]
        return matching.holds(run, [flag for text in texts for flag in split_flags([text])])

    return holds


_SLOTS = (Slot("variable", STRING, optional=True), Slot("flags", STRINGS))
_TAG = (Row("flags", STRINGS),)

EXTENSIONS = (
    Extension(
        "imap4flags",
        commands=(
            Command("setflag", _change(_set), _SLOTS),
            Command("addflag", _change(_add), _SLOTS),
            Command("removeflag", _change(_remove), _SLOTS),
        ),
        tests=(
            Test(
                "hasflag",
                _hasflag,
                (Slot("variables", STRINGS, optional=True), Slot("flags", STRINGS)),
                MATCH_TAGS,
            ),
        ),
        tags={"keep": _TAG, "fileinto": _TAG},
    ),
)
