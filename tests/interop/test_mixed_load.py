"""Two workers under a mixed load of real clients: killing a worker, reloading, blocking and kicking do what
they say and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.interop.test_clients import mbsync_config
from tests.interop.test_privileges import reload
from tests.interop.test_processes import METRICS, are_replaced, boot, command, two_workers, workers
from tests.support.corpus import strip_trace
from tests.support.lineclient import LineClient
from tests.support.livenode import client_context, deliver, message
from tests.support.nodeprocess import NodeProcess
from tests.support.waiting import PATIENCE_S, seconds_until

from .conftest import PASSWORD, SECRET_HASH, needs

DOMAIN = "interop.example.test"
READ, SYNCED, KICKED, STAYS, BLOCKED = (
    f"{name}@{DOMAIN}" for name in ("read", "synced", "kicked", "stays", "blocked")
)
# what each session comes from
SOURCES = {KICKED: "127.0.3.1", STAYS: "127.0.3.2", BLOCKED: "127.0.3.66"}
CLIENT_S = 60


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    def edit(text: str) -> str:
        return re.sub(
            r'(?m)^(name = "(?:imaps|pop3s)")$',
            r"\1\nauth_rate_limit = { exempt_networks = [] }",
            two_workers(text) + METRICS,
        )

    with NodeProcess().prepare(edit) as running:
        for address in (READ, SYNCED, KICKED, STAYS, BLOCKED):
            running.admin("accounts", "create", address, "--password-hash", SECRET_HASH)
        yield running


@dataclass
class Load:
    """Real clients, each in a thread that starts it again and again."""

    node: NodeProcess
    directory: Path
    acked: list[str] = field(default_factory=list)  # subjects of messages that swaks brought
    runs: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, float, float, str]] = field(default_factory=list)  # who, from, to, what
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=each) for each in (self._swaks, self._mbsync, self._curl)]
        for each in threads:
            each.start()
        try:
            yield
        finally:
            self._stop.set()
            for each in threads:
                each.join(CLIENT_S)

    def wait_for_more(self, rounds: int = 2) -> None:
        """Until each client has run so often again."""
        before = self.runs.copy()
        seconds_until(
            lambda: all(self.runs[who] >= before[who] + rounds for who in ("swaks", "mbsync", "curl")),
            5 * CLIENT_S,
        )

    def _again(self, who: str, once: Callable[[], list[str]], done: Callable[[], None]) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            ran = subprocess.run(once(), capture_output=True, timeout=CLIENT_S, check=False)
            if ran.returncode == 0:
                done()
            else:
                said = (ran.stdout + ran.stderr)[-400:].decode("utf-8", "replace")
                self.failures.append((who, began, time.monotonic(), said))
            self.runs[who] += 1

    def _swaks(self) -> None:
        program = needs("swaks")
        number = 0

        def once() -> list[str]:
            nonlocal number
            number += 1
            server = ["--server", "127.0.0.1", "--port", str(self.node.port("lmtp")), "--protocol", "LMTP"]
            mail = ["--from", "a@example.test", "--header", f"Subject: mixed {number}.", "--body", "hello"]
            return [program, *server, *mail, "--to", SYNCED, *(["--tls"] if number % 2 else [])]

        self._again("swaks", once, lambda: self.acked.append(f"mixed {number}."))

    def _mbsync(self) -> None:
        config = mbsync_config(self.node, SYNCED, self.directory)
        self._again("mbsync", lambda: [needs("mbsync"), "-c", str(config), "all"], lambda: None)

    def _curl(self) -> None:
        common = [needs("curl"), "--silent", "--show-error", "--cacert", str(self.node.certificate)]
        login = ["--user", f"{READ}:{PASSWORD}"]
        urls = [
            f"imaps://localhost:{self.node.port('imaps')}/INBOX;UID=1",
            f"pop3s://localhost:{self.node.port('pop3s')}/1",
            f"imap://localhost:{self.node.port('imap')}/INBOX;UID=1",
        ]
        turn = 0

        def once() -> list[str]:
            nonlocal turn
            turn += 1
            return [*common, *login, "--ssl-reqd", urls[turn % 3]]

        self._again("curl", once, lambda: None)


def session_of(node: NodeProcess, user: str) -> LineClient:
    client = LineClient(node.port("imaps"), client_context(node), source=SOURCES[user])
    assert client.line().startswith(b"* OK")
    assert client.login(user, PASSWORD).startswith(b"OK")
    assert client.imap(b"SELECT INBOX")[0].startswith(b"OK")
    return client


def spread_sessions(node: NodeProcess) -> dict[str, list[LineClient]]:
    """Of each user, at least one in each worker."""
    found: dict[str, list[LineClient]] = {}
    for user in (KICKED, STAYS, BLOCKED):
        found[user] = []
        places: set[str] = set()
        while len(places) < 2:
            found[user].append(session_of(node, user))
            listed = command(node, "connections.list", user=user)["connections"]
            places = {boot(each["session"]) for each in listed}
            assert len(found[user]) < 30
    return found


def lives(client: LineClient) -> bool:
    try:
        return client.imap(b"NOOP")[0].startswith(b"OK")
    except (OSError, AssertionError):
        return False


def connects(node: NodeProcess, source: str) -> bool:
    try:
        with LineClient(node.port("imaps"), client_context(node), source=source) as client:
            return client.line().startswith(b"* OK")
    except OSError:
        return False


def figure(node: NodeProcess, name: str, *labels: str) -> float:
    """The sum over all series of that name with these labels."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{node.port('figures')}/metrics", timeout=PATIENCE_S
    ) as page:
        lines = page.read().decode().splitlines()
    found = [line for line in lines if line.startswith(name + "{") and all(each in line for each in labels)]
    assert found, name
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_killing_reloading_blocking_and_kicking_do_what_they_say_and_nothing_else(
    node: NodeProcess, tmp_path: Path
) -> None:
    assert deliver(node, READ, message(1)).startswith(b"250")
    load = Load(node, tmp_path)
    with load.running():
        load.wait_for_more()
        assert not load.failures
        sessions = spread_sessions(node)
        broken = kill_a_worker(node, load, sessions)
        load.wait_for_more()
        assert figure(node, "sora_worker_failures_total", 'worker="process"') == 1
        assert all(lives(client) for clients in sessions.values() for client in clients)
        since = len(load.failures)

        reload_a_limit(node, load, sessions)
        block_an_address(node, load, sessions)
        kick_a_user(node, load, sessions)
        load.wait_for_more()
        assert load.failures[since:] == []
    assert load.failures == broken
    no_mail_is_lost(node, load, tmp_path)
    for clients in sessions.values():
        for client in clients:
            client.close()
    seconds_until(lambda: not command(node, "connections.list")["connections"], PATIENCE_S)
    assert figure(node, "sora_sessions") == 0
    delivered = ("sora_deliveries_total", 'result="2xx"')
    before = figure(node, *delivered)
    assert deliver(node, READ, message(2)).startswith(b"250")
    assert figure(node, *delivered) == before + 1
    assert figure(node, "sora_session_bugs_total") == 0
    assert "Traceback" not in node.log


