"""Odd and hostile first bytes at a real door, on both event loops: hellos, PROXY headers, crowds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from pathlib import Path

import pytest

from node.frontdoor import DoorSettings
from protocols import haproxy
from tests.node.test_frontdoor import (
    CLIENT,
    ELSEWHERE,
    LOOPBACK,
    PROXIED,
    SERVER,
    SOON_S,
    V1,
    V2,
    Run,
    fingerprint,
    line,
    pair,
    run,
    serving,
)
from tests.protocols.test_haproxy import FOUR, v2
from tests.support import hellos
from tests.support.tlsclient import TlsClient, dial, send_in_pieces
from tls import clienthello

__all__ = ["pair", "run"]

GREASE = 0x0A0A, 0xFAFA


# --- hellos ---


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 11, 43, 44, 128, 255, 500])
def test_hello_in_fragments_of_any_size(run: Run, pair: tuple[Path, Path], size: int) -> None:
    async def scenario() -> None:
        async with serving(pair, tls=True) as served:
            with await dial(served.port) as sock:
                client = TlsClient(sock, served.trust)
                await client.handshake(size=size)
                assert await client.read_line() == b"hello\n"
                assert served.peer.ja4 == fingerprint(client.hello)
                assert served.wakeups <= 3

    run(scenario())


@pytest.mark.parametrize("size", [1 << 20, 50])
def test_client_that_is_sent_back_for_another_group_keeps_its_first_fingerprint(
    run: Run, pair: tuple[Path, Path], size: int
) -> None:
    """HelloRetryRequest (RFC 8446 §4.1.4): the client offers X25519 first, the server takes P-384 only."""

    async def scenario() -> None:
        async with serving(pair, tls=True) as served:
            assert served.listener.certificate is not None
            served.listener.certificate.context.set_ecdh_curve("secp384r1")
            with await dial(served.port) as sock:
                client = TlsClient(sock, served.trust)
                await client.handshake(size=size)
                assert await client.read_line() == b"hello\n"
                assert served.peer.ja4 == fingerprint(client.hello)

    run(scenario())


def with_extensions(extra: bytes) -> bytes:
    """A real client's hello with more extensions at its end, and of another kind than OpenSSL's."""
    found = clienthello.scan(hellos.recorded(server_name="localhost"))
    assert isinstance(found, bytes)
    position = 34
    for octets in (1, 2, 1):  # session, ciphers, compression
        position += octets + int.from_bytes(found[position : position + octets], "big")
    return hellos.records(found[:position] + hellos.vector(2, found[position + 2 :] + extra))


def extension(kind: int, data: bytes = b"") -> bytes:
    return kind.to_bytes(2, "big") + hellos.vector(2, data)


@pytest.mark.parametrize(
    ("extra", "has_fingerprint"),
    [
        (b"", True),
        (extension(GREASE[0]) + extension(GREASE[1], b"\0"), True),
        (extension(0x4A7B, b"x" * 500), True),
        # twice the same: broken, though OpenSSL does not mind in extensions that it does not know
        (extension(0x4A7B) + extension(0x4A7B), False),
    ],
)
def test_what_openssl_takes_goes_on_with_or_without_a_fingerprint(
    run: Run, pair: tuple[Path, Path], extra: bytes, has_fingerprint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    parse = clienthello.parse
    monkeypatch.setattr(clienthello, "parse", lambda body: seen.append(parse(body)) or seen[-1])

    async def scenario() -> None:
        async with serving(pair, tls=True) as served:
            with await dial(served.port) as sock:
                await send_in_pieces(sock, with_extensions(extra), 1 << 20)
                async with asyncio.timeout(60):
                    answer = await asyncio.get_running_loop().sock_recv(sock, 5)
                assert answer[:1] == b"\x16"  # a ServerHello, no alert
                (hello,) = seen
                assert (hello is not None) is has_fingerprint
                if hello is not None:
                    bare = fingerprint(with_extensions(b""))
                    counted = 0 if not extra or extra[:2] == b"\x0a\x0a" else 1
                    shown = fingerprint(with_extensions(extra))
                    assert int(shown[6:8]) == int(bare[6:8]) + counted

    run(scenario())


def test_a_hello_that_only_openssl_understands_is_served_and_matches_no_fingerprint(
    run: Run, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clienthello, "parse", lambda _body: None)

    async def scenario() -> None:
        async with serving(pair, tls=True) as served:
            with await dial(served.port) as sock:
                client = TlsClient(sock, served.trust)
                await client.handshake()
                assert await client.read_line() == b"hello\n"
                assert (served.peer.ja4, served.peer.sni) == ("", "")

    run(scenario())


HALF_A_CIPHER = (
    b"\3\3" + bytes(32) + b"\0" + hellos.vector(2, b"\x13\x01\x13") + b"\1\0" + hellos.vector(2, b"")
)


@pytest.mark.parametrize(
    "message",
    [
        HALF_A_CIPHER,
        hellos.body() + b"\0",
        hellos.body()[:-1],
        hellos.body(extensions=None)[:-1],
        hellos.body(extensions=None),  # TLS 1.3 suites without any extension
        hellos.body(extensions=[(16, b"\0\5\1a")]),
        hellos.body(extensions=[(43, b"\3\3\4\3")]),
        b"\3\3",
    ],
)
def test_lists_and_lengths_that_do_not_fit_end_the_connection(
    run: Run, pair: tuple[Path, Path], message: bytes
) -> None:
    async def scenario() -> None:
        async with serving(pair, tls=True) as served:
            sock = await dial(served.port)
            await send_in_pieces(sock, hellos.records(message), 1 << 20)
            assert (await served.closed(sock))[:1] in (b"\x15", b"")  # an alert, where the loop lets it out
            assert served.rejected == {"handshake": 1}
            assert not served.sessions.made

    run(scenario())


# --- STARTTLS ---


@pytest.mark.parametrize("early", [b"x", b"a1 LOGIN ann secret\n", hellos.recorded()])
def test_bytes_behind_starttls_never_reach_a_session(run: Run, pair: tuple[Path, Path], early: bytes) -> None:
    """The echo session does not refuse them, as all real ones do; the door drops them even so."""

    async def scenario() -> None:
        async with serving(pair) as served:
            with await dial(served.port) as sock:
                assert await line(sock) == b"hello\n"
                await send_in_pieces(sock, b"tls\n" + early, 1 << 20)
                assert await line(sock) == b"go\n"
                client = TlsClient(sock, served.trust)
                await client.handshake()
                await client.write(b"after\n")
                assert await client.read_line() == b"after\n"
                assert served.sessions.made[0].log == ["tls", "after"]
                assert served.listener.live.counts.early_bytes_dropped == len(early)

    run(scenario())


# --- PROXY ---

HOSTILE_HEADERS = {
    "108 octets": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "bare LF": V1[:-2] + b"\n",
    "leading zero in an address": V1.replace(b"192.0.2.7", b"192.0.2.07"),
    "leading zero in a port": V1.replace(b"49152", b"049152"),
    "family of the other": V1.replace(b"TCP4", b"TCP6"),
    "port beyond 65535": V1.replace(b"49152", b"65536"),
    "two spaces": V1.replace(b" 49152", b"  49152"),
    "lower case": V1.replace(b"PROXY", b"proxy"),
    "version 1 in binary": v2(0x11, 0x11, FOUR),
    "version 3": v2(0x31, 0x11, FOUR),
    "command 2": v2(0x22, 0x11, FOUR),
    "unknown family": v2(0x21, 0x41, FOUR),
    "unknown transport": v2(0x21, 0x13, FOUR),
    "short address block": v2(0x21, 0x11, FOUR[:-1]),
    "more than 4096 octets": v2(0x21, 0x11, FOUR + bytes(4085)),
    "TLV overrun": v2(0x21, 0x11, FOUR + b"\x02\x00\x05abcd"),
    "wrong checksum": v2(0x21, 0x11, FOUR + b"\x03\x00\x04" + bytes(4)),
    "signature cut": V2[:11] + b"\r",
    "hello": hellos.recorded(),
    "http": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("size", [1 << 20, 7])
@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_hostile_proxy_headers_are_closed_without_a_word(
    run: Run, pair: tuple[Path, Path], name: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(pair, PROXIED) as served:
            sock = await dial(served.port)
            with contextlib.suppress(ConnectionError):  # it does not wait for the rest
                await send_in_pieces(sock, HOSTILE_HEADERS[name], size)
            assert await served.closed(sock) == b""
            assert served.rejected == {"proxy_malformed": 1}
            assert not served.sessions.made

    run(scenario())
    assert "Traceback" not in caplog.text


REAL_PEER_HEADERS = {
    "v1 UNKNOWN": b"PROXY UNKNOWN\r\n",
    "v1 UNKNOWN with addresses": b"PROXY UNKNOWN 192.0.2.7 198.51.100.1 1 2\r\n",
    "v2 LOCAL": haproxy.encode_v2(CLIENT, SERVER, is_local=True),
    "v2 UNSPEC": haproxy.encode_v2(None, None),
    "v2 Unix": v2(0x21, 0x31, bytes(216)),
}


@pytest.mark.parametrize("size", [1 << 20, 5])
@pytest.mark.parametrize("name", REAL_PEER_HEADERS)
def test_headers_without_a_client_keep_the_real_peer(
    run: Run, pair: tuple[Path, Path], name: str, size: int
) -> None:
    async def scenario() -> None:
        async with serving(pair, PROXIED) as served:
            with await dial(served.port) as sock:
                await send_in_pieces(sock, REAL_PEER_HEADERS[name] + b"first\n", size)
                assert await line(sock) == b"hello\n"
                assert await line(sock) == b"first\n"
                assert (served.peer.ip, served.peer.port) == sock.getsockname()

    run(scenario())


@pytest.mark.parametrize(
    ("settings", "cause", "level"),
    [
        # the fleet is set up wrongly: somebody must hear of it
        (DoorSettings(LOOPBACK, SOON_S), "proxy_missing", logging.WARNING),
        # anybody can do this to us
        (DoorSettings(ELSEWHERE, SOON_S), "proxy_untrusted", logging.DEBUG),
    ],
)
def test_who_is_told_of_missing_and_forged_headers(
    run: Run,
    pair: tuple[Path, Path],
    settings: DoorSettings,
    cause: str,
    level: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "sora.frontdoor")

    async def scenario() -> None:
        async with serving(pair, settings) as served:
            assert await served.closed(await dial(served.port)) == b""
            assert served.rejected == {cause: 1}

    run(scenario())
    (record,) = [record for record in caplog.records if cause in record.getMessage()]
    assert record.levelno == level


def test_the_wait_for_a_header_is_five_seconds_by_default() -> None:
    assert DoorSettings().proxy_within_s == 5.0
    assert DoorSettings().hello_within_s == 10.0


# --- crowds ---

CROWD = 200
WINDOW_S = 0.3
WINDOWS = 5


def test_two_hundred_stalled_hellos_use_next_to_no_processor(run: Run, pair: tuple[Path, Path]) -> None:
    """Half of them have sent a part, which a level-triggered loop without low-water marks would spin on."""

    async def scenario() -> None:
        async with serving(pair, DoorSettings(hello_within_s=3600), tls=True) as served:
            hello = hellos.recorded()
            crowd = [await dial(served.port) for _ in range(CROWD)]
            for number, sock in enumerate(crowd):
                await send_in_pieces(sock, hello[: (number % 2) * 300], 150)
            while len(served.listener.live.entering) < CROWD:
                await asyncio.sleep(0)
            shares = []
            for _ in range(WINDOWS):
                used, began = time.process_time(), time.monotonic()
                await asyncio.sleep(WINDOW_S)
                shares.append((time.process_time() - used) / (time.monotonic() - began))
            assert min(shares) < 0.01, shares
            with await dial(served.port) as honest:
                client = TlsClient(honest, served.trust)
                await client.handshake()
                assert await client.read_line() == b"hello\n"
            for sock in crowd:
                sock.shutdown(socket.SHUT_WR)
                assert await served.closed(sock) == b""
            assert served.rejected == {"left": CROWD}

    run(scenario())
