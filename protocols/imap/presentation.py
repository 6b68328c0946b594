"""How a server presents itself, as far as the operator may choose: words of the capability line, answers to
ID, and clients that are better not told of something.

A server's settings carry a ``Presentation`` as ``ServerPolicy.options["presentation"]``. What is hidden is
not announced and cannot be enabled; a client that uses it all the same is served.

References: RFC 2971 §3.3 (ID fields).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from protocols.ports import ServerPolicy

OPTION: Final = "presentation"


@dataclass(frozen=True, slots=True)
class ClientFilter:
    """One kind of client: both patterns must be found in what it says with ID; an absent one always is."""

    name: re.Pattern[str] | None
    version: re.Pattern[str] | None
    hidden: frozenset[bytes]
    reason: str = ""

    def matches(self, name: str, version: str) -> bool:
        if self.name is None and self.version is None:
            return False
        found_name = self.name is None or self.name.search(name) is not None
        return found_name and (self.version is None or self.version.search(version) is not None)


@dataclass(frozen=True, slots=True)
class Presentation:
    hidden: frozenset[bytes] = frozenset()  # upper case
    additional: tuple[bytes, ...] = ()
    filters: tuple[ClientFilter, ...] = ()
    identity: tuple[tuple[bytes, bytes], ...] = ((b"name", b"Sora"),)  # ID fields, in order

    def hidden_from(self, name: str, version: str) -> tuple[frozenset[bytes], tuple[str, ...]]:
        """Everything that such a client is not told of, and the reasons of the filters that matched."""
        matching = [each for each in self.filters if each.matches(name, version)]
        return self.hidden.union(*(each.hidden for each in matching)), tuple(e.reason for e in matching)


DEFAULT: Final = Presentation()


def capability_names(words: Iterable[str]) -> frozenset[bytes]:
    """As they are compared: upper case."""
    return frozenset(word.upper().encode("ascii") for word in words)


def id_fields(values: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """Fields in the order given; empty ones are left out."""
    return tuple((key.encode("ascii"), value.encode("utf-8")) for key, value in values.items() if value)


def presentation_of(policy: ServerPolicy) -> Presentation:
    found = policy.options.get(OPTION, DEFAULT)
    if not isinstance(found, Presentation):
        raise TypeError(f"option {OPTION!r} is a {type(found).__name__}")
    return found
