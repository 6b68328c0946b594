"""The messages of memberlist, as values; ``codec`` has their bytes.

The type numbers are append-only. Fields have the meaning, not the names, of the wire.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .address import Address

MAX_META_BYTES = 512
VSN = bytes((1, 5, 2, 2, 5, 5))  # memberlist understands 1 to 5 and speaks 2; Serf 2 to 5 and 5


class State(enum.IntEnum):
    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class MessageType(enum.IntEnum):
    PING = 0
    INDIRECT_PING = 1
    ACK = 2
    SUSPECT = 3
    ALIVE = 4
    DEAD = 5
    PUSH_PULL = 6
    COMPOUND = 7
    USER = 8
    COMPRESS = 9
    ENCRYPT = 10
    NACK = 11
    CRC = 12
    ERROR = 13
    LABEL = 244


@dataclass(frozen=True, slots=True)
class Ping:
    """``source`` None: where the packet came from."""

    seq_no: int
    node: str
    source: Address | None = None
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class IndirectPing:
    seq_no: int
    target: Address
    node: str
    wants_nack: bool
    source: Address | None = None
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    seq_no: int
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Nack:
    seq_no: int


@dataclass(frozen=True, slots=True)
class ErrorReply:
    text: str


@dataclass(frozen=True, slots=True)
class Suspect:
    incarnation: int
    node: str
    accuser: str


@dataclass(frozen=True, slots=True)
class Alive:
    """``vsn``: protocol minimum, maximum, current, then the same of the delegate; empty: not said."""

    incarnation: int
    node: str
    address: Address
    meta: bytes = b""
    vsn: bytes = VSN


@dataclass(frozen=True, slots=True)
class Dead:
    """``accuser`` equal to ``node``: it leaves."""

    incarnation: int
    node: str
    accuser: str


@dataclass(frozen=True, slots=True)
class User:
    """Of the layer above: the first byte of ``raw`` is its type."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node in a push/pull."""

    node: str
    address: Address
    meta: bytes
    incarnation: int
    state: State
    vsn: bytes = VSN


@dataclass(frozen=True, slots=True)
class PushPull:
    """Everything one node knows, on a stream; ``user_state`` belongs to the layer above."""

    nodes: tuple[NodeRecord, ...]
    user_state: bytes
    is_join: bool


Message = Ping | IndirectPing | Ack | Nack | ErrorReply | Suspect | Alive | Dead | User | PushPull
