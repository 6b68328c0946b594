"""PostgreSQL and the object store go away while a node runs, and come back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.quickstart import BUCKET
from node.rclone import RcloneServer
from storage.postgres.server import LocalServer
from tests.support.corpus import strip_trace
from tests.support.lineclient import LineClient
from tests.support.livenode import (
    deliver,
    finish_delivery,
    imap_inbox,
    imap_login,
    message,
    pop3,
    pop3_login,
    start_delivery,
    stored,
)
from tests.support.nodeprocess import NodeProcess
from tests.support.sieveeditor import SieveEditor
from tests.support.waiting import eventually

from .conftest import SECRET_HASH

OTHER = "other@sora.localhost"  # nobody's mail has come yet: no address of it is in any memory
TIMEOUTS = '\n[database]\nquery_timeout = "2s"\nwrite_timeout = "2s"\nlock_timeout = "1s"\n'
# a statement's own time-out, the grace of the client for a silent server, and reading back the outcome
LONGEST_REPLY_S = 45.0


def timed(action: Callable[[], bytes]) -> tuple[bytes, float]:
    started = time.monotonic()
    return action(), time.monotonic() - started


def all_at_once(actions: dict[str, Callable[[], bytes]]) -> dict[str, bytes]:
    """Each one's answer, which has to come in time."""
    with ThreadPoolExecutor(len(actions)) as pool:
        futures = {name: pool.submit(timed, action) for name, action in actions.items()}
        answers = {name: future.result() for name, future in futures.items()}
    late = {name: answer for name, answer in answers.items() if answer[1] > LONGEST_REPLY_S}
    assert not late
    return {name: answer for name, (answer, _) in answers.items()}


# --- PostgreSQL ------------------------------------------------------------------------------------


class Postgres:
    """The database of a node that does not start it itself."""

    def __init__(self, node: NodeProcess) -> None:
        directory = node.directory / "data"
        password = (directory / "postgres.password").read_text()
        self.server = LocalServer(directory / "postgres", password)

    def start(self) -> None:
        asyncio.run(self.server.start())

    def stop(self) -> None:
        asyncio.run(self.server.stop())

    def processes(self) -> list[int]:
        assert self.server.pid is not None
        return [self.server.pid, *self.server._remnants()]

    def signal_all(self, number: int) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def kill(self) -> None:
        self.signal_all(signal.SIGKILL)
        eventually(lambda: not self.server.is_running)


@contextmanager
def node_beside_its_database() -> Iterator[tuple[NodeProcess, Postgres]]:
    node = NodeProcess().prepare(
        lambda text: (
            "".join(line for line in text.splitlines(True) if not line.startswith("postgres_path")) + TIMEOUTS
        )
    )
    postgres = Postgres(node)
    postgres.start()
    try:
        asyncio.run(postgres.server.create_database("sora_mail_db"))
        with node:
            node.admin("accounts", "create", OTHER, "--password-hash", SECRET_HASH)
            try:
                yield node, postgres
            finally:
                postgres.signal_all(signal.SIGCONT)
    finally:
        postgres.stop()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[NodeProcess, Postgres]]:
    with node_beside_its_database() as both:
        yield both


def probes(node: NodeProcess, mail: bytes, known: LineClient) -> dict[str, Callable[[], bytes]]:
    """What outsiders may ask for while the database is away; ``known`` has had its RCPT accepted."""
    return {
        "RCPT": lambda: deliver(node, OTHER, mail),
        "DATA": lambda: finish_delivery(known, mail),
        "LOGIN": lambda: imap_login(node),
        "LOGIN, wrong password": lambda: imap_login(node, "wrong"),
        "PASS": lambda: pop3_login(node),
    }


