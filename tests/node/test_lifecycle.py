"""Reloading and draining a whole node on real PostgreSQL: sessions stay; what takes effect, what does not."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner

from node.admin import main as admin
from node.app import Node
from node.cli import cli
from node.commands.load import read_again
from node.composition import Composition
from node.config import Config, Loaded
from node.config.model import Server
from node.config.serverparts import Limits
from node.control import ask, control_path
from node.loginguard import Guards
from node.run import serve
from node.searches import Searches
from protocols.imap.searchpace import SearchPace, SearchRate, TooManySearches
from storage.model import AccountId
from storage.postgres.settings import DatabaseSettings
from tests.support.lmtp import LmtpClient
from tls.selfsigned import self_signed

from .test_app import ADDRESS, PASSWORD, Imap, configuration_text, port


@dataclass
class Running:
    node: Composition
    path: Path
    systemd: socket.socket
    is_drained: bool = False
    open: list[asyncio.StreamWriter] = field(default_factory=list)

    def edit(self, old: str, new: str) -> None:
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))

    @property
    def guards(self) -> Guards:
        return self.node.guards if isinstance(self.node, Node) else self.node.hub.guards

    async def reload(self) -> dict[str, Any]:
        outcome = await asyncio.to_thread(ask, control_path(self.node.config), "reload")
        assert isinstance(outcome, dict)
        return outcome

    async def told(self, state: bytes) -> None:
        """Wait until systemd was told this."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while not (await loop.sock_recv(self.systemd, 1000)).startswith(state):
                pass


@pytest.fixture
def more() -> str:
    """Of the config.toml."""
    return ""


@pytest_asyncio.fixture(params=[1, 2], ids=["one process", "two workers"])
async def running(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    pg_settings: DatabaseSettings,
    monkeypatch: pytest.MonkeyPatch,
    more: str,
) -> AsyncIterator[Running]:
    path = tmp_path / "config.toml"
    path.write_text(f"workers = {request.param}\n{configuration_text(tmp_path, pg_settings)}{more}")
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "notify"))
    systemd.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    root, sora = logging.getLogger(), logging.getLogger("sora")
    before = root.handlers[:], root.level, sora.level
    started: asyncio.Future[Composition] = asyncio.get_running_loop().create_future()

    async def ready(node: Any) -> None:
        await node.ensure_account(ADDRESS, PASSWORD)
        started.set_result(node)

    serving = asyncio.create_task(serve(_config(read_again(path)), ready, lambda: read_again(path)))
    await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    found = Running(await started, path, systemd)
    await found.told(b"READY=1")
    yield found
    for writer in found.open:
        writer.close()
    if not found.is_drained:
        os.kill(os.getpid(), signal.SIGTERM)
    assert await serving == 0
    await found.told(b"STOPPING=1")
    systemd.close()
    root.handlers[:], root.level = before[0], before[1]
    sora.setLevel(before[2])


def _config(loaded: Loaded) -> Config:
    assert loaded.config is not None, loaded.problems
    return loaded.config


async def test_settings_come_into_force_and_sessions_stay(running: Running, tmp_path: Path) -> None:
    client = await Imap.open(running.node)
    await client.login()
    log = tmp_path / "reloaded.log"
    running.edit("max_connections = 0", "max_connections = 1\nlisten_backlog = 9")
    more = f'\n[logging]\noutput = "{log}"\nlevel = "debug"\n[cleanup]\ngrace_period = "3d"\n'
    running.path.write_text(running.path.read_text() + more)
    outcome = await running.reload()
    assert outcome["ok"]
    assert set(outcome["applied"]) == {
        *("logging.output", "logging.level", "cleanup.grace_period", "servers.imap.max_connections"),
    }
    assert outcome["needs_restart"] == ["servers.imap.listen_backlog"]
    assert b" OK " in await client.command("NOOP")
    greetings = [await greeting(running) for _ in range(running.node.config.workers)]
    assert any(each.startswith(b"* BYE") for each in greetings)  # each process takes one
    assert running.node.background.cleaner.settings.grace == timedelta(days=3)
    assert "servers.imap.listen_backlog" in log.read_text()
    again = await running.reload()
    assert (again["applied"], again["needs_restart"]) == ([], ["servers.imap.listen_backlog"])
    client.writer.close()


async def greeting(running: Running) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(running.node, "imap"))
    running.open.append(writer)
    return await reader.readline()


async def test_limits_by_address_and_trusted_networks(running: Running) -> None:
    client = await Imap.open(running.node)
    running.edit('name = "imap"\n', 'name = "imap"\nmax_connections_per_ip = 1\n')
    assert (await running.reload())["ok"]
    assert (await greeting(running)).startswith(b"* BYE")
    running.path.write_text('trusted_networks = ["127.0.0.0/8"]\n' + running.path.read_text())
    assert (await running.reload())["applied"] == ["trusted_networks"]
    assert (await greeting(running)).startswith(b"* OK")
    client.writer.close()


