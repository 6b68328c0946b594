"""PostgreSQL and the object store go away while a node runs, and come back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.postgres.server import LocalServer
from tests.support.lineclient import LineClient, eventually
from tests.support.nodeprocess import NodeProcess

from .test_clients import client_context, strip_trace
from .test_crash import wait_until_uploaded

OTHER = "other@sora.localhost"  # nobody's mail has come yet: no address of it is in any memory
TIMEOUTS = '\n[database]\nquery_timeout = "2s"\nwrite_timeout = "2s"\nlock_timeout = "1s"\n'
# a statement's own time-out, the grace of the client for a silent server, and reading back the outcome
LONGEST_REPLY_S = 45.0


def message(number: int, size: int = 500) -> bytes:
    text = b"".join(b"line %d of message %d\r\n" % (n, number) for n in range(size // 25))
    return b"Subject: outage %d\r\nMessage-ID: <outage.%d@example.test>\r\n\r\n" % (number, number) + text


def start_delivery(node: NodeProcess, address: str) -> LineClient:
    """Up to the reply to RCPT, which has not been read yet."""
    client = LineClient(node.port("lmtp"))
    client.lmtp_reply()
    assert client.lmtp(b"LHLO client.example.test").startswith(b"250")
    assert client.lmtp(b"MAIL FROM:<sender@example.test>").startswith(b"250")
    client.send(b"RCPT TO:<%s>\r\n" % address.encode())
    return client


def finish_delivery(client: LineClient, mail: bytes) -> bytes:
    """The reply for the one recipient."""
    assert client.lmtp(b"DATA").startswith(b"354")
    client.send(mail + b".\r\n")
    return client.lmtp_reply()


def deliver(node: NodeProcess, address: str, mail: bytes) -> bytes:
    """The first reply that refuses, or the last."""
    with start_delivery(node, address) as client:
        rcpt = client.lmtp_reply()
        return rcpt if not rcpt.startswith(b"250") else finish_delivery(client, mail)


def imap(node: NodeProcess, port: str = "imaps") -> LineClient:
    client = LineClient(node.port(port), client_context(node) if port.endswith("s") else None)
    assert client.line().startswith(b"* OK")
    return client


def imap_login(node: NodeProcess, password: str | None = None) -> bytes:
    with imap(node) as client:
        return client.login(node.address, password or node.password)


def imap_inbox(node: NodeProcess) -> LineClient:
    client = imap(node)
    assert client.login(node.address, node.password).startswith(b"OK")
    assert client.imap(b"SELECT INBOX")[0].startswith(b"OK")
    return client


def pop3(node: NodeProcess) -> tuple[LineClient, bytes]:
    """A client and the answer to its password."""
    client = LineClient(node.port("pop3s"), client_context(node))
    assert client.line().startswith(b"+OK")
    assert client.pop3(b"USER " + node.address.encode()).startswith(b"+OK")
    return client, client.pop3(b"PASS " + node.password.encode())


def pop3_login(node: NodeProcess) -> bytes:
    client, answer = pop3(node)
    client.close()
    return answer


def stored(node: NodeProcess) -> list[bytes]:
    """All messages of the INBOX, without trace headers, sorted."""
    with imap_inbox(node) as client:
        status, lines = client.imap(b"UID FETCH 1:* (BODY.PEEK[])")
        assert status.startswith(b"OK"), status
        literals = [after for line, after in zip(lines, lines[1:], strict=False) if line.endswith(b"}")]
        return sorted(strip_trace(each) for each in literals)


def timed(action: Callable[[], bytes]) -> tuple[bytes, float]:
    started = time.monotonic()
    return action(), time.monotonic() - started


def all_at_once(actions: dict[str, Callable[[], bytes]]) -> dict[str, bytes]:
    """Each one's answer, which has to come in time."""
    with ThreadPoolExecutor(len(actions)) as pool:
        futures = {name: pool.submit(timed, action) for name, action in actions.items()}
        answers = {name: future.result() for name, future in futures.items()}
    print({name: round(took, 1) for name, (_, took) in answers.items()})
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
        lambda text: "".join(line for line in text.splitlines(True) if not line.startswith("postgres_path"))
        + TIMEOUTS
    )
    postgres = Postgres(node)
    postgres.start()
    try:
        asyncio.run(postgres.server.create_database("sora_mail_db"))
        with node:
            node.admin("accounts", "create", OTHER, "--password-hash", "{PLAIN}unused", check=False)
            yield node, postgres
            postgres.signal_all(signal.SIGCONT)
    finally:
        postgres.signal_all(signal.SIGCONT)
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

        if how == "killed":
            postgres.kill()
        else:
            postgres.signal_all(signal.SIGSTOP)
        retried = message(number * 10 + 1)
        actions = probes(node, retried, known)
        actions["STORE"] = lambda: session.imap(rb"STORE 1 +FLAGS (\Flagged)")[0]
        actions["QUIT"] = lambda: drop.pop3(b"QUIT")
        answers = all_at_once(actions)
        assert_all_temporary(answers)
        assert answers["STORE"].startswith(b"NO [UNAVAILABLE]"), answers
        assert answers["QUIT"].startswith(b"-ERR [SYS/TEMP]"), answers
        assert session.imap(b"NOOP")[0].startswith(b"OK")
        assert session.imap(b"FETCH 1 (FLAGS RFC822.SIZE)")[0].startswith(b"OK")  # from memory

        if how == "killed":
            postgres.start()
        else:
            postgres.signal_all(signal.SIGCONT)
        eventually(lambda: imap_login(node).startswith(b"OK"), patience_s=10)
        eventually(lambda: pop3_login(node).startswith((b"+OK", b"-ERR [IN-USE]")), patience_s=10)
        assert session.imap(rb"STORE 1 +FLAGS (\Flagged)")[0].startswith(b"OK")
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
                victims = children_named(node, name)
                assert victims
                for pid in victims:
                    signal_if_there(pid, signal.SIGKILL)
                eventually(lambda: set(children_named(node, name)) - set(victims))
                mail = message(101 + round_)
                eventually(lambda: deliver(node, node.address, mail).startswith(b"250"))
                wait_until_uploaded(node)
                assert session.imap(b"NOOP")[0].startswith(b"OK")
        assert stored(node) == sorted(message(100 + n) for n in range(4))
        log = (node.directory / "node.log").read_text()
        assert "the embedded PostgreSQL has ended: signal 9" in log
        assert "the embedded rclone runs again" in log


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
