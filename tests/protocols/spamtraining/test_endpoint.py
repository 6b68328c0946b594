"""The filter's end, against a small HTTP server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from protocols.spamtraining.endpoint import EndpointDown, HttpEndpoint


class Server:
    url = ""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.body = b""
        self.hangs = asyncio.Event()
        self.is_hanging = False

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        if self.is_hanging:
            await self.hangs.wait()
        headers = {"Location": "/other"} if self.status == 302 else {}
        return web.Response(status=self.status, body=self.body, headers=headers)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/learn"
    yield server
    server.hangs.set()
    await runner.cleanup()


async def post(server: Server, timeout_s: float = 30.0, token: str = "t0ken") -> bool:
    endpoint = HttpEndpoint(server.url, token, timeout_s)
    try:
        return await endpoint.post(b'{"class": "spam"}')
    finally:
        await endpoint.close()


async def test_the_request(server: Server) -> None:
    assert await post(server)
    ((headers, body),) = server.requests
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["Content-Type"] == "application/json"
    assert body == b'{"class": "spam"}'
    await post(server, token="")
    assert "Authorization" not in server.requests[1][0]


@pytest.mark.parametrize(("status", "taken"), [(200, True), (204, True), (400, False), (413, False)])
async def test_answers_about_the_message(server: Server, status: int, taken: bool) -> None:
    server.status = status
    assert await post(server) is taken


@pytest.mark.parametrize("status", [302, 401, 403, 404, 429, 500, 503])
async def test_answers_about_us_or_the_filter(server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(EndpointDown, match=str(status)):
        await post(server)
    assert len(server.requests) == 1


async def test_a_filter_that_hangs(server: Server) -> None:
    server.is_hanging = True
    with pytest.raises(EndpointDown):
        await post(server, timeout_s=0.05)


async def test_a_filter_that_is_not_there(server: Server) -> None:
    with socket.socket() as nobody:  # bound, so that nobody else is, and not listening
        nobody.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        with pytest.raises(EndpointDown) as caught:
            await post(server)
    assert "t0ken" not in str(caught.value)


async def test_an_endless_answer_is_not_read_to_its_end(server: Server) -> None:
    server.body = b"x" * 1_000_000
    assert await post(server)