async def test_rate_limits(running: Running) -> None:
    running.edit('name = "imap"\n', 'name = "imap"\nauth_rate_limit = { max_attempts_per_ip = 7 }\n')
    outcome = await running.reload()
    assert outcome["applied"] == ["servers.imap.auth_rate_limit.max_attempts_per_ip"]
    rules = {name: guard.rules.address_failures for name, guard in running.guards}
    assert rules["imap"] == 7
    assert rules["pop3"] != 7


async def test_another_certificate(running: Running, tmp_path: Path) -> None:
    trusts_old = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    client = await Imap.open(running.node, trusts_old)
    for name, content in zip(("cert2", "key2"), self_signed(["localhost"], datetime.now(UTC)), strict=True):
        (tmp_path / f"{name}.pem").write_bytes(content)
    running.edit("/cert.pem", "/cert2.pem")
    running.edit("/key.pem", "/key2.pem")
    outcome = await running.reload()
    assert outcome["applied"] == ["tls.cert_file", "tls.key_file"]
    assert b" OK " in await client.command("NOOP")
    newcomer = await Imap.open(running.node, ssl.create_default_context(cafile=str(tmp_path / "cert2.pem")))
    with pytest.raises(ssl.SSLCertVerificationError):
        await Imap.open(running.node, trusts_old)
    for each in (client, newcomer):
        each.writer.close()


METRICS = """
[[servers]]
type = "metrics"
name = "figures"
addr = "127.0.0.1:0"
tls = true
"""


