"""The engine in a thread with a loop of its own, so that work on mail cannot make this node look dead.

Theory: the owner's loop and ours exchange calls only through ``call_soon_threadsafe``. Commands are
coroutines of the owner that wait for their result; effects come back in batches, in order, to ``on_effects``
on the owner's loop. Nothing else is shared.

Invariants:

* Effects are not lost and not reordered while the thread lives. Only notices (``NoticeHeard``, which may be
  lost anyway) are dropped when the owner is ``MAX_NOTICES`` behind, and counted.
* ``ask`` returns, to who awaits it directly, before the first answer is told.
* The sockets are bound once. Each start works on duplicates, so a crashed thread can be started again without
  the privileges that binding may have taken.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from .address import Address
from .api import ClusterEngine
from .effects import Effect, MemberView, NoticeHeard
from .endpoint import Endpoint
from .facts import Entry, Kind, NoticeKind
from .instant import Instant
from .peers import Peers
from .sockets import Sockets

log = logging.getLogger("sora.cluster")

BATCH = 256  # effects for one turn of the owner's loop
MAX_NOTICES = 10_000
COMMAND_TIMEOUT_S = 10.0

T = TypeVar("T")


class GossipUnavailable(Exception):
    """The thread does not run, or does not answer."""


class GossipThread:
    """Belongs to the event loop that runs ``start``, which may be called again after a crash or ``stop``.

    ``make_engine`` is called in the new thread at each start. ``on_crash`` is told, on the owner's loop, why
    the thread ended by itself. ``make_loop``: of the thread. Commands raise GossipUnavailable, and what the
    engine raises for wrong arguments.
    """

    def __init__(
        self,
        make_engine: Callable[[], ClusterEngine],
        sockets: Sockets,
        *,
        on_effects: Callable[[Sequence[Effect]], None],
        on_crash: Callable[[BaseException], None],
        peers: Iterable[str] = (),
        make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self._make_engine = make_engine
        self._sockets = sockets
        self._on_effects = on_effects
        self._on_crash = on_crash
        self._peer_names = tuple(peers)
        self._make_loop = make_loop
        self._run: _Run | None = None

    # --- life ---

    async def start(self, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Raises what the engine or the sockets raise at start, GossipUnavailable when it takes too long."""
        if self._run is not None:
            raise GossipUnavailable("already running")
        self._run = _Run(self)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._run.started)
        except TimeoutError:
            self._run.request_stop()
            self._run = None
            raise GossipUnavailable("did not start in time") from None
        except BaseException:
            self._run = None
            raise

    async def leave(self, timeout_s: float = COMMAND_TIMEOUT_S) -> bool:
        """Tell the others; whether that was done in time. The thread goes on, and answers, until ``stop``."""
        run = self._running()
        return await run.coroutine(lambda endpoint: endpoint.leave(timeout_s), timeout_s + COMMAND_TIMEOUT_S)

    async def stop(self, timeout_s: float = COMMAND_TIMEOUT_S) -> bool:
        """Ends the thread and closes the sockets; whether it ended in time. Harmless when it does not run."""
        run, self._run = self._run, None
        has_ended = True
        if run is not None:
            has_ended = await run.stop(timeout_s)
        self._sockets.close()
        return has_ended

    @property
    def is_running(self) -> bool:
        return self._run is not None

    @property
    def address(self) -> Address:
        """Where it is bound."""
        return self._sockets.address

    def _running(self) -> _Run:
        if self._run is None:
            raise GossipUnavailable("not running")
        return self._run

    def _ended(self, run: _Run, fault: BaseException | None) -> None:
        """On the owner's loop, after the last effects."""
        if self._run is not run:
            return
        self._run = None
        reason = fault or GossipUnavailable("ended")
        log.error("the gossip thread ended: %s", reason, exc_info=fault)
        self._on_crash(reason)

    # --- commands ---

    async def call(self, command: Callable[[ClusterEngine, Instant], T]) -> T:
        """``command`` runs in the thread, between two packets; it must be short."""
        return await self._running().command(command)

    async def join(self, addresses: Sequence[Address]) -> None:
        await self.call(lambda engine, at: engine.join(addresses, at))

    async def force_leave(self, name: str, *, prune: bool = False) -> bool:
        return await self.call(lambda engine, at: engine.force_leave(name, at, prune=prune))

    async def set_tags(self, tags: Mapping[str, str]) -> None:
        copy = dict(tags)
        await self.call(lambda engine, at: engine.set_tags(copy, at))

    async def send_event(self, name: str, payload: bytes, *, may_coalesce: bool = False) -> None:
        await self.call(lambda engine, at: engine.send_event(name, payload, at, may_coalesce=may_coalesce))

    async def ask(
        self,
        name: str,
        payload: bytes,
        *,
        timeout_s: float = 0.0,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        wants_ack: bool = False,
    ) -> int:
        """Awaited directly, not in a task of its own, it returns before the first answer is told."""
        return await self._running().ask(
            lambda engine, at: engine.ask(
                name, payload, at, timeout_s=timeout_s, nodes=nodes, tags=tags, wants_ack=wants_ack
            )
        )

    async def respond(self, token: int, payload: bytes) -> None:
        await self.call(lambda engine, at: engine.respond(token, payload, at))

    async def set_keys(self, keys: Sequence[bytes]) -> None:
        await self.call(lambda engine, at: engine.set_keys(keys, at))

    async def put(self, kind: Kind, key: bytes, value: bytes, ttl_s: float) -> bool:
        return await self.call(lambda engine, at: engine.put(kind, key, value, ttl_s, at))

    async def remove(self, kind: Kind, key: bytes) -> None:
        await self.call(lambda engine, at: engine.remove(kind, key, at))

    async def tell(self, kind: NoticeKind, payload: bytes, *, to: Collection[str] | None = None) -> None:
        await self.call(lambda engine, at: engine.tell(kind, payload, at, to=to))

    async def entries(self, kind: Kind) -> list[Entry]:
        """``Entry.deadline`` is by the clock of this machine: ``time.monotonic``."""
        return await self.call(lambda engine, at: engine.entries(kind, at))

    async def members(self) -> list[MemberView]:
        return await self.call(lambda engine, at: engine.members())

    async def skews(self) -> dict[str, float]:
        return await self.call(lambda engine, at: engine.skews())

    async def set_peers(self, names: Iterable[str]) -> None:
        """Raises ValueError for what is no address; then the old ones stay."""
        copy = tuple(names)
        Peers(copy, ())
        self._peer_names = copy
        await self._running().endpoint_call(lambda endpoint: endpoint.peers.set_names(copy))

    async def figures(self) -> dict[str, int | float]:
        run = self._running()
        figures = await run.endpoint_call(lambda endpoint: endpoint.figures())
        return {**figures, "notices_lost": run.notices_lost, "effects_waiting": run.waiting}

    def post(self, command: Callable[[ClusterEngine, Instant], object]) -> bool:
        """Like ``call``, but from any thread and without waiting, in the order of the calls.

        Whether the thread runs; a fault of the command is logged."""
        run = self._run
        return run is not None and run.post(command)


