"""Debian's haproxy in front of a node: the client's address arrives in the log and in Received."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lmtp import LmtpClient
from tests.support.nodeprocess import NodeProcess
from tests.support.ports import free_ports
from tests.support.tlsclient import TlsClient

from .conftest import needs

CLIENT = "127.0.0.77"  # what the client binds to, so that it is not the balancer's own address
KINDS = ("imap", "imaps", "pop3", "lmtp")
PATIENCE_S = 60


def with_proxied_servers(text: str) -> str:
    """A second server of each kind, which expects PROXY headers."""
    for kind in KINDS:
        text += (
            f'[[servers]]\ntype = "{kind.removesuffix("s")}"\nname = "{kind}-behind"\naddr = "127.0.0.1:0"\n'
            f"tls = {str(kind.endswith('s')).lower()}\n"
            'proxy_protocol = { enabled = true, timeout = "60s", trusted_proxies = ["127.0.0.1"] }\n'
        )
    return text


def configuration(node: NodeProcess, fronts: dict[str, int]) -> str:
    """``fronts``: name of a server and of a version of the protocol, to the port of haproxy."""
    text = "global\n  maxconn 200\ndefaults\n  mode tcp\n  timeout client 60s\n  timeout server 60s\n"
    text += "  timeout connect 60s\n  timeout check 60s\n"  # a busy machine is no reason to drop a client
    for name, port in fronts.items():
        kind, version = name.split("-")
        header = "send-proxy" if version == "v1" else "send-proxy-v2 proxy-v2-options crc32c"
        backend = f"127.0.0.1:{node.port(kind + '-behind')}"
        text += (
            f"listen {name}\n  bind 127.0.0.1:{port}\n"
            f"  server node {backend} {header} check check-send-proxy inter 200ms\n"
        )
    return text


class Behind:
    """A node, and haproxy's ports."""

    def __init__(self, node: NodeProcess, fronts: dict[str, int]) -> None:
        self.node = node
        self.fronts = fronts

    def log_has(self, *words: str) -> None:
        """Some line of the node's log has all of them, soon."""
        deadline = time.monotonic() + PATIENCE_S
        while not any(all(word in line for word in words) for line in self.log().splitlines()):
            assert time.monotonic() < deadline, (words, self.log()[-3000:])
            time.sleep(0.05)

    def log(self) -> str:
        return (self.node.directory / "node.log").read_text()

    async def dial(self, name: str) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((CLIENT, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.fronts[name]))
        return sock


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    program = needs("haproxy")
    names = [f"{kind}-{version}" for kind in KINDS for version in ("v1", "v2")]
    with NodeProcess().prepare(with_proxied_servers) as node:
        fronts = dict(zip(names, free_ports(len(names)), strict=True))
        directory: Path = tmp_path_factory.mktemp("haproxy")
        (directory / "haproxy.cfg").write_text(configuration(node, fronts))
        with (directory / "log").open("wb") as log:
            haproxy = subprocess.Popen(
                [program, "-db", "-f", str(directory / "haproxy.cfg")], stdout=log, stderr=log
            )
        try:
            for port in fronts.values():
                wait_for(port, haproxy, directory / "log")
            yield Behind(node, fronts)
        finally:
            haproxy.kill()
            haproxy.wait()


def wait_for(port: int, haproxy: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert haproxy.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


async def read_until(reader: asyncio.StreamReader, start: bytes) -> bytes:
    got = b""
    while not got.startswith(start):
        got = await asyncio.wait_for(reader.readline(), PATIENCE_S)
        assert got
    return got


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_imap_over_tls(behind: Behind, version: str) -> None:
    node = behind.node

    async def scenario() -> None:
        trust = ssl.create_default_context(cafile=str(node.certificate))
        with await behind.dial(f"imaps-{version}") as sock:
            client = TlsClient(sock, trust)
            await client.handshake()
            assert (await client.read_line()).startswith(b"* OK")
            await client.write(f"a LOGIN {node.address} {node.password}\r\n".encode())
            assert b"a OK" in await client.read_line()

    asyncio.run(scenario())
    behind.log_has("login ok", "protocol=imap", f"ip={CLIENT} ", "via=127.0.0.1", "ja4=t13d")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_client_in_plain_text_is_not_local_because_the_balancer_is(behind: Behind, version: str) -> None:
    async def scenario() -> None:
        sock = await behind.dial(f"imap-{version}")
        reader, writer = await asyncio.open_connection(sock=sock)
        greeting = await read_until(reader, b"* OK")
        assert b"LOGINDISABLED" in greeting
        assert b"STARTTLS" in greeting
        writer.write(b"a LOGIN a@example.test b\r\n")
        assert b"[PRIVACYREQUIRED]" in await read_until(reader, b"a ")
        writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_pop3_with_stls(behind: Behind, version: str) -> None:
    async def scenario() -> None:
        sock = await behind.dial(f"pop3-{version}")
        reader, writer = await asyncio.open_connection(sock=sock)
        await read_until(reader, b"+OK")
        writer.write(b"STLS\r\n")
        await read_until(reader, b"+OK")
        trust = ssl.create_default_context(cafile=str(behind.node.certificate))
        await writer.start_tls(trust, server_hostname="localhost")
        writer.write(f"USER {behind.node.address}\r\nPASS wrong-{version}\r\nQUIT\r\n".encode())
        await read_until(reader, b"-ERR")
        writer.close()

    asyncio.run(scenario())
    behind.log_has("login failed", "protocol=pop3", f"ip={CLIENT} ", "via=127.0.0.1", "ja4=t13d")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_lmtp_names_the_client_in_received(behind: Behind, version: str) -> None:
    node = behind.node
    mark = f"behind haproxy {version}"

    async def scenario() -> bytes:
        reader, writer = await asyncio.open_connection(sock=await behind.dial(f"lmtp-{version}"))
        client = LmtpClient(reader, writer)
        await client.reply()
        await client.command(b"LHLO client.example.test")
        replies = await client.deliver(f"Subject: {mark}\r\n\r\nhello\r\n".encode(), [node.address])
        assert replies[0][0] == 250, replies
        await client.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port("imap"))
        writer.write(f"a LOGIN {node.address} {node.password}\r\nb SELECT INBOX\r\n".encode())
        writer.write(f'c SEARCH SUBJECT "{mark}"\r\n'.encode())
        number = (await read_until(reader, b"* SEARCH")).split()[-1]
        writer.write(b"d FETCH %b BODY.PEEK[HEADER.FIELDS (RECEIVED)]\r\ne LOGOUT\r\n" % number)
        return await asyncio.wait_for(reader.read(), PATIENCE_S)

    assert f"([{CLIENT}])".encode() in asyncio.run(scenario())


def test_health_checks_are_no_clients_and_no_complaints(behind: Behind) -> None:
    time.sleep(0.5)  # two rounds of them
    assert "PROXY header" not in behind.log()
    assert "unexpected" not in behind.log()


def test_who_comes_past_the_balancer_is_sent_away(behind: Behind) -> None:
    with socket.socket() as sock:
        sock.bind((CLIENT, 0))
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", behind.node.port("imap-behind")))
        assert sock.recv(100) == b""