def assert_all_temporary(answers: dict[str, bytes]) -> None:
    assert answers["RCPT"].startswith(b"451 4.3.0"), answers
    assert answers["DATA"].startswith(b"451 4.3.0"), answers
    assert answers["LOGIN"].startswith(b"NO [UNAVAILABLE]"), answers
    assert answers["LOGIN, wrong password"].startswith(b"NO [UNAVAILABLE]"), answers
    assert answers["PASS"].startswith(b"-ERR [SYS/TEMP]"), answers


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_postgres_away_is_temporary_and_heals_without_a_restart(
    pair: tuple[NodeProcess, Postgres], how: str
) -> None:
    node, postgres = pair
    number = 1 if how == "killed" else 2
    before = stored(node)
    assert deliver(node, node.address, message(number * 10)).startswith(b"250")
    with imap_inbox(node) as session, imap_inbox(node) as idling, start_delivery(node, node.address) as known:
        assert known.lmtp_reply().startswith(b"250")
        idling.send(b"i IDLE\r\n")
        assert idling.line().startswith(b"+ ")
        drop, answer = pop3(node)
        assert answer.startswith(b"+OK")
        assert drop.pop3(b"DELE 1").startswith(b"+OK")
        editor = SieveEditor(node, node.address, node.password)

        if how == "killed":
            postgres.kill()
        else:
            postgres.signal_all(signal.SIGSTOP)
        retried = message(number * 10 + 1)
        actions = probes(node, retried, known)
        actions["STORE"] = lambda: session.imap(rb"STORE 1 +FLAGS (\Flagged)")[0]
        actions["QUIT"] = lambda: drop.pop3(b"QUIT")
        actions["PUTSCRIPT"] = lambda: editor.ask(b'PUTSCRIPT "a" "keep;"\r\n')[0]
        answers = all_at_once(actions)
        assert_all_temporary(answers)
        assert answers["STORE"].startswith(b"NO [UNAVAILABLE]"), answers
        assert answers["QUIT"].startswith(b"-ERR [SYS/TEMP]"), answers
        assert answers["PUTSCRIPT"].startswith(b"NO (TRYLATER)"), answers
        assert session.imap(b"NOOP")[0].startswith(b"OK")
        assert session.imap(b"FETCH 1 (FLAGS RFC822.SIZE)")[0].startswith(b"OK")  # from memory

        if how == "killed":
            postgres.start()
        else:
            postgres.signal_all(signal.SIGCONT)
        eventually(lambda: imap_login(node).startswith(b"OK"))
        eventually(lambda: pop3_login(node).startswith((b"+OK", b"-ERR [IN-USE]")))
        assert session.imap(rb"STORE 1 +FLAGS (\Flagged)")[0].startswith(b"OK")
        assert editor.ask(b'PUTSCRIPT "a" "keep;"\r\n')[0].startswith(b"OK")
        editor.close()
        # the MTA comes again with what was refused, over the connection it has
        assert known.lmtp(b"MAIL FROM:<sender@example.test>").startswith(b"250")
        assert known.lmtp(b"RCPT TO:<%s>" % node.address.encode()).startswith(b"250")
        assert finish_delivery(known, retried).startswith(b"250")
        heard = []
        while not any(line.endswith(b"EXISTS") for line in heard):
            heard.append(idling.line())
        drop.close()
    assert stored(node) == sorted([*before, message(number * 10), retried])


def test_embedded_servers_that_die_are_started_again() -> None:
    with NodeProcess(("--s3", "rclone")) as node:
        with imap_inbox(node) as session:
            assert deliver(node, node.address, message(100)).startswith(b"250")
            for round_, name in enumerate(("postgres", "rclone", "postgres")):
                kill_until_replaced(node, name)
                deliver_at_last(node, message(101 + round_))
                node.wait_until_uploaded()
                assert session.imap(b"NOOP")[0].startswith(b"OK")
        assert stored(node) == sorted(message(100 + n) for n in range(4))
        log = (node.directory / "node.log").read_text()
        assert "the embedded PostgreSQL has ended: signal 9" in log
        assert "the embedded rclone runs again" in log


def kill_until_replaced(node: NodeProcess, name: str) -> None:
    victims = children_named(node, name)
    assert victims
    for pid in victims:
        signal_if_there(pid, signal.SIGKILL)
    eventually(lambda: set(children_named(node, name)) - set(victims))


def deliver_at_last(node: NodeProcess, mail: bytes) -> None:
    eventually(lambda: deliver(node, node.address, mail).startswith(b"250"))


