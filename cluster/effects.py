"""What the engine wants done, and what it has to tell: values that its owner takes from ``Engine.effects()``.

Order matters and is kept. Everything here is plain data, so that a simulation can compare traces.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from .address import Address
from .errors import Reason
from .messages import State

# --- to do ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendDatagram:
    to: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Connect, send ``data``, and when ``wants_reply`` read one frame (``streams.frame_size``); then
    ``Engine.receive_stream_reply(ticket, …)``, with None when anything failed or ``timeout_s`` went by.
    Without a reply the call is made with b"" once all is sent."""

    ticket: int
    to: Address
    data: bytes
    timeout_s: float
    wants_reply: bool


# --- to tell ----------------------------------------------------------------------------------------


class Change(enum.Enum):
    JOINED = "joined"
    UPDATED = "updated"  # tags or address
    FAILED = "failed"
    LEFT = "left"
    REAPED = "reaped"  # forgotten
    SUSPECTED = "suspected"
    CLEARED = "cleared"  # suspected no more


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as this node sees it, at one moment."""

    name: str
    address: Address
    state: State
    incarnation: int
    tags: dict[str, str]
    vsn: bytes
    since: float  # monotonic, of the present state
    joined: float  # monotonic, when it was last not alive, or first heard of
    is_leaving: bool = False  # has said so, and is still there
    round_trip_s: float | None = None

    @property
    def is_live(self) -> bool:
        """Alive or suspect."""
        return self.state <= State.SUSPECT


@dataclass(frozen=True, slots=True)
class MemberChanged:
    change: Change
    member: MemberView


@dataclass(frozen=True, slots=True)
class NameConflict:
    """Another live node, at ``other``, uses this name too. ``is_lost``: the name is ours and most members
    know the other by it, so this node has to stop being in the cluster."""

    name: str
    address: Address
    other: Address
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class UserEvent:
    """A Serf user event, once."""

    ltime: int
    name: str
    payload: bytes
    may_coalesce: bool


@dataclass(frozen=True, slots=True)
class QueryAsked:
    """A query for us to answer with ``Engine.respond(token, payload)`` before ``deadline``, monotonic."""

    token: int
    name: str
    payload: bytes
    source_node: str
    deadline: float
    ltime: int = 0


@dataclass(frozen=True, slots=True)
class QueryAnswered:
    """Of a query of ours. ``payload`` None: only received; ``is_over``: there will be no more."""

    query: int
    node: str
    payload: bytes | None
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class KeysChanged:
    """The ring was changed by us or another member: to be written to the key file."""

    keys: tuple[bytes, ...] = field(repr=False)  # the first is the primary one


@dataclass(frozen=True, slots=True)
class Joined:
    """The outcome of ``Engine.join`` for one address; ``error`` empty: it worked."""

    address: Address
    error: str


@dataclass(frozen=True, slots=True)
class FactChanged:
    """An entry of the shared state, see ``facts``: ``value`` None when it is gone (removed, run out, or its
    node is). Never told of our own entries, but of those that an earlier life of this node wrote, when others
    bring them back; who writes to such a key is not told that it is over."""

    kind: int
    origin: str  # node name
    key: bytes
    value: bytes | None
    ttl_s: float  # that is left
    written: float  # seconds of the epoch by the origin's hybrid clock


@dataclass(frozen=True, slots=True)
class NoticeHeard:
    """Sent once, not kept."""

    kind: int
    origin: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """A packet or stream, or a part of one, was dropped: for the log, whose rate the owner bounds."""

    source: Address
    reason: Reason
    detail: str


Effect = (
    SendDatagram
    | OpenStream
    | MemberChanged
    | NameConflict
    | UserEvent
    | QueryAsked
    | QueryAnswered
    | KeysChanged
    | Joined
    | FactChanged
    | NoticeHeard
    | Rejected
)
