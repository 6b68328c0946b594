"""A whole node in this process, on real PostgreSQL and a file object store."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from node.app import Node
from node.config import ClientFilter, Config, load
from node.startfaults import StartFailed
from storage.objects.keys import parse_object_key
from storage.postgres.settings import DatabaseSettings, EndpointSettings
from tests.support.corpus import hostile, messages
from tests.support.lmtp import LmtpClient
from tls.selfsigned import self_signed

ADDRESS, PASSWORD = "ann@example.test", "correct horse"

SERVERS = """
[[servers]]
type = "imap"
name = "imap"
addr = "127.0.0.1:0"
max_connections = {most}

[[servers]]
type = "imap"
name = "imaps"
addr = "127.0.0.1:0"
tls = true

[[servers]]
type = "pop3"
name = "pop3"
addr = "127.0.0.1:0"

[[servers]]
type = "lmtp"
name = "lmtp"
addr = "127.0.0.1:{lmtp}"
"""


def configuration_text(
    directory: Path, pg: DatabaseSettings, *, lmtp: int = 0, most: int = 0, more: str = ""
) -> str:
    """Of a config.toml, with a certificate."""
    cert, key = self_signed(["localhost"], datetime.now(UTC))
    (directory / "cert.pem").write_bytes(cert)
    (directory / "key.pem").write_bytes(key)
    write = pg.write
    return f"""
hostname = "mail.example.test"
[database.write]
hosts = ["{write.hosts[0][0]}"]
port = {write.hosts[0][1]}
user = "{write.user}"
password = "{write.password}"
name = "{write.database}"
max_connections = 8
[s3]
driver = "file"
path = "{directory}/objects"
{more}
[local_cache]
path = "{directory}/cache"
[uploader]
path = "{directory}/staging"
[tls]
enabled = true
provider = "file"
cert_file = "{directory}/cert.pem"
key_file = "{directory}/key.pem"
{SERVERS.format(lmtp=lmtp, most=most)}
"""


def configure(
    directory: Path, pg: DatabaseSettings, *, lmtp: int = 0, most: int = 0, more: str = ""
) -> Config:
    text = configuration_text(directory, pg, lmtp=lmtp, most=most, more=more)
    loaded = load(text, source="test", environment={}, read_file=lambda name: Path(name).read_text())
    assert loaded.config is not None, loaded.problems
    return loaded.config


@pytest_asyncio.fixture
async def node(tmp_path: Path, pg_settings: DatabaseSettings) -> AsyncIterator[Node]:
    running = Node(configure(tmp_path, pg_settings))
    await running.start()
    await running.ensure_account(ADDRESS, PASSWORD)
    yield running
    await running.stop()


def port(node: Node, name: str) -> int:
    return int(node.addresses()[name].rpartition(":")[2])


class Imap:
    """Enough of a client to say a command and read up to its tagged reply."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.tag = 0

    @classmethod
    async def open(cls, node: Node, context: ssl.SSLContext | None = None) -> Imap:
        name = "imaps" if context else "imap"
        client = cls(*await asyncio.open_connection("localhost", port(node, name), ssl=context))
        assert (await client.reader.readline()).startswith(b"* OK")
        return client

    async def command(self, text: str) -> bytes:
        self.tag += 1
        self.writer.write(f"t{self.tag} {text}\r\n".encode())
        collected = b""
        while not collected.rpartition(b"\r\n")[0].rpartition(b"\r\n")[2].startswith(b"t%d " % self.tag):
            data = await self.reader.read(1 << 16)
            assert data, collected
            collected += data
        return collected

    async def login(self) -> None:
        assert b" OK " in await self.command(f'LOGIN {ADDRESS} "{PASSWORD}"')


async def deliver(node: Node, *sent: bytes) -> None:
    client = await LmtpClient.connect("127.0.0.1", port(node, "lmtp"))
    for message in sent:
        assert (await client.deliver(message, [ADDRESS]))[0][0] == 250
    await client.close()


async def wait_until_stored(node: Node) -> None:
    async with asyncio.timeout(60):
        while (await node.core.uploads.staging_level()).contents:
            await asyncio.sleep(0.01)


async def test_mail_comes_in_by_lmtp_and_out_by_imap_and_reaches_the_object_store(
    node: Node, tmp_path: Path
) -> None:
    sent = [*messages(1, 10, to=ADDRESS), hostile()["nul bytes"], hostile()["ten thousand parts"]]
    await deliver(node, *sent)
    client = await Imap.open(node)
    await client.login()
    assert b"* 12 EXISTS" in await client.command("SELECT INBOX")
    fetched = await client.command("FETCH 1:* BODY.PEEK[]")
    assert all(message in fetched for message in sent)
    await wait_until_stored(node)
    keys = [str(path.relative_to(tmp_path / "objects")) for path in (tmp_path / "objects").rglob("*.*")]
    assert len(keys) == 12
    assert all(parse_object_key(key) for key in keys), keys
    client.writer.close()
    await node.stop()
    shutil.rmtree(tmp_path / "cache")
    fresh = Node(node.config)
    await fresh.start()
    client = await Imap.open(fresh)
    await client.login()
    await client.command("SELECT INBOX")
    assert await client.command("FETCH 1:* BODY.PEEK[]") == fetched
    await fresh.stop()


