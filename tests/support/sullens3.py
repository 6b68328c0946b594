"""An S3 endpoint that keeps what is put and can be told to refuse, in the ways that providers do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate

_REASONS = {200: "OK", 403: "Forbidden", 404: "Not Found", 429: "Too Many", 500: "Error", 503: "Slow Down"}


@dataclass
class SullenS3:
    """``mood``: a status with an S3 error code, "hangs", "cuts" (connections), "throttles" (half of all
    requests are refused), or empty when it is well."""

    mood: str = ""
    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)  # keys as they were put
    requests: int = 0
    at_once: int = 0
    most_at_once: int = 0
    _cheered: asyncio.Event = field(default_factory=asyncio.Event)
    _chance: random.Random = field(default_factory=lambda: random.Random(1))
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def cheer(self) -> None:
        """It is well from now on. What hung is never answered."""
        self.mood = ""
        self._cheered.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[SullenS3]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._cheered.set()
            server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await asyncio.gather(*self._tasks)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has gone away, which is its right
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        self.requests += 1
        if self.mood == "hangs":
            await self._cheered.wait()
            return False
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if self.mood == "cuts":
                return False
            if self.mood == "throttles" and self._chance.random() < 0.5:
                return await self._reply(writer, "503 SlowDown", method, target.split("?")[0], body)
            mood = "" if self.mood == "throttles" else self.mood
            return await self._reply(writer, mood, method, target.split("?")[0], body)
        finally:
            self.at_once -= 1

    async def _reply(
        self, writer: asyncio.StreamWriter, mood: str, method: str, key: str, body: bytes
    ) -> bool:
        status, answer, length = 200, b"", None
        if mood:
            code, _, name = mood.partition(" ")
            status, answer = int(code), f"<Error><Code>{name}</Code></Error>".encode()
        elif method == "PUT":
            if key not in self.objects:
                self.order.append(key)
            self.objects[key] = body
        elif key in self.objects:
            answer = self.objects[key]
        else:
            status, answer = 404, b"<Error><Code>NoSuchKey</Code></Error>"
        length = len(answer)
        if method == "HEAD":
            answer = b""
        stamp = formatdate(usegmt=True)
        writer.write(
            f'HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {length}\r\nETag: "x"\r\n'
            f"Last-Modified: {stamp}\r\nDate: {stamp}\r\n\r\n".encode()
            + answer
        )
        await writer.drain()
        return True
