"""What the limiter is told and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .blocks import Block, Delta
from .subjects import Address, Subject


class TooManyBlocks(Exception):
    """The table of operators' blocks is full."""


class Attempt(NamedTuple):
    """One login as it is counted; made by ``Limiter.attempt``."""

    address: Address
    subject: Subject
    user: str
    pair: int  # of subject and user
    home: int  # of neighbourhood and user
    name: int  # of the user alone
    mark: bytes  # of the password, for this pair only


class Verdict(NamedTuple):
    """``block``: refuse. Else the answer waits ``delay_s``."""

    block: Block | None
    delay_s: float


class Counted(NamedTuple):
    """What a failure led to. ``deltas`` is for the other nodes, ``blocks`` for the log; ``is_reported``: the
    user has had that many failures, from wherever."""

    deltas: Sequence[Delta] = ()
    blocks: Sequence[Block] = ()
    is_reported: bool = False


NOTHING = Counted()


@dataclass(frozen=True, slots=True)
class Due:
    """A block, before it is known how often there was one."""

    rule: str
    first_s: float
    count: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """Records in memory: some 190 bytes for an address, 220 for a pair."""

    pairs: int = 100_000
    addresses: int = 50_000
    users: int = 50_000


@dataclass(frozen=True, slots=True)
class Counts:
    """What is known of an address; ``others`` is what other nodes counted."""

    failures: int
    since: int
    others: int
    different_users: int
    level: int
    last_success: int | None

    def moved(self, by_s: float) -> Counts:
        """The same by a clock that is so much ahead."""
        last = self.last_success
        moved_last = None if last is None else round(last + by_s)
        return replace(self, since=round(self.since + by_s), last_success=moved_last)
