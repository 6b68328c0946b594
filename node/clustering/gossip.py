"""The cluster as the node's own loop sees it.

What it needs of it is this protocol; ``thread.ThreadGossip`` is the real thing. Writes never wait and
cannot fail here: what comes of them is heard as effects. What is awaited raises GossipUnavailable while the
gossip does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from cluster.address import Address
from cluster.effects import Effect, MemberView
from cluster.facts import Entry, Kind, NoticeKind

Listener = Callable[[Effect], None]


class Gossip(Protocol):
    """``name`` is this node's; ``listener`` hears what there is to tell, in order, on the loop."""

    name: str
    listener: Listener

    # --- shared state ---

    def put(self, kind: Kind, entries: Mapping[bytes, bytes], ttl_s: float) -> None:
        """Entries of this node, by key; all get the same time to live."""
        ...

    def remove(self, kind: Kind, keys: Iterable[bytes]) -> None: ...

    def tell(self, kind: NoticeKind, payload: bytes, to: Collection[str]) -> None:
        """Once, by datagram, to these members; may be lost."""
        ...

    async def entries(self, kind: Kind) -> list[Entry]:
        """Of all nodes, ours included."""
        ...

    # --- membership ---

    def join(self, addresses: Sequence[Address]) -> None:
        """One ``Joined`` is heard for each."""
        ...

    async def set_peers(self, names: Iterable[str]) -> None:
        """``host:port`` of nodes to join whenever they are no members."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    async def members(self) -> list[MemberView]: ...

    async def skews(self) -> dict[str, float]:
        """Seconds by which the clocks of other nodes are ahead of ours."""
        ...

    async def force_leave(self, name: str, *, prune: bool) -> bool:
        """Make a failed member one that has left; whether there is such a member."""
        ...

    async def leave(self, within_s: float) -> None:
        """Say so, and wait until the others know, or until the time is over. Idempotent."""
        ...

    # --- events, queries, keys ---

    def send_event(self, name: str, payload: bytes) -> None: ...

    async def ask(
        self, name: str, payload: bytes, *, timeout_s: float, nodes: Sequence[str] = ()
    ) -> dict[str, bytes]:
        """What the nodes answered until all had, or the time was over; by name."""
        ...

    def respond(self, token: int, payload: bytes) -> None: ...

    def set_keys(self, keys: Sequence[bytes]) -> None:
        """On this node alone; the first is used for sending."""
        ...

    async def figures(self) -> dict[str, int | float]: ...