async def test_idle_is_told_at_once(node: Node) -> None:
    client = await Imap.open(node)
    await client.login()
    await client.command("SELECT INBOX")
    client.writer.write(b"i IDLE\r\n")
    assert (await client.reader.readline()).startswith(b"+")
    await deliver(node, *messages(2, 1))
    async with asyncio.timeout(60):
        assert await client.reader.readline() == b"* 1 EXISTS\r\n"
    client.writer.close()


async def test_a_swapped_certificate_is_shown_to_the_next_client(node: Node, tmp_path: Path) -> None:
    def trusting() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

    before, first = await Imap.open(node, trusting()), trusting()
    cert, key = self_signed(["localhost"], datetime.now(UTC))
    (tmp_path / "cert.pem").write_bytes(cert)
    (tmp_path / "key.pem").write_bytes(key)
    node.core.certificates.refresh()
    after = await Imap.open(node, trusting())
    await before.login()
    await after.login()
    with pytest.raises(ssl.SSLCertVerificationError):
        await Imap.open(node, first)
    before.writer.close()
    after.writer.close()


async def test_more_than_max_connections_are_refused_politely(
    tmp_path: Path, pg_settings: DatabaseSettings
) -> None:
    node = Node(configure(tmp_path, pg_settings, most=2))
    await node.start()
    clients = [await Imap.open(node) for _ in range(2)]
    reader, writer = await asyncio.open_connection("localhost", port(node, "imap"))
    assert (await reader.read()).startswith(b"* BYE [UNAVAILABLE]")
    writer.close()
    clients[0].writer.close()
    async with asyncio.timeout(60):
        while len(node.listeners[0].live) == 2:
            await asyncio.sleep(0)
    clients.append(await Imap.open(node))
    await node.stop()
    assert (await clients[1].reader.read()).startswith(b"* BYE")


async def test_a_filter_by_fingerprint_takes_capabilities_away_as_soon_as_tls_speaks(
    tmp_path: Path, pg_settings: DatabaseSettings
) -> None:
    config = configure(tmp_path, pg_settings)
    unwanted = ClientFilter(ja4_fingerprints=("^t1[23]d",), disable_caps=("IDLE",), reason="a test")
    node = Node(
        replace(config, servers=tuple(replace(s, client_filters=(unwanted,)) for s in config.servers))
    )
    await node.start()
    await node.ensure_account(ADDRESS, PASSWORD)
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    reader, writer = await asyncio.open_connection("localhost", port(node, "imaps"), ssl=trust)
    greeting = await reader.readline()
    assert b"CAPABILITY IMAP4rev1 " in greeting
    assert b" IDLE" not in greeting
    writer.close()
    client = await Imap.open(node)
    assert b" IDLE" in await client.command("CAPABILITY")
    assert b" OK" in await client.command("STARTTLS")
    await client.writer.start_tls(trust, server_hostname="localhost")
    assert b" IDLE" not in await client.command("CAPABILITY")
    await client.login()
    assert b" BAD " in await client.command("IDLE")
    client.writer.close()
    await node.stop()


async def test_stop_says_goodbye_and_is_idempotent(node: Node) -> None:
    client = await Imap.open(node)
    await client.login()
    await node.stop()
    assert b"* BYE" in await client.reader.read()
    await node.stop()


async def test_a_taken_port_names_the_server_and_undoes_the_start(
    tmp_path: Path, pg_settings: DatabaseSettings
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = Node(configure(tmp_path, pg_settings, lmtp=taken.getsockname()[1]))
        with pytest.raises(StartFailed, match=r"server lmtp: cannot listen .* another program"):
            await node.start()
    await node.stop()


async def test_an_unreachable_database_is_named(tmp_path: Path) -> None:
    pg = DatabaseSettings(
        write=EndpointSettings(hosts=((str(tmp_path), 5432),), user="sora", password="x", database="none")
    )
    node = Node(configure(tmp_path, pg))
    with pytest.raises(StartFailed):
        await node.start()
    await node.stop()


async def test_encrypted_bodies_are_no_mail_on_disk_and_old_keys_still_read(
    tmp_path: Path, pg_settings: DatabaseSettings
) -> None:
    old, new = "11" * 32, "22" * 32
    (sent,) = messages(5, 1, to=ADDRESS)

    async def run(more: str, *, new_mail: bool) -> bytes:
        node = Node(configure(tmp_path, pg_settings, more=more))
        await node.start()
        await node.ensure_account(ADDRESS, PASSWORD)
        if new_mail:
            await deliver(node, sent)
        await wait_until_stored(node)
        client = await Imap.open(node)
        await client.login()
        await client.command("SELECT INBOX")
        fetched = await client.command("FETCH 1 BODY.PEEK[]")
        await node.stop()
        return fetched

    assert sent in await run(f'encrypt = true\nencryption_key = "{old}"', new_mail=True)
    (stored,) = (tmp_path / "objects").rglob("*.*")
    assert b"Subject" not in stored.read_bytes()
    rotated = f'encrypt = true\nencryption_key = "{new}"\nprevious_encryption_keys = ["{old}"]'
    assert sent in await run(rotated, new_mail=False)
    assert b"NO [" in await run(f'encrypt = true\nencryption_key = "{new}"', new_mail=False)
