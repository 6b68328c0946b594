"""A whole node with limits on, and clients from several addresses of the loopback network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from node.admin import main
from node.app import Node
from node.config import AuthRateLimit
from node.control import control_path
from storage.postgres.settings import DatabaseSettings

from .test_app import ADDRESS, PASSWORD, configure, port

ATTACKER, HONEST, OTHER = "127.0.0.2", "127.0.1.3", "127.0.2.4"
# nobody is exempt, not even the loopback addresses these clients come from; no waiting in tests
LIMITS = AuthRateLimit(
    exempt_networks=(), initial_delay_s=0, max_attempts_per_ip_username=3, max_attempts_per_ip=8
)
CLI_CONFIG = """
control_socket = "{socket}"
[database.write]
[s3]
driver = "file"
path = "/nowhere"
"""


@pytest_asyncio.fixture
async def node(tmp_path: Path, pg_settings: DatabaseSettings) -> AsyncIterator[Node]:
    config = configure(tmp_path, pg_settings)
    servers = tuple(replace(server, auth_rate_limit=LIMITS) for server in config.servers)
    running = Node(replace(config, servers=servers))
    await running.start()
    await running.ensure_account(ADDRESS, PASSWORD)
    (tmp_path / "cli.toml").write_text(CLI_CONFIG.format(socket=control_path(running.config)))
    yield running
    await running.stop()


class Client:
    """One connection from a chosen address; lines in, lines out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, node: Node, server: str, ip: str) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port(node, server), local_addr=(ip, 0)))

    async def say(self, *lines: str) -> bytes:
        """The reply to the last of these lines; each of them gets one."""
        reply = b""
        for line in lines:
            self.writer.write(line.encode() + b"\r\n")
            reply = await self.reader.readline()
        return reply

    async def close(self) -> None:
        self.writer.close()


async def imap_login(node: Node, ip: str, user: str, password: str) -> bytes:
    client = await Client.open(node, "imap", ip)
    greeting = await client.reader.readline()
    reply = await client.say(f'a LOGIN "{user}" "{password}"') if greeting.startswith(b"* OK") else greeting
    await client.close()
    return reply


async def imap_authenticate(node: Node, ip: str, user: str, password: str) -> bytes:
    import base64

    client = await Client.open(node, "imap", ip)
    await client.reader.readline()
    plain = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    reply = await client.say(f"a AUTHENTICATE PLAIN {plain}")
    await client.close()
    return reply


async def pop3_login(node: Node, ip: str, user: str, password: str) -> bytes:
    client = await Client.open(node, "pop3", ip)
    greeting = await client.reader.readline()
    reply = await client.say(f"USER {user}", f"PASS {password}") if greeting.startswith(b"+OK") else greeting
    await client.close()
    return reply


LOGINS = [imap_login, imap_authenticate, pop3_login]


@pytest.mark.parametrize("login", LOGINS)
async def test_unknown_wrong_and_blocked_get_the_same_reply(node: Node, login: object) -> None:
    assert callable(login)
    wrong = await login(node, ATTACKER, ADDRESS, "wrong")
    assert await login(node, ATTACKER, "nobody@example.test", "wrong") == wrong
    assert b"OK" not in wrong
    for n in range(2):
        assert await login(node, ATTACKER, ADDRESS, f"guess {n}") == wrong
    assert [block.rule for block in node.guards.limiter.blocks(node.guards.clock())] == ["user"]
    assert await login(node, ATTACKER, ADDRESS, PASSWORD) == wrong
    assert b"OK" in await login(node, HONEST, ADDRESS, PASSWORD)