def page(node: Composition, path: str, trusted: Path) -> int:
    """The HTTP status. Raises URLError for a certificate that is not trusted."""
    url = f"https://localhost:{port(node, 'figures')}{path}"
    context = ssl.create_default_context(cafile=str(trusted))
    try:
        with urllib.request.urlopen(url, timeout=60, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("more", [METRICS])
async def test_another_certificate_of_the_metrics_server(running: Running, tmp_path: Path) -> None:
    old, new = tmp_path / "cert.pem", tmp_path / "cert2.pem"
    assert await asyncio.to_thread(page, running.node, "/healthz", old) == 200
    for name, content in zip(("cert2", "key2"), self_signed(["localhost"], datetime.now(UTC)), strict=True):
        (tmp_path / f"{name}.pem").write_bytes(content)
    running.edit("/cert.pem", "/cert2.pem")
    running.edit("/key.pem", "/key2.pem")
    assert (await running.reload())["ok"]
    assert await asyncio.to_thread(page, running.node, "/healthz", new) == 200
    with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
        await asyncio.to_thread(page, running.node, "/healthz", old)


SESSION_SETTINGS = """append_limit = "3mb"
command_timeout = "31m"
absolute_session_timeout = "1h"
min_bytes_per_minute = -1
disabled_caps = ["IDLE"]
id_name = "Other"
insecure_auth = true
limits = { search_rate_limit_per_min = 1, session_memory_limit = "1mb" }
timeouts.imap_command_timeouts.search = "1m"
client_filters = [{ client_name = "^Bad$", disable_caps = ["MOVE"] }]
"""


async def test_settings_of_sessions_hold_for_new_ones(running: Running) -> None:
    old = await Imap.open(running.node)
    await old.login()
    running.edit('name = "imap"\n', f'name = "imap"\n{SESSION_SETTINGS}')
    running.edit('name = "lmtp"\n', 'name = "lmtp"\nmax_message_size = "2mb"\n')
    running.path.write_text(f'memory_limit = "64mb"\n{running.path.read_text()}')
    outcome = await running.reload()
    expected = {line.split(" =")[0] for line in SESSION_SETTINGS.splitlines()} - {"limits"}
    expected |= {"limits.search_rate_limit_per_min", "limits.session_memory_limit"}
    named = {f"servers.imap.{key}" for key in expected} | {"servers.lmtp.max_message_size", "memory_limit"}
    assert set(outcome["applied"]) == named
    assert outcome["needs_restart"] == []
    new = await Imap.open(running.node)
    await new.login()
    said = {name: await each.command("CAPABILITY") for name, each in (("old", old), ("new", new))}
    assert b"APPENDLIMIT=3145728" in said["new"]
    assert b" IDLE" not in said["new"]
    assert b"APPENDLIMIT=26214400" in said["old"]  # what it was told holds as long as it lasts
    assert b" IDLE" in said["old"]
    assert b'"Other"' in await new.command("ID NIL")
    assert b" MOVE" in said["new"]
    await new.command('ID ("name" "Bad")')
    assert b" MOVE" not in await new.command("CAPABILITY")
    mta = await LmtpClient.connect("127.0.0.1", port(running.node, "lmtp"))
    assert (await mta.deliver(b"Subject: a\r\n\r\nb\r\n", [ADDRESS]))[0][0] == 250
    await mta.close()
    await new.command("SELECT INBOX")
    searches = [await new.command('SEARCH BODY "x"') for _ in range(2)]
    assert [b"[LIMIT]" in each for each in searches] == [False, True]
    reader, writer = await asyncio.open_connection("127.0.0.1", port(running.node, "lmtp"))
    writer.write(b"LHLO client\r\n")
    lines = b""
    while b"250 " not in lines:
        lines += await reader.readline()
    assert b"SIZE 2097152" in lines
    for each in (old.writer, new.writer, writer):
        each.close()


async def test_searches_obey_a_configuration_that_was_read_again_and_go_on_counting() -> None:
    def limited(most: int) -> Config:
        return Config(
            servers=(Server(type="imap", name="imap", limits=Limits(search_rate_limit_per_min=most)),)
        )

    searches = Searches(limited(1), clock=lambda: 0.0)
    await searches.begin("imap", AccountId(1))
    searches.obey(limited(2))
    await searches.begin("imap", AccountId(1))
    with pytest.raises(TooManySearches):
        await searches.begin("imap", AccountId(1))
    searches.obey(limited(0))
    await searches.begin("imap", AccountId(1))


def test_searches_of_a_reload_that_lifts_the_limit_go_on_counting() -> None:
    pace = SearchPace(SearchRate(2, 60.0))
    account = AccountId(1)
    pace.begin(account, 0.0)
    pace.begin(account, 1.0)
    pace.rate = SearchRate(3, 60.0)
    pace.begin(account, 2.0)
    pace.rate = SearchRate(1, 60.0)
    with pytest.raises(TooManySearches, match="in 58 seconds"):  # the youngest of three counts
        pace.begin(account, 4.0)
    pace.rate = None
    pace.begin(account, 5.0)


def break_syntax(running: Running) -> None:
    running.path.write_text("max_connections = [\n" + running.path.read_text())


def break_two_values(running: Running) -> None:
    running.edit("max_connections = 0", 'max_connections = "many"\ncommand_timeout = "soon"')


def break_certificate(running: Running) -> None:
    expired = self_signed(["localhost"], datetime.now(UTC) - timedelta(days=10_000))
    for name, content in zip(("old", "old-key"), expired, strict=True):
        (running.path.parent / f"{name}.pem").write_bytes(content)
    running.edit("/cert.pem", "/old.pem")
    running.edit("/key.pem", "/old-key.pem")


def break_log_file(running: Running) -> None:
    running.edit('hostname = "mail.example.test"', f'logging.output = "{running.path}/below/a.log"')


def remove_file(running: Running) -> None:
    running.path.unlink()


@pytest.mark.parametrize(
    ("damage", "errors"),
    [
        (break_syntax, 1),
        (break_two_values, 2),
        (break_certificate, 1),
        (break_log_file, 1),
        (remove_file, 1),
    ],
)
async def test_a_file_that_cannot_be_used_changes_nothing(
    running: Running, caplog: pytest.LogCaptureFixture, damage: Callable[[Running], None], errors: int
) -> None:
    caplog.set_level(logging.INFO, logger="sora")
    path, config = control_path(running.node.config), running.node.config
    running.edit("max_connections = 0", "max_connections = 0\nmax_connections_per_ip = 1")  # good by itself
    damage(running)
    handlers = logging.getLogger().handlers[:]
    outcome = await asyncio.to_thread(ask, path, "reload")
    assert not outcome["ok"]
    assert outcome["applied"] == []
    found = [each["text"] for each in outcome["problems"] if each["severity"] == "error"]
    assert len(found) == errors
    for text in found:
        assert text in caplog.text
    assert running.node.config is config
    assert running.node.core.config is config
    assert logging.getLogger().handlers == handlers
    client = await Imap.open(running.node)
    await client.login()
    client.writer.close()


async def test_sighup_and_command_line(running: Running) -> None:
    running.edit('name = "imap"\n', 'name = "imap"\nmax_connections_per_user = 1\n')
    os.kill(os.getpid(), signal.SIGHUP)
    await running.told(b"RELOADING=1")
    await running.told(b"READY=1")
    client = await Imap.open(running.node)
    await client.login()
    other = await Imap.open(running.node)
    assert b"NO [LIMIT]" in await other.command(f'LOGIN {ADDRESS} "{PASSWORD}"')
    running.edit("max_connections_per_user = 1", "max_connections_per_user = 2")
    done = await asyncio.to_thread(sora_node, running.path, "--json")
    assert json.loads(done.output)["applied"] == ["servers.imap.max_connections_per_user"]
    assert done.exit_code == 0
    assert b" OK " in await other.command(f'LOGIN {ADDRESS} "{PASSWORD}"')
    done = await asyncio.to_thread(sora_node, running.path)
    assert "Applied: nothing new" in done.output
    where = control_path(running.node.config)
    break_two_values(running)
    done = await asyncio.to_thread(sora_node, running.path, "--socket", str(where))
    assert done.exit_code == 2
    assert "max_connections" in done.output
    assert "Nothing was changed." in done.output
    done = await asyncio.to_thread(sora_node, running.path, "--json")  # the file does not say where to ask
    assert done.exit_code == 2
    assert not json.loads(done.output)["ok"]
    for each in (client, other):
        each.writer.close()


def sora_node(path: Path, *arguments: str) -> Any:
    return CliRunner().invoke(cli, ["reload", "--config", str(path), *arguments])


def test_no_node_runs(tmp_path: Path) -> None:
    done = sora_node(tmp_path / "config.toml", "--socket", str(tmp_path / "control.sock"))
    assert done.exit_code == 5


async def test_status_is_a_command_of_both_programs(running: Running) -> None:
    arguments = ["status", "--config", str(running.path), "--json"]
    answers = [await asyncio.to_thread(CliRunner().invoke, each, arguments) for each in (cli, admin)]
    names = [[each["name"] for each in json.loads(done.output)["listeners"]] for done in answers]
    assert names[0] == names[1] == ["imap", "imaps", "pop3", "lmtp"]


async def drain(running: Running, within: str) -> dict[str, Any]:
    running.is_drained = True
    arguments = ["drain", "--config", str(running.path), "--json", "--within", within]
    done = await asyncio.to_thread(CliRunner().invoke, cli, arguments)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.output)
    assert isinstance(answer, dict)
    return answer