def children_named(node: NodeProcess, name: str) -> list[int]:
    return [pid for pid in node.children() if name_of(pid).startswith(name)]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def signal_if_there(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


# --- the object store ------------------------------------------------------------------------------


S3_EDITS = (
    ("[s3]\n", '[s3]\ntimeout = "2s"\nretries = 1\n'),
    ('capacity = "1gb"', 'capacity = "0"'),
)


class Rclone:
    """The S3 server of a node that does not start it itself."""

    def __init__(self, node: NodeProcess) -> None:
        data = node.directory / "data"
        settings = tomllib.loads((data / "config.toml").read_text())["s3"]
        port = int(settings["endpoint"].rpartition(":")[2])
        secret = (data / "s3.secret").read_text()
        self.server = RcloneServer(data / "objects", port, settings["access_key"], secret)

    def start(self) -> None:
        asyncio.run(self.server.start(BUCKET))
        self.pid = int((self.server.directory.parent / "rclone.pid").read_text())

    def stop(self) -> None:
        asyncio.run(self.server.stop())

    def signal(self, number: int) -> None:
        signal_if_there(self.pid, number)


@contextmanager
def node_beside_its_object_store(
    edits: Sequence[tuple[str, str]] = (),
) -> Iterator[tuple[NodeProcess, Rclone]]:
    """``edits`` are replacements in the config.toml."""

    def edit(text: str) -> str:
        for old, new in (*S3_EDITS, *edits):
            assert old in text
            text = text.replace(old, new)
        return "".join(line for line in text.splitlines(True) if not line.startswith("rclone_path"))

    node = NodeProcess().prepare(edit, s3="rclone")
    rclone = Rclone(node)
    rclone.start()
    try:
        with node:
            try:
                yield node, rclone
            finally:
                rclone.signal(signal.SIGCONT)
    finally:
        rclone.stop()


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_s3_away_keeps_mail_flowing_and_drains_by_itself(how: str) -> None:
    old = [message(number, 2000) for number in range(3)]
    new = [message(number, 2000) for number in range(10, 40)]
    with node_beside_its_object_store() as (node, rclone):
        for mail in old:
            assert deliver(node, node.address, mail).startswith(b"250")
        node.wait_until_uploaded()
        node.stop()  # what was just delivered is in memory otherwise
        node.start()
        if how == "killed":
            rclone.signal(signal.SIGKILL)
        else:
            rclone.signal(signal.SIGSTOP)
        for mail in new:
            assert deliver(node, node.address, mail).startswith(b"250")
        with imap_inbox(node) as session:
            status, lines = session.imap(b"FETCH 1 (BODY.PEEK[])")
            assert status.startswith(b"NO [UNAVAILABLE]"), (status, lines)
            assert not any(b"BODY[]" in line for line in lines)
            status, lines = session.imap(b"FETCH 4 (BODY.PEEK[])")
            assert status.startswith(b"OK")
            assert strip_trace(lines[1]) == new[0]
            assert session.imap(b"FETCH 1:* (ENVELOPE BODY.PEEK[HEADER])")[0].startswith(b"OK")
        drop, answer = pop3(node)
        with drop:
            assert answer.startswith(b"+OK")
            status, text = drop.pop3_lines(b"RETR 2")
            assert status.startswith(b"-ERR [SYS/TEMP]")
            status, text = drop.pop3_lines(b"RETR 5")
            assert strip_trace(text) == new[1]
            assert drop.pop3(b"QUIT").startswith(b"+OK")
        # the uploader has met the fault by now
        eventually(lambda: "uploads pause" in (node.directory / "node.log").read_text())
        attempts = asyncio.run(attempts_of_staged(node))
        assert len(attempts) == len(new)
        assert not any(attempts)
        if how == "killed":
            rclone.start()
        else:
            rclone.signal(signal.SIGCONT)
        node.wait_until_uploaded()
        assert stored(node) == sorted([*old, *new])


async def attempts_of_staged(node: NodeProcess) -> list[int]:
    connection = await Postgres(node).server.connect("sora_mail_db")
    try:
        return [row["attempts"] for row in await connection.fetch("SELECT attempts FROM staged_contents")]
    finally:
        await connection.close()
