"""The messages of Serf, as values; ``codec`` has their bytes. The type numbers are append-only."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..address import Address


class SerfType(enum.IntEnum):
    LEAVE = 0
    JOIN = 1
    PUSH_PULL = 2  # only as the user state of a push/pull
    USER_EVENT = 3
    QUERY = 4
    QUERY_RESPONSE = 5
    CONFLICT_RESPONSE = 6  # inside the payload of a response, as are the next two
    KEY_REQUEST = 7
    KEY_RESPONSE = 8
    RELAY = 9
    SORA = 0x53  # our own; agents drop it


class QueryFlag(enum.IntFlag):
    ACK = 1
    NO_BROADCAST = 2


@dataclass(frozen=True, slots=True)
class LeaveIntent:
    """``prune``: forget the member at once."""

    ltime: int
    node: str
    prune: bool = False


@dataclass(frozen=True, slots=True)
class JoinIntent:
    ltime: int
    node: str


@dataclass(frozen=True, slots=True)
class Happening:
    """A user event on its way."""

    ltime: int
    name: str
    payload: bytes
    may_coalesce: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """``asker``: where acks and responses go. ``filters``: encoded, see ``filters``."""

    ltime: int
    number: int
    asker: Address
    source_node: str
    filters: tuple[bytes, ...]
    flags: int
    relay_factor: int
    timeout_s: float
    name: str
    payload: bytes

    @property
    def wants_ack(self) -> bool:
        return bool(self.flags & QueryFlag.ACK)


@dataclass(frozen=True, slots=True)
class QueryResponse:
    ltime: int
    number: int
    node: str
    is_ack: bool
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Relay:
    """``raw`` is a message for ``to``, with its type byte."""

    to: Address
    node: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class PushPullState:
    """``statuses``: Lamport time of the last word about each member. ``sora``: our own part; agents have
    none."""

    ltime: int
    statuses: dict[str, int]
    left: tuple[str, ...]
    event_ltime: int
    events: tuple[Happening, ...]
    query_ltime: int
    sora: bytes = b""


SerfMessage = LeaveIntent | JoinIntent | Happening | Query | QueryResponse | Relay
