"""What this node answers to HTTP-01 challenges (RFC 8555 §8.3). Pure: the clock is an argument.

Any node answers any challenge. Three sources, in this order: memory, which gossip fills; the store, which all
nodes share, but only while an order is known to be under way and at a bounded rate, so that strangers cannot
make us ask for made-up tokens; and, where that is allowed, the answer that follows from the token and our
account's key alone. That one validates nothing but our own account, so it may be given to everybody.
"""

from __future__ import annotations

import enum
import re
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Final

from .names import folded

PREFIX: Final = "/.well-known/acme-challenge/"
TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22,128}", re.ASCII)  # RFC 8555 §8.1: 128 bits or more
KEY_AUTHORISATION: Final = re.compile(r"([A-Za-z0-9_-]{22,128})\.([A-Za-z0-9_-]{43})", re.ASCII)
KEPT_S: Final = 3600.0  # longer than any order lasts
MAX_KEPT: Final = 1_000
STORE_PER_S: Final = 5.0  # lookups, of all tokens together
STORE_BURST: Final = 20.0  # an authority asks from several places for each of several names


class Source(enum.Enum):
    """Of an answer; the values are metric labels, as those of ``Miss``."""

    MEMORY = "memory"
    STORE = "store"
    STATELESS = "stateless"


class Miss(enum.Enum):
    """404 for all of them."""

    NOT_A_CHALLENGE = "other_path"
    MALFORMED = "bad_token"
    OTHER_HOST = "other_host"
    UNKNOWN = "unknown_token"


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    source: Source


@dataclass(frozen=True, slots=True)
class Ask:
    """The store has to be asked; ``Challenges.found`` takes what it says."""

    token: str


@dataclass(slots=True)
class Challenges:
    """``names``: those of the configuration, folded. ``thumbprint``: of our account's key (RFC 7638), when
    answers may be made from it. Both may be replaced."""

    names: frozenset[str] = frozenset()
    thumbprint: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    _known: OrderedDict[str, tuple[str, float]] = field(default_factory=OrderedDict, repr=False)
    _expected_until: float = 0.0
    _credit: float = STORE_BURST
    _credited_at: float = 0.0

    def put(self, token: str, key_authorisation: str, at: float) -> bool:
        """Another node, or this one, has a challenge to be answered; False: that is none."""
        if not _is_for(token, key_authorisation):
            return False
        self._known[token] = (key_authorisation, at + KEPT_S)
        self._known.move_to_end(token)
        while len(self._known) > MAX_KEPT:
            self._known.popitem(last=False)
        return True

    def drop(self, token: str) -> None:
        """Harmless when it is not there."""
        self._known.pop(token, None)

    def expect(self, until: float) -> None:
        """An order is under way, until that time at the latest."""
        self._expected_until = max(self._expected_until, until)

    def answer(self, host: str, path: str, at: float) -> Answer | Ask | Miss:
        """To GET or HEAD of a path, as it was sent, at a Host header."""
        found = self._answer(host, path, at)
        if isinstance(found, Answer):
            self.counts[found.source.value] += 1
        elif isinstance(found, Miss):
            self.counts[found.value] += 1
        return found

    def found(self, token: str, key_authorisation: str | None, at: float) -> Answer | Miss:
        """What the store said; None: nothing, or it did not answer."""
        if key_authorisation is not None and self.put(token, key_authorisation, at):
            answer: Answer | Miss = Answer(key_authorisation, Source.STORE)
        else:
            answer = self._stateless(token)
        self.counts[answer.source.value if isinstance(answer, Answer) else answer.value] += 1
        return answer

    def is_for_us(self, host: str) -> bool:
        """Whether a Host header names a domain of the configuration."""
        return _host(host) in self.names

    def _answer(self, host: str, path: str, at: float) -> Answer | Ask | Miss:
        if not path.startswith(PREFIX):
            return Miss.NOT_A_CHALLENGE
        token = path.removeprefix(PREFIX)
        if TOKEN.fullmatch(token) is None:
            return Miss.MALFORMED
        if not self.is_for_us(host):
            return Miss.OTHER_HOST
        text, until = self._known.get(token, ("", 0.0))
        if text and at < until:
            return Answer(text, Source.MEMORY)
        if at < self._expected_until and self._may_ask(at):
            return Ask(token)
        return self._stateless(token)

    def _may_ask(self, at: float) -> bool:
        self._credit = min(STORE_BURST, self._credit + max(0.0, at - self._credited_at) * STORE_PER_S)
        self._credited_at = at
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True

    def _stateless(self, token: str) -> Answer | Miss:
        if not self.thumbprint:
            return Miss.UNKNOWN
        return Answer(f"{token}.{self.thumbprint}", Source.STATELESS)


def _is_for(token: str, key_authorisation: str) -> bool:
    found = KEY_AUTHORISATION.fullmatch(key_authorisation)
    return found is not None and found[1] == token


def _host(header: str) -> str:
    """Without the port."""
    host, colon, port = header.rpartition(":")
    return folded(host if colon and (port.isdigit() or not port) else header)
