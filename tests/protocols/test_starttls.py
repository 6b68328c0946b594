"""STARTTLS over real sockets: what was injected in the clear is never executed, and ends the connection."""

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
from protocols.managesieve.service import ScriptService
from protocols.managesieve.session import managesieve_sessions
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import ServerPolicy, SessionFactory
from storage.memory.scripts import MemoryScriptStore
from tests.support.certificates import Contexts, localhost_contexts
from tests.support.imap import ImapLab
from tests.support.mailhost import MailHost, mail_host
from tests.support.scripts import MarkedCompiler


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
        async with asyncio.timeout(60):
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
    client, _ = await talk(lmtp_sessions(host.services, policy(contexts[0])), contexts[0])
    assert b"STARTTLS\r\n" in await client.ask(b"LHLO clear\r\n", 11)
    await client.ask(b"MAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\n", 2)
    assert (await client.ask(b"STARTTLS\r\n")).startswith(b"220 2.0.0")
    await client.writer.start_tls(contexts[1], server_hostname="localhost")
    assert (await client.ask(b"DATA\r\n")).startswith(b"503")
    assert (await client.ask(b"MAIL FROM:<>\r\n")).startswith(b"503 5.5.1 Say LHLO first")
    assert b"STARTTLS" not in await client.ask(b"LHLO secret\r\n", 9)
    assert (await client.ask(b"STARTTLS\r\n")).startswith(b"502")
    await client.ask(b"MAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n", 3)
    assert (await client.ask(b"hello\r\n.\r\n")) == b"250 2.0.0 Delivered\r\n"
    (stored,) = await host.inbox()
    assert b"Received: from secret ([127.0.0.1])\r\n\tby mail.example.test with LMTPS id" in stored.prefix
    client.writer.close()


async def test_pop3(host: MailHost, contexts: Contexts) -> None:
    factory = pop3_sessions(host.services, policy(contexts[0]), LocalMaildropLock())
    client, _ = await talk(factory, contexts[0])
    assert (await client.ask(b"", 1)).startswith(b"+OK")
    await client.ask(b"USER bob@example.test\r\n")
    assert (await client.ask(b"STLS\r\n")).startswith(b"+OK Begin TLS")
    await client.writer.start_tls(contexts[1], server_hostname="localhost")
    assert await client.ask(b"PASS secret\r\n") == b"-ERR USER first\r\n"
    assert (await client.ask(b"STLS\r\n")).startswith(b"-ERR STLS is not offered")
    await client.ask(b"USER ann@example.test\r\n")
    assert (await client.ask(b"PASS secret\r\n")).startswith(b"+OK 0 messages")
    assert await client.ask(b"QUIT\r\n") == b"+OK Bye\r\n"
    client.writer.close()


def managesieve(host: MailHost, context: ssl.SSLContext) -> SessionFactory:
    return managesieve_sessions(
        host.services, policy(context), ScriptService(MemoryScriptStore(host.tables), MarkedCompiler())
    )


async def test_managesieve(host: MailHost, contexts: Contexts) -> None:
    client, _ = await talk(managesieve(host, contexts[0]), contexts[0])
    assert b'"STARTTLS"\r\n' in await client.ask(b"", 8)
    assert await client.ask(b"STARTTLS\r\n") == b'OK "Begin TLS"\r\n'
    await client.writer.start_tls(contexts[1], server_hostname="localhost")
    told = await client.ask(b"", 7)  # unasked (RFC 5804 §2.2)
    assert b'"SASL" "PLAIN LOGIN"\r\n' in told
    assert b"STARTTLS" not in told
    assert told.endswith(b'OK "TLS is on"\r\n')
    assert await client.ask(b"STARTTLS\r\n") == b'NO "STARTTLS is not offered"\r\n'
    login = b'AUTHENTICATE "PLAIN" "AGFubkBleGFtcGxlLnRlc3QAc2VjcmV0"\r\n'
    assert await client.ask(login) == b'OK "Logged in"\r\n'
    assert await client.ask(b"LOGOUT\r\n") == b'OK "Bye"\r\n'
    client.writer.close()


INJECTIONS = {
    "imap": (b"a STARTTLS\r\n", b"b LOGIN ann@example.org secret\r\n", b"a BAD Nothing may follow STARTTLS"),
    "pop3": (b"STLS\r\n", b"USER evil\r\nQUIT\r\n", b"-ERR Nothing may follow STLS"),
    "managesieve": (b"STARTTLS\r\n", b"NOOP\r\nLOGOUT\r\n", b'BYE "Nothing may follow STARTTLS'),
    "lmtp": (b"LHLO x\r\nSTARTTLS\r\n", b"LHLO evil\r\nDATA\r\n", b"503 5.5.1 Nothing may follow STARTTLS"),
}


@pytest.mark.parametrize("cut", [0, 1, 7])
@pytest.mark.parametrize("protocol", sorted(INJECTIONS))
async def test_bytes_behind_starttls_are_refused_and_end_the_connection(
    host: MailHost, contexts: Contexts, protocol: str, cut: int
) -> None:
    """The attack of CVE-2011-0411: the rest of what was injected may also come as a beginning only."""
    make = {
        "imap": lambda: ImapLab(tls_context=lambda: contexts[0]).factory,
        "pop3": lambda: pop3_sessions(host.services, policy(contexts[0]), LocalMaildropLock()),
        "lmtp": lambda: lmtp_sessions(host.services, policy(contexts[0])),
        "managesieve": lambda: managesieve(host, contexts[0]),
    }
    client, live = await talk(make[protocol](), contexts[0])
    command, injected, refusal = INJECTIONS[protocol]
    injected = injected[: cut or None]
    client.writer.write(command + injected)
    async with asyncio.timeout(60):
        said = await client.reader.read()
    assert said.splitlines()[-1].startswith(refusal)
    assert b"Begin TLS" not in said
    assert live.counts.early_bytes_dropped == len(injected)
    client.writer.close()
