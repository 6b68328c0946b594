"""Port 80: answers to HTTP-01 challenges, and nothing else (a redirection to https where that is asked for).

HTTP is aiohttp's, without its router. Every connection is for one request and has ten seconds; of too many
the oldest makes room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tls.challenges import Answer, Ask, Challenges, Miss, Source
from tls.ports import BucketUnavailable

from .httpserver import HttpServer
from .sockets import shown_address

if TYPE_CHECKING:
    import socket

log = logging.getLogger("sora.http")

CONNECTION_WITHIN_S: Final = 10.0
MAX_CONNECTIONS: Final = 512
BACKLOG: Final = 128
STORE_WITHIN_S: Final = 4.0  # authorities give up after some ten seconds
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Store = Callable[[str], Awaitable[str | None]]  # a token; its key authorisation. Raises BucketUnavailable


class ChallengeServer:
    """``store`` is asked for a token that memory does not have, once at a time for each. Times of
    ``challenges`` are the loop's."""

    def __init__(self, challenges: Challenges, store: Store, *, redirects_to_https: bool = False) -> None:
        self.challenges = challenges
        self.refused = 0  # connections that were cut off to make room, see MAX_CONNECTIONS
        self.address = ""
        self._store = store
        self._redirects = redirects_to_https
        self._listening: list[asyncio.Server] = []
        self._asking: dict[str, asyncio.Task[str | None]] = {}
        self._http: HttpServer

    async def open(self, sockets: Sequence[socket.socket]) -> None:
        """On bound sockets, which this object owns from then on. Raises OSError."""
        self._http = HttpServer(self._answer)
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._listening.append(await loop.create_server(self._connection, sock=sock, backlog=BACKLOG))
        self.address = shown_address(sockets[0])
        log.info("challenges are answered on %s", self.address)

    async def close(self) -> None:
        """Idempotent."""
        for each in self._listening:
            each.close()
        if self._listening:
            await self._http.shutdown(1.0)
        self._listening.clear()
        for task in self._asking.values():
            task.cancel()

    def _connection(self) -> asyncio.BaseProtocol:
        if len(self._http.connections) >= MAX_CONNECTIONS:
            self._cut_oldest()
        connection = self._http()
        asyncio.get_running_loop().call_later(CONNECTION_WITHIN_S, connection.force_close)
        return connection

    def _cut_oldest(self) -> None:
        """Holding connections open keeps nobody out: an authority needs its own for milliseconds."""
        for each in self._http.connections:  # the oldest first, those that are closing among them
            if each.transport is not None:
                self.refused += 1
                each.force_close()
                return

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await self._judge(request)
        response.force_close()
        return response

    async def _judge(self, request: web.BaseRequest) -> web.Response:
        host = request.headers.get("Host", "")
        found: Answer | Ask | Miss = Miss.NOT_A_CHALLENGE
        if request.method in ("GET", "HEAD"):
            path = request.raw_path.partition("?")[0]  # as it was sent: nothing is decoded
            found = self.challenges.answer(host, path, self._now())
        if isinstance(found, Ask):
            found = self.challenges.found(found.token, await self._ask(found.token), self._now())
        if isinstance(found, Answer):
            # the tokens of stateless answers are anybody's, and so is the number of such lines
            level = logging.DEBUG if found.source is Source.STATELESS else logging.INFO
            log.log(level, "a challenge for %s was answered from %s", host, found.source.value)
            return web.Response(text=found.text, content_type="text/plain", headers=HEADERS)
        return self._elsewhere(request, host, found)

    def _elsewhere(self, request: web.BaseRequest, host: str, miss: Miss) -> web.Response:
        if miss is not Miss.NOT_A_CHALLENGE or not self._redirects or not self.challenges.is_for_us(host):
            return web.Response(status=404, text="Not here\n", headers=HEADERS)
        name = host.rpartition(":")[0] or host
        target = f"https://{name}{request.raw_path if request.raw_path.startswith('/') else '/'}"
        return web.Response(status=301, text="Over there\n", headers={**HEADERS, "Location": target})

    async def _ask(self, token: str) -> str | None:
        """An authority asks from several places at a time: they wait for the same answer."""
        task = self._asking.get(token)
        if task is None:
            task = self._asking[token] = asyncio.ensure_future(self._looked_up(token))
            task.add_done_callback(lambda _: self._asking.pop(token, None))
        done, _ = await asyncio.wait([task], timeout=STORE_WITHIN_S)
        return task.result() if done and not task.cancelled() else None

    async def _looked_up(self, token: str) -> str | None:
        try:
            return await self._store(token)
        except BucketUnavailable as error:
            log.warning("a challenge cannot be looked up: %s", error)
            return None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