def kill_a_worker(
    node: NodeProcess, load: Load, sessions: dict[str, list[LineClient]]
) -> list[tuple[str, float, float, str]]:
    """Its sessions end, those of the other live. The clients that failed meanwhile."""
    victim = next(iter(workers(node).values()))
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    seconds_until(lambda: are_replaced(node, {victim}), PATIENCE_S)
    replaced = time.monotonic()
    print(f"replaced after {replaced - killed:.2f} s")
    load.wait_for_more()
    broken = list(load.failures)
    for who, began, ended, said in broken:
        assert began < replaced, (who, said)
        assert ended > killed, (who, said)
    for user, clients in sessions.items():
        alive = [client for client in clients if lives(client)]
        assert 0 < len(alive) < len(clients)
        listed = {each["port"] for each in command(node, "connections.list", user=user)["connections"]}
        assert listed == {client.socket.getsockname()[1] for client in alive}
        sessions[user] = alive
    refill = spread_sessions(node)
    for user, clients in refill.items():
        sessions[user] += clients
    return broken


def reload_a_limit(node: NodeProcess, load: Load, sessions: dict[str, list[LineClient]]) -> None:
    """A new limit per address for new connections of one server; nobody is put out."""
    source = SOURCES[STAYS]
    have = len(sessions[STAYS])
    assert connects(node, source)
    text = node.config.read_text()
    limit = f"max_connections_per_ip = {have}"
    node.config.write_text(re.sub(r'(?m)^(name = "imaps")$', rf"\1\n{limit}", text))
    assert "max_connections_per_ip" in reload(node)
    seconds_until(lambda: not connects(node, source), PATIENCE_S)
    refused = ("sora_connections_refused_total", 'server="imaps"', 'reason="max_connections_per_ip"')
    before = figure(node, *refused)
    for _ in range(6):  # whichever worker accepts
        assert not connects(node, source)
    assert figure(node, *refused) - before == 6
    assert all(lives(client) for clients in sessions.values() for client in clients)
    assert connects(node, "127.0.3.99")
    node.config.write_text(text)
    assert "max_connections_per_ip" in reload(node)
    seconds_until(lambda: connects(node, source), PATIENCE_S)
    load.wait_for_more()


