"""The way in, on real sockets and both event loops: PROXY headers, hellos of all shapes, TLS, STARTTLS."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop

from node.config import Server
from node.frontdoor import DoorSettings
from node.listeners import Arrive, Listener
from node.sessions import SessionLimits
from node.sessions import Sessions as NodeSessions
from node.units import Address
from protocols import haproxy
from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.ports import Peer
from tests.support import hellos
from tests.support.echo import Sessions
from tests.support.tlsclient import TlsClient, dial, send_in_pieces
from tls.clienthello import parse, scan
from tls.contexts import FileCertificate
from tls.ja4 import ja4
from tls.selfsigned import self_signed

Run = Callable[[Coroutine[Any, Any, None]], None]

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
ELSEWHERE = (ipaddress.ip_network("10.0.0.0/8"),)
SOON_S = 0.15  # time-outs that tests wait for
PROXIED = DoorSettings(LOOPBACK)
CLIENT, SERVER = haproxy.Endpoint("192.0.2.7", 49152), haproxy.Endpoint("198.51.100.1", 993)


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    cert, key = self_signed(["localhost"], datetime.now(UTC))
    (directory / "cert.pem").write_bytes(cert)
    (directory / "key.pem").write_bytes(key)
    return directory / "cert.pem", directory / "key.pem"


class Served:
    """A listener and what its sessions saw."""

    def __init__(self, listener: Listener, sessions: Sessions, trust: ssl.SSLContext) -> None:
        self.listener = listener
        self.sessions = sessions
        self.trust = trust

    @property
    def port(self) -> int:
        return int(self.listener.address.rpartition(":")[2])

    @property
    def peer(self) -> Peer:
        return self.sessions.made[-1].connection.peer

    @property
    def rejected(self) -> dict[str, int]:
        return dict(self.listener.door.counts.rejected)

    @property
    def wakeups(self) -> int:
        return self.listener.door.counts.wakeups

    async def closed(self, sock: socket.socket) -> bytes:
        """What the server sends until it closes."""
        loop, got = asyncio.get_running_loop(), b""
        with sock:
            async with asyncio.timeout(60):
                try:
                    while data := await loop.sock_recv(sock, 4096):
                        got += data
                except ConnectionResetError:  # bytes of ours were left unread
                    pass
        return got


def open_sockets() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {each for each in found if each.startswith("socket:")}


@asynccontextmanager
async def serving(
    pair: tuple[Path, Path],
    door: DoorSettings | None = None,
    *,
    tls: bool = False,
    most: int = 0,
    arrive: Arrive | None = None,
) -> AsyncIterator[Served]:
    if arrive is None:
        registry = NodeSessions()
        registry.limit("test", SessionLimits(total=most))
        arrive = partial(registry.arrive, "test")
    server = Server(type="imap", name="test", addr=Address("127.0.0.1", 0), tls=tls)
    sessions = Sessions()
    live = LiveConnections(DeadlineWheel(asyncio.get_running_loop()))
    certificate = FileCertificate(*pair, now=lambda: datetime.now(UTC))
    listener = Listener(server, sessions, live, certificate, door, arrive=arrive)
    before = open_sockets()
    await listener.open()
    try:
        yield Served(listener, sessions, ssl.create_default_context(cafile=str(pair[0])))
    finally:
        await listener.close()
        await live.shutdown(grace_s=60)
        async with asyncio.timeout(60):
            while len(live) or open_sockets() - before:
                await asyncio.sleep(0)
        assert not live.entering


def fingerprint(hello: bytes) -> str:
    found = scan(hello)
    assert isinstance(found, bytes)
    parsed = parse(found)
    assert parsed is not None
    return ja4(parsed)


async def line(sock: socket.socket) -> bytes:
    got = b""
    async with asyncio.timeout(60):
        while not got.endswith(b"\n"):
            data = await asyncio.get_running_loop().sock_recv(sock, 1)
            assert data, got
            got += data
    return got


# --- TLS from the first byte ---


@pytest.mark.parametrize("size", [1 << 20, 100, 1])
def test_hello_whole_and_in_pieces(run: Run, pair: tuple[Path, Path], size: int) -> None:
    async def scenario() -> None:
        async with serving(pair, tls=True) as served:
            with await dial(served.port) as sock:
                client = TlsClient(sock, served.trust)
                await client.handshake(size=size)
                assert await client.read_line() == b"hello\n"
                assert served.peer.ja4 == fingerprint(client.hello)
                assert (served.peer.sni, served.peer.ip) == ("localhost", "127.0.0.1")
                assert served.peer.port == sock.getsockname()[1]
                assert served.peer.local_port == served.port
                assert served.wakeups <= 3

    run(scenario())


@pytest.mark.parametrize("size", [1 << 20, 1400])
def test_hello_of_24_kb_in_two_records(run: Run, pair: tuple[Path, Path], size: int) -> None:
    async def scenario() -> None:
        async with serving(pair, tls=True) as served:
            served.trust.set_alpn_protocols([f"{n:0200}" for n in range(120)])
            with await dial(served.port) as sock:
                client = TlsClient(sock, served.trust)
                await client.handshake(size=size)
                assert len(client.hello) > 24_000
                assert await client.read_line() == b"hello\n"
                assert served.peer.ja4 == fingerprint(client.hello)
                assert served.wakeups <= 5

    run(scenario())


def test_no_look_when_it_is_not_wanted(run: Run, pair: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        async with serving(pair, DoorSettings(looks_at_hellos=False), tls=True) as served:
            with await dial(served.port) as sock:
                client = TlsClient(sock, served.trust)
                await client.handshake()
                assert await client.read_line() == b"hello\n"
                assert (served.peer.ja4, served.peer.ip) == ("", "127.0.0.1")

    run(scenario())


def test_stalled_and_half_sent_hellos_cost_no_wakeups_and_end_on_time(
    run: Run, pair: tuple[Path, Path]
) -> None:
    async def scenario() -> None:
        async with serving(pair, DoorSettings(hello_within_s=SOON_S), tls=True) as served:
            hello = hellos.recorded()
            stalled = [await dial(served.port) for _ in range(30)]
            for number, sock in enumerate(stalled):
                # nothing, or a part of it in two pieces
                with suppress(ConnectionError):  # on time, before we were done
                    await send_in_pieces(sock, hello[: (number % 3) * 150], 100)
            for sock in stalled:
                assert await served.closed(sock) == b""
            assert served.rejected == {"hello_timeout": 30}
            assert served.wakeups <= 30 * 2

    run(scenario())


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (b"a1 CAPABILITY\r\n", "not_tls"),
        (b"GET / HTTP/1.1\r\n\r\n", "not_tls"),
        (b"\x80\x2e\x01\x00\x02", "not_tls"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 993\r\n", "not_tls"),
        (hellos.records(bytes(200_000))[:9], "hello_too_large"),
        (hellos.records(hellos.body(extensions=[hellos.server_name(b"m\xc3\xbcller")])), "sni"),
        (hellos.records(hellos.body(extensions=[(0, b"\0")])), "handshake"),
        (hellos.records(b"garbage"), "handshake"),
        (hellos.records(hellos.body(ciphers=[])), "handshake"),
    ],
)
def test_what_is_no_handshake_is_closed(run: Run, pair: tuple[Path, Path], sent: bytes, cause: str) -> None:
    async def scenario() -> None:
        async with serving(pair, tls=True) as served:
            sock = await dial(served.port)
            await send_in_pieces(sock, sent, 1 << 20)
            got = await served.closed(sock)
            assert got == b"" or (cause == "handshake" and got[:1] == b"\x15")  # OpenSSL's alert
            assert served.rejected == {cause: 1}
            assert not served.sessions.made

    run(scenario())


def test_a_peer_that_leaves_is_let_go_at_once(run: Run, pair: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        async with serving(pair, DoorSettings(hello_within_s=3600), tls=True) as served:
            for part in (b"", hellos.recorded()[:50]):
                sock = await dial(served.port)
                await send_in_pieces(sock, part, 1 << 20)
                sock.shutdown(socket.SHUT_WR)
                assert await served.closed(sock) == b""
            assert served.rejected == {"left": 2}

    run(scenario())


def test_closing_the_listener_ends_what_is_entering(run: Run, pair: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        async with serving(pair, DoorSettings(hello_within_s=3600), tls=True) as served:
            sock = await dial(served.port)
            while not served.listener.live.entering:
                await asyncio.sleep(0)
            await served.listener.close()
            assert await served.closed(sock) == b""

    run(scenario())


def test_what_is_being_handed_over_while_the_listener_closes_becomes_a_session(
    run: Run, pair: tuple[Path, Path]
) -> None:
    """At whatever turn of the loop the listener closes: the session is told of its end."""

    async def scenario() -> None:
        for turns in range(8):
            async with serving(pair, PROXIED) as served:
                sock = await dial(served.port)
                await send_in_pieces(sock, V1, 1 << 20)
                for _ in range(turns):
                    await asyncio.sleep(0)
                await served.listener.close()
                assert len(served.listener.live) == len(served.sessions.made)
                assert await served.listener.live.shutdown(grace_s=1) == 0
                assert await served.closed(sock) in (b"", b"hello\ndown\n")

    run(scenario())


# --- STARTTLS ---


@pytest.mark.parametrize("size", [1 << 20, 37])
def test_starttls_tells_the_fingerprint_too(run: Run, pair: tuple[Path, Path], size: int) -> None:
    async def scenario() -> None:
        async with serving(pair) as served:
            with await dial(served.port) as sock:
                assert await line(sock) == b"hello\n"
                assert served.peer.ja4 == ""
                await send_in_pieces(sock, b"tls\n", 10)
                assert await line(sock) == b"go\n"
                client = TlsClient(sock, served.trust)
                await client.handshake(size=size)
                await client.write(b"after\n")
                assert await client.read_line() == b"after\n"
                assert served.peer.ja4 == fingerprint(client.hello)
                assert (served.peer.sni, served.peer.ip) == ("localhost", "127.0.0.1")
                assert served.wakeups <= 3

    run(scenario())


@pytest.mark.parametrize("sent", [b"a1 CAPABILITY\r\n", b"\x16\x03\x01\x00\x50\x01", b""])
def test_starttls_without_a_handshake_ends(run: Run, pair: tuple[Path, Path], sent: bytes) -> None:
    async def scenario() -> None:
        is_tls = sent[:1] != b"a"
        async with serving(pair, DoorSettings(hello_within_s=SOON_S if is_tls else 3600)) as served:
            sock = await dial(served.port)
            assert await line(sock) == b"hello\n"
            await send_in_pieces(sock, b"tls\n", 10)
            assert await line(sock) == b"go\n"
            with suppress(ConnectionError):  # on time, before we were done
                await send_in_pieces(sock, sent, 10)
            assert await served.closed(sock) == b""
            assert served.rejected == {"hello_timeout" if is_tls else "not_tls": 1}
            assert served.sessions.made[0].log == ["tls", "close"]
            assert served.listener.live.counts.bugs == 0

    run(scenario())


# --- PROXY ---

V1 = haproxy.encode_v1(CLIENT, SERVER)
V2 = haproxy.encode_v2(
    CLIENT,
    SERVER,
    ((haproxy.AUTHORITY, b"mail.example.test"), (haproxy.SESSION_ID, b"p.1")),
    checksum=True,
)


@pytest.mark.parametrize("size", [1 << 20, 100, 3, 1])
@pytest.mark.parametrize("header", [V1, V2])
def test_proxy_header_before_plain_text(run: Run, pair: tuple[Path, Path], header: bytes, size: int) -> None:
    async def scenario() -> None:
        async with serving(pair, PROXIED) as served:
            with await dial(served.port) as sock:
                await send_in_pieces(sock, header + b"first\n", size)
                assert await line(sock) == b"hello\n"
                assert await line(sock) == b"first\n"
                peer = served.peer
                assert (peer.ip, peer.port) == ("192.0.2.7", 49152)
                assert (peer.local_ip, peer.local_port, peer.via_ip) == ("198.51.100.1", 993, "127.0.0.1")
                if header is V2:
                    assert (peer.sni, peer.proxy_session) == ("mail.example.test", "p.1")
                    assert served.wakeups <= 3

    run(scenario())


@pytest.mark.parametrize("size", [1 << 20, 100, 1])
@pytest.mark.parametrize("header", [V1, V2])
def test_proxy_header_before_tls(run: Run, pair: tuple[Path, Path], header: bytes, size: int) -> None:
    async def scenario() -> None:
        async with serving(pair, PROXIED, tls=True) as served:
            with await dial(served.port) as sock:
                client = TlsClient(sock, served.trust)
                await client.handshake(before=header, size=size)
                assert await client.read_line() == b"hello\n"
                assert (served.peer.ip, served.peer.via_ip) == ("192.0.2.7", "127.0.0.1")
                assert served.peer.ja4 == fingerprint(client.hello)

    run(scenario())


def test_our_own_proxy_tells_the_fingerprint_of_its_client(run: Run, pair: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        told = "t13d1516h2_8daaf6152771_e5627efa2ab1"
        header = haproxy.encode_v2(CLIENT, SERVER, ((haproxy.JA4, told.encode()),))
        async with serving(pair, PROXIED, tls=True) as served:
            with await dial(served.port) as sock:
                client = TlsClient(sock, served.trust)
                await client.handshake(before=header)
                assert await client.read_line() == b"hello\n"
                assert served.peer.ja4 == told

    run(scenario())


@pytest.mark.parametrize(
    ("header", "is_loopback"),
    [
        (haproxy.encode_v1(None, None), True),
        (haproxy.encode_v2(None, None), True),
        (haproxy.encode_v2(CLIENT, SERVER, is_local=True), True),
        # a client of the balancer's machine is not on ours
        (haproxy.encode_v1(haproxy.Endpoint("127.0.0.1", 1), haproxy.Endpoint("127.0.0.1", 2)), False),
        (haproxy.encode_v2(haproxy.Endpoint("::ffff:127.0.0.1", 1), haproxy.Endpoint("::1", 2)), False),
        (V1, False),
    ],
)
def test_whose_passwords_need_tls(
    run: Run, pair: tuple[Path, Path], header: bytes, is_loopback: bool
) -> None:
    async def scenario() -> None:
        async with serving(pair, PROXIED) as served:
            with await dial(served.port) as sock:
                await send_in_pieces(sock, header, 1 << 20)
                assert await line(sock) == b"hello\n"
                assert served.peer.is_loopback is is_loopback
                assert "ffff" not in served.peer.ip

    run(scenario())


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (b"a1 CAPABILITY\r\n", "proxy_malformed"),
        (hellos.recorded(), "proxy_malformed"),
        (V1[:-2] + b"\n", "proxy_malformed"),
        (b"PROXY UNKNOWN " + b"x" * 200, "proxy_malformed"),
        (V2[:-1] + b"\0", "proxy_malformed"),
        (b"", "proxy_missing"),
        (V1[:20], "proxy_missing"),
        (V2[:20], "proxy_missing"),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_connections_without_a_good_header_are_closed(
    run: Run, pair: tuple[Path, Path], sent: bytes, cause: str, tls: bool
) -> None:
    async def scenario() -> None:
        async with serving(pair, DoorSettings(LOOPBACK, SOON_S), tls=tls) as served:
            sock = await dial(served.port)
            await send_in_pieces(sock, sent, 1 << 20)
            assert await served.closed(sock) == b""
            assert served.rejected == {cause: 1}
            assert not served.sessions.made

    run(scenario())


def test_nobody_else_may_connect_where_headers_are_expected(run: Run, pair: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        async with serving(pair, DoorSettings(ELSEWHERE)) as served:
            sock = await dial(served.port)
            await send_in_pieces(sock, V1, 1 << 20)
            assert await served.closed(sock) == b""
            assert served.rejected == {"proxy_untrusted": 1}

    run(scenario())


# --- how many ---


@pytest.mark.parametrize("tls", [False, True])
def test_more_than_max_connections_are_told_so(run: Run, pair: tuple[Path, Path], tls: bool) -> None:
    async def scenario() -> None:
        async with serving(pair, tls=tls, most=2) as served:

            async def come() -> tuple[socket.socket, bytes]:
                sock = await dial(served.port)
                if not tls:
                    return sock, await line(sock)
                client = TlsClient(sock, served.trust)
                await client.handshake()
                return sock, await client.read_line()

            kept = [await come() for _ in range(2)]
            refused, said = await come()
            assert said.startswith(b"* BYE [UNAVAILABLE]")
            refused.close()
            assert served.listener.refused == 1
            kept[0][0].close()
            async with asyncio.timeout(60):
                while len(served.listener.live) == 2:
                    await asyncio.sleep(0)
            kept.append(await come())
            assert [said for _, said in kept] == [b"hello\n"] * 3
            for sock, _ in kept:
                sock.close()

    run(scenario())


def test_connections_that_are_still_entering_count(run: Run, pair: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        async with serving(pair, tls=True, most=1) as served:
            with await dial(served.port), await dial(served.port) as second:
                client = TlsClient(second, served.trust)
                await client.handshake()
                assert (await client.read_line()).startswith(b"* BYE")

    run(scenario())


@pytest.mark.parametrize("tls", [False, True])
def test_limits_by_address_count_the_client_behind_the_balancer(
    run: Run, pair: tuple[Path, Path], tls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        registry = NodeSessions()
        registry.limit("test", SessionLimits(per_address=1))

        async with serving(pair, PROXIED, tls=tls, arrive=partial(registry.arrive, "test")) as served:

            async def come(ip: str) -> tuple[socket.socket, bytes]:
                sock = await dial(served.port)
                header = haproxy.encode_v1(haproxy.Endpoint(ip, 1), SERVER)
                if not tls:
                    await send_in_pieces(sock, header, 100)
                    return sock, await line(sock)
                client = TlsClient(sock, served.trust)
                await client.handshake(before=header)
                return sock, await client.read_line()

            first, greeting = await come("192.0.2.7")
            other, other_greeting = await come("192.0.2.8")
            again, refusal = await come("192.0.2.7")
            assert (greeting, other_greeting) == (b"hello\n", b"hello\n")
            assert refusal.startswith(b"* BYE")
            [told] = [each.fields for each in caplog.records if "max_connections_per_ip" in each.args]
            assert told == {"ip": "192.0.2.7", "server": "test"}
            for sock in (first, other, again):
                sock.close()
            stalled = await dial(served.port)
            await send_in_pieces(stalled, V1, 100)
            stalled.close()
            async with asyncio.timeout(60):
                while sum(served.rejected.values()) + served.listener.live.counts.accepted < 3:
                    await asyncio.sleep(0)
                while not registry.is_empty:
                    await asyncio.sleep(0)

    run(scenario())


def test_no_task_is_left_once_sessions_run(run: Run, pair: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        async with serving(pair, PROXIED) as served:
            before = len(asyncio.all_tasks())
            socks = [await dial(served.port) for _ in range(150)]  # more than one batch of accepts
            for sock in socks:
                await send_in_pieces(sock, V1, 1 << 20)
            for sock in socks:
                assert await line(sock) == b"hello\n"
            async with asyncio.timeout(60):
                while len(asyncio.all_tasks()) > before:
                    await asyncio.sleep(0)
            assert len(served.listener.live) == 150
            for sock in socks:
                sock.close()

    run(scenario())
