"""Which certificate a client is shown at the door, by the name in its hello; on both loops."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uvloop

from node.config import Server
from node.listeners import Listener
from node.units import Address
from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from tests.support.echo import Sessions
from tests.support.generations import generation
from tests.support.tlsclient import dial
from tls.observing import Observation, observe
from tls.ports import Generation
from tls.serving import Policy, Served, read_generation

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
SPAN = {"begins": NOW - DAY, "ends": NOW + 89 * DAY}
MAIL = generation("mail.example.com", **SPAN)
IMAP = generation("imap.example.com", **SPAN)
PATIENCE_S = 300.0
POLICY = Policy(frozenset({"mail.example.com", "imap.example.com"}), default="mail.example.com")
STRICT = replace(POLICY, refuses_unknown=True)

Run = Callable[[Coroutine[Any, Any, None]], None]
Look = Callable[["Place", str], Awaitable[Observation]]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


class Place:
    def __init__(self, listener: Listener, served: Served) -> None:
        self.listener = listener
        self.served = served

    @property
    def port(self) -> int:
        return int(self.listener.address.rpartition(":")[2])

    @property
    def rejected(self) -> dict[str, int]:
        return dict(self.listener.door.counts.rejected)


@asynccontextmanager
async def place(*generations: Generation, policy: Policy = POLICY, tls: bool = True) -> AsyncIterator[Place]:
    served = Served(policy, now=lambda: NOW)
    served.offer(generations)
    server = Server(type="imap", name="test", addr=Address("127.0.0.1", 0), tls=tls)
    live = LiveConnections(DeadlineWheel(asyncio.get_running_loop()))
    listener = Listener(server, Sessions(), live, served.view())
    await listener.open()
    try:
        yield Place(listener, served)
    finally:
        await listener.close()
        await live.shutdown(grace_s=60)


async def implicit(at: Place, name: str) -> Observation:
    return await observe("127.0.0.1", at.port, name)


async def shown(at: Place, name: str, *, tls: bool) -> str:
    """The fingerprint of the leaf, or what went wrong."""
    if tls:
        seen = await implicit(at, name)
        return seen.fingerprint or seen.fault
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    try:
        assert await reader.readline() == b"hello\n"
        writer.write(b"tls\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(context, server_hostname=name or None)
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"after\n")
        assert await reader.readline() == b"after\n"
    except (OSError, EOFError) as error:
        return str(error) or type(error).__name__
    finally:
        writer.transport.abort()
    [match] = [each for each in (MAIL, IMAP) if ssl.PEM_cert_to_DER_cert(each.chain_pem.decode()) == leaf]
    return fingerprint(match)


def fingerprint(of: Generation) -> str:
    return read_generation(of).bundle.fingerprint


@pytest.mark.parametrize("tls", [True, False], ids=["implicit", "starttls"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imap.example.com", IMAP),
        ("IMAP.example.com", IMAP),
        ("imap.example.com.", IMAP),
        ("mail.example.com", MAIL),
        ("other.example", MAIL),
        ("", MAIL),
    ],
)
def test_names(run: Run, name: str, expected: Generation, *, tls: bool) -> None:
    async def scenario() -> None:
        async with place(MAIL, IMAP, tls=tls) as at:
            assert await shown(at, name, tls=tls) == fingerprint(expected)

    run(scenario())


@pytest.mark.parametrize("tls", [True, False], ids=["implicit", "starttls"])
def test_unknown_names_get_an_alert_where_that_is_configured(run: Run, *, tls: bool) -> None:
    async def scenario() -> None:
        async with place(MAIL, policy=STRICT, tls=tls) as at:
            assert "unrecognized name" in (await shown(at, "other.example", tls=tls)).lower()
            assert await shown(at, "", tls=tls) == fingerprint(MAIL)
            assert at.rejected["sni_unknown"] == 1

    run(scenario())


@pytest.mark.parametrize("tls", [True, False], ids=["implicit", "starttls"])
def test_a_first_connection_waits_until_its_certificate_is_there(run: Run, *, tls: bool) -> None:
    async def scenario() -> None:
        async with place(MAIL, tls=tls) as at:
            wanted: list[str] = []
            at.served.demand.wanted = wanted.append
            waiting = asyncio.create_task(shown(at, "imap.example.com", tls=tls))
            while not wanted:
                await asyncio.sleep(0)
            assert await shown(at, "", tls=tls) == fingerprint(MAIL)  # others are not held back
            assert at.served.offer([IMAP]) == {}
            assert await waiting == fingerprint(IMAP)
            assert wanted == ["imap.example.com"]

    run(scenario())


def test_waiting_ends_and_strange_names_do_not_wait(run: Run) -> None:
    async def scenario() -> None:
        async with place() as at:
            wanted: list[str] = []
            at.served.demand.wanted = wanted.append
            at.served.demand.wait_s = 0.05
            assert await shown(at, "other.example", tls=True) != ""
            assert wanted == []
            assert await shown(at, "imap.example.com", tls=True) != ""
            assert await shown(at, "", tls=True) != ""
            assert wanted == ["imap.example.com", "mail.example.com"]
            assert at.rejected == {"certificate_missing": 1, "certificate_awaited": 2}

    run(scenario())


async def patient(at: Place) -> Observation:
    roots = IMAP.chain_pem.decode()  # the system's take long to read, for each of so many
    return await observe("127.0.0.1", at.port, "imap.example.com", roots=roots, within_s=PATIENCE_S)


def test_a_flood_for_a_name_without_a_certificate_is_bounded(run: Run) -> None:
    async def scenario() -> None:
        async with place() as at:
            at.served.demand.wait_s = PATIENCE_S  # however slow the machine, nobody gives up
            many = [asyncio.create_task(patient(at)) for _ in range(130)]
            while at.rejected.get("certificate_crowded", 0) < 30:
                await asyncio.sleep(0.001)
            assert at.served.demand.waiting("imap.example.com") == 100
            at.served.offer([IMAP])
            seen = [each.fingerprint for each in await asyncio.gather(*many)]
            assert seen.count(fingerprint(IMAP)) == 100
            assert seen.count("") == 30

    run(scenario())


def test_who_waits_is_let_go_at_a_stop(run: Run) -> None:
    async def scenario() -> None:
        async with place() as at:
            waiting = asyncio.create_task(implicit(at, "imap.example.com"))
            while not at.served.demand.waiting("imap.example.com"):
                await asyncio.sleep(0)
            await at.listener.close()
            assert (await waiting).fault
            assert at.served.demand.waiting("imap.example.com") == 0

    run(scenario())


def test_starttls_is_not_offered_without_any_certificate(run: Run) -> None:
    async def scenario() -> None:
        async with place(tls=False) as at:
            assert at.listener.starttls_context() is None
            at.served.offer([IMAP])  # not the default's: still, who names it can be served
            assert at.listener.starttls_context() is not None
            assert await shown(at, "imap.example.com", tls=False) == fingerprint(IMAP)

    run(scenario())


def test_expired_and_refused(run: Run) -> None:
    async def scenario() -> None:
        expired = generation("mail.example.com", begins=NOW - 9 * DAY, ends=NOW - DAY)
        async with place(expired, policy=replace(POLICY, serve_expired=False)) as at:
            assert (await implicit(at, "")).fault
            assert at.rejected == {"certificate_expired": 1}
        async with place(expired) as at:
            seen = await implicit(at, "mail.example.com")
            assert seen.fingerprint == fingerprint(expired)
            assert (seen.is_trusted, seen.not_after) == (False, (NOW - DAY).replace(microsecond=0))

    run(scenario())


def test_a_swap_leaves_open_connections_alone(run: Run) -> None:
    async def scenario() -> None:
        async with place(MAIL, tls=False) as at:
            context = ssl.create_default_context(cadata=MAIL.chain_pem.decode())
            reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
            await reader.readline()
            writer.write(b"tls\n")
            await reader.readline()
            await writer.start_tls(context, server_hostname="mail.example.com")
            for fence in range(2, 12):
                renewed = generation("mail.example.com", fence=fence, **SPAN)
                assert at.served.offer([renewed]) == {}
                writer.write(b"still\n")
                assert await reader.readline() == b"still\n"
            writer.transport.abort()

    run(scenario())


def test_a_client_that_leaves_while_it_waits_is_no_trouble(run: Run) -> None:
    async def scenario() -> None:
        async with place() as at:
            sock: socket.socket = await dial(at.port)
            out = ssl.MemoryBIO()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="imap.example.com")
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            await asyncio.get_running_loop().sock_sendall(sock, out.read())
            while not at.served.demand.waiting("imap.example.com"):
                await asyncio.sleep(0)
            sock.close()
            at.served.offer([IMAP])
            while not at.rejected:
                await asyncio.sleep(0)
            assert at.rejected == {"handshake": 1}

    run(scenario())
