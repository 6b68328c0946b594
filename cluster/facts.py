"""The kinds of facts nodes share, in one table; the numbers are on the wire and append-only.

Theory: each node owns a map of entries (kind, key) -> value, each write with a sequence number of its own;
nobody writes into the map of another. A node is known by name and *epoch*, its start. Nodes compare how far
they know each other's maps and send what is missing, in order of the numbers, so an entry that was
overwritten meanwhile is never sent. Everything has a time to live, carried as what is left of it: no clock of
another node decides when something ends. Where several nodes write what is one thing for the reader, the
reader takes the latest by (written, origin); blocks have stamps of their own, see ``node/ratelimit/blocks``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.IntEnum):
    BLOCK = 1  # key: the block's; value: the delta, or what lifted it
    FAILURES = 2  # key: subject; value: how many in which window, by the owner
    CONNECTIONS = 3  # key: server and user or address; value: how many the owner has now
    SESSIONS = 4  # key: account; value: empty; the owner has sessions of it
    NODE = 5  # key: topic; value: what the owner says of itself (version, counts, configuration hashes ...)
    KICK = 6  # key: unique; value: whom
    CERTIFICATE = 7  # key: name; value: generation, hash
    CHALLENGE = 8  # key: token; value: key authorisation
    AFFINITY = 9  # key: user; value: backend


class NoticeKind(enum.IntEnum):
    MAILBOX = 1  # account, mailbox, modseq: for nodes with sessions of that account
    # What entries say a moment later, to all, where that moment matters:
    CONNECTIONS = 2  # counts of keys that come near a limit
    SESSIONS = 3  # accounts that got their first session


@dataclass(frozen=True, slots=True)
class Rule:
    """How a kind is treated.

    ``is_lasting``: entries outlive their node, until their time is over; else they end with it.
    ``is_urgent``: sent at once to all members, gossip only repairs. ``max_ttl_s``: more is not
    believed. ``max_entries``: of one node; what is over is refused and counted.
    """

    is_lasting: bool
    is_urgent: bool
    max_ttl_s: float
    max_entries: int


DAY_S: Final = 86_400.0

RULES: Final[dict[Kind, Rule]] = {
    Kind.BLOCK: Rule(is_lasting=True, is_urgent=True, max_ttl_s=400 * DAY_S, max_entries=20_000),
    Kind.FAILURES: Rule(is_lasting=False, is_urgent=False, max_ttl_s=DAY_S, max_entries=20_000),
    Kind.CONNECTIONS: Rule(is_lasting=False, is_urgent=False, max_ttl_s=DAY_S, max_entries=50_000),
    Kind.SESSIONS: Rule(is_lasting=False, is_urgent=False, max_ttl_s=DAY_S, max_entries=50_000),
    Kind.NODE: Rule(is_lasting=False, is_urgent=False, max_ttl_s=DAY_S, max_entries=64),
    Kind.KICK: Rule(is_lasting=True, is_urgent=True, max_ttl_s=60.0, max_entries=1_000),
    Kind.CERTIFICATE: Rule(is_lasting=True, is_urgent=True, max_ttl_s=30 * DAY_S, max_entries=10_000),
    Kind.CHALLENGE: Rule(is_lasting=True, is_urgent=True, max_ttl_s=DAY_S, max_entries=1_000),
    Kind.AFFINITY: Rule(is_lasting=True, is_urgent=False, max_ttl_s=30 * DAY_S, max_entries=50_000),
}

MAX_KEY_BYTES: Final = 128
MAX_VALUE_BYTES: Final = 1000  # an entry fits into one datagram


@dataclass(frozen=True, slots=True)
class Entry:
    """``deadline``: monotonic. ``written``: seconds of the epoch by a hybrid clock, rising with every write
    of a node; also above what it answers, when another wrote that with a clock that is far ahead."""

    kind: Kind
    origin: str
    key: bytes
    value: bytes
    written: float
    deadline: float
