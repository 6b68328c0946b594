"""One engine on real sockets: what arrives goes in, what it wants done is done, one timer wakes it.

Theory: the engine decides everything; this file has the sockets, the clocks and the limits. After anything
went into the engine its effects are carried out in order: datagrams and streams here, the rest is told to
the owner. Datagrams are read ``DATAGRAMS_PER_TURN`` at a time, so that timers and streams get their turn in
a flood.

Invariants:

* The engine is entered by one thread, the one of the loop, and never while it is already running.
* A fault of the engine costs the packet (or the tick) that met it: it is counted and logged at a bounded
  rate, and the next tick comes ``FAULT_PAUSE_S`` later at the earliest, so that it cannot become a busy loop.
* Our own timers measure how late this loop is; the engine hears of it before it hears anything else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from . import streams
from .address import Address
from .api import ClusterEngine
from .effects import Effect, OpenStream, Rejected, SendDatagram
from .exchange import Exchanges
from .faultlog import FaultLog, RejectionLog
from .instant import Instant
from .peers import Peers
from .sockets import Sockets, heard_from

log = logging.getLogger("sora.cluster")

DATAGRAMS_PER_TURN = 64
MAX_DATAGRAM_BYTES = 65_536
LATE_S = 0.05  # a timer this late says that we are slow; less is the grain of any machine
LONGEST_SLEEP_S = 1.0  # so that lateness is noticed while there is nothing to do
FAULT_PAUSE_S = 0.05

T = TypeVar("T")


def read_clocks() -> Instant:
    return Instant(time.monotonic(), time.time())


class Endpoint:
    """Belongs to the event loop that runs ``start``. ``tell`` gets the effects that are not I/O, in order, at
    once. ``peers`` are looked up again and again, and what is found is told to the engine, which joins it."""

    def __init__(
        self,
        engine: ClusterEngine,
        sockets: Sockets,
        *,
        tell: Callable[[list[Effect]], None],
        peers: Peers | None = None,
        clocks: Callable[[], Instant] = read_clocks,
    ) -> None:
        self._engine = engine
        self._sockets = sockets
        self._tell = tell
        self._clocks = clocks
        self.peers = peers or Peers((), (sockets.address, engine.settings.advertise))
        self._exchanges = Exchanges(
            sockets,
            lambda head: streams.frame_size(head, engine.settings.label),
            answer=self._answer,
            settle=self._settle,
            fault=lambda fault: self._faults.note(fault, "a stream", self._clocks().now),
            timeout_s=engine.settings.profile.stream_timeout_s,
        )
        self._rejections = RejectionLog()
        self._faults = FaultLog()
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")  # of the timer
        self._noted = float("inf")  # the timer whose lateness was told
        self._not_before = float("-inf")
        self._longest_delay_s = 0.0
        self._looking_up: asyncio.Task[None] | None = None
        self._left = asyncio.Event()
        self._is_closed = False

    async def start(self) -> None:
        """The sockets are ours from now on."""
        self._loop = asyncio.get_running_loop()
        await self._exchanges.listen()
        self._engine.start(self._clocks())
        self._loop.add_reader(self._sockets.udp, self._on_readable)
        self._flush()
        self._looking_up = self._loop.create_task(self._keep_looking_up())

    async def close(self) -> None:
        """At once, without a word to the others; see ``leave``."""
        self._is_closed = True
        if self._looking_up is not None:
            self._looking_up.cancel()
            await asyncio.wait([self._looking_up])
        self._loop.remove_reader(self._sockets.udp)
        if self._timer is not None:
            self._timer.cancel()
        await self._exchanges.close()
        self._sockets.close()

    def run(self, command: Callable[[ClusterEngine, Instant], T]) -> T:
        """A command of the owner; its exceptions are the caller's."""
        at = self._clocks()
        self._note_delay(at)
        try:
            return command(self._engine, at)
        finally:
            self._flush()

    async def leave(self, timeout_s: float) -> bool:
        """Whether the others could be told in time. Peers are not joined any more."""
        if self._looking_up is not None:
            self._looking_up.cancel()
        self.run(lambda engine, at: engine.leave(at))
        try:
            async with asyncio.timeout(timeout_s):
                await self._left.wait()
        except TimeoutError:
            return False
        return True

    def figures(self) -> dict[str, int | float]:
        """The engine's and those of the I/O, flat."""
        return {
            **self._engine.figures(),
            **{name: self._counts[name] for name in _COUNTS},
            **{name: self._exchanges.counts[name] for name in _STREAM_COUNTS},
            "streams_open": self._exchanges.open_count,
            "engine_faults": self._faults.count,
            "loop_delay_max_s": self._longest_delay_s,
        }

    # --- in ---

    def _on_readable(self) -> None:
        at = self._clocks()
        self._note_delay(at)
        receive, sock = self._engine.receive_datagram, self._sockets.udp
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, sockaddr = sock.recvfrom(MAX_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an earlier datagram of ours came back: the port there is closed
                self._counts["datagrams_bounced"] += 1
                continue
            self._counts["datagrams_received"] += 1
            self._counts["datagram_bytes_received"] += len(data)
            self._guarded("a datagram", receive, data, heard_from(sockaddr), at)
        self._flush()

    def _answer(self, data: bytes, source: Address) -> bytes | None:
        at = self._clocks()
        self._note_delay(at)
        reply = self._guarded("a stream", self._engine.receive_stream, data, source, at)
        self._flush()
        return reply

    def _settle(self, ticket: int, data: bytes | None) -> None:
        if self._is_closed:
            return
        at = self._clocks()
        self._note_delay(at)
        self._guarded("a reply", self._engine.receive_stream_reply, ticket, data, at)
        self._flush()

    def _on_timer(self) -> None:
        self._timer = None
        at = self._clocks()
        self._note_delay(at)
        self._guarded("a timer", self._engine.tick, at)
        self._rejections.summarize(at.now)
        self._flush()

    def _guarded(self, what: str, enter: Callable[..., T], *arguments: object) -> T | None:
        """The one place where unknown exceptions of the engine end."""
        try:
            return enter(*arguments)
        except Exception as fault:
            now = self._clocks().now
            self._faults.note(fault, what, now)
            self._not_before = now + FAULT_PAUSE_S
            return None

    def _note_delay(self, at: Instant) -> None:
        late_s = at.now - self._due
        if late_s < LATE_S or self._noted == self._due:
            return
        self._noted = self._due
        self._longest_delay_s = max(self._longest_delay_s, late_s)
        self._counts["loop_delays"] += 1
        self._guarded("a delay", self._engine.loop_was_late, late_s, at)

    # --- out ---

    def _flush(self) -> None:
        now = self._clocks().now
        told: list[Effect] = []
        for effect in self._guarded("effects", self._engine.effects) or ():
            if isinstance(effect, SendDatagram):
                self._send(effect)
            elif isinstance(effect, OpenStream):
                self._exchanges.open(effect)
            elif isinstance(effect, Rejected):
                self._rejections.note(effect, now)
            else:
                told.append(effect)
        if told:
            self._tell(told)
        if self._engine.has_left:
            self._left.set()
        self._schedule(now)

    def _send(self, effect: SendDatagram) -> None:
        """Once: what does not fit into the buffers of the system is as if lost on the way."""
        try:
            self._sockets.udp.sendto(effect.data, self._sockets.sockaddr(effect.to))
        except OSError:
            self._counts["datagrams_unsent"] += 1
        else:
            self._counts["datagrams_sent"] += 1
            self._counts["datagram_bytes_sent"] += len(effect.data)

    def _schedule(self, now: float) -> None:
        """One timer. One that comes too early is left: its tick finds nothing due and sets the next. What was
        due before is due now: it is not late for having been told so only now."""
        if self._is_closed:
            return
        due = max(min(self._engine.next_deadline(), now + LONGEST_SLEEP_S), self._not_before, now)
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_later(due - now, self._on_timer)

    # --- peers ---

    async def _keep_looking_up(self) -> None:
        while True:
            addresses = await self.peers.addresses()
            self._guarded("peers", self._engine.set_peers, addresses, self._clocks())
            self._flush()
            await asyncio.sleep(self._engine.settings.profile.rejoin_interval_s)


_COUNTS = (
    "datagrams_received",
    "datagram_bytes_received",
    "datagrams_sent",
    "datagram_bytes_sent",
    "datagrams_unsent",
    "datagrams_bounced",
    "loop_delays",
)
_STREAM_COUNTS = (
    "streams_in",
    "streams_out",
    "streams_failed",
    "streams_refused",
    "stream_timeouts",
    "stream_errors",
    "stream_bytes_sent",
    "stream_bytes_received",
)
