"""Comparators (RFC 4790): each maps a value to what is compared in its place."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Characters that one call folds; it keeps the interpreter to itself meanwhile.
STRIDE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Comparator:
    name: str
    normal: Callable[[str], Any]
    has_substrings: bool
    ignores_case: bool


def ascii_upper(value: str) -> str:
    """RFC 4790 §9.2.1; keeps the length."""
    if value.isascii():
        return value.upper()
    # octets know the letters of ASCII only; some twenty times faster than str.translate
    return value.encode("utf-8", "surrogatepass").upper().decode("utf-8", "surrogatepass")


def unicode_fold(value: str) -> str:
    """RFC 5051 §2: each character to titlecase, then decomposed. Marks are not put in order: that would
    take quadratic time for values that are made for it."""
    if value.isascii():
        return value.upper()
    strides = (value[at : at + STRIDE] for at in range(0, len(value), STRIDE))
    return "".join(["".join(map(_folded, stride)) for stride in strides])


@lru_cache(maxsize=4096)
def _folded(char: str) -> str:
    title = char.title()
    return unicodedata.normalize("NFKD", title if len(title) == 1 else char)


def numeric(value: str) -> float | int:
    """RFC 4790 §9.1.1: the digits at the beginning; without any, infinity. At most 18 digits count as they
    are, more are only larger."""
    end = 0
    while end < len(value) and "0" <= value[end] <= "9":
        end += 1
    digits = value[:end].lstrip("0")
    if not end:
        return float("inf")
    return int(digits or "0") if len(digits) <= 4000 else 10**4000


COMPARATORS = {
    row.name: row
    for row in (
        Comparator("i;octet", str, True, False),
        Comparator("i;ascii-casemap", ascii_upper, True, True),
        Comparator("i;ascii-numeric", numeric, False, False),
        Comparator("i;unicode-casemap", unicode_fold, True, True),
    )
}
# Need no require (RFC 5228 §2.7.3).
BUILT_IN = frozenset({"i;octet", "i;ascii-casemap"})
DEFAULT = COMPARATORS["i;ascii-casemap"]