@pytest.mark.parametrize("login", LOGINS)
async def test_line_of_a_login_names_server_and_session(
    node: Node, login: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of the session's own lines, so that one can be found from the other."""
    assert callable(login)
    caplog.set_level("INFO")
    await login(node, ATTACKER, ADDRESS, "wrong")
    await login(node, ATTACKER, ADDRESS, PASSWORD)
    fields = [each.fields for each in caplog.records if each.name == "sora.authn"]
    by_session = {each.fields["session"]: each.fields for each in caplog.records if "logged in" in each.msg}
    refused, accepted = fields
    assert accepted["session"] != refused["session"] != ""
    for name in ("ip", "protocol", "server", "user"):
        assert accepted[name] == by_session[accepted["session"]][name]
        assert accepted[name] == refused[name] != ""


async def test_protocols_count_together(node: Node) -> None:
    for n, login in enumerate(LOGINS):
        await login(node, ATTACKER, ADDRESS, f"guess {n}")
    for login in LOGINS:
        assert b"OK" not in await login(node, ATTACKER, ADDRESS, PASSWORD)


async def test_a_blocked_address_is_turned_away_at_the_door(node: Node, tmp_path: Path) -> None:
    for n in range(8):
        await imap_login(node, ATTACKER, f"user{n}@example.test", "guess")
    full = b"* BYE [UNAVAILABLE] Too many connections, try again later\r\n"
    assert await imap_login(node, ATTACKER, ADDRESS, PASSWORD) == full
    assert (await pop3_login(node, ATTACKER, ADDRESS, PASSWORD)).startswith(b"-ERR [SYS/TEMP]")
    client = await Client.open(node, "imaps", ATTACKER)  # no handshake is spent on it
    assert await client.reader.read() == b""
    await client.close()
    mta = await Client.open(node, "lmtp", ATTACKER)
    assert (await mta.reader.readline()).startswith(b"220")  # nobody logs in there
    await mta.close()
    assert {each.server.name: each.refused_as_blocked for each in node.listeners} == {
        "imap": 1,
        "pop3": 1,
        "imaps": 1,
        "lmtp": 0,
    }
    assert b"OK" in await imap_login(node, HONEST, ADDRESS, PASSWORD)
    why = (await admin(node, tmp_path, "blocks", "why", ATTACKER)).stdout
    assert "It is refused as soon as it connects." in why
    assert "counted 8 failed logins within 30m" in why
    assert (await admin(node, tmp_path, "blocks", "remove", ATTACKER)).exit_code == 0
    assert b"OK" in await imap_login(node, ATTACKER, ADDRESS, PASSWORD)


async def test_open_sessions_go_on_while_their_address_is_blocked(node: Node) -> None:
    client = await Client.open(node, "imap", ATTACKER)
    await client.reader.readline()
    assert b"a OK" in await client.say(f'a LOGIN "{ADDRESS}" "{PASSWORD}"')
    for n in range(8):
        await pop3_login(node, ATTACKER, f"user{n}@example.test", "guess")
    assert b"OK" not in await pop3_login(node, ATTACKER, "user9@example.test", "guess")
    assert b"b OK" in await client.say("b NOOP")
    assert b"OK" in await imap_login(node, ATTACKER, ADDRESS, PASSWORD)  # familiar there
    await client.close()


async def test_probes_that_connect_and_leave_never_count(node: Node) -> None:
    for server in ("imap", "pop3", "lmtp") * 10:
        client = await Client.open(node, server, ATTACKER)
        await client.reader.readline()
        await client.close()
    assert set(node.guards.limiter.sizes.values()) == {0}


async def admin(node: Node, tmp_path: Path, *arguments: str) -> Result:
    command = ["--config", str(tmp_path / "cli.toml"), *arguments]
    result = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


async def test_operators_see_explain_and_end_blocks(node: Node, tmp_path: Path) -> None:
    assert (await admin(node, tmp_path, "blocks", "list")).stdout == "nothing is blocked\n"
    for n in range(3):
        await imap_login(node, ATTACKER, ADDRESS, f"guess {n}")
    (block,) = json.loads((await admin(node, tmp_path, "blocks", "list", "--json")).stdout)
    assert (block["subject"], block["user"], block["rule"], block["count"]) == (ATTACKER, ADDRESS, "user", 3)
    shown = (await admin(node, tmp_path, "blocks", "list")).stdout
    assert ATTACKER in shown
    assert "failures of one user" in shown
    why = (await admin(node, tmp_path, "blocks", "why", ATTACKER)).stdout
    assert f"{ATTACKER} is refused as user {ADDRESS} since" in why
    assert "Rule max_attempts_per_ip_username of auth_rate_limit counted 3 wrong passwords within 10m" in why
    assert "3 failed logins that count here" in why
    assert f'exempt_networks = ["{ATTACKER}"]' in why
    removed = await admin(node, tmp_path, "blocks", "remove", ATTACKER, "--user", ADDRESS)
    assert removed.stdout == f"{ATTACKER} as {ADDRESS} is not blocked any more\n"
    assert b"OK" in await imap_login(node, ATTACKER, ADDRESS, PASSWORD)
    assert (await admin(node, tmp_path, "blocks", "remove", ATTACKER)).exit_code == 3


async def test_operators_block_addresses_and_networks(node: Node, tmp_path: Path) -> None:
    added = await admin(node, tmp_path, "blocks", "add", "127.0.0.0/24", "--for", "7d", "--reason", "spam")
    assert added.stdout == "127.0.0.0/24 is blocked for 7d\n"
    for login in LOGINS:
        assert b"OK" not in await login(node, ATTACKER, ADDRESS, PASSWORD)
    assert b"OK" in await imap_login(node, HONEST, ADDRESS, PASSWORD)
    why = (await admin(node, tmp_path, "blocks", "why", ATTACKER)).stdout
    assert "127.0.0.0/24 is refused since" in why
    assert "An operator blocked it on node" in why
    assert '"spam"' in why
    hint = await admin(node, tmp_path, "blocks", "remove", ATTACKER)
    assert (hint.exit_code, "127.0.0.0/24 is: remove that" in hint.stderr) == (3, True)
    assert (await admin(node, tmp_path, "blocks", "remove", "127.0.0.0/24")).exit_code == 0
    assert b"OK" in await pop3_login(node, ATTACKER, ADDRESS, PASSWORD)


IMPOSSIBLE = [
    (("add", "10.0.0.0/8"), 2, "too wide"),
    (("add", "nonsense"), 2, "neither an address nor a network"),
    (("add", "192.0.2.1", "--for", "soon"), 2, "not a duration"),
    (("add", "192.0.2.1", "--for", "0"), 2, "longer than nothing"),
    (("why", "192.0.2.0/24"), 2, "no IP address"),
    (("remove", "192.0.2.1"), 3, "not blocked"),
]


async def test_what_cannot_be_done_says_why(node: Node, tmp_path: Path) -> None:
    for arguments, exit_code, message in IMPOSSIBLE:
        result = await admin(node, tmp_path, "blocks", *arguments)
        assert result.exit_code == exit_code, arguments
        assert message in result.stderr


async def test_status_shows_servers_and_connections(node: Node, tmp_path: Path) -> None:
    client = await Client.open(node, "imap", HONEST)
    await client.reader.readline()
    status = json.loads((await admin(node, tmp_path, "status", "--json")).stdout)
    counts = {each["name"]: each["connections"] for each in status["listeners"]}
    assert counts == {"imap": 1, "imaps": 0, "pop3": 0, "lmtp": 0}
    assert status["staging"]["staged"] == 0
    assert status["uptime_s"] >= 0
    shown = (await admin(node, tmp_path, "status")).stdout
    assert "CONNECTIONS" in shown
    assert "waits for upload:" in shown
    await client.close()


async def test_without_a_node_the_message_says_so(tmp_path: Path) -> None:
    (tmp_path / "cli.toml").write_text(CLI_CONFIG.format(socket=tmp_path / "control.sock"))
    command = ["--config", str(tmp_path / "cli.toml"), "blocks", "list"]
    result = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert result.exit_code == 5
    assert "no node is running here" in result.stderr