async def test_a_node_drains_until_the_last_session_has_gone(running: Running) -> None:
    client = await Imap.open(running.node)
    await client.login()
    assert (await drain(running, "1h"))["sessions"] == 1
    assert b" OK " in await client.command("NOOP")
    with pytest.raises(ConnectionRefusedError):
        await greeting(running)
    path = control_path(running.node.config)
    health = await asyncio.to_thread(ask, path, "health")
    assert health["status"] == "down"  # which is what /readyz refuses by
    assert len((await asyncio.to_thread(ask, path, "status"))["listeners"]) == 4
    await client.command("LOGOUT")  # the node ends now, see the fixture
    client.writer.close()


@pytest.mark.parametrize("more", [METRICS])
async def test_balancers_are_told_of_a_drain_and_of_its_end(running: Running, tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    assert await asyncio.to_thread(page, running.node, "/readyz", cert) == 200
    client = await Imap.open(running.node)
    await client.login()
    await drain(running, "1h")
    assert await asyncio.to_thread(page, running.node, "/readyz", cert) == 503
    assert await asyncio.to_thread(page, running.node, "/healthz", cert) == 200
    await drain(running, "2h")  # only the time changes
    done = await undo(running)
    assert (done.exit_code, json.loads(done.output)) == (0, {"sessions": 1})
    running.is_drained = False
    assert await asyncio.to_thread(page, running.node, "/readyz", cert) == 200
    greetings = [await greeting(running) for _ in range(4)]
    assert {each[:4] for each in greetings} == {b"* OK"}
    assert b" OK " in await client.command("NOOP")
    again = await undo(running)
    assert again.exit_code != 0
    assert "not draining" in again.output
    client.writer.close()


async def undo(running: Running) -> Any:
    arguments = ["drain", "--undo", "--config", str(running.path), "--json"]
    return await asyncio.to_thread(CliRunner().invoke, cli, arguments)


async def test_a_drain_that_cannot_be_taken_back_goes_on(running: Running) -> None:
    client = await Imap.open(running.node)
    await drain(running, "1h")
    with socket.create_server(("127.0.0.1", port(running.node, "lmtp"))):  # somebody was quick
        done = await undo(running)
        assert done.exit_code != 0
        assert "goes on draining: server lmtp: cannot listen" in done.output
        with pytest.raises(ConnectionRefusedError):
            await greeting(running)
    assert (await undo(running)).exit_code == 0
    running.is_drained = False
    assert (await greeting(running)).startswith(b"* OK")
    client.writer.close()


async def test_a_drain_has_an_end(running: Running) -> None:
    client = await Imap.open(running.node)
    assert (await drain(running, "1s"))["within_s"] == 1
    assert (await client.reader.readline()).startswith(b"* BYE")
    client.writer.close()


def test_a_drain_wants_a_duration(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["drain", "--config", str(tmp_path / "config.toml"), "--within", "soon"])
    assert done.exit_code == 2
    assert "--within" in done.output