class _Number(NamedTuple):
    """Of a query, in the order of the effects."""

    future: asyncio.Future[int]
    value: int


class _Run:
    """One life of the thread. Made on the owner's loop."""

    def __init__(self, owner: GossipThread) -> None:
        self._owner = owner
        self._owner_loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = self._owner_loop.create_future()
        self.started.add_done_callback(_look)
        self._ended: asyncio.Future[None] = self._owner_loop.create_future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._endpoint: Endpoint | None = None
        self._stop: asyncio.Future[None] | None = None
        self._is_stopping = False
        self._pending: set[asyncio.Future[Any]] = set()
        self._lock = threading.Lock()  # for what follows
        self._effects: deque[Effect | _Number] = deque()
        self._notices = 0
        self._is_draining = False
        self.notices_lost = 0
        self._thread = threading.Thread(target=self._main, name="gossip", daemon=True)
        self._thread.start()

    # --- in the thread ---

    def _main(self) -> None:
        fault: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=self._owner._make_loop) as runner:
                runner.run(self._live())
        except BaseException as caught:  # the end of a thread: whatever it was is told to the owner
            fault = caught
        self._to_owner(self._finish, fault)

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        stop = loop.create_future()
        loop.set_exception_handler(lambda _, context: _crash(stop, context))
        sockets = self._owner._sockets.duplicate()
        try:
            engine = self._owner._make_engine()
            peers = Peers(self._owner._peer_names, (sockets.address, engine.settings.advertise))
            endpoint = Endpoint(engine, sockets, tell=self._tell, peers=peers)
            await endpoint.start()
        except BaseException:
            sockets.close()
            raise
        try:
            with self._lock:
                self._loop, self._endpoint, self._stop = loop, endpoint, stop
                if self._is_stopping:
                    return
            self._to_owner(_resolve, self.started, None)
            await stop
        finally:
            with self._lock:
                self._loop = None
            await endpoint.close()

    def _tell(self, effects: Sequence[Effect | _Number]) -> None:
        with self._lock:
            for effect in effects:
                if isinstance(effect, NoticeHeard):
                    if self._notices >= MAX_NOTICES:
                        self.notices_lost += 1
                        continue
                    self._notices += 1
                self._effects.append(effect)
            is_first = not self._is_draining and bool(self._effects)
            self._is_draining = self._is_draining or is_first
        if is_first:
            self._to_owner(self._drain)

    def _to_owner(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            self._owner_loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the owner's loop is closed: it went away without stopping us
            log.warning("the owner of the gossip thread is gone")
            if self._stop is not None and not self._stop.done():
                self._stop.cancel()

    # --- on the owner's loop ---

    @property
    def waiting(self) -> int:
        return len(self._effects)

    def _drain(self) -> None:
        batch: list[Effect] = []
        number: _Number | None = None
        with self._lock:
            while self._effects and len(batch) < BATCH and number is None:
                each = self._effects.popleft()
                if isinstance(each, _Number):
                    number = each
                else:
                    batch.append(each)
            self._notices -= sum(isinstance(each, NoticeHeard) for each in batch)
            self._is_draining = goes_on = bool(self._effects)
        if number is not None:
            _resolve(number.future, number.value)  # who waits for it goes on before the next batch
        if goes_on:
            self._owner_loop.call_soon(self._drain)
        if batch:
            self._owner._on_effects(batch)

    def _finish(self, fault: BaseException | None) -> None:
        reason = fault or GossipUnavailable("the gossip thread ended")
        for future in (self.started, *self._pending):
            if not future.done():
                future.set_exception(reason if future is self.started else GossipUnavailable(str(reason)))
        has_started = self.started.exception() is None
        while self._effects:
            self._drain()
        _resolve(self._ended, None)
        if has_started:
            self._owner._ended(self, fault)

    async def command(self, command: Callable[[ClusterEngine, Instant], T]) -> T:
        return await self.endpoint_call(lambda endpoint: endpoint.run(command))

    async def ask(self, ask: Callable[[ClusterEngine, Instant], int]) -> int:
        def run(endpoint: Endpoint, future: asyncio.Future[int]) -> None:
            def number(engine: ClusterEngine, at: Instant) -> None:
                self._tell([_Number(future, ask(engine, at))])

            try:
                endpoint.run(number)
            except Exception as fault:  # the caller's, who waits for it
                self._to_owner(_fail, future, fault)

        return await self._wait_for(run, COMMAND_TIMEOUT_S)

    async def endpoint_call(self, work: Callable[[Endpoint], T]) -> T:
        def run(endpoint: Endpoint, future: asyncio.Future[T]) -> None:
            try:
                result = work(endpoint)
            except Exception as fault:  # the caller's, who waits for it
                self._to_owner(_fail, future, fault)
            else:
                self._to_owner(_resolve, future, result)

        return await self._wait_for(run, COMMAND_TIMEOUT_S)

    async def coroutine(self, work: Callable[[Endpoint], Awaitable[T]], timeout_s: float) -> T:
        async def run(endpoint: Endpoint, future: asyncio.Future[T]) -> None:
            try:
                result = await work(endpoint)
            except Exception as fault:  # the caller's, who waits for it
                self._to_owner(_fail, future, fault)
            else:
                self._to_owner(_resolve, future, result)

        tasks: set[asyncio.Task[None]] = set()

        def begin(endpoint: Endpoint, future: asyncio.Future[T]) -> None:
            task = asyncio.get_running_loop().create_task(run(endpoint, future))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        return await self._wait_for(begin, timeout_s)

    async def _wait_for(self, begin: Callable[[Endpoint, asyncio.Future[T]], None], timeout_s: float) -> T:
        future: asyncio.Future[T] = self._owner_loop.create_future()
        self._pending.add(future)
        try:
            self._enter(begin, future)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise GossipUnavailable("the gossip thread does not answer") from None
        finally:
            self._pending.discard(future)

    def _enter(self, begin: Callable[..., object], *arguments: object) -> None:
        with self._lock:
            if self._loop is None or self._endpoint is None:
                raise GossipUnavailable("not running")
            self._loop.call_soon_threadsafe(begin, self._endpoint, *arguments)

    def post(self, command: Callable[[ClusterEngine, Instant], object]) -> bool:
        try:
            self._enter(_run_posted, command)
        except GossipUnavailable:
            return False
        return True

    def request_stop(self) -> None:
        with self._lock:
            self._is_stopping = True
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(_resolve, self._stop, None)

    async def stop(self, timeout_s: float) -> bool:
        self.request_stop()
        done, _ = await asyncio.wait([self._ended], timeout=timeout_s)
        if done:
            self._thread.join()  # its last act was to say so
        return bool(done)


def _run_posted(endpoint: Endpoint, command: Callable[[ClusterEngine, Instant], object]) -> None:
    try:
        endpoint.run(command)
    except Exception:  # nobody waits for it
        log.exception("a command to the gossip thread failed")


def _resolve(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], fault: BaseException) -> None:
    if not future.done():
        future.set_exception(fault)


def _look(future: asyncio.Future[Any]) -> None:
    """At the exception, so that nobody warns that no one did."""
    if not future.cancelled():
        future.exception()


def _crash(stop: asyncio.Future[None], context: dict[str, Any]) -> None:
    """A callback or task of ours failed outside of the engine: the thread ends, the owner starts it again.

    Not so for what the system refuses, such as one more descriptor: that passes."""
    fault = context.get("exception") or RuntimeError(context.get("message", "unknown"))
    if isinstance(fault, OSError):
        log.warning("gossip: %s: %s", context.get("message", ""), fault)
    elif not stop.done():
        stop.set_exception(fault)
