"""``gossip.Gossip`` on the real thing: the engine in its thread, started again when it crashes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from cluster.address import Address
from cluster.api import ClusterEngine
from cluster.effects import Effect, MemberView, QueryAnswered
from cluster.facts import Entry, Kind, NoticeKind
from cluster.instant import Instant
from cluster.leader import ELIGIBLE_TAG, SLOW_TAG
from cluster.rpc import GossipAgent
from cluster.sockets import Sockets
from cluster.thread import GossipThread, GossipUnavailable

from .gossip import Listener

log = logging.getLogger("sora.cluster")

FIRST_BACKOFF_S: Final = 1.0
MAX_BACKOFF_S: Final = 60.0
OUR_TAGS: Final = frozenset({ELIGIBLE_TAG, SLOW_TAG})
ANSWER_GRACE_S: Final = 1.0  # the end of a query is told by the engine


class ThreadGossip:
    """``restored`` is called when the engine was started anew after a crash: it knows nothing of ours."""

    def __init__(
        self,
        name: str,
        make_engine: Callable[[], ClusterEngine],
        sockets: Sockets,
        peers: Iterable[str],
    ) -> None:
        self.name = name
        self.listener: Listener = lambda _effect: None
        self.restored: Callable[[], None] = lambda: None
        self.faults = 0  # effects that could not be handled
        self.restarts = 0
        self._queries: dict[int, _Gathering] = {}
        self._is_closed = False
        self._has_left = False
        self._restarting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.agent: GossipAgent | None = None  # of the agent RPC, which hears everything, too
        self.thread = GossipThread(
            make_engine,
            sockets,
            on_effects=self._on_effects,
            on_crash=self._on_crash,
            peers=peers,
        )

    # --- life ---

    async def start(self) -> None:
        """Raises GossipUnavailable, OSError."""
        await self.thread.start()

    async def close(self) -> None:
        """At once; see ``leave``. Idempotent."""
        self._is_closed = True
        if self._restarting is not None:
            self._restarting.cancel()
        if not await self.thread.stop():
            log.error("the gossip thread did not end in time")

    def close_soon(self) -> None:
        """The same, from a callback."""
        self._closing = asyncio.create_task(self.close())

    def _on_crash(self, reason: BaseException) -> None:
        for gathering in self._queries.values():
            gathering.end()
        if not self._is_closed and not self._has_left:  # a new engine would join again
            self._restarting = asyncio.create_task(self._restart())

    async def _restart(self) -> None:
        backoff = FIRST_BACKOFF_S
        while not self._is_closed:
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_S)
            try:
                await self.thread.start()
            except (GossipUnavailable, OSError) as error:
                log.error("gossip cannot be started again: %s", error)
                continue
            self.restarts += 1
            self.restored()
            return

    def _on_effects(self, effects: Sequence[Effect]) -> None:
        """One effect that cannot be handled must not take the others with it."""
        if self.agent is not None:
            self.agent.hear(effects)
        for effect in effects:
            if isinstance(effect, QueryAnswered):
                self._answered(effect)
                continue
            try:
                self.listener(effect)
            except Exception:
                self.faults += 1
                log.exception("%s could not be handled", type(effect).__name__)

    # --- shared state ---

    def put(self, kind: Kind, entries: Mapping[bytes, bytes], ttl_s: float) -> None:
        some = dict(entries)

        def put_all(engine: ClusterEngine, at: Instant) -> None:
            for key, value in some.items():
                engine.put(kind, key, value, ttl_s, at)

        self.thread.post(put_all)

    def remove(self, kind: Kind, keys: Iterable[bytes]) -> None:
        some = tuple(keys)

        def remove_all(engine: ClusterEngine, at: Instant) -> None:
            for key in some:
                engine.remove(kind, key, at)

        self.thread.post(remove_all)

    def tell(self, kind: NoticeKind, payload: bytes, to: Collection[str]) -> None:
        names = tuple(to)
        self.thread.post(lambda engine, at: engine.tell(kind, payload, at, to=names))

    async def entries(self, kind: Kind) -> list[Entry]:
        return await self.thread.entries(kind)

    # --- membership ---

    def join(self, addresses: Sequence[Address]) -> None:
        some = tuple(addresses)
        self.thread.post(lambda engine, at: engine.join(some, at))

    async def set_peers(self, names: Iterable[str]) -> None:
        await self.thread.set_peers(names)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Those of clients of the agent RPC stay."""
        copy = dict(tags)

        def set_ours(engine: ClusterEngine, at: Instant) -> None:
            held = next((each.tags for each in engine.members() if each.name == self.name), {})
            kept = {tag: value for tag, value in held.items() if tag not in OUR_TAGS}
            engine.set_tags({**kept, **copy}, at)

        self.thread.post(set_ours)

    async def members(self) -> list[MemberView]:
        return await self.thread.members()

    async def skews(self) -> dict[str, float]:
        return await self.thread.call(lambda engine, _at: engine.skews())

    async def force_leave(self, name: str, *, prune: bool) -> bool:
        return await self.thread.force_leave(name, prune=prune)

    async def leave(self, within_s: float) -> None:
        self._has_left = True
        try:
            if not await self.thread.leave(within_s):
                log.warning("the other nodes could not be told within %.0f s that this one leaves", within_s)
        except GossipUnavailable as error:
            log.warning("the other nodes could not be told that this one leaves: %s", error)

    # --- events, queries, keys ---

    def send_event(self, name: str, payload: bytes) -> None:
        self.thread.post(lambda engine, at: engine.send_event(name, payload, at))

    async def ask(
        self, name: str, payload: bytes, *, timeout_s: float, nodes: Sequence[str] = ()
    ) -> dict[str, bytes]:
        gathering = _Gathering()
        number = await self.thread.ask(name, payload, timeout_s=timeout_s, nodes=nodes)
        self._queries[number] = gathering
        try:
            await asyncio.wait([gathering.over], timeout=timeout_s + ANSWER_GRACE_S)
        finally:
            del self._queries[number]
        return gathering.answers

    def _answered(self, answer: QueryAnswered) -> None:
        gathering = self._queries.get(answer.query)
        if gathering is None:
            return
        if answer.payload is not None and answer.node:
            gathering.answers.setdefault(answer.node, answer.payload)
        if answer.is_over:
            gathering.end()

    def respond(self, token: int, payload: bytes) -> None:
        self.thread.post(lambda engine, at: engine.respond(token, payload, at))

    def set_keys(self, keys: Sequence[bytes]) -> None:
        some = tuple(keys)
        self.thread.post(lambda engine, at: engine.set_keys(some, at))

    async def figures(self) -> dict[str, int | float]:
        return await self.thread.figures()


class _Gathering:
    """The answers to one query of ours."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)
