"""The pump on real sockets, on both event loops, with and without TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.driver import LineConnection
from tests.support.certificates import Contexts, localhost_contexts
from tests.support.echo import Sessions

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


@pytest.fixture(scope="module")
def tls_contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return localhost_contexts(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def serving(sessions: Sessions, context: ssl.SSLContext | None = None, *, implicit: bool = False):
    loop = asyncio.get_running_loop()
    live = LiveConnections(DeadlineWheel(loop))
    server = await loop.create_server(
        lambda: LineConnection(sessions, live, tls_context=lambda: context),
        "127.0.0.1",
        0,
        ssl=context if implicit else None,
    )
    try:
        yield server.sockets[0].getsockname()[1], live
    finally:
        server.close()


async def all_ended(live: LiveConnections) -> None:
    async with asyncio.timeout(60):
        while len(live):
            await asyncio.sleep(0)


def test_conversation_over_tcp(run: Run, sessions: Sessions) -> None:
    async def scenario() -> None:
        async with serving(sessions) as (port, live):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"a\nstream\nb\nquit\n")
            assert len(await reader.read()) == len(b"hello\na\nb\nbye\n") + 10_000_000
            assert sessions.made[0].connection.peer.ip == "127.0.0.1"
            writer.close()
            await all_ended(live)
            assert sessions.made[0].log[-1] == "close"

    run(scenario())


def test_half_closed_peer_gets_all_replies(run: Run, sessions: Sessions) -> None:
    async def scenario() -> None:
        async with serving(sessions) as (port, live):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"stream\nlast\n")
            writer.write_eof()
            assert (await reader.read()).endswith(b"last\n")
            writer.close()
            await all_ended(live)

    run(scenario())


def test_last_reply_reaches_a_peer_that_is_still_sending(run: Run, sessions: Sessions) -> None:
    async def scenario() -> None:
        async with serving(sessions) as (port, live):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"quit\n" + b"too late\n" * 100_000)
            assert await reader.read() == b"hello\nbye\n"
            writer.close()
            await all_ended(live)
            assert sessions.made[0].log == ["quit", "close"]

    run(scenario())


def test_tls_from_the_start(run: Run, sessions: Sessions, tls_contexts: Contexts) -> None:
    async def scenario() -> None:
        async with serving(sessions, tls_contexts[0], implicit=True) as (port, live):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=tls_contexts[1], server_hostname="localhost"
            )
            writer.write(b"a\nstream\nquit\n")
            assert len(await reader.read()) == len(b"hello\na\nbye\n") + 10_000_000
            assert sessions.made[0].connection.has_tls
            writer.close()
            await all_ended(live)

    run(scenario())


def test_starttls_drops_what_came_early(run: Run, sessions: Sessions, tls_contexts: Contexts) -> None:
    async def scenario() -> None:
        async with serving(sessions, tls_contexts[0]) as (port, live):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.readline() == b"hello\n"
            writer.write(b"tls\ninjected\n")
            assert await reader.readline() == b"go\n"
            await writer.start_tls(tls_contexts[1], server_hostname="localhost")
            writer.write(b"wanted\nquit\n")
            assert await reader.read() == b"wanted\nbye\n"
            assert sessions.made[0].log[:3] == ["tls", "wanted", "quit"]
            assert live.counts.early_bytes_dropped == len(b"injected\n")
            writer.close()
            await all_ended(live)

    run(scenario())


def test_failed_handshake_ends_the_session_quietly(
    run: Run, sessions: Sessions, tls_contexts: Contexts
) -> None:
    async def scenario() -> None:
        async with serving(sessions, tls_contexts[0]) as (port, live):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.readline() == b"hello\n"
            writer.write(b"tls\n")
            assert await reader.readline() == b"go\n"
            writer.write(b"this is no handshake\r\n\r\n")
            await reader.read()
            await all_ended(live)
            assert live.counts.bugs == 0
            assert sessions.made[0].log == ["tls", "close"]
            writer.close()

    run(scenario())


@pytest.mark.parametrize("has_tls", [False, True])
def test_peer_that_never_reads_costs_bounded_memory(
    run: Run, sessions: Sessions, tls_contexts: Contexts, has_tls: bool
) -> None:
    """A gigabyte of replies is asked for in 400 KB of commands."""

    async def scenario() -> None:
        async with serving(sessions, tls_contexts[0], implicit=has_tls) as (port, live):
            client = {"ssl": tls_contexts[1], "server_hostname": "localhost"} if has_tls else {}
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024, **client)
            writer.write(b"big\n" * 100_000)
            async with asyncio.timeout(60):
                while not (sessions.made and sessions.made[0].log[-1:] == ["big"]):
                    await asyncio.sleep(0)
                (connection,) = live
                handled = -1
                while not connection._is_writing_paused or handled != len(sessions.made[0].log):
                    handled = len(sessions.made[0].log)
                    for _ in range(200):
                        await asyncio.sleep(0)
            assert handled < 10_000
            assert connection._transport.get_write_buffer_size() < 1_000_000
            assert connection._machine.buffered_bytes < 800_000
            writer.transport.abort()
            await all_ended(live)
            assert live.counts.bugs == 0

    run(scenario())


def test_vanished_peer_ends_the_session(run: Run, sessions: Sessions) -> None:
    async def scenario() -> None:
        async with serving(sessions) as (port, live):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"stream\n")
            await asyncio.sleep(0)
            while not sessions.made or not sessions.made[0].log:
                await asyncio.sleep(0)
            writer.transport.abort()
            await all_ended(live)
            assert sessions.made[0].stream_failed

    run(scenario())
