"""How a server presents itself, as far as the operator may choose: words of the capability line, answers to
ID, and clients that are better not told of something.

A server's settings carry a ``Presentation`` as ``ServerPolicy.options["presentation"]``. What is hidden is
not announced, cannot be enabled, and refused in every form (``governed``).

References: RFC 2971 §3.3 (ID fields).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from protocols.ports import ServerPolicy

OPTION: Final = "presentation"


# Patterns are the operator's, what they search is the client's. The configuration takes only patterns that
# are quick on texts of this length.
MAX_SEARCHED: Final = 64


@dataclass(frozen=True, slots=True)
class Client:
    """What is known of a client: its fingerprint before the greeting, the rest when it says ID."""

    name: str = ""
    version: str = ""
    ja4: str = ""


@dataclass(frozen=True, slots=True)
class ClientFilter:
    """One kind of client: one of the fingerprints is found in its own, or both patterns in what it says with
    ID; an absent one of the two always is."""

    name: re.Pattern[str] | None
    version: re.Pattern[str] | None
    hidden: frozenset[bytes]
    reason: str = ""
    ja4: tuple[re.Pattern[str], ...] = ()

    def matches(self, client: Client) -> bool:
        if client.ja4 and any(each.search(client.ja4, 0, MAX_SEARCHED) for each in self.ja4):
            return True
        asked = [(self.name, client.name), (self.version, client.version)]
        searches = [each.search(said, 0, MAX_SEARCHED) for each, said in asked if each is not None]
        return bool(searches) and None not in searches


@dataclass(frozen=True, slots=True)
class Presentation:
    hidden: frozenset[bytes] = frozenset()  # upper case
    additional: tuple[bytes, ...] = ()
    filters: tuple[ClientFilter, ...] = ()
    identity: tuple[tuple[bytes, bytes], ...] = ((b"name", b"Sora"),)  # ID fields, in order

    def hidden_from(self, client: Client) -> tuple[frozenset[bytes], tuple[str, ...]]:
        """Everything that such a client is not told of, and the reasons of the filters that matched."""
        matching = [each for each in self.filters if each.matches(client)]
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
