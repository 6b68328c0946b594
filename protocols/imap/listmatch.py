"""Mailbox patterns: ``*`` matches anything, ``%`` anything but the hierarchy delimiter (RFC 9051 §6.3.9).

A pattern runs as a nondeterministic automaton whose set of states is one integer, so the cost is linear in
the name whatever the pattern: no backtracking that a client could provoke.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from storage.model import DELIMITER, INBOX

_INBOX_LEVEL = INBOX + DELIMITER
_STARS = re.compile(r"[*%]*\*[*%]*")
_PERCENTS = re.compile(r"%+")


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A predicate on names. INBOX matches whatever its case in the pattern, also as a first component."""
    if pattern[: len(_INBOX_LEVEL)].upper() == _INBOX_LEVEL:
        pattern = _INBOX_LEVEL + pattern[len(_INBOX_LEVEL) :]
    exact = _automaton(pattern)
    folded = _automaton(pattern.upper())

    def matches(name: str) -> bool:
        return exact(name) or (name == INBOX and folded(name))

    return matches


def _automaton(pattern: str) -> Callable[[str], bool]:
    pattern = _PERCENTS.sub("%", _STARS.sub("*", pattern))
    step: dict[str, int] = {}  # character: states that may advance on it
    loops_all = loops_component = skips = 0
    for index, character in enumerate(pattern):
        bit = 1 << index
        if character in "*%":
            skips |= bit  # a wildcard may match nothing
            loops_all |= bit if character == "*" else 0
            loops_component |= bit
        else:
            step[character] = step.get(character, 0) | bit
    final = 1 << len(pattern)

    def matches(name: str) -> bool:
        states = _skip(1, skips)
        for character in name:
            loops = loops_all if character == DELIMITER else loops_component
            states = _skip((states & step.get(character, 0)) << 1 | states & loops, skips)
            if not states:
                return False
        return bool(states & final)

    return matches


def _skip(states: int, skips: int) -> int:
    """Wildcards are never neighbours here, so one step is enough."""
    return states | (states & skips) << 1
