"""What every HTTP server of a node does alike."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from node.httpserver import MAX_HEADER_BYTES, HttpServer

ROOT = Path(__file__).parents[2]


async def answered(request: bytes) -> bytes:
    async def answer(asked: web.BaseRequest) -> web.StreamResponse:
        if asked.path == "/fault":
            raise LookupError("what nobody foresaw")
        return web.Response(text="here\n", headers={"Server": "none of its business"})

    http = HttpServer(answer)
    listening = await asyncio.get_running_loop().create_server(http, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname()[:2])
        writer.write(request)
        found = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return found
    finally:
        listening.close()
        await http.shutdown(1.0)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        (b"HEAD / HTTP/1.0\r\n\r\n", 200),
        (b"GET /fault HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 500),
        (b"\x16\x03\x01 no http\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_HEADER_BYTES + b"\r\n\r\n", 400),
    ],
)
async def test_no_answer_tells_what_the_server_is_made_of(request_text: bytes, status: int) -> None:
    found = await answered(request_text)
    assert found.split()[1] == str(status).encode()
    assert b"\r\nServer: Sora\r\n" in found
    assert found.lower().count(b"\r\nserver:") == 1
    assert b"python" not in found.lower()
    assert b"aiohttp" not in found.lower()


def test_no_server_is_made_in_another_way() -> None:
    ways = ("web.Server", "web.Application", "AppRunner(", "web.run_app(")
    makers = {
        str(path.relative_to(ROOT))
        for package in ("cluster", "node", "protocols", "storage", "tls")
        for path in (ROOT / package).rglob("*.py")
        if any(way in path.read_text() for way in ways)
    }
    assert makers == {"node/httpserver.py"}
