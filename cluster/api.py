"""The engine as its owner sees it: sans-IO, one object for a node in its cluster.

The owner (``endpoint``, or the simulation) feeds datagrams, streams and time, then takes ``effects()`` and
does what they say. No method blocks, reads a clock, or raises for anything another node sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from .address import Address
from .effects import Effect, MemberView
from .facts import Entry, Kind, NoticeKind
from .instant import Instant
from .profile import SORA, Profile

if TYPE_CHECKING:
    from .serf.coordinates import Coordinate


@dataclass(frozen=True, slots=True)
class Settings:
    """``keys``: 16, 24 or 32 bytes each, the first is the primary one; never empty. ``advertise``: what the
    others are told. ``tags``: of this node, beside those the engine sets itself: ``sora`` (version) and
    ``epoch`` (decimal ``epoch`` below), from which the others know at once that a node has a new life."""

    name: str
    advertise: Address
    keys: tuple[bytes, ...] = field(repr=False)
    tags: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    profile: Profile = SORA
    epoch: int = 0  # milliseconds of the epoch at the start of this node, for the shared state
    allows_remote_keys: bool = True
    accepts_loopback: bool = False  # members on loopback addresses: for tests


class ClusterEngine(Protocol):
    settings: Settings

    # --- what comes in ---

    def start(self, at: Instant) -> None: ...

    def receive_datagram(self, data: bytes, source: Address, at: Instant) -> None: ...

    def receive_stream(self, data: bytes, source: Address, at: Instant) -> bytes | None:
        """One whole request; the reply, None: none, close."""
        ...

    def receive_stream_reply(self, ticket: int, data: bytes | None, at: Instant) -> None: ...

    def tick(self, at: Instant) -> None:
        """What is due. Earlier than ``next_deadline`` is harmless."""
        ...

    def next_deadline(self) -> float:
        """Monotonic; infinity when there is nothing to wait for."""
        ...

    def effects(self) -> list[Effect]:
        """All since the last call, in order."""
        ...

    def loop_was_late(self, late_s: float, at: Instant) -> None:
        """The owner's own timers came late: our judgement of others is worth less for a while."""
        ...

    # --- commands ---

    def join(self, addresses: Iterable[Address], at: Instant) -> None:
        """Once; outcome: one ``Joined`` for each."""
        ...

    def set_peers(self, addresses: Iterable[Address], at: Instant) -> None:
        """Whom to join whenever they are no members, instead of those before; one ``Joined`` each time."""
        ...

    def leave(self, at: Instant) -> None:
        """Say so, and go on answering; the owner keeps the engine running until ``has_left``."""
        ...

    @property
    def has_left(self) -> bool: ...

    def force_leave(self, name: str, at: Instant, *, prune: bool = False) -> bool:
        """Make a failed member a left one; whether there is such a member."""
        ...

    def set_tags(self, tags: Mapping[str, str], at: Instant) -> None:
        """Raises ValueError when they take more than 512 bytes."""
        ...

    def send_event(self, name: str, payload: bytes, at: Instant, *, may_coalesce: bool = False) -> None:
        """A Serf user event. Raises ValueError when it is too long."""
        ...

    def ask(
        self,
        name: str,
        payload: bytes,
        at: Instant,
        *,
        timeout_s: float = 0.0,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        wants_ack: bool = False,
    ) -> int:
        """A Serf query: its number in ``QueryAnswered``. ``timeout_s`` 0: the default."""
        ...

    def respond(self, token: int, payload: bytes, at: Instant) -> None:
        """Raises LookupError when the query is over or answered, ValueError when ``payload`` is too long."""
        ...

    def set_keys(self, keys: Sequence[bytes], at: Instant) -> None:
        """On this node alone; the first is used for sending."""
        ...

    # --- shared state ---

    def put(self, kind: Kind, key: bytes, value: bytes, ttl_s: float, at: Instant) -> bool:
        """Write an entry of our own; whether there was room. The same value with much time left is not
        sent again."""
        ...

    def remove(self, kind: Kind, key: bytes, at: Instant) -> None: ...

    def tell(
        self, kind: NoticeKind, payload: bytes, at: Instant, *, to: Collection[str] | None = None
    ) -> None:
        """Once, by datagram, to these members or to all; may be lost."""
        ...

    def entries(self, kind: Kind, at: Instant) -> list[Entry]:
        """Of all nodes, ours included, that count now."""
        ...

    # --- to look at ---

    def members(self) -> list[MemberView]:
        """All that are not forgotten, this node included, by name."""
        ...

    def coordinate(self, name: str) -> Coordinate | None:
        """Where a member lies in the network, for ``serf rtt``; None when that is not known."""
        ...

    def skews(self) -> dict[str, float]:
        """How far the wall clocks of other nodes are ahead of ours, in seconds, by name, when last heard; the
        way of the packet is in it. For ``doctor``."""
        ...

    def figures(self) -> dict[str, int | float]:
        """Flat counters and levels, for metrics: names as in ``cluster/README.md``."""
        ...
