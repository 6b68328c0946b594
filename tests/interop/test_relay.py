"""A whole node that relays to Postfix's smtp-sink: refusals at each step, kill -9, and operators."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from imapclient import IMAPClient

from storage.errors import NotFound
from storage.relayqueue import RelayQueue
from storage.relayspool import RelaySpool
from tests.interop.conftest import needs
from tests.support.livenode import client_context
from tests.support.nodeprocess import NodeProcess
from tests.support.relaysection import undeterred
from tests.support.smtpsink import SmtpSink
from tests.support.waiting import eventually

PATIENCE_S = 60.0
CONCURRENCY = 5


def relaying(sink: SmtpSink, *, attempts: int = 50) -> NodeProcess:
    """A node, not started yet, that relays to the sink."""
    needs("smtp-sink")
    node = NodeProcess()
    text = undeterred(sink.port, queue_of(node), max_attempts=attempts, concurrency=CONCURRENCY)
    return node.prepare(lambda config: config + text)


def queue_of(node: NodeProcess) -> Path:
    return node.directory / "data" / "relay"


def submit(node: NodeProcess, mark: str, *, sender: str = "") -> str:
    """As a worker of the node does."""
    message = f"X-Mark: {mark}\r\nSubject: x\r\n\r\nhello\r\n.\r\n".encode()
    spool = RelaySpool(queue_of(node), time.time)
    spool.make_directories()
    return spool.submit(sender, ["to@far.test"], message, kind="redirect", account=None)


def find(node: NodeProcess, name: str) -> tuple[str, int]:
    """State and attempts; ``gone`` when it is not in the queue."""
    try:
        state, _, message = RelayQueue(queue_of(node), time.time).look(name)
    except NotFound:
        return "gone", 0
    return state, message.progress.attempts


def is_empty(node: NodeProcess) -> bool:
    """Nothing is on its way any more."""
    root = queue_of(node)
    return not any(
        path
        for state in ("pending", "processing")
        for path in (root / state).iterdir()
        if path.name[0] != "."
    )


def test_mail_is_relayed_once_over_kill_9() -> None:
    count, kills = 1_500, 3
    with SmtpSink() as sink:
        node = relaying(sink)
        for n in range(count):
            submit(node, f"m{n}")
        with node:
            for _ in range(kills):
                enough = len(sink.marks()) + 50
                eventually(lambda wanted=enough: len(sink.marks()) > wanted)  # type: ignore[misc]
                node.kill(children=True)
                assert len(sink.marks()) < count, "it was over before the last kill"
                node.start()
            eventually(lambda: is_empty(node))
        marks = sink.marks()
    assert set(marks) == {f"m{n}" for n in range(count)}
    again = sum(marks.values()) - count
    assert again <= kills * CONCURRENCY, f"{again} sent again over {kills} kills"


@pytest.fixture(scope="module")
def steps() -> Iterator[tuple[SmtpSink, NodeProcess]]:
    needs("smtp-sink")
    with SmtpSink() as sink, relaying(sink) as node:
        yield sink, node


@pytest.mark.parametrize(
    "options",
    [
        "-r MAIL",
        "-r RCPT",
        "-r DATA",
        "-r .",
        "-r CONNECT",
        "-f CONNECT",
        "-f EHLO",
        "-q MAIL",
        "-q DATA",
        "-Q RCPT",
    ],
)
def test_what_may_be_tried_again_is(steps: tuple[SmtpSink, NodeProcess], options: str) -> None:
    sink, node = steps
    mark = options.replace(" ", "")
    sink.stop()
    sink.start(*options.split())
    name = submit(node, mark, sender=node.address)
    eventually(lambda: find(node, name)[1] >= 1)
    sink.stop()
    assert sink.marks()[mark] == 0 or options.endswith(".")  # it dumps what it refuses at the end, too
    sink.forget()
    sink.start()
    eventually(lambda: find(node, name)[0] == "gone")
    assert sink.marks()[mark] == 1


@pytest.mark.parametrize("options", ["-f MAIL", "-f RCPT", "-f DATA", "-f ."])
def test_what_is_refused_is_reported_once(steps: tuple[SmtpSink, NodeProcess], options: str) -> None:
    sink, node = steps
    mark = options.replace(" ", "")
    sink.stop()
    sink.start(*options.split())
    name = submit(node, mark, sender=node.address)
    eventually(lambda: find(node, name)[0] == "failed")
    sink.stop()
    sink.forget()
    sink.start()
    assert reports(node, mark) == 1
    node.admin("relay", "retry", name)
    eventually(lambda: find(node, name)[0] == "gone")
    assert sink.marks()[mark] == 1
    assert reports(node, mark) == 1


def reports(node: NodeProcess, mark: str) -> int:
    with IMAPClient("localhost", port=node.port("imaps"), ssl_context=client_context(node)) as client:
        client.login(node.address, node.password)
        client.select_folder("INBOX", readonly=True)
        found = client.fetch(client.search(), ["BODY.PEEK[]"]).values()
    return sum(f"X-Mark: {mark}\r\n".encode() in each[b"BODY[]"] for each in found)


def test_operators(steps: tuple[SmtpSink, NodeProcess]) -> None:
    sink, node = steps
    sink.stop()
    name = submit(node, "operators")
    eventually(lambda: find(node, name)[1] >= 1)
    (listed,) = [each for each in json.loads(node.admin("relay", "list", "--json")) if each["id"] == name]
    assert listed["recipients"] == 1
    shown = node.admin("relay", "show", name)
    assert "X-Mark: operators" in shown
    assert "Connect" in shown
    assert json.loads(node.admin("relay", "stats", "--json"))["pending"] >= 1
    health = json.loads(node.admin("health", "--json", check=False))
    assert "relay" in [each["name"] for each in health["components"]]
    node.admin("relay", "delete", name)
    assert find(node, name)[0] == "gone"
    sink.start()


def test_the_queue_of_a_lost_node_is_adopted(steps: tuple[SmtpSink, NodeProcess], tmp_path: Path) -> None:
    sink, node = steps
    spool = RelaySpool(tmp_path / "lost", time.time)
    spool.make_directories()
    spool.submit("", ["to@far.test"], b"X-Mark: adopted\r\n\r\n", kind="redirect", account=None)
    assert "1 to be relayed" in node.admin("relay", "adopt", str(tmp_path / "lost"))
    eventually(lambda: sink.marks()["adopted"] == 1)
