"""A whole node with a real Postfix as its relay: reports, reload, operators, the queue of a lost node."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from imapclient import IMAPClient

from storage.errors import StagingFull
from storage.relayqueue import RelayQueue
from storage.relayspool import RelaySpool
from tests.support.authority import Authority
from tests.support.livenode import client_context, health_of
from tests.support.nodeprocess import NodeProcess, public_directory
from tests.support.postfix import Postfix, is_installed
from tests.support.waiting import eventually

from .test_metrics import METRICS, promtool, scrape
from .test_relay import find, is_empty, queue_of

MAIL = b"From: ann@near.test\r\nSubject: away\r\n\r\nhello\r\n"
RELAY = """
[relay]
type = "smtp"
smtp_host = "localhost:{port}"
smtp_use_starttls = true
smtp_tls_ca_file = "{ca}"
smtp_username = "node"
smtp_password = "{password}"
smtp_helo_host = "node.near.test"

[relay{dot}queue]
path = "{path}"
worker_interval = "1s"
retry_backoff = ["1s"]
max_attempts = {attempts}
circuit_breaker_threshold = {threshold}
circuit_breaker_timeout = "1h"
"""


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    directory = public_directory("authority-")
    yield Authority(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def mta(authority: Authority) -> Iterator[Postfix]:
    if not is_installed():
        pytest.skip("needs root and Debian's postfix; .ci/run installs it")
    with Postfix(
        tls=authority.issue("localhost"),
        logins={"node": "secret"},
        replies={"gone@far.test": "550 5.1.1 no such user"},
        parameters={"smtpd_relay_restrictions": "permit_sasl_authenticated, reject"},
    ) as mta:
        yield mta


def prepared(mta: Postfix, authority: Authority, **values: object) -> NodeProcess:
    """A node, not started yet, that relays to the MTA; ``values`` differ from the usual ones."""
    node = NodeProcess()
    usual: dict[str, object] = {"password": "secret", "attempts": 50, "threshold": 1000, "dot": "_"}
    fixed = {"port": mta.port, "ca": authority.file, "path": queue_of(node)}
    text = RELAY.format(**{**usual, **fixed, **values})
    return node.prepare(lambda config: config + text)


@pytest.fixture(scope="module")
def node(mta: Postfix, authority: Authority) -> Iterator[NodeProcess]:
    node = prepared(mta, authority)
    with (node.directory / "data" / "config.toml").open("a") as config:
        config.write(METRICS)
    with node:
        yield node


def submit(node: NodeProcess, *to: str, sender: str) -> str:
    """As a worker of the node does."""
    spool = RelaySpool(queue_of(node), time.time)
    spool.make_directories()
    return spool.submit(sender, to, MAIL, kind="redirect", account=None)


def inbox(node: NodeProcess) -> list[bytes]:
    with IMAPClient("localhost", port=node.port("imaps"), ssl_context=client_context(node)) as client:
        client.login(node.address, node.password)
        client.select_folder("INBOX", readonly=True)
        found = client.fetch(client.search(), ["BODY.PEEK[]"]).values()
    return [each[b"BODY[]"] for each in found]


def test_each_recipient_gets_it_or_its_sender_a_report(node: NodeProcess, mta: Postfix) -> None:
    name = submit(node, "one@far.test", "gone@far.test", "two@far.test", sender=node.address)
    eventually(lambda: find(node, name)[0] == "failed")
    mta.wait_until_empty()
    assert [len(mta.mails_to(f"{each}@far.test")) for each in ("one", "two", "gone")] == [1, 1, 0]
    assert b"from node.near.test" in mta.mails_to("one@far.test")[0].content
    assert b"Authenticated sender: node" in mta.mails_to("one@far.test")[0].content
    (raw,) = inbox(node)
    check_report(raw, "gone@far.test")


def test_a_sender_elsewhere_gets_the_report_by_the_relay(node: NodeProcess, mta: Postfix) -> None:
    submit(node, "gone@far.test", sender="carl@far.test")
    eventually(lambda: bool(mta.mails_to("carl@far.test")))
    eventually(lambda: is_empty(node))
    (mail,) = mta.mails_to("carl@far.test")
    assert mail.sender == ""
    check_report(mail.content, "gone@far.test")


def check_report(raw: bytes, recipient: str) -> None:
    """RFC 3464, as any mail program reads it."""
    report = message_from_bytes(raw, policy=policy.default)
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    _, status, original = report.iter_parts()
    of_message, of_recipient = status.get_payload()
    assert "Reporting-MTA" in of_message
    assert of_recipient["Final-Recipient"] == f"rfc822; {recipient}"
    assert (of_recipient["Action"], of_recipient["Status"]) == ("failed", "5.1.1")
    assert "550 5.1.1" in of_recipient["Diagnostic-Code"]
    assert "Subject: away" in original.as_string()


def test_figures(node: NodeProcess, mta: Postfix) -> None:
    """Those that the rules and the dashboard rest on; promtool has nothing against their form."""
    submit(node, "figures@far.test", sender="")
    eventually(lambda: is_empty(node))
    page = scrape(node)
    assert promtool("check", "metrics", stdin=page) == ""
    found = dict(line.rsplit(b" ", 1) for line in page.splitlines() if not line.startswith(b"#"))
    assert float(found[b'sora_relay_recipients_total{kind="redirect",result="taken"}']) >= 1
    assert found[b"sora_relay_breaker"] == b"0.0"
    assert found[b'sora_relay_messages{state="pending"}'] == b"0.0"
    assert float(found[b"sora_relay_duration_seconds_count"]) >= 1
    assert 0.0 <= float(found[b"sora_relay_fill_ratio"]) < 0.1
    assert float(found[b"sora_relay_full_total"]) == 0


def test_a_password_is_mended_by_a_reload(mta: Postfix, authority: Authority) -> None:
    """And the relay, left alone for an hour, is tried at once. In the other spelling of the queue's table."""
    with prepared(mta, authority, password="wrong", threshold=1, dot=".") as node:
        name = submit(node, "mended@far.test", sender="")
        eventually(lambda: find(node, name)[1] >= 1)
        stats = json.loads(node.admin("relay", "stats", "--json"))
        assert (stats["breaker"], stats["pending"]) == ("open", 1)
        assert "535" in stats["last_failure"]
        eventually(lambda: health_of(node, "relay") == "degraded")
        text = node.config.read_text().replace('"wrong"', '"secret"')
        node.config.write_text(
            text.replace('[relay]\ntype = "smtp"', '[relay]\ntype = "http"\nhttp_url = "http://x.test/"')
        )
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        eventually(lambda: "needs a restart: relay.type" in node.log)
        eventually(lambda: find(node, name)[0] == "gone")
        mta.wait_until_empty()
        assert len(mta.mails_to("mended@far.test")) == 1


