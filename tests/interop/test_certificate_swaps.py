"""A node with two workers changes its certificate while clients are connected."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.lineclient import LineClient
from tests.support.nodeprocess import NodeProcess
from tls.observing import observe
from tls.selfsigned import self_signed

CONNECTIONS = 200
SWAPS = 10
SEEN_WITHIN_S = 60.0  # each of them; files are looked at once a second, and the test prints what it took


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess().prepare(lambda text: text.replace("workers = 1\n", "workers = 2\n")) as node:
        yield node


def lenient() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def replace_pair(node: NodeProcess) -> bytes:
    """The new leaf, as DER. Non-atomically, as most programs do it: first one file, then the other."""
    chain, key = self_signed(["localhost", "127.0.0.1"], datetime.now(UTC))
    for path, content in ((node.certificate, chain), (Path(node.ready["key"]), key)):
        fresh = path.with_suffix(".fresh")
        fresh.write_bytes(content)
        os.replace(fresh, path)
    return ssl.PEM_cert_to_DER_cert(chain.decode())


def served(node: NodeProcess, port: str = "imaps") -> bytes:
    with (
        socket.create_connection(("127.0.0.1", node.port(port)), 30) as raw,
        lenient().wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        leaf = wrapped.getpeercert(binary_form=True)
    assert leaf is not None
    return leaf


def test_ten_swaps_in_a_row_harm_no_open_connection(node: NodeProcess) -> None:
    with ExitStack() as stack:
        clients = []
        for _ in range(CONNECTIONS):
            client = LineClient(node.port("imaps"), lenient())
            stack.callback(client.socket.close)
            assert client.line().startswith(b"* OK")
            clients.append(client)
        for number in range(SWAPS):
            wanted, began = replace_pair(node), time.monotonic()
            in_a_row = 0
            while in_a_row < 6:  # whichever worker answers
                in_a_row = in_a_row + 1 if served(node) == wanted else 0
                assert time.monotonic() - began < SEEN_WITHIN_S, f"swap {number} was not seen"
            print(f"swap {number} seen after {time.monotonic() - began:.2f} s")
            for client in clients[number::SWAPS]:
                assert client.imap(b"NOOP")[0].startswith(b"OK")
        for client in clients:
            assert client.imap(b"NOOP")[0].startswith(b"OK")
        assert len(clients) == CONNECTIONS
    log = (node.directory / "node.log").read_text()
    assert "PRIVATE KEY" not in log


@pytest.mark.parametrize(
    ("port", "starttls"),
    [("imaps", ""), ("pop3s", ""), ("imap", "imap"), ("pop3", "pop3"), ("lmtp", "lmtp")],
)
async def test_nodes_can_see_what_a_port_shows(node: NodeProcess, port: str, starttls: str) -> None:
    leaf = served(node)
    roots = node.certificate.read_text()
    seen = await observe("127.0.0.1", node.port(port), "localhost", starttls=starttls, roots=roots)
    assert seen.fault == ""
    assert seen.fingerprint == hashlib.sha256(leaf).hexdigest()
    assert seen.is_trusted
    other = await observe("127.0.0.1", node.port(port), "other.example", starttls=starttls, roots=roots)
    assert (other.fingerprint, other.is_trusted) == (seen.fingerprint, False)


def test_a_worker_that_is_replaced_shows_what_the_others_show(node: NodeProcess) -> None:
    wanted = replace_pair(node)
    began = time.monotonic()
    while served(node) != wanted:
        assert time.monotonic() - began < SEEN_WITHIN_S
    status = node.admin("status", "--json")
    pids = [each["pid"] for each in json.loads(status)["workers"]]
    for path in (node.certificate, Path(node.ready["key"])):
        path.rename(path.with_suffix(".away"))  # nobody can read them any more
    for pid in pids:
        os.kill(pid, 9)
    began = time.monotonic()
    while True:
        workers = [each for each in json.loads(node.admin("status", "--json"))["workers"] if each["ready"]]
        if len(workers) == 2 and not {each["pid"] for each in workers} & set(pids):
            break
        assert time.monotonic() - began < 60
    assert {served(node) for _ in range(6)} == {wanted}
    for path in (node.certificate, Path(node.ready["key"])):
        path.with_suffix(".away").rename(path)
