"""Streams between nodes: one frame there, at most one back, within limits of number, size and time.

A stream is opened by anybody who reaches the port, and its frame can only be judged when it is complete, so
everything is bounded before a key was shown: connections, connections of one address, bytes that all of them
together may have promised, and the time for the whole.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress

from .address import Address
from .effects import OpenStream
from .errors import PacketRejected
from .sockets import Sockets, heard_from
from .streams import MAX_FRAME_BYTES

MAX_STREAMS = 128  # of others to us, and as many of ours to others
MAX_STREAMS_OF_AN_ADDRESS = 32
MAX_HELD_BYTES = 3 * MAX_FRAME_BYTES  # of all streams together
READ_BYTES = 64 * 1024


FrameSize = Callable[[bytearray], int | None]  # ``streams.frame_size`` for the label of this cluster


class Refused(Exception):
    """Too much at once."""


class Exchanges:
    """Belongs to one event loop. ``answer`` gets a whole request and its source; ``settle`` the outcome of
    every stream of ours, exactly once, unless ``close`` came first; ``fault`` what nobody foresaw."""

    def __init__(
        self,
        sockets: Sockets,
        frame_size: FrameSize,
        *,
        answer: Callable[[bytes, Address], bytes | None],
        settle: Callable[[int, bytes | None], None],
        fault: Callable[[Exception], None],
        timeout_s: float,
    ) -> None:
        self._sockets = sockets
        self._frame_size = frame_size
        self._answer = answer
        self._settle = settle
        self._fault = fault
        self._timeout_s = timeout_s
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._incoming: Counter[str] = Counter()
        self._outgoing = 0
        self._held_bytes = 0
        self.counts: Counter[str] = Counter()

    async def listen(self) -> None:
        """From now on the listening socket is ours."""
        self._server = await asyncio.start_server(self._serve, sock=self._sockets.tcp, limit=READ_BYTES)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def open_count(self) -> int:
        return self._incoming.total() + self._outgoing

    # --- others to us ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peername = writer.get_extra_info("peername")
        if peername is None:  # gone already
            writer.transport.abort()
            return
        source = heard_from(peername)
        if self._incoming.total() >= MAX_STREAMS or self._incoming[source.ip] >= MAX_STREAMS_OF_AN_ADDRESS:
            self.counts["streams_refused"] += 1
            writer.transport.abort()
            return
        self._incoming[source.ip] += 1
        self.counts["streams_in"] += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._within_limits(self._answer_one(reader, writer, source), self._timeout_s)
        finally:
            self._incoming[source.ip] -= 1
            self._incoming += Counter()  # forget who has none
            writer.transport.abort()

    async def _answer_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: Address
    ) -> None:
        data = await self._read_frame(reader)
        reply = self._answer(data, source) if data else None
        if reply is not None:
            self.counts["stream_bytes_sent"] += len(reply)
            writer.write(reply)
        writer.close()
        await writer.wait_closed()

    # --- ours to others ---

    def open(self, wanted: OpenStream) -> None:
        if self._outgoing >= MAX_STREAMS:
            self.counts["streams_refused"] += 1
            asyncio.get_running_loop().call_soon(self._settle, wanted.ticket, None)
            return
        self._outgoing += 1
        self.counts["streams_out"] += 1
        task = asyncio.get_running_loop().create_task(self._exchange(wanted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exchange(self, wanted: OpenStream) -> None:
        got: list[bytes] = []
        try:
            await self._within_limits(self._ask_one(wanted, got), wanted.timeout_s)
        finally:
            self._outgoing -= 1
        if not got:
            self.counts["streams_failed"] += 1
        self._settle(wanted.ticket, got[0] if got else None)

    async def _ask_one(self, wanted: OpenStream, got: list[bytes]) -> None:
        """Connects from our own address, which is how the others know us."""
        host = self._sockets.sockaddr(wanted.to)
        sock = socket.socket(self._sockets.tcp.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(self._sockets.sockaddr(Address(self._sockets.address.ip, 0)))
            await asyncio.get_running_loop().sock_connect(sock, host)
            reader, writer = await asyncio.open_connection(sock=sock, limit=READ_BYTES)
        except BaseException:
            sock.close()
            raise
        try:
            self.counts["stream_bytes_sent"] += len(wanted.data)
            writer.write(wanted.data)
            await writer.drain()
            if wanted.wants_reply:
                got.append(await self._read_frame(reader))
                return
            writer.close()
            await writer.wait_closed()
            got.append(b"")
        finally:
            writer.transport.abort()

    # --- both ---

    async def _within_limits(self, work: Coroutine[None, None, None], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await work
        except TimeoutError:
            self.counts["stream_timeouts"] += 1
        except Refused:
            self.counts["streams_refused"] += 1
        except (OSError, EOFError, PacketRejected):
            self.counts["stream_errors"] += 1
        except Exception as fault:  # what nobody foresaw costs this stream
            self._fault(fault)

    async def _read_frame(self, reader: asyncio.StreamReader) -> bytes:
        """One frame, or as much as came of it: the engine has a name for what is wrong with it."""
        data = bytearray()
        held = size = 0
        try:
            while not size or len(data) < size:
                chunk = await reader.read(min(READ_BYTES, size - len(data)) if size else READ_BYTES)
                data += chunk
                if not chunk:
                    break
                if not size:
                    with suppress(PacketRejected):
                        size = self._frame_size(data) or 0
                        held = self._hold(size)
                        continue
                    break
            self.counts["stream_bytes_received"] += len(data)
            return bytes(data[:size] if size else data)
        finally:
            self._held_bytes -= held

    def _hold(self, size: int) -> int:
        if self._held_bytes + size > MAX_HELD_BYTES:
            raise Refused
        self._held_bytes += size
        return size
