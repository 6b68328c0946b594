"""The agent of the RPC over the gossip thread of a node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from ..address import Address
from ..effects import Effect, Joined, MemberChanged, MemberView, QueryAnswered, QueryAsked, UserEvent
from ..peers import Peers
from ..serf.coordinates import Coordinate
from ..thread import GossipThread, GossipUnavailable
from .agent import AgentRefused, Unsubscribe

_TOLD: Final = (MemberChanged, UserEvent, QueryAsked, QueryAnswered, Joined)
_JOIN_TIMEOUT_S: Final = 30.0


class GossipAgent:
    """Implements ``agent.Agent``. The owner of ``thread`` gives all effects to ``hear``; ``leave`` is what it
    does when a client asks the node to leave."""

    def __init__(self, name: str, thread: GossipThread, *, leave: Callable[[], Awaitable[object]]) -> None:
        self._name = name
        self._thread = thread
        self._leave = leave
        self._listeners: dict[int, Callable[[Effect], None]] = {}
        self._last = 0

    def hear(self, effects: Iterable[Effect]) -> None:
        """On the owner's loop."""
        if not self._listeners:
            return
        for effect in effects:
            if isinstance(effect, _TOLD):
                for hear in tuple(self._listeners.values()):
                    hear(effect)

    def subscribe(self, hear: Callable[[Effect], None]) -> Unsubscribe:
        self._last += 1
        number = self._last
        self._listeners[number] = hear
        return lambda: self._drop(number)

    def _drop(self, number: int) -> None:
        self._listeners.pop(number, None)

    @property
    def name(self) -> str:
        return self._name

    async def members(self) -> Sequence[MemberView]:
        with _refusals():
            return await self._thread.members()

    async def figures(self) -> Mapping[str, int | float]:
        with _refusals():
            return await self._thread.figures()

    async def coordinate(self, name: str) -> Coordinate | None:
        with _refusals():
            return await self._thread.call(lambda engine, at: engine.coordinate(name))

    async def join(self, peers: Sequence[str]) -> int:
        with _refusals():
            addresses = await Peers(peers, (self._thread.address,)).addresses()
            if not addresses:
                raise AgentRefused("none of these is an address of another node")
            return await self._join(addresses)

    async def _join(self, addresses: Sequence[Address]) -> int:
        outcomes: dict[Address, str] = {}
        all_known = asyncio.Event()

        def note(effect: Effect) -> None:
            if isinstance(effect, Joined) and effect.address in addresses:
                outcomes[effect.address] = effect.error
                if len(outcomes) == len(addresses):
                    all_known.set()

        unsubscribe = self.subscribe(note)
        try:
            await self._thread.join(addresses)
            async with asyncio.timeout(_JOIN_TIMEOUT_S):
                await all_known.wait()
        except TimeoutError:
            outcomes.setdefault(addresses[0], "no answer in time")
        finally:
            unsubscribe()
        joined = sum(not error for error in outcomes.values())
        if not joined:
            raise AgentRefused("; ".join(f"{address}: {error}" for address, error in outcomes.items()))
        return joined

    async def leave(self) -> None:
        with _refusals():
            await self._leave()

    async def force_leave(self, name: str, *, prune: bool) -> bool:
        with _refusals():
            return await self._thread.force_leave(name, prune=prune)

    async def change_tags(self, tags: Mapping[str, str], drop: Collection[str]) -> None:
        with _refusals():
            members = await self._thread.members()
            held = next((member.tags for member in members if member.name == self._name), {})
            kept = {tag: value for tag, value in held.items() if tag not in drop}
            await self._thread.set_tags({**kept, **tags})

    async def send_event(self, name: str, payload: bytes, *, may_coalesce: bool) -> None:
        with _refusals():
            await self._thread.send_event(name, payload, may_coalesce=may_coalesce)

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
        with _refusals():
            return await self._thread.ask(
                name, payload, timeout_s=timeout_s, nodes=nodes, tags=tags, wants_ack=wants_ack
            )

    async def respond(self, token: int, payload: bytes) -> None:
        with _refusals():
            await self._thread.respond(token, payload)


@contextmanager
def _refusals() -> Iterator[None]:
    """What the thread and the engine refuse, in the words of the RPC."""
    try:
        yield
    except GossipUnavailable as fault:
        raise AgentRefused(f"gossip is not available: {fault}") from fault
    except LookupError as fault:
        raise AgentRefused("No pending queries matching ID") from fault
    except ValueError as fault:
        raise AgentRefused(str(fault)) from fault
