"""One Postfix in front of a node (LMTP) and behind it (relay): mail that goes on, fails, or has to wait."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.nodeprocess import ROOT, NodeProcess
from tests.support.postfix import Postfix, is_installed
from tests.support.relaysection import relay_section
from tests.support.waiting import eventually

from .conftest import SECRET_HASH
from .test_relay import is_empty, queue_of
from .test_sieve import put

DOMAIN = "near.test"


@pytest.fixture(scope="module")
def mta() -> Iterator[Postfix]:
    if not is_installed():
        pytest.skip("needs root and Debian's postfix; .ci/run installs it")
    with Postfix(replies={"gone@far.test": "550 5.1.1 no such user"}) as mta:
        yield mta


@pytest.fixture(scope="module")
def node(mta: Postfix) -> Iterator[NodeProcess]:
    node = NodeProcess()
    text = relay_section(
        mta.port,
        queue_of(node),
        max_messages=3,
        circuit_breaker_threshold=1,
        circuit_breaker_timeout="5s",
    )
    with node.prepare(lambda config: config + text):
        mta.lmtp = {DOMAIN: node.port("lmtp")}
        mta.reload()
        yield node


def account(node: NodeProcess, name: str, script: str) -> str:
    address = f"{name}@{DOMAIN}"
    node.admin("accounts", "create", address, "--password-hash", SECRET_HASH)
    put(node, address, "main", script)
    node.admin("sieve", "activate", address, "main")
    return address


def message(mark: str) -> bytes:
    return f"From: c@far.test\r\nSubject: {mark}\r\nMessage-ID: <{mark}@far.test>\r\n\r\nhello\r\n".encode()


def settle(node: NodeProcess, mta: Postfix) -> None:
    """Until neither has anything on its way: what one gives the other may come back."""
    eventually(lambda: not mta.queue() and is_empty(node) and not mta.queue())


def test_what_is_redirected_arrives_once_and_what_fails_is_reported(node: NodeProcess, mta: Postfix) -> None:
    on = account(node, "on", 'require "copy"; redirect :copy "there@far.test"; redirect "here@far.test";')
    dead = account(node, "dead", 'redirect "gone@far.test";')
    mta.send("carl@far.test", [on, dead], message("both"))
    settle(node, mta)
    eventually(lambda: len(mta.mails_to("carl@far.test")) == 1)
    counts = [len(mta.mails_to(f"{each}@far.test")) for each in ("there", "here", "gone")]
    assert counts == [1, 1, 0]
    (report,) = mta.mails_to("carl@far.test")
    assert report.sender == ""
    assert b"multipart/report" in report.content
    assert b"550 5.1.1" in report.content


def test_a_queue_that_is_full_puts_mail_off_and_nothing_is_lost(node: NodeProcess, mta: Postfix) -> None:
    """452 for what the queue has no room for: the mail waits at the MTA and comes when there is room."""
    address = account(node, "many", 'redirect "all@far.test";')
    text = node.config.read_text()
    node.config.write_text(text.replace(f"127.0.0.1:{mta.port}", "127.0.0.1:1"))  # nobody listens there
    assert json.loads(node.admin("relay", "stats", "--json"))["pending"] == 0
    reload(node)
    for n in range(6):
        mta.send("carl@far.test", [address], message(f"m{n}"))
    eventually(lambda: waiting(mta, "452"))
    stats = json.loads(node.admin("relay", "stats", "--json"))
    assert stats["pending"] + stats["processing"] == 3
    assert mta.mails_to("all@far.test") == []
    node.config.write_text(text)
    reload(node)
    settle(node, mta)
    found = sorted(each.content.partition(b"Subject: ")[2][:2] for each in mta.mails_to("all@far.test"))
    assert found == [b"m0", b"m1", b"m2", b"m3", b"m4", b"m5"]


def reload(node: NodeProcess) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node", "reload", "--config", str(node.config), "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(done.stdout)["applied"] == ["relay.smtp_host"]


def waiting(mta: Postfix, code: str) -> bool:
    """Three messages are queued there, each as it was told so."""
    reasons = [each["recipients"][0].get("delay_reason", "") for each in mta.queue()]
    return len(reasons) == 3 and all(code in each for each in reasons)
