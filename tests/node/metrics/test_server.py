"""The HTTP endpoint: who may ask, what they get, and what becomes of bad requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from node.config.secret import Secret
from node.config.server import Server
from node.metrics import server as server_module
from node.metrics.server import MetricsServer
from node.sockets import ServerSockets, bind
from node.units import Address, parse_network

KEY = "0123456789abcdef"
REPORT = {"status": "ok", "node": "mail", "components": [{"name": "database", "detail": "db.internal"}]}
BASE = Server(type="metrics", name="metrics", addr=Address("127.0.0.1", 0), command_timeout_s=300.0)

Start = Callable[..., Awaitable[MetricsServer]]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    running = []

    async def begin(report: dict[str, Any] | None = None, **settings: Any) -> MetricsServer:
        async def say() -> dict[str, Any]:
            return report or REPORT

        async def page(accept: str) -> tuple[bytes, str]:
            return f"page {accept}\n".encode(), "text/plain"

        serving = MetricsServer(replace(BASE, **settings), page, say, None)
        place = ServerSockets(serving.server, bind(serving.server.addr))
        place.open()
        await serving.open(place.sockets)
        running.append(serving)
        return serving

    yield begin
    for each in running:
        await each.close()


async def raw(serving: MetricsServer, request: bytes) -> bytes:
    """What comes back until the server closes."""
    host, _, port = serving.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


async def get(serving: MetricsServer, path: str, *headers: str, method: str = "GET") -> tuple[int, str]:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
    head, _, body = (await raw(serving, "\r\n".join(lines).encode())).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def test_paths(start: Start) -> None:
    serving = await start()
    assert await get(serving, "/metrics", "Accept: text/x") == (200, "page text/x\n")
    assert await get(serving, "/healthz") == (200, "ok\n")
    status, body = await get(serving, "/readyz")
    assert status == 200
    assert "db.internal" in body
    assert (await get(serving, "/"))[0] == 404
    assert (await get(serving, "/metrics?x=1"))[0] == 200
    assert (await get(serving, "/metrics", method="POST"))[0] == 405
    assert await get(serving, "/healthz", method="HEAD") == (200, "")


async def test_other_path(start: Start) -> None:
    serving = await start(path="/internal/figures")
    assert (await get(serving, "/internal/figures"))[0] == 200
    assert (await get(serving, "/metrics"))[0] == 404


async def test_key(start: Start) -> None:
    serving = await start(api_key=Secret(KEY))
    for wrong in (
        (),
        ("Authorization: Bearer nonsense",),
        (f"Authorization: Basic {KEY}",),
        ("Authorization: \xff",),
    ):
        assert (await get(serving, "/metrics", *wrong))[0] == 401
    assert (await get(serving, "/metrics", f"Authorization: Bearer {KEY}"))[0] == 200
    assert (await get(serving, "/healthz"))[0] == 200


async def test_readiness_is_for_all_and_its_details_for_the_key(start: Start) -> None:
    serving = await start({**REPORT, "status": "down"}, api_key=Secret(KEY))
    assert await get(serving, "/readyz") == (503, '{"status": "down"}')
    status, body = await get(serving, "/readyz", f"authorization: bearer {KEY}")
    assert status == 503
    assert "db.internal" in body


async def test_degraded_is_ready(start: Start) -> None:
    assert (await get(await start({**REPORT, "status": "degraded"}), "/readyz"))[0] == 200


async def test_allowed_hosts(start: Start) -> None:
    closed = await start(allowed_hosts=(parse_network("10.0.0.0/8"), parse_network("::1")))
    for path in ("/metrics", "/readyz", "/healthz"):
        assert (await get(closed, path))[0] == 403
    opened = await start(allowed_hosts=(parse_network("127.0.0.0/8"),))
    assert (await get(opened, "/metrics"))[0] == 200


@pytest.mark.parametrize(
    ("remote", "is_allowed"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fe80::1%eth0", True), ("11.0.0.1", False), ("", False)],
)
async def test_addresses(remote: str, is_allowed: bool) -> None:
    networks = (parse_network("10.0.0.0/8"), parse_network("fe80::/10"))
    serving = MetricsServer(
        replace(BASE, allowed_hosts=networks),
        lambda _: (b"", ""),
        None,
        None,  # type: ignore[arg-type]
    )
    assert serving._is_allowed_host(remote) is is_allowed


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\n",  # TLS to a plain port
        b"a1 LOGIN x y\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"\x00" * 1000 + b"\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
async def test_malformed_requests_get_no_page_and_make_no_noise(
    start: Start, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="sora")
    serving = await start()
    caplog.clear()
    answer = await raw(serving, request_)
    assert b"page" not in answer
    assert answer == b"" or answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (await get(serving, "/metrics"))[0] == 200


async def test_bodies_are_not_read_into_memory(start: Start) -> None:
    serving = await start()
    head = b"POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 50000000\r\n\r\n"
    host, _, port = serving.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"x" * 1000)
    assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 405")
    writer.close()


async def test_more_connections_than_allowed_are_refused(start: Start) -> None:
    serving = await start(max_connections=2)
    host, _, port = serving.address.rpartition(":")
    held = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
    while serving.open_connections < 2:
        await asyncio.sleep(0)
    assert (await get(serving, "/healthz"))[0] == 503
    assert serving.refused == 1
    for _, writer in held:
        writer.close()


async def test_more_connections_of_one_address_than_allowed_get_no_page(start: Start) -> None:
    serving = await start(max_connections_per_ip=1)
    assert (await get(serving, "/metrics"))[0] == 200
    host, _, port = serving.address.rpartition(":")
    _, held = await asyncio.open_connection(host, int(port))
    while serving.open_connections < 1:
        await asyncio.sleep(0)
    assert (await get(serving, "/metrics"))[0] == 429
    held.close()
    while serving.open_connections:
        await asyncio.sleep(0)
    assert (await get(serving, "/metrics"))[0] == 200


async def test_silent_connections_are_ended_and_busy_ones_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FIRST_REQUEST_WITHIN_S", 0.0)
    serving = await start()
    host, _, port = serving.address.rpartition(":")
    silent, silent_writer = await asyncio.open_connection(host, int(port))
    asking, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await asking.readuntil(b"ok\n")
    stop = asyncio.Event()
    sweeping = asyncio.create_task(serving.sweep(stop))
    assert await asyncio.wait_for(silent.read(), 60) == b""
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(asking.readuntil(b"ok\n"), 60)
    stop.set()
    await sweeping
    for each in (writer, silent_writer):
        each.close()