def block_an_address(node: NodeProcess, load: Load, sessions: dict[str, list[LineClient]]) -> None:
    """It is kept out of all workers, its sessions and all other addresses are not touched."""
    source = SOURCES[BLOCKED]
    refused = ("sora_connections_refused_total", 'server="imaps"', 'reason="blocked"')
    before = figure(node, *refused)
    node.admin("blocks", "add", source, "--reason", "test")
    seconds_until(lambda: not connects(node, source), PATIENCE_S)
    for _ in range(6):
        assert not connects(node, source)
    assert figure(node, *refused) - before >= 7
    (block,) = json.loads(node.admin("blocks", "list", "--json"))
    assert block["subject"].startswith(source)
    load.wait_for_more()
    assert all(lives(client) for clients in sessions.values() for client in clients)
    for other in (SOURCES[STAYS], SOURCES[KICKED], "127.0.3.67"):
        assert connects(node, other)
    node.admin("blocks", "remove", source)
    seconds_until(lambda: connects(node, source), PATIENCE_S)


def kick_a_user(node: NodeProcess, load: Load, sessions: dict[str, list[LineClient]]) -> None:
    """His sessions end, in both workers and with a word; he may come back, others notice nothing."""
    answer = node.admin("connections", "kick", "--user", KICKED)
    assert str(len(sessions[KICKED])) in answer
    for client in sessions.pop(KICKED):
        assert client.line().startswith(b"* BYE")
        client.close()
    assert all(lives(client) for clients in sessions.values() for client in clients)
    sessions[KICKED] = [session_of(node, KICKED)]
    load.wait_for_more()


def no_mail_is_lost(node: NodeProcess, load: Load, directory: Path) -> None:
    """What swaks was told was taken is there once, and mbsync has it. There may be what it was not told."""
    with LineClient(node.port("imaps"), client_context(node)) as client:
        assert client.line().startswith(b"* OK")
        assert client.login(SYNCED, PASSWORD).startswith(b"OK")
        assert client.imap(b"SELECT INBOX")[0].startswith(b"OK")
        _, lines = client.imap(b"FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    subjects = Counter(
        found[1].decode() for line in lines for found in re.finditer(rb"Subject: (mixed \d+\.)", line)
    )
    assert len(load.acked) > 10
    assert set(load.acked) <= set(subjects)
    assert max(subjects.values()) == 1
    assert len(subjects) <= len(load.acked) + sum(who == "swaks" for who, *_ in load.failures)
    subprocess.run(
        [needs("mbsync"), "-c", str(directory / "mbsyncrc"), "all"], check=True, capture_output=True
    )
    copies = [path for part in ("cur", "new") for path in (directory / "mail/INBOX" / part).iterdir()]
    assert len(copies) == len(subjects)
    assert all(b"hello" in strip_trace(path.read_bytes()) for path in copies)
    shutil.rmtree(directory / "mail")