def test_operators_of_a_node_that_runs_and_of_one_that_is_stopped(
    mta: Postfix, authority: Authority, tmp_path: Path
) -> None:
    node = prepared(mta, authority, attempts=1)
    node.start()
    kept = submit(node, "gone@far.test", sender="")
    removed = submit(node, "gone@far.test", sender="")
    eventually(lambda: {find(node, each)[0] for each in (kept, removed)} == {"failed"})
    running = [json.loads(node.admin("relay", "list", "--state", "failed", "--json"))]
    node.stop()
    try:
        running.append(json.loads(node.admin("relay", "list", "--state", "failed", "--json")))
        assert running[0] == running[1]
        assert sorted(each["id"] for each in running[0]) == sorted([kept, removed])
        assert "no such user" in node.admin("relay", "show", kept)
        assert json.loads(node.admin("relay", "delete", removed, "--json")) == [removed]
        assert json.loads(node.admin("relay", "retry", "--all-failed", "--json")) == [kept]
        stats = json.loads(node.admin("relay", "stats", "--json"))
        assert (stats["pending"], stats["failed"]) == (1, 0)
        with pytest.raises(RuntimeError, match="no message"):
            node.admin("relay", "show", removed)
        with pytest.raises(RuntimeError, match="this node's own"):
            node.admin("relay", "adopt", str(queue_of(node)))
        gone = RelayQueue(tmp_path / "gone", time.time)
        gone.open()
        gone.submit("", ["adopted@far.test"], b"Subject: x\r\n\r\nhello\r\n", kind="redirect", account=None)
        with pytest.raises(RuntimeError, match="another process uses"):
            node.admin("relay", "adopt", str(gone.root))
        gone.close()
        adopted = json.loads(node.admin("relay", "adopt", str(gone.root), "--json"))
        assert adopted == {"pending": 1, "failed": 0}
        mta.replies = {}
        mta.reload()
        with node:
            eventually(lambda: find(node, kept)[0] == "gone")
            mta.wait_until_empty()
            assert len(mta.mails_to("gone@far.test")) == 1
            eventually(lambda: len(mta.mails_to("adopted@far.test")) == 1)
    finally:
        mta.replies = {"gone@far.test": "550 5.1.1 no such user"}
        mta.reload()


def test_the_queue_of_a_node_that_was_killed_is_adopted(
    node: NodeProcess, mta: Postfix, authority: Authority
) -> None:
    """With what it was just relaying; while it lives it keeps its queue."""
    with prepared(mta, authority, password="wrong") as lost:
        names = [submit(lost, f"adopted{n}@far.test", sender="") for n in range(20)]
        eventually(lambda: any(find(lost, each)[1] for each in names))
        with pytest.raises(RuntimeError, match="another process uses"):
            node.admin("relay", "adopt", str(queue_of(lost)))
        lost.kill(children=True)
        answer = json.loads(node.admin("relay", "adopt", str(queue_of(lost)), "--json"))
        assert answer == {"pending": 20, "failed": 0}
        assert json.loads(node.admin("relay", "adopt", str(queue_of(lost)), "--json"))["pending"] == 0
        with pytest.raises(RuntimeError, match="this node's own"):
            node.admin("relay", "adopt", str(queue_of(node)))
        eventually(lambda: all(find(node, each)[0] == "gone" for each in names))
        mta.wait_until_empty()
        assert [len(mta.mails_to(f"adopted{n}@far.test")) for n in range(20)] == [1] * 20
        assert list(RelayQueue(queue_of(lost), time.time).entries()) == []


def test_a_disk_that_is_full(node: NodeProcess, mta: Postfix, tmp_path: Path) -> None:
    """A queue on a file system of 256 KB: what it takes is relayed, what it does not is refused, and nothing
    is left of that."""
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(root)], check=True)
    try:
        taken = fill(root)
        assert 3 < taken < 40
        queue = RelayQueue(root, time.time)
        assert len(queue.ids("pending")) == taken
        assert not [each for each in (root / "pending").iterdir() if each.name.startswith(".")]
        answer = json.loads(node.admin("relay", "adopt", str(root), "--json"))
        assert answer["pending"] == taken
        eventually(lambda: is_empty(node))
    finally:
        subprocess.run(["umount", str(root)], check=True)
    mta.wait_until_empty()
    assert len(mta.mails_to("full@far.test")) == taken


def fill(root: Path) -> int:
    """How many it took."""
    spool = RelaySpool(root, time.time)
    spool.make_directories()
    for count in range(1000):
        try:
            spool.submit("", ["full@far.test"], MAIL + b"x\r\n" * 3000, kind="redirect", account=None)
        except StagingFull:
            return count
    raise AssertionError("it is never full")
