from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from node.renewal import preflight
from node.renewal.preflight import Preflight

TOKEN, ANSWER = "t" * 43, "t" * 43 + "." + "t" * 43


@asynccontextmanager
async def web(reply: bytes, ip: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[int, list[bytes]]]:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, ip, port)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


def ok(body: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + body.encode()


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str] | str]:
    known: dict[str, list[str] | str] = {"mail.example.com": ["127.0.0.1"]}

    async def addresses(name: str) -> list[str] | str:
        return known.get(name, "Name or service not known")

    monkeypatch.setattr(preflight, "_addresses", addresses)
    monkeypatch.setattr(preflight, "PAUSES_S", (0.0, 0.0))
    return known


async def test_a_name_that_leads_to_our_answer_is_well() -> None:
    async with web(ok(ANSWER)) as (port, asked):
        assert await Preflight(lambda: (), port=port)(["mail.example.com"], TOKEN, ANSWER) == []
    (request,) = asked
    assert request.startswith(f"GET /.well-known/acme-challenge/{TOKEN} HTTP/1.0\r\n".encode())
    assert b"\r\nHost: mail.example.com\r\n" in request


async def test_a_name_that_leads_elsewhere_is_named_with_its_address() -> None:
    async with web(b"HTTP/1.1 404 Not Found\r\n\r\nnothing") as (port, _):
        (remark,) = await Preflight(lambda: (), port=port)(["mail.example.com"], TOKEN, ANSWER)
    assert "mail.example.com is at 127.0.0.1" in remark
    assert "404 Not Found" in remark


async def test_a_closed_port_and_a_name_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = await Preflight(lambda: (), port=port)(["mail.example.com", "no.example.com"], TOKEN, ANSWER)
    assert len(found) == 2
    assert f"port {port} cannot be reached" in found[0]
    assert "no.example.com is not in the DNS" in found[1]


async def test_a_port_that_says_nothing_does_not_hold_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "LOOK_WITHIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (remark,) = await Preflight(lambda: (), port=port)(["mail.example.com"], TOKEN, ANSWER)
    assert "does not answer" in remark


async def test_other_nodes_are_asked_where_they_listen() -> None:
    async with web(ok(ANSWER)) as (port, _), web(ok("other"), "127.0.0.2", port=0) as (own_port, asked):
        look = Preflight(lambda: ("127.0.0.2",), port=port, own_port=own_port)
        (remark,) = await look(["mail.example.com"], TOKEN, ANSWER)
    assert "mail.example.com is at node 127.0.0.2" in remark
    assert len(asked) == 3


async def test_a_node_that_hears_of_the_challenge_a_moment_later_is_well() -> None:
    """Gossip takes its time; the look does not."""
    replies = [b"HTTP/1.1 404 Not Found\r\n\r\nnothing", ok(ANSWER)]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(replies.pop(0))
        writer.close()

    async with web(ok(ANSWER)) as (port, _), await asyncio.start_server(answer, "127.0.0.2", 0) as late:
        look = Preflight(lambda: ("127.0.0.2",), port=port, own_port=late.sockets[0].getsockname()[1])
        assert await look(["mail.example.com"], TOKEN, ANSWER) == []
    assert not replies


async def test_an_answer_without_end_is_cut() -> None:
    async with web(ok("x" * 100_000)) as (port, _):
        (remark,) = await Preflight(lambda: (), port=port)(["mail.example.com"], TOKEN, ANSWER)
    assert "not with our challenge" in remark
