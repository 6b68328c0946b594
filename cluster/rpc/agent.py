"""What the agent RPC asks of the node it speaks for; over a running engine that is ``gossip.GossipAgent``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from ..effects import Effect, MemberView
from ..serf.coordinates import Coordinate

Unsubscribe = Callable[[], None]


class AgentRefused(Exception):
    """It was not done; the text is for the client."""


class Agent(Protocol):
    """Belongs to one event loop. Every coroutine may raise AgentRefused."""

    @property
    def name(self) -> str:
        """Of this node."""
        ...

    async def members(self) -> Sequence[MemberView]:
        """This node included, by name."""
        ...

    async def figures(self) -> Mapping[str, int | float]: ...

    async def coordinate(self, name: str) -> Coordinate | None: ...

    async def join(self, peers: Sequence[str]) -> int:
        """How many of them answered. Raises AgentRefused when none did."""
        ...

    async def leave(self) -> None:
        """The cluster, and whatever goes with that; returns when the others were told."""
        ...

    async def force_leave(self, name: str, *, prune: bool) -> bool: ...

    async def change_tags(self, tags: Mapping[str, str], drop: Collection[str]) -> None:
        """``drop`` first."""
        ...

    async def send_event(self, name: str, payload: bytes, *, may_coalesce: bool) -> None: ...

    async def ask(
        self,
        name: str,
        payload: bytes,
        *,
        timeout_s: float,
        nodes: Sequence[str],
        tags: Mapping[str, str],
        wants_ack: bool,
    ) -> int:
        """The number in QueryAnswered. Awaited directly, not in a task of its own, it returns before the
        first of these is told. ``timeout_s`` 0: the default."""
        ...

    async def respond(self, token: int, payload: bytes) -> None: ...

    def subscribe(self, hear: Callable[[Effect], None]) -> Unsubscribe:
        """``hear`` is called on the loop with each MemberChanged, UserEvent, QueryAsked and QueryAnswered."""
        ...
