"""A node that speaks ManageSieve: its doors and limits, and that what is uploaded runs at delivery."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from node.app import Node
from node.config import AuthRateLimit, Relay, RelayQueue, Secret, Server, Sieve
from node.reload import takes_effect
from node.units import Address
from storage.model import Appended
from storage.postgres.settings import DatabaseSettings
from tests.support.lmtp import LmtpClient
from tests.support.smtpserver import SmtpServer

from .test_app import ADDRESS, PASSWORD, configure, port
from .test_ratelimits import imap_login

ATTACKER, HONEST = "127.0.0.2", "127.0.1.3"
SIEVE = Server(
    type="managesieve",
    name="managesieve",
    addr=Address("127.0.0.1", 0),
    max_connections=4,
    max_connections_per_user=1,
    max_script_size_bytes=200,
    max_scripts=2,
)


@pytest_asyncio.fixture
async def node(tmp_path: Path, pg_settings: DatabaseSettings) -> AsyncIterator[Node]:
    config = configure(tmp_path, pg_settings)
    limits = AuthRateLimit(exempt_networks=(), initial_delay_s=0, max_attempts_per_ip_username=3)
    servers = [replace(server, auth_rate_limit=limits) for server in (*config.servers, SIEVE)]
    running = Node(replace(config, servers=tuple(servers)))
    await running.start()
    await running.ensure_account(ADDRESS, PASSWORD)
    yield running
    await running.stop()


class Editor:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, node: Node, ip: str = HONEST) -> Editor:
        where = ("127.0.0.1", port(node, "managesieve"))
        return cls(*await asyncio.open_connection(*where, local_addr=(ip, 0)))

    async def ask(self, command: bytes = b"") -> bytes:
        """The status line, behind the lines before it."""
        self.writer.write(command)
        said = b""
        async with asyncio.timeout(60):
            while line := await self.reader.readline():
                said += line
                if line.startswith((b"OK", b"NO", b"BYE")):
                    break
        return said

    async def login(self, user: str = ADDRESS, password: str = PASSWORD) -> bytes:
        plain = base64.b64encode(f"\0{user}\0{password}".encode())
        return await self.ask(b'AUTHENTICATE "PLAIN" "%b"\r\n' % plain)

    async def close(self) -> None:
        self.writer.close()


async def editor(node: Node) -> Editor:
    client = await Editor.open(node)
    assert b"OK" in await client.ask()
    assert await client.login() == b'OK "Logged in"\r\n'
    return client


async def test_what_is_uploaded_runs_at_delivery(node: Node) -> None:
    client = await editor(node)
    script = b'require ["fileinto", "mailbox"]; fileinto :create "Lists";'
    assert (await client.ask(b'PUTSCRIPT "a" "%b"\r\n' % script.replace(b'"', b'\\"'))).startswith(b"OK")
    assert (await client.ask(b'SETACTIVE "a"\r\n')).startswith(b"OK")
    mta = await LmtpClient.connect("127.0.0.1", port(node, "lmtp"))
    assert (await mta.deliver(b"Subject: a\r\n\r\nx\r\n", [ADDRESS]))[0][0] == 250
    await mta.close()
    await client.close()
    account = await node.core.accounts.account(ADDRESS)
    listed = await node.core.mail.list_mailboxes(account.id)
    assert {each.name: each.messages for each in listed.mailboxes if each.messages} == {"Lists": 1}


async def test_a_mailbox_that_vanishes_before_the_write_makes_no_second_copy(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await editor(node)
    script = rb"require \"fileinto\"; fileinto \"Lists\"; keep;"
    assert (await client.ask(b'PUTSCRIPT "a" "%b"\r\n' % script)).startswith(b"OK")
    assert (await client.ask(b'SETACTIVE "a"\r\n')).startswith(b"OK")
    await client.close()
    account, mail = await node.core.accounts.account(ADDRESS), node.core.mail
    await mail.create_mailbox(account.id, "Lists")
    real = mail.append

    async def append(*arguments: Any) -> list[Appended]:
        monkeypatch.undo()
        await mail.delete_mailbox(account.id, "Lists")
        return await real(*arguments)

    monkeypatch.setattr(mail, "append", append)
    mta = await LmtpClient.connect("127.0.0.1", port(node, "lmtp"))
    for _ in range(2):  # the second is the sender's, who has lost the reply
        assert (await mta.deliver(b"Subject: a\r\n\r\nx\r\n", [ADDRESS]))[0][0] == 250
    await mta.close()
    listed = await mail.list_mailboxes(account.id)
    assert {each.name: each.messages for each in listed.mailboxes if each.messages} == {"INBOX": 1}


async def test_what_does_not_run_is_not_offered(node: Node) -> None:
    client = await Editor.open(node)
    told = await client.ask()
    assert b'"MAXREDIRECTS" "0"\r\n' in told
    assert b"vacation" not in told
    assert b"editheader" not in told
    assert b"fileinto" in told
    await client.close()


async def test_with_a_relay_all_that_sends_is_offered_and_done(
    tmp_path: Path, pg_settings: DatabaseSettings
) -> None:
    config = configure(tmp_path, pg_settings)
    async with SmtpServer() as remote:
        running = Node(
            replace(
                config,
                servers=(*config.servers, replace(SIEVE, max_script_size_bytes=2000)),
                relay=Relay(type="smtp", smtp_host=f"127.0.0.1:{remote.port}", smtp_tls=False),
                relay_queue=RelayQueue(path=str(tmp_path / "relay"), worker_interval_s=0.05),
                sieve=Sieve(srs_domain="example.test", srs_secret=Secret("0123456789abcdef")),
            )
        )
        await running.start()
        try:
            await running.ensure_account(ADDRESS, PASSWORD)
            client = await Editor.open(running)
            told = await client.ask()
            assert b'"MAXREDIRECTS" "16"\r\n' in told
            assert b'"NOTIFY" "mailto"\r\n' in told
            for extension in (b"vacation", b"vacation-seconds", b"enotify", b"fcc"):
                assert extension in told.replace(b'"', b" ").split()
            await client.login()
            script = b'require ["vacation"]; redirect "ann@away.test"; vacation "I am away.";'
            said = await client.ask(b'PUTSCRIPT "a" {%d+}\r\n%b\r\n' % (len(script), script))
            assert said.startswith(b"OK")
            assert (await client.ask(b'SETACTIVE "a"\r\n')).startswith(b"OK")
            await client.close()
            mta = await LmtpClient.connect("127.0.0.1", port(running, "lmtp"))
            message = b"From: bob@far.test\r\nTo: %b\r\nSubject: a\r\n\r\nx\r\n" % ADDRESS.encode()
            answers = await mta.deliver(message, [ADDRESS], "bob@far.test")
            assert answers[0][0] == 250
            await mta.close()
            await remote.wait_for(2)
        finally:
            await running.stop()
    by_recipient = {each.recipients[0]: each for each in remote.accepted}
    assert set(by_recipient) == {"ann@away.test", "bob@far.test"}
    redirected, answer = by_recipient["ann@away.test"], by_recipient["bob@far.test"]
    assert redirected.sender.startswith("SRS0=")
    assert redirected.sender.endswith("=far.test=bob@example.test")
    assert redirected.message.endswith(message)
    assert answer.sender == ""
    assert b"Auto-Submitted: auto-replied" in answer.message


async def test_a_loop_that_is_not_there_is_told_with_its_place(node: Node) -> None:
    """RFC 5703 §3: a script that includes this one has no part in it, so both know without a message."""
    client = await editor(node)
    script = b'require "foreverypart";\r\nforeverypart :name "a" {\r\n  break :name "b"; }'
    for command in (b"CHECKSCRIPT", b'PUTSCRIPT "a"'):
        said = await client.ask(command + b" {%d+}\r\n%b\r\n" % (len(script), script))
        assert said.startswith(b"NO ")
        assert b"line 3, column 3: " in said
    assert await client.ask(b"LISTSCRIPTS\r\n") == b'OK "Done"\r\n'
    await client.close()


async def test_quotas_of_the_server_hold(node: Node) -> None:
    client = await editor(node)
    assert (await client.ask(b'HAVESPACE "a" 201\r\n')).startswith(b"NO (QUOTA/MAXSIZE)")
    for name, answer in ((b"a", b"OK"), (b"b", b"OK"), (b"c", b"NO (QUOTA/MAXSCRIPTS)"), (b"a", b"OK")):
        assert (await client.ask(b'PUTSCRIPT "%b" "keep;"\r\n' % name)).startswith(answer)
    await client.close()


async def test_one_user_has_one_session_until_it_logs_out(node: Node) -> None:
    one, other = await editor(node), await Editor.open(node)
    await other.ask()
    assert (await other.login()).startswith(b'NO (TRYLATER) "Too many connections')
    assert (await one.ask(b"UNAUTHENTICATE\r\n")).startswith(b"OK")
    assert (await other.login()).startswith(b"OK")
    for each in (one, other):
        await each.close()


async def test_more_connections_than_may_be(node: Node) -> None:
    clients = [await Editor.open(node) for _ in range(4)]
    for each in clients:
        await each.ask()
    late = await Editor.open(node)
    assert await late.ask() == b'BYE (TRYLATER) "Too many connections, try again later"\r\n'
    for each in (*clients, late):
        await each.close()


async def test_guesses_count_with_those_of_other_protocols(node: Node) -> None:
    client = await Editor.open(node, ATTACKER)
    await client.ask()
    refused = b'NO "User name or password not accepted"\r\n'
    assert await client.login(password="guess 1") == refused
    assert await client.login(user="nobody@example.test", password="guess 1") == refused
    for guess in ("guess 2", "guess 3"):
        assert b"OK" not in await imap_login(node, ATTACKER, ADDRESS, guess)
    assert await client.login() == refused
    await client.close()
    await (await editor(node)).close()


def test_a_reload_is_enough() -> None:
    for key in ("max_script_size", "max_scripts", "supported_extensions", "insecure_auth"):
        assert takes_effect(f"servers[].{key}", "managesieve")
    assert takes_effect("servers[].timeouts.managesieve_command_timeouts.putscript", "managesieve")
