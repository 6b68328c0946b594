"""Whether a regular expression is quick on every text of a bounded length.

Python's engine goes back and tries anew, so ``(a+)+$`` takes longer than anybody lives on 40 characters.
The operator writes the patterns, but clients write the texts. So the ways in which a pattern can match a
text of ``LENGTH`` characters are estimated, from above, and patterns with too many are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final

LENGTH: Final = 64  # protocols.imap.presentation.MAX_SEARCHED
MAX_WAYS: Final = 4_000_000  # some three ".*" and a few "?"; about 20 ms at worst
_REPEATS: Final = {ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT}
_PLAIN: Final = {ops.LITERAL, ops.NOT_LITERAL, ops.ANY, ops.IN, ops.AT, ops.RANGE, ops.CATEGORY}


def is_quick(pattern: str) -> bool:
    """Raises what ``re.compile`` raises for a text that is no pattern."""
    re.compile(pattern)
    return _ways(_parser.parse(pattern)) <= MAX_WAYS


def _ways(parts: Iterable[tuple[Any, Any]]) -> int:
    product = 1
    for kind, value in parts:
        product = min(product * _ways_of(kind, value), MAX_WAYS + 1)
    return product


def _ways_of(kind: Any, value: Any) -> int:
    if kind in _PLAIN:
        return 1
    if kind in _REPEATS:
        return _repeated(*value)
    if kind is ops.SUBPATTERN:
        return _ways(value[3])
    if kind is ops.BRANCH:
        return sum(_ways(branch) for branch in value[1])
    if kind in (ops.ASSERT, ops.ASSERT_NOT):
        return _ways(value[1])
    return MAX_WAYS + 1  # references back and the like: no filter needs them


def _repeated(least: int, most: int, body: Iterable[tuple[Any, Any]]) -> int:
    most = min(most, LENGTH)
    counts = most - min(least, most) + 1
    inside = _ways(body)
    return counts if inside == 1 else min(counts * inside**most, MAX_WAYS + 1)
