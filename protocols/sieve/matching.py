"""Comparing values with keys: match type and comparator of a test, made ready when its script is compiled."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from .comparators import COMPARATORS, DEFAULT, Comparator
from .errors import RunFault
from .globbing import Glob
from .phrases import MAX_CAPTURES, Phrases
from .questions import IsListed
from .regexmachine import Regex
from .regexsyntax import BadPattern
from .spec import STRING, Row

if TYPE_CHECKING:
    from .bound import Bound
    from .run import Run

COMPARATOR = Row("comparator", STRING)
MATCH_TYPES = (
    Row("is", group="match"),
    Row("contains", group="match"),
    Row("matches", group="match"),
    Row("count", STRING, group="match", extension="relational"),
    Row("value", STRING, group="match", extension="relational"),
    Row("regex", group="match", extension="regex"),
    Row("list", group="match", extension="extlists"),
)
MATCH_TAGS = (COMPARATOR, *MATCH_TYPES)
RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
}
_NEEDS_SUBSTRINGS = frozenset({"contains", "matches", "regex"})
CHARS_PER_STEP = 512


@lru_cache(maxsize=256)
def _glob(pattern: str) -> Glob:
    return Glob(pattern)


@lru_cache(maxsize=256)
def _regex(pattern: str, ignore_case: bool) -> Regex:
    return Regex(pattern, ignore_case=ignore_case)


class Matching:
    """Of one test. ``keys`` that are constant are prepared once. Raises BadScript."""

    def __init__(self, bound: Bound, keys: Phrases) -> None:
        self._keys = keys
        self._kind = bound.chosen("match", "is")
        self._comparator = _comparator(bound)
        self._relation = self._read_relation(bound)
        if self._kind in _NEEDS_SUBSTRINGS and not self._comparator.has_substrings:
            raise bound.fail(f":{self._kind} does not work with {self._comparator.name}")
        self._way = self._WAYS[self._kind]
        self._prepared: Any = None
        if keys.constants is not None:
            try:
                self._prepared = self._prepare(keys.constants, bound.compiler.spend_on_patterns)
            except BadPattern as error:
                raise bound.fail(f"bad regular expression: {error}") from None

    @property
    def is_whole(self) -> bool:
        return self._kind == "is"

    @property
    def quick_keys(self) -> Sequence[str] | None:
        """The keys in capitals when ``quick`` can do this; else None."""
        fits = self._kind in ("is", "contains") and self._comparator is DEFAULT
        return self._prepared if fits else None

    @property
    def needles(self) -> tuple[Sequence[str], Sequence[str]] | None:
        """Values in capitals of which one must be met for the test to hold, and parts of values; None: nobody
        knows before it runs."""
        if self._comparator is not DEFAULT or self._prepared is None:
            return None
        if self._kind == "is":
            return self._prepared, ()
        if self._kind == "contains":
            return (), self._prepared
        return ((), [key.needle for key in self._prepared]) if self._kind == "matches" else None

    @property
    def counts(self) -> bool:
        """Looks at how many values there are, not at what they say."""
        return self._kind == "count"

    def _read_relation(self, bound: Bound) -> Callable[[Any, Any], bool]:
        if self._kind not in ("count", "value"):
            return operator.eq
        name = bound.tag_constant("match") or ""
        found = RELATIONS.get(name.lower())
        if found is None:
            raise bound.fail(f":{self._kind} takes one of {', '.join(RELATIONS)}, not {name[:20]!r}")
        return found

    def _prepare(self, keys: Sequence[str], spend: Callable[[int], None]) -> Any:
        normal = self._comparator.normal
        if self._kind == "regex":
            return [self._made(key, spend) for key in keys]
        if self._kind == "matches":
            return [_glob(normal(key)) for key in keys]
        if self._kind == "count":
            return [COMPARATORS["i;ascii-numeric"].normal(key) for key in keys]
        if self._kind == "list":
            return list(keys)
        return [normal(key) for key in keys]

    def _made(self, key: str, spend: Callable[[int], None]) -> Regex:
        spend(0)  # nothing is made once too much was
        made = _regex(key, self._comparator.ignores_case)
        spend(made.cost)
        return made

    def holds(self, run: Run, values: Iterable[str]) -> bool:
        """Whether any value matches any key. Raises RunFault, Unanswered."""
        prepared = self._prepared
        if prepared is None:
            try:
                prepared = self._prepare(self._keys.values(run), run.budget.spend)
            except BadPattern as error:
                raise RunFault(f"bad regular expression: {error}") from None
        return self._way(self, run, values, prepared)

    def _is(self, run: Run, values: Iterable[str], keys: list[Any]) -> bool:
        normal = self._comparator.normal
        for value in values:
            run.budget.spend(1 + len(value) // CHARS_PER_STEP + len(keys) // 64)
            if normal(value) in keys:
                return True
        return False

    def _contains(self, run: Run, values: Iterable[str], keys: list[str]) -> bool:
        normal = self._comparator.normal
        for value in values:
            run.budget.spend(1 + len(keys) * (1 + len(value) // CHARS_PER_STEP))
            text = normal(value)
            for key in keys:
                if key in text:
                    return True
        return False

    def _matches(self, run: Run, values: Iterable[str], keys: list[Glob]) -> bool:
        wants_captures = run.frame.script.uses_captures
        for value in values:
            run.budget.spend(1 + len(keys) * (1 + len(value) // CHARS_PER_STEP))
            text = self._comparator.normal(value)
            for key in keys:
                if not wants_captures:
                    if key.matches(text, run.budget):
                        return True
                    continue
                spans = key.spans(text, run.budget)
                if spans is not None:
                    self._capture(run, value, text, [(0, len(text)), *spans])
                    return True
        return False

    def _regex(self, run: Run, values: Iterable[str], keys: list[Regex]) -> bool:
        wants_captures = run.frame.script.uses_captures
        for value in values:
            run.budget.spend(1 + len(keys))
            for key in keys:
                if not wants_captures:
                    if key.found(value, run.budget):
                        return True
                    continue
                match = key.search(value, run.budget)
                if match is not None:
                    run.capture([value[a:b] if a >= 0 else "" for a, b in match.spans])
                    return True
        return False

    def _count(self, run: Run, values: Iterable[str], keys: list[Any]) -> bool:
        count = sum(1 for _ in values)
        run.budget.spend(1 + count // 64)
        return any(self._relation(count, key) for key in keys)

    def _value(self, run: Run, values: Iterable[str], keys: list[Any]) -> bool:
        normal = self._comparator.normal
        for value in values:
            run.budget.spend(1 + len(keys) * (1 + len(value) // CHARS_PER_STEP))
            text = normal(value)
            if any(self._relation(text, key) for key in keys):
                return True
        return False

    def _list(self, run: Run, values: Iterable[str], keys: list[str]) -> bool:
        for value in values:
            run.budget.spend(1 + len(keys))
            if any(run.ask(IsListed(key, value)) for key in keys):
                return True
        return False

    def _capture(self, run: Run, value: str, text: str, spans: list[tuple[int, int]]) -> None:
        """The captured texts as they stand in the value, not as the comparator sees them."""
        spans = spans[: MAX_CAPTURES + 1]
        if len(text) != len(value):
            at = _origins(value, self._comparator)
            spans = [(at[a], at[b]) for a, b in spans]
        run.capture([value[a:b] for a, b in spans])

    _WAYS: ClassVar[dict[str, Callable[[Matching, Run, Iterable[str], Any], bool]]] = {
        "is": _is,
        "contains": _contains,
        "matches": _matches,
        "regex": _regex,
        "count": _count,
        "value": _value,
        "list": _list,
    }


def _origins(value: str, comparator: Comparator) -> list[int]:
    """For each place in the normalised value the place in the value itself."""
    found: list[int] = []
    for pos, char in enumerate(value):
        found += [pos] * len(comparator.normal(char))
    return [*found, len(value)]


def _comparator(bound: Bound) -> Comparator:
    name = bound.tag_constant("comparator")
    if name is None:
        return DEFAULT
    found = COMPARATORS.get(name)
    if found is None:
        raise bound.fail(f'there is no comparator "{name[:40]}"')
    if not bound.compiler.has_comparator(name):
        raise bound.fail(f'the comparator needs require "comparator-{name}"')
    return found
