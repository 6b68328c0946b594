"""The pump between a transport, a machine and a session: the only protocol code that knows asyncio.

Theory: bytes go into the machine; events come out one at a time and are handed to the session. A handler
that need not wait runs inline and costs no task. A coroutine is run as a task, and pumping goes on when it
is done; meanwhile input collects in the machine up to a limit, then in the kernel. All output of one turn
leaves in one write, which is what makes pipelining cheap.

Invariants:

* At most one handler of a session runs at any time; ``on_wake`` and ``on_goodbye`` count as handlers.
* ``on_goodbye`` is called between handlers, at most once. A session that expires in the middle of a command
  or a literal is let to its end, for as long again at most.
* ``on_close`` is called exactly once, last, after the handler that was running has ended. A handler is not
  cancelled because the peer vanished: it may be in the middle of a commit. It learns of it from ``drain``
  (PeerGone), and is cancelled only after ``finish_timeout_s``.
* While the transport is above its high-water mark no event is handled, so a client that pipelines and never
  reads holds a bounded amount of our memory, and is aborted after ``write_timeout_s`` without progress.
* Unknown exceptions of protocol code are caught here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, cast

from .clock import SessionClock, Verdict
from .connections import LiveConnections
from .errors import PeerGone
from .ports import Goodbye, Machine, Peer, Session, SessionFactory

log = logging.getLogger("sora.driver")

EVENTS_PER_TURN = 128  # then other connections get their turn
EVENTS_PER_FLUSH = 32  # bounds the output that inline handlers queue before the transport may object


def _nothing() -> None:
    """Nobody counts this connection."""


BeforeTls = Callable[["LineConnection", asyncio.Transport], Awaitable[ssl.SSLContext | None]]


class LineConnection(asyncio.Protocol):
    """One connection; the protocol object for ``loop.create_server``, and the session's ``Connection``.

    ``tls_context`` is asked at each STARTTLS. A listener that has read bytes before it knew what to do with
    the connection calls ``connection_made`` and ``data_received`` itself; ``peer`` overrides the transport's
    idea of the addresses then. ``before_tls`` runs at each STARTTLS, when the transport has stopped reading
    and the next bytes of the client are its handshake; it answers with the context for this client, if that
    is another, and raises PeerGone to end the connection. ``leave`` is called when the connection is gone.
    """

    __slots__ = (
        "_before_tls",
        "_clock",
        "_drained",
        "_factory",
        "_goodbye",
        "_idle_timeout_s",
        "_is_eof",
        "_is_finished",
        "_is_lost",
        "_is_pumping",
        "_is_reading_paused",
        "_is_scheduled",
        "_is_urgent",
        "_is_writing_paused",
        "_live",
        "_machine",
        "_peer_wait_s",
        "_session",
        "_stalled_at",
        "_stalled_bytes",
        "_task",
        "_tls_context",
        "_touched_at",
        "_transport",
        "_wait_began",
        "_wants_wake",
        "_work_s",
        "_working_since",
        "bytes_in",
        "bytes_out",
        "closing",
        "has_tls",
        "leave",
        "peer",
        "session_id",
        "user",
        "wheel_slot",
    )

    _transport: asyncio.Transport
    _machine: Machine
    _session: Session
    _clock: SessionClock
    peer: Peer
    session_id: str

    def __init__(
        self,
        factory: SessionFactory,
        live: LiveConnections,
        *,
        tls_context: Callable[[], ssl.SSLContext | None] = lambda: None,
        peer: Peer | None = None,
        before_tls: BeforeTls | None = None,
    ) -> None:
        self._factory = factory
        self._live = live
        self._tls_context = tls_context
        self._before_tls = before_tls
        self.leave: Callable[[], None] = _nothing
        if peer is not None:
            self.peer = peer
        self.wheel_slot = 0
        self.user = ""
        self.has_tls = self.closing = False
        self._is_eof = self._is_lost = self._is_finished = False
        self._is_pumping = self._is_scheduled = False
        self._is_reading_paused = self._is_writing_paused = False
        self._wants_wake = self._is_urgent = False
        self._goodbye: Goodbye | None = None
        self._task: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._idle_timeout_s: float | None = None
        self._touched_at = self._stalled_at = 0.0
        self._stalled_bytes = 0
        self._work_s = self._working_since = 0.0
        self._peer_wait_s = self._wait_began = 0.0
        self.bytes_in = self.bytes_out = 0  # without what TLS adds

    # --- what the transport calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(self._live.limits.write_high_bytes)
        self.has_tls = transport.get_extra_info("ssl_object") is not None
        if not hasattr(self, "peer"):
            self.peer = _peer_of(transport)
        self._touched_at = self._live.wheel.now
        self._clock = SessionClock(self._live.clock, self._touched_at)
        self._live.add(self)
        try:
            self._machine, self._session = self._factory(self)
        except Exception:
            # no session yet that could say anything
            log.exception("no session could be made", extra=self.log_extra)
            self._live.counts.bugs += 1
            self._is_finished = True
            self.leave()
            self._live.discard(self)
            self.abort()
            return
        self._look_again()
        self._guarded(self._session.on_connect)
        self._turn()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self._touched_at = self._live.wheel.now
        self.bytes_in += len(data)
        self._take(data)

    def eof_received(self) -> bool:
        """The peer may half-close after its last command and still wants the replies."""
        if not self.closing:
            self._is_eof = True
            self._take(b"")
        # TLS has no half-close that a transport would let us use.
        return not self.has_tls and not self.closing

    def _take(self, data: bytes) -> None:
        try:
            self._machine.receive_data(data)
        except Exception as error:
            self._failed(error)
            return
        if self._task is None:
            self._turn()
        else:
            self._steer_reading()

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        self._clock.settle()  # while we do not listen
        self._note_stall(self._live.limits.write_timeout_s)

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._touched_at = self._live.wheel.now
        self._look_again()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._schedule_turn()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self.closing = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._task is None:
            self._finish()
        else:
            self._stalled_at = self._live.wheel.now
            self._live.wheel.schedule(self, self._stalled_at + self._live.limits.finish_timeout_s)

    # --- what the session calls --------------------------------------------------------------------

    @property
    def log_extra(self) -> dict[str, Any]:
        fields = {"session": self.session_id, "ip": self.peer.ip, **self._live.log_fields}
        if self.user:
            fields["user"] = self.user
        return {"fields": fields}

    def flush(self) -> None:
        """Hand the machine's queued output to the transport now."""
        data = self._machine.data_to_send()
        if data and not self.closing and not self._transport.is_closing():
            self.bytes_out += len(data)
            self._transport.write(data)

    def write(self, data: bytes) -> None:
        """Flush, then write these bytes as they are; ``drain`` after every 256 KiB or so."""
        self.flush()
        if data and not self.closing and not self._transport.is_closing():
            self.bytes_out += len(data)
            self._transport.write(data)

    async def drain(self) -> None:
        """Flush, then wait while the transport is above its high-water mark. Raises PeerGone."""
        self.flush()
        while self._is_writing_paused and not self._is_lost:
            self._drained = self._loop.create_future()
            self._wait_began = perf_counter()
            try:
                await self._drained
            finally:
                self._drained = None
                self._wait_ended()
        if self._is_lost or self._transport.is_closing():
            raise PeerGone

    def drop_early_input(self) -> int:
        dropped = self._machine.discard_input()
        self._live.counts.early_bytes_dropped += dropped
        return dropped

    async def start_tls(self) -> None:
        """Flush, drop what arrived early, shake hands. Raises PeerGone.

        Reading is paused before the reply to STARTTLS leaves, so whatever the machine holds by then came
        too early, and whatever comes later goes to the TLS layer.
        """
        context = self._tls_context()
        if context is None:
            raise RuntimeError("STARTTLS was offered without a TLS context")
        self._transport.pause_reading()
        self.drop_early_input()
        await self.drain()  # a transport that is swapped while paused would never resume us
        self._is_reading_paused = False
        self._wait_began = perf_counter()
        try:
            if self._before_tls is not None:
                context = await self._before_tls(self, self._transport) or context
            if self._is_lost:
                raise PeerGone
            transport = await self._loop.start_tls(
                self._transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._live.limits.tls_handshake_timeout_s,
            )
        except (OSError, ssl.SSLError) as error:  # both include the time-out and a peer that went away
            self.abort()
            raise PeerGone from error
        finally:
            self._wait_ended()
        if transport is None or self._is_lost:
            self.abort()
            raise PeerGone
        self._transport = transport
        self._transport.set_write_buffer_limits(self._live.limits.write_high_bytes)
        self._touched_at = self._live.wheel.now
        self.has_tls = True

    def take_work_s(self) -> float:
        """Seconds that handlers with something to wait for have taken since the last call; 0.0 when there was
        none. Left out is the time in which the peer did not take our bytes or did its part of a handshake.

        Handlers that end at once are not timed: reading the clock would cost them some percent.
        """
        if self._task is None and not self._work_s:
            return 0.0
        work_s, self._work_s = self._work_s, 0.0
        if self._task is not None and self._working_since:
            work_s += perf_counter() - self._working_since
            self._working_since = 0.0  # what the handler does from here on belongs to no command
        return work_s

    @property
    def peer_wait_s(self) -> float:
        """Seconds that handlers have waited for the peer, until now."""
        return self._peer_wait_s + (perf_counter() - self._wait_began if self._wait_began else 0.0)

    def _wait_ended(self) -> None:
        waited_s, self._wait_began = perf_counter() - self._wait_began, 0.0
        self._peer_wait_s += waited_s
        if self._working_since:
            self._working_since += waited_s

    def close(self) -> None:
        """Flush and close; input that is still buffered is forgotten."""
        if self.closing:
            return
        self.flush()
        self.closing = True
        self._note_stall(self._live.limits.close_timeout_s)
        if self._machine.buffered_bytes and not self._is_eof and self._transport.can_write_eof():
            # The peer is still sending. A plain close would answer that with a reset, and a reset takes
            # our last reply with it: end our side only, and drop what comes until the peer ends its own.
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close without waiting for output to leave."""
        self.closing = True
        self._transport.abort()

    def set_deadline(self, seconds: float | None) -> None:
        """Idle time after which the session's ``on_timeout`` is called; restarts with every read.

        Time that a handler takes, and time in which the peer does not read, is not idle time.
        """
        self._idle_timeout_s = seconds
        if seconds is not None:
            self._live.wheel.schedule(self, self._touched_at + seconds)

    def wake(self) -> None:
        """Ask for ``session.on_wake`` between commands; many calls before it runs count as one."""
        if not self._wants_wake and not self.closing:
            self._wants_wake = True
            self._schedule_turn()

    def begin_idle(self) -> None:
        """The client waits for news: neither session time nor speed count until ``end_idle``."""
        self._clock.pause(self._live.wheel.now)

    def end_idle(self) -> None:
        self._clock.resume(self._live.wheel.now)
        self._look_again()

    # --- what the registry calls -------------------------------------------------------------------

    def say_goodbye(self, why: Goodbye, within_s: float | None = None) -> None:
        """Have ``session.on_goodbye`` called between commands, then close.

        What is not gone ``within_s`` later is aborted. The handler that runs then may finish what it does in
        storage, as when the peer vanishes.
        """
        self._goodbye, self._is_urgent = why, True
        self._schedule_turn()
        if within_s is not None:
            self._loop.call_later(within_s, self._abort_unfinished)

    def _abort_unfinished(self) -> None:
        if not self._is_lost:
            self.abort()

    @property
    def is_active(self) -> bool:
        """A command runs, or the client is in the middle of sending one."""
        return self._task is not None or self._machine.is_mid_input

    @property
    def is_busy(self) -> bool:
        """Whether a handler runs or a turn is due."""
        return self._task is not None or self._is_scheduled

    # --- the pump ----------------------------------------------------------------------------------

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def _schedule_turn(self) -> None:
        if self._task is None and not self._is_scheduled and not self._is_pumping:
            self._is_scheduled = True
            self._loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._is_scheduled = False
        self._turn()

    def _turn(self) -> None:
        """Run what runs without waiting, then hand over all output at once."""
        if self._is_pumping or self._task is not None or self._is_lost:
            return
        self._is_pumping = True
        try:
            self._leave_if_asked()
            is_unfinished = self._pump()
            self._leave_if_asked()
            self.flush()
        except Exception as error:
            is_unfinished = False
            self._failed(error)
        finally:
            self._is_pumping = False
        if is_unfinished:
            self._schedule_turn()
        self._steer_reading()
        self._watch_debt()

    def _leave_if_asked(self) -> None:
        if self._goodbye is None or self.closing or self._task is not None:
            return
        if self._is_urgent or not self._machine.is_mid_input:
            self._session.on_goodbye(self._goodbye)
            self.close()

    def _pump(self) -> bool:
        """Handle events until there are none, one has to wait, or the turn is used up; whether it was."""
        handled = 0
        while self._task is None and not (self.closing or self._is_writing_paused):
            if handled == EVENTS_PER_TURN:
                return True
            handled += 1
            if self._wants_wake:
                self._wants_wake = False
                self._run(self._session.on_wake())
                continue
            event = self._machine.next_event()
            if event is None:
                if self._is_eof:
                    self.close()
                return False
            self._run(self._session.handle(event))
            if handled % EVENTS_PER_FLUSH == 0:
                self.flush()
        return False

    def _run(self, waiting: Awaitable[None] | None) -> None:
        if waiting is not None:
            self._working_since = perf_counter()
            self._task = asyncio.ensure_future(waiting)
            self._task.add_done_callback(self._handler_ended)

    def _handler_ended(self, task: asyncio.Future[None]) -> None:
        self._task = None
        self._touched_at = self._live.wheel.now
        if self._working_since:
            self._work_s += perf_counter() - self._working_since
        if task.cancelled():
            self.abort()
        elif (error := task.exception()) is not None:
            self._failed(error)
        if self._is_lost:
            self._finish()
        else:
            self._turn()

    def _guarded(self, call: Callable[[], Awaitable[None] | None]) -> None:
        """Call into the session from outside a turn."""
        try:
            self._run(call())
        except Exception as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """A handler ended with an exception: say so in the protocol's words, log it, close."""
        if isinstance(error, PeerGone) or not isinstance(error, Exception):
            # KeyboardInterrupt and its like: the loop has raised it already
            self.abort()
            return
        self._live.counts.bugs += 1
        log.error("unexpected %s", type(error).__name__, exc_info=error, extra=self.log_extra)
        if not self.closing:
            try:
                self._session.on_bug(error)
                self.close()
            except Exception:
                log.exception("the bug could not be reported", extra=self.log_extra)
                self.abort()

    def _steer_reading(self) -> None:
        if self.closing or self._is_eof:
            return
        is_waiting = self._task is not None or self._is_writing_paused or self._is_scheduled
        is_full = is_waiting and self._machine.buffered_bytes > self._live.limits.read_limit_bytes
        if is_full != self._is_reading_paused:
            self._is_reading_paused = is_full
            if is_full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _finish(self) -> None:
        if self._is_finished:
            return
        self._is_finished = True
        self.leave()
        self._live.wheel.cancel(self)
        closing: Awaitable[None] | None = None
        try:
            closing = self._session.on_close()
        except Exception:
            self._live.counts.bugs += 1
            log.exception("closing a session failed", extra=self.log_extra)
        self._live.counts.bytes_in += self.bytes_in
        self._live.counts.bytes_out += self.bytes_out
        self._live.discard(self, closing)

    # --- deadlines ---------------------------------------------------------------------------------

    def _note_stall(self, timeout_s: float) -> None:
        """From now on the peer has to take bytes."""
        self._stalled_at = self._live.wheel.now
        self._stalled_bytes = self._transport.get_write_buffer_size()
        self._live.wheel.schedule(self, self._stalled_at + timeout_s)

    def on_due(self, now: float) -> float | None:
        """The wheel's question (``deadlines.Timed``)."""
        if self._is_lost:
            return self._cancel_late_handler(now)
        if self.closing or self._is_writing_paused:
            return self._abort_stalled(now)
        self._heed(self._clock.verdict(now, self.bytes_in))
        if self.closing:
            return self._stalled_at + self._live.limits.close_timeout_s
        looks = (self._look_at_idle_time(now), self._clock.next_look(now))
        return min((look for look in looks if look is not None), default=None)

    def _look_at_idle_time(self, now: float) -> float | None:
        if self._idle_timeout_s is None:
            return None
        if self._task is not None:
            return now + self._idle_timeout_s
        due = self._touched_at + self._idle_timeout_s
        if due > now:
            return due
        self._touched_at = now
        self._guarded(self._tell_timeout)
        return None if self._idle_timeout_s is None else now + self._idle_timeout_s

    def _heed(self, verdict: Verdict) -> None:
        if verdict is Verdict.ON_TIME:
            return
        is_slow = verdict is Verdict.TOO_SLOW
        if self._goodbye is None:
            self._live.counts.too_slow += is_slow
            self._live.counts.expired += not is_slow
            self._goodbye = Goodbye.TOO_SLOW if is_slow else Goodbye.EXPIRED
        self._is_urgent = self._is_urgent or verdict is not Verdict.EXPIRED
        self._turn()

    def _look_again(self) -> None:
        look = self._clock.next_look(self._live.wheel.now)
        if look is not None:
            self._live.wheel.schedule(self, look)

    def _watch_debt(self) -> None:
        """From now on the client owes bytes, or no longer does."""
        is_listening = self._task is None and not (self.closing or self._is_writing_paused)
        if is_listening and self._machine.is_mid_input:
            if self._clock.owe(self._live.wheel.now, self.bytes_in):
                self._look_again()
        else:
            self._clock.settle()

    def _tell_timeout(self) -> None:
        self._session.on_timeout()
        self.flush()

    def _cancel_late_handler(self, now: float) -> float | None:
        due = self._stalled_at + self._live.limits.finish_timeout_s
        if self._task is None or due > now:
            return due if self._task is not None else None
        log.warning("cancelling a handler that outlived its peer", extra=self.log_extra)
        self._task.cancel()
        return None

    def _abort_stalled(self, now: float) -> float | None:
        limits = self._live.limits
        due = self._stalled_at + (limits.close_timeout_s if self.closing else limits.write_timeout_s)
        if due > now:
            return due
        left = self._transport.get_write_buffer_size()
        least = (self._live.clock.min_bytes_per_minute or 0) * (now - self._stalled_at) / 60
        if self._stalled_bytes - left >= max(1, least):
            self._stalled_at, self._stalled_bytes = now, left
            return now + (limits.close_timeout_s if self.closing else limits.write_timeout_s)
        self._live.counts.stalled += 1
        self.abort()
        return None


def _peer_of(transport: asyncio.BaseTransport) -> Peer:
    """Addresses of a TCP transport; those of a Unix socket are empty."""

    def pair(key: str) -> tuple[str, int]:
        name: Any = transport.get_extra_info(key)
        return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else ("", 0)

    return Peer(*pair("peername"), *pair("sockname"))
