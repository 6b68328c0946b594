"""STARTTLS of LMTP and POP3 over real sockets: what was injected in the clear is never executed."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.driver import LineConnection
from protocols.lmtp.session import lmtp_sessions
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import ServerPolicy, SessionFactory
from tests.support.certificates import Contexts, localhost_contexts
from tests.support.mailhost import MailHost, mail_host


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    folder: Path = tmp_path_factory.mktemp("tls")
    return localhost_contexts(folder)


@dataclass
class Talk:
    """A client's end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, data: bytes, lines: int = 1) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(10):
            return b"".join([await self.reader.readline() for _ in range(lines)])


async def talk(factory: SessionFactory, context: ssl.SSLContext) -> tuple[Talk, LiveConnections]:
    loop = asyncio.get_running_loop()
    live = LiveConnections(DeadlineWheel(loop))
    server = await loop.create_server(
        lambda: LineConnection(factory, live, tls_context=lambda: context), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    server.close()
    return Talk(reader, writer), live


def policy(context: ssl.SSLContext) -> ServerPolicy:
    return ServerPolicy(name="x", hostname="mail.example.test", tls_context=lambda: context)


@pytest.fixture
async def host() -> MailHost:
    return await mail_host()


async def test_lmtp(host: MailHost, contexts: Contexts) -> None:
    client, live = await talk(lmtp_sessions(host.services, policy(contexts[0])), contexts[0])
    assert b"STARTTLS\r\n" in await client.ask(b"LHLO clear\r\n", 11)
    await client.ask(b"MAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\n", 2)
    assert (await client.ask(b"STARTTLS\r\nLHLO evil\r\nDATA\r\n")).startswith(b"220 2.0.0")
    await client.writer.start_tls(contexts[1], server_hostname="localhost")
    assert (await client.ask(b"DATA\r\n")).startswith(b"503")
    assert (await client.ask(b"MAIL FROM:<>\r\n")).startswith(b"503 5.5.1 Say LHLO first")
    assert b"STARTTLS" not in await client.ask(b"LHLO secret\r\n", 9)
    assert (await client.ask(b"STARTTLS\r\n")).startswith(b"502")
    await client.ask(b"MAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n", 3)
    assert (await client.ask(b"hello\r\n.\r\n")) == b"250 2.0.0 Delivered\r\n"
    assert live.counts.early_bytes_dropped == len(b"LHLO evil\r\nDATA\r\n")
    (stored,) = await host.inbox()
    assert b"Received: from secret ([127.0.0.1])\r\n\tby mail.example.test with LMTPS id" in stored.prefix
    client.writer.close()


async def test_pop3(host: MailHost, contexts: Contexts) -> None:
    factory = pop3_sessions(host.services, policy(contexts[0]), LocalMaildropLock())
    client, live = await talk(factory, contexts[0])
    assert (await client.ask(b"", 1)).startswith(b"+OK")
    await client.ask(b"USER bob@example.test\r\n")
    assert (await client.ask(b"STLS\r\nUSER evil\r\nQUIT\r\n")).startswith(b"+OK Begin TLS")
    await client.writer.start_tls(contexts[1], server_hostname="localhost")
    assert await client.ask(b"PASS secret\r\n") == b"-ERR USER first\r\n"
    assert (await client.ask(b"STLS\r\n")).startswith(b"-ERR STLS is not offered")
    await client.ask(b"USER ann@example.test\r\n")
    assert (await client.ask(b"PASS secret\r\n")).startswith(b"+OK 0 messages")
    assert live.counts.early_bytes_dropped == len(b"USER evil\r\nQUIT\r\n")
    assert await client.ask(b"QUIT\r\n") == b"+OK Bye\r\n"
    client.writer.close()
