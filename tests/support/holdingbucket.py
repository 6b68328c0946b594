"""Between S3 clients and their server: passes all on, but a request that is to be held never arrives."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import suppress

CHUNK = 1 << 16


class HoldingBucket:
    """Plain HTTP on loopback, in a thread of its own. ``port`` is known after ``start``."""

    def __init__(self) -> None:
        self.port = 0
        self._server_port = 0
        self._held: tuple[re.Pattern[bytes], threading.Event] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self, server_port: int) -> None:
        started = threading.Event()
        self._server_port = server_port
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), daemon=True)
        self._thread.start()
        assert started.wait(60), "the way to the bucket does not start"

    def stop(self) -> None:
        if self._thread is not None and self._loop is not None and self._ended is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(30)

    def hold(self, method: str, part: str) -> threading.Event:
        """The next request of that method with this in its path; the event says that it came."""
        reached = threading.Event()
        pattern = re.compile(rb"%s \S*%s\S* HTTP" % (method.encode(), re.escape(part.encode())))
        self._held = (pattern, reached)
        return reached

    async def _run(self, started: threading.Event) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._ended.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        ways = [self._requests(reader, downstream), self._pump(upstream, writer)]
        tasks = [asyncio.ensure_future(way) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for each in (writer, downstream):
            each.close()  # when it has sent what it was given

    async def _requests(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        """A client sends the head of a request at once, and none before it has the answer to the last."""
        with suppress(ConnectionError):
            while chunk := await reader.read(CHUNK):
                if self._held is not None and self._held[0].match(chunk):
                    _, reached = self._held
                    self._held = None
                    reached.set()
                    while await reader.read(CHUNK):
                        continue
                    return
                to.write(chunk)
                await to.drain()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(CHUNK):
                to.write(chunk)
                await to.drain()
