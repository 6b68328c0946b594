"""The seams inside the engine: what membership (``swim``) asks of the layer above it, and offers to it.

``serf.Serf`` is the delegate of ``swim.Swim``; ``state.SharedState`` is a part that Serf passes through to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from .address import Address
from .effects import Change, Effect, MemberView
from .instant import Instant
from .messages import NodeRecord


class Outlet(Protocol):
    """What the parts of an engine do to the outside, through the engine."""

    def emit(self, effect: Effect) -> None: ...

    def send(self, to: Address, parts: Sequence[bytes], *, node: str = "", piggyback: bool = True) -> None:
        """Encoded messages (``codec.encode``) in one datagram, filled up with broadcasts when ``piggyback``.
        ``node``: the name of the member at ``to``, when known. Too much for one datagram is split. Without
        parts it is a round of gossip: nothing is sent unless there is something to piggyback."""
        ...

    def open_stream(self, to: Address, message: bytes, *, wants_reply: bool) -> int:
        """One encoded message on a stream; the ticket of ``Swim.stream_reply``."""
        ...


class Members(Protocol):
    """The view of membership that others read. O(1) but for ``__iter__`` and ``alive``."""

    own_name: str

    def get(self, name: str) -> MemberView | None: ...

    def by_address(self, address: Address) -> MemberView | None: ...

    def alive(self) -> Sequence[MemberView]:
        """Alive and suspect, without this node, in the order of their names."""
        ...

    def __iter__(self) -> Iterator[MemberView]:
        """All records, in the order of their names."""
        ...

    @property
    def is_slow(self) -> bool:
        """This node has reason to think that it is late itself, or badly connected: it should not lead."""
        ...

    @property
    def count(self) -> int:
        """Members that count, this node included: what timers and retransmissions scale with. The dead and
        the left count for a while (``gossip_to_the_dead_s``), not for as long as their records are kept."""
        ...


class Membership(Members, Protocol):
    """What the delegate does to membership; ``swim.Swim``.

    Records of dead and left members are kept until the delegate says ``forget``: Serf does
    after ``forget_failed_s`` or ``forget_left_s``, and emits REAPED.
    """

    def set_meta_changed(self, at: Instant) -> None: ...

    def retransmit_limit(self) -> int:
        """How many packets a broadcast goes along with, at the present size of the cluster."""
        ...

    def force_dead(self, name: str, at: Instant) -> None:
        """A dead member has left after all: its record becomes LEFT. Calls no ``changed``. Nothing happens to
        one that is alive."""
        ...

    def forget(self, name: str) -> None:
        """Drop the record of a dead or left member; the same as never heard of. Calls no ``changed``."""
        ...


class Delegate(Protocol):
    """Called by ``Swim`` while it handles a packet, a stream or a timer."""

    def meta(self) -> bytes:
        """Tags of this node, encoded, at most 512 bytes."""
        ...

    def receive_user(self, raw: bytes, source: Address, at: Instant, *, is_stream: bool) -> None:
        """A user message. Raises PacketRejected."""
        ...

    def broadcasts(self, room: int, overhead: int, to: str) -> list[bytes]:
        """User messages (raw, without the type byte of memberlist) for a packet to member ``to`` ("" when not
        known); each takes ``overhead`` bytes more than its own length, all of them at most ``room``."""
        ...

    def has_broadcasts(self) -> bool:
        """Whether ``broadcasts`` may have something for someone: without it there are no rounds of gossip."""
        ...

    def local_state(self, at: Instant, *, is_join: bool) -> bytes: ...

    def merge_state(self, raw: bytes, source: Address, at: Instant, *, is_join: bool) -> None:
        """Raises PacketRejected; then the nodes of the same push/pull are not merged either."""
        ...

    def ack_payload(self, source_node: str, at: Instant) -> bytes:
        """For the ack to a ping of ``source_node`` ("" when not said)."""
        ...

    def ping_done(self, node: str, round_trip_s: float, payload: bytes, at: Instant) -> None:
        """Raises PacketRejected for a payload that makes no sense; the ack counts all the same."""
        ...

    def accepts(self, nodes: Sequence[NodeRecord]) -> None:
        """Before nodes of a push/pull are merged. Raises PacketRejected to refuse them all."""
        ...

    def changed(self, change: Change, member: MemberView, at: Instant) -> None:
        """Swim's own word: LEFT and FAILED by how it ended. The delegate emits what the outside hears."""
        ...

    def conflict(self, name: str, address: Address, other: Address, at: Instant) -> None:
        """Another live node, at ``other``, says that it is ``name``, which is at ``address``; also when the
        name is ours. Called each time that is heard; the delegate emits NameConflict at a bounded rate."""
        ...


def part_of(raw: bytes) -> bytes:
    """A user message as memberlist's."""
    return b"\x08" + raw
