"""LMTP of a whole node with real clients: swaks as a proxy (XCLIENT), confirmations by a relay (DSN)."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from email import message_from_bytes, policy

import pytest

from tests.interop.conftest import needs
from tests.support.lineclient import LineClient
from tests.support.livenode import imap_inbox
from tests.support.nodeprocess import NodeProcess
from tests.support.relaysection import relay_section
from tests.support.smtpsink import SmtpSink

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[NodeProcess, SmtpSink]]:
    """127.0.0.1 is trusted, and no other address of this machine."""
    needs("smtp-sink")
    with SmtpSink() as sink:
        node = NodeProcess()
        section = relay_section(sink.port, node.directory / "data" / "relay")
        head = 'trusted_networks = ["127.0.0.1/32"]\n'
        with node.prepare(lambda text: head + text + section) as running:
            yield running, sink


def swaks(node: NodeProcess, *options: str) -> subprocess.CompletedProcess[bytes]:
    base = ["swaks", "--protocol", "LMTP", "--server", "127.0.0.1", "--port", str(node.port("lmtp"))]
    base += ["--from", "a@far.example", "--to", node.address, *options]
    return subprocess.run(base, capture_output=True, timeout=PATIENCE_S, check=False)


def last_message(node: NodeProcess) -> bytes:
    with imap_inbox(node) as client:
        status, lines = client.imap(b"FETCH * BODY.PEEK[]")
        assert status.startswith(b"OK")
        return max(lines, key=len)


def test_swaks_speaks_for_a_client(site: tuple[NodeProcess, SmtpSink]) -> None:
    needs("swaks")
    node, _ = site
    told = ("--xclient-addr", "203.0.113.9", "--xclient-name", "client.far.example")
    helo = ("--xclient-helo", "hi.far.example", "--xclient-proto", "ESMTP", "--xclient-port", "4711")
    done = swaks(node, *told, *helo, "--header", "Subject: told")
    assert done.returncode == 0, done.stdout
    message = last_message(node)
    assert b"Received: from hi.far.example (client.far.example [203.0.113.9])" in message
    assert b"a proxy speaks for this client" in node.log.encode()
    assert "203.0.113.9" in node.log


def test_swaks_with_an_ipv6_client_in_two_commands_and_tls(site: tuple[NodeProcess, SmtpSink]) -> None:
    needs("swaks")
    node, _ = site
    done = swaks(
        node, "--tls", "--xclient-addr", "IPV6:2001:db8::7", "--xclient-delim", "--xclient-helo", "six"
    )
    assert done.returncode == 0, done.stdout
    assert b"Received: from six ([2001:db8::7])" in last_message(node)


def test_others_may_not(site: tuple[NodeProcess, SmtpSink]) -> None:
    node, _ = site
    with LineClient(node.port("lmtp"), source="127.0.0.2") as client:
        client.lmtp_reply()
        assert b"XCLIENT" not in client.lmtp(b"LHLO x")
        assert client.lmtp(b"XCLIENT ADDR=203.0.113.9") == client.lmtp(b"FROBNICATE")


def test_the_list_of_connections_has_the_client(site: tuple[NodeProcess, SmtpSink]) -> None:
    node, _ = site
    with LineClient(node.port("lmtp")) as client:
        client.lmtp_reply()
        assert client.lmtp(b"XCLIENT ADDR=203.0.113.77 PORT=99").startswith(b"220 ")
        listed = json.loads(node.admin("connections", "list", "--protocol", "lmtp", "--json"))
        assert "203.0.113.77" in json.dumps(listed)


def test_a_confirmation_goes_out_by_the_relay(site: tuple[NodeProcess, SmtpSink]) -> None:
    node, sink = site
    with LineClient(node.port("lmtp")) as client:
        client.lmtp_reply()
        assert client.lmtp(b"LHLO x").startswith(b"250 ")
        assert client.lmtp(b"MAIL FROM:<a@far.example> RET=HDRS ENVID=e+2B1").startswith(b"250")
        rcpt = b"RCPT TO:<%s> NOTIFY=SUCCESS ORCPT=rfc822;old@far.example" % node.address.encode()
        assert client.lmtp(rcpt).startswith(b"250")
        assert client.lmtp(b"DATA").startswith(b"354")
        client.send(b"Subject: confirm me\r\n\r\nbody\r\n.\r\n")
        assert client.lmtp_reply().startswith(b"250")
    raw = taken(sink, b"Subject: Your message was delivered")
    report = message_from_bytes(raw[raw.index(b"From: Mail Delivery") :], policy=policy.default)
    assert report.get_content_type() == "multipart/report"
    for line in (
        *(b"Original-Envelope-Id: e+1", b"Original-Recipient: rfc822; old@far.example"),
        *(b"Final-Recipient: rfc822; " + node.address.encode(), b"Action: delivered", b"Subject: confirm me"),
    ):
        assert line in raw
    assert b"<a@far.example>" in raw


def taken(sink: SmtpSink, mark: bytes) -> bytes:
    """What the sink took and has ``mark`` in it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = [raw for path in sink.directory.iterdir() if mark in (raw := path.read_bytes())]
        if found and found[0].rstrip().endswith(b"--"):
            return found[0]
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)
