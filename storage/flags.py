"""Flag algebra: what STORE makes of the flags that are there.

Keywords are equal when they differ in ASCII case only; the spelling that was stored first stays.
"""

from __future__ import annotations

from collections.abc import Iterable

from .model import FlagChange, Flags, SystemFlag

ALL_SYSTEM = (
    SystemFlag.SEEN | SystemFlag.ANSWERED | SystemFlag.FLAGGED | SystemFlag.DELETED | SystemFlag.DRAFT
)


def canonical_keywords(keywords: Iterable[str]) -> list[str]:
    """Without doubles, in the order in which they are stored and compared."""
    first: dict[str, str] = {}
    for keyword in sorted(keywords):
        first.setdefault(keyword.lower(), keyword)
    return [first[key] for key in sorted(first)]


def masks(change: FlagChange, flags: Flags) -> tuple[int, int]:
    """(keep, set): the new system bits are ``old & keep | set``."""
    bits = int(flags.system)
    if change is FlagChange.ADD:
        return int(ALL_SYSTEM), bits
    if change is FlagChange.REMOVE:
        return int(ALL_SYSTEM) & ~bits, 0
    return 0, bits


def changed(present: Flags, change: FlagChange, given: Flags) -> Flags:
    """The flags after ``change``."""
    keep, put = masks(change, given)
    old = {keyword.lower(): keyword for keyword in present.keywords}
    new = {keyword.lower(): keyword for keyword in canonical_keywords(given.keywords)}
    if change is FlagChange.ADD:
        keywords = new | old
    elif change is FlagChange.REMOVE:
        keywords = {key: keyword for key, keyword in old.items() if key not in new}
    else:
        keywords = {key: old.get(key, keyword) for key, keyword in new.items()}
    return Flags(SystemFlag(int(present.system) & keep | put), frozenset(keywords.values()))
