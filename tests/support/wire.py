"""Conversations without sockets: a transport in memory, three ways to feed a machine, and transcripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from protocols.connections import DriverLimits, LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.driver import LineConnection
from protocols.ports import Machine, Peer, SessionFactory


class MemoryTransport(asyncio.Transport):
    """Collects what is written. ``stall`` makes the peer stop reading, ``take`` makes it read."""

    def __init__(self, peer: tuple[str, int] = ("192.0.2.7", 40000), *, has_tls: bool = False) -> None:
        super().__init__()
        self.written: list[bytes] = []  # one element per write call
        self.is_reading_paused = False
        self.is_aborted = False
        self.is_half_closed = False  # the server ended its side
        self._names = {
            "peername": peer,
            "sockname": ("192.0.2.1", 24),
            "ssl_object": object() if has_tls else None,
        }
        self._protocol: asyncio.Protocol | None = None
        self._is_closing = False
        self._is_stalled = False
        self._is_writing_paused = False
        self._unsent = bytearray()
        self._high = 64 * 1024

    def connect(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._names.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or self._high

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        if self._is_stalled:
            self._unsent += data
            if len(self._unsent) > self._high and not self._is_writing_paused:
                self._is_writing_paused = True
                assert self._protocol is not None
                self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return self._names["ssl_object"] is None

    def write_eof(self) -> None:
        self.is_half_closed = True

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self._unsent:
                self._lose(None)

    def abort(self) -> None:
        self.is_aborted = True
        self._is_closing = True
        self._unsent.clear()
        self._lose(None)

    def vanish(self) -> None:
        """The peer is gone without a word."""
        self._is_closing = True
        self._lose(ConnectionResetError())

    def _lose(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            asyncio.get_running_loop().call_soon(protocol.connection_lost, error)

    # --- the peer's side ---

    @property
    def output(self) -> bytes:
        return b"".join(self.written)

    def stall(self) -> None:
        self._is_stalled = True

    def take(self, size: int | None = None) -> None:
        """The peer reads ``size`` bytes, or all and goes on reading."""
        del self._unsent[: len(self._unsent) if size is None else size]
        self._is_stalled = size is not None
        if self._is_writing_paused and len(self._unsent) <= self._high // 4:
            self._is_writing_paused = False
            if self._protocol is not None:
                self._protocol.resume_writing()
        if self._is_closing and not self._unsent:
            self._lose(None)


class Wire:
    """One connection in memory, driven from the client's side. Make it inside a running loop."""

    def __init__(
        self,
        factory: SessionFactory,
        *,
        limits: DriverLimits | None = None,
        peer: tuple[str, int] = ("192.0.2.7", 40000),
        has_tls: bool = False,
        live: LiveConnections | None = None,
        told: Peer | None = None,  # what a front door knows, instead of the transport's addresses
    ) -> None:
        loop = asyncio.get_running_loop()
        self.live = LiveConnections(DeadlineWheel(loop), limits=limits) if live is None else live
        self.connection = LineConnection(factory, self.live, peer=told)
        self.transport = MemoryTransport(peer, has_tls=has_tls)
        self._seen = 0
        self.transport.connect(self.connection)

    async def settle(self) -> None:
        """Until nothing is left to do without further input."""
        quiet = 0
        while quiet < 3:
            quiet = 0 if self.connection.is_busy else quiet + 1
            task = self.connection._task
            if task is not None:
                await asyncio.wait({task})
            await asyncio.sleep(0)

    def feed(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.connection.data_received(data)

    async def send(self, data: bytes) -> bytes:
        """Feed, settle, and answer what came back."""
        self.feed(data)
        await self.settle()
        return self.received()

    async def send_bytewise(self, data: bytes) -> bytes:
        for i in range(len(data)):
            self.feed(data[i : i + 1])
        await self.settle()
        return self.received()

    def received(self) -> bytes:
        """What was written since the last call."""
        output = self.transport.output
        fresh, self._seen = output[self._seen :], len(output)
        return fresh

    async def greeting(self) -> bytes:
        await self.settle()
        return self.received()

    @property
    def is_closed(self) -> bool:
        """Nothing more will come from the server."""
        return self.transport.is_closing() or self.transport.is_half_closed

    async def hang_up(self) -> None:
        """The client closes its side."""
        if not self.transport.is_closing() and not self.connection.eof_received():
            self.transport.close()
        await self.settle()


def events_of(machine: Machine, pieces: Iterable[bytes]) -> list[object]:
    """All events that the pieces make, asked for after each piece."""
    found: list[object] = []
    for piece in pieces:
        machine.receive_data(piece)
        while (event := machine.next_event()) is not None:
            found.append(event)
    return found


def feed_three_ways(
    make: Callable[[], Machine], data: bytes, expected: Sequence[object], trailing: bytes = b""
) -> None:
    """The same events whole, byte by byte, and with ``trailing`` (an incomplete command) behind them."""
    assert events_of(make(), [data]) == list(expected), "whole"
    assert events_of(make(), (data[i : i + 1] for i in range(len(data)))) == list(expected), "byte by byte"
    if trailing:
        assert events_of(make(), [data + trailing]) == list(expected), "with trailing bytes"


def parse_script(text: str) -> list[tuple[str, bytes]]:
    """Lines of a transcript: ``C: `` and ``S: `` lines, in order; others are comments.

    ``C| `` sends the rest as it is, after Python escapes (``C| \\x00\\n``) and without CRLF. ``S: `` may end
    with ``*`` for any tail.
    """
    steps = []
    for line in text.splitlines():
        if line.startswith(("C: ", "S: ")) or line in ("C:", "S:"):
            steps.append((line[0], line[3:].encode("utf-8")))
        elif line.startswith("C| "):
            steps.append(("|", line[3:].encode("latin-1").decode("unicode_escape").encode("latin-1")))
    return steps


def line_matches(expected: bytes, line: bytes) -> bool:
    return line.startswith(expected[:-1]) if expected.endswith(b"*") else line == expected


async def play(factory: SessionFactory, script: str, **wire_options: Any) -> Wire:
    """Run a transcript: client lines up to the next server line go out as one chunk (pipelined), then every
    expected line must come, and nothing else."""
    wire = Wire(factory, **wire_options)
    await wire.settle()
    got: list[bytes] = []
    pending = b""
    for number, (side, payload) in enumerate(parse_script(script), start=1):
        if side in "C|":
            assert not got, f"step {number}: unexpected {got}"
            pending += payload + (b"\r\n" if side == "C" else b"")
            continue
        if pending:
            wire.feed(pending)
            pending = b""
        await wire.settle()
        fresh = wire.received()
        if fresh:
            assert fresh.endswith(b"\r\n"), f"step {number}: incomplete line {fresh!r}"
            got += fresh[:-2].split(b"\r\n")
        assert got, f"step {number}: expected {payload!r}, the server is silent"
        line = got.pop(0)
        assert line_matches(payload, line), f"step {number}: expected {payload!r}, got {line!r}"
    if pending:
        wire.feed(pending)
        await wire.settle()
    rest = b"\r\n".join(got) + wire.received()
    assert not rest, f"left over: {rest!r}"
    return wire
