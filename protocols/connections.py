"""The live connections of one loop: counting them, and ending them in order."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .clock import ClockSettings
from .deadlines import DeadlineWheel
from .ports import Goodbye, Registered, SessionRegistry, Unregistered

log = logging.getLogger("sora.driver")


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """What one connection may hold and how long it may take."""

    # Input kept while a handler runs; the rest waits in the kernel. A pipelining client loses nothing.
    read_limit_bytes: int = 64 * 1024
    # Output the transport takes before handlers wait.
    write_high_bytes: int = 64 * 1024
    # A peer that takes no byte for this long is gone, or wants our memory. So is one that takes bytes more
    # slowly than the clock's minimum speed, where there is one.
    write_timeout_s: float = 300.0
    # The last reply of a connection that we close has this long to leave.
    close_timeout_s: float = 30.0
    # The same when the whole node stops: peers that are asleep do not hold that up.
    goodbye_timeout_s: float = 5.0
    # The peer vanished: a running handler may finish its storage calls for this long.
    finish_timeout_s: float = 60.0
    tls_handshake_timeout_s: float = 30.0


@dataclass(slots=True)
class DriverCounts:
    """Totals since start, for metrics."""

    accepted: int = 0
    bugs: int = 0
    early_bytes_dropped: int = 0
    stalled: int = 0  # aborted because the peer did not read
    bytes_in: int = 0  # of connections that are gone
    bytes_out: int = 0
    expired: int = 0  # ended by absolute_session_timeout
    too_slow: int = 0  # ended by min_bytes_per_minute


class LiveConnection(Registered, Protocol):
    """What the set needs of its members (``driver.LineConnection``)."""

    @property
    def is_busy(self) -> bool:
        """Whether a handler runs or a turn is due."""
        ...

    def abort(self) -> None: ...


class LiveConnections:
    """The connections of one server on one loop, and what they share.

    ``session_ids`` names sessions in logs and bug replies; give each process its own prefix. ``protocol`` and
    ``server`` are what ``registry`` is told of them.
    """

    def __init__(
        self,
        wheel: DeadlineWheel,
        *,
        limits: DriverLimits | None = None,
        session_ids: Iterator[str] | None = None,
        clock: ClockSettings | None = None,
        registry: SessionRegistry | None = None,
        protocol: str = "",
        server: str = "",
    ) -> None:
        self.wheel = wheel
        self.clock = clock or ClockSettings()
        self._registry = Unregistered() if registry is None else registry  # an empty one is falsy
        self._protocol, self._server = protocol, server
        self.limits = limits or DriverLimits()
        self.counts = DriverCounts()
        self._session_ids = session_ids or (f"{n:x}" for n in itertools.count(1))
        # accepted, and not members yet: their PROXY header or TLS handshake is under way
        self.entering: set[LiveConnection] = set()
        self._members: set[LiveConnection] = set()
        self._closers: set[asyncio.Future[None]] = set()
        self._emptied: list[asyncio.Future[None]] = []

    @property
    def log_fields(self) -> dict[str, str]:
        """What log lines about any of them say."""
        return {"protocol": self._protocol, "server": self._server}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[LiveConnection]:
        return iter(tuple(self._members))

    @property
    def bytes_in(self) -> int:
        """Received since start. O(connections)."""
        return self.counts.bytes_in + sum(member.bytes_in for member in self._members)

    @property
    def bytes_out(self) -> int:
        return self.counts.bytes_out + sum(member.bytes_out for member in self._members)

    def add(self, member: LiveConnection) -> None:
        """Registers a connection and names it."""
        member.session_id = next(self._session_ids)
        self.entering.discard(member)
        self._members.add(member)
        self.counts.accepted += 1
        self._registry.opened(member, self._protocol, self._server)

    def discard(self, member: LiveConnection, closing: Awaitable[None] | None = None) -> None:
        """The connection is gone; ``closing`` is what its session still has to do."""
        self._members.discard(member)
        self._registry.closed(member)
        if closing is not None:
            task = asyncio.ensure_future(closing)
            self._closers.add(task)
            task.add_done_callback(self._closed)
        self._tell_waiters()

    def _closed(self, task: asyncio.Future[None]) -> None:
        self._closers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.counts.bugs += 1
            log.error("closing a session failed", exc_info=error, extra={"fields": self.log_fields})
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        if not self._members and not self._closers:
            for waiter in self._emptied:
                if not waiter.done():
                    waiter.set_result(None)
            self._emptied.clear()

    async def shutdown(
        self,
        *,
        spread_s: float = 0.0,
        grace_s: float = 30.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> int:
        """Say goodbye to all, spread over ``spread_s`` so that clients do not come back all at once.

        Commands that run are finished. Who only has to take our goodbye gets ``goodbye_timeout_s`` for it.
        What is left after ``grace_s`` is aborted; answers how many.
        """
        members = list(self._members)
        for done, member in enumerate(members, start=1):
            member.say_goodbye(Goodbye.SHUTDOWN)
            if spread_s and done % 50 == 0:
                await sleep(spread_s * 50 / len(members))
        goodbye_s = min(self.limits.goodbye_timeout_s, grace_s)
        await self._wait_empty(goodbye_s)
        for member in list(self._members):
            if not member.is_busy:
                member.abort()
        await self._wait_empty(grace_s - goodbye_s)
        left = list(self._members)
        for member in left:
            member.abort()
        if left:
            await self._wait_empty(self.limits.finish_timeout_s)
        return len(left)

    async def _wait_empty(self, timeout_s: float) -> None:
        if self._members or self._closers:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._emptied.append(waiter)
            await asyncio.wait({waiter}, timeout=timeout_s)
