"""Sockets that a service manager holds: a node takes them over, lets go of them, and the next one goes on."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.ipv6 import has_ipv6
from tests.support.lineclient import LineClient
from tests.support.livenode import deliver, imap, imap_inbox, message, stored
from tests.support.nodeprocess import ROOT, NodeProcess
from tests.support.ports import LOOPBACK6

LAUNCHER = ROOT / "tests" / "support" / "activate.py"


def listening(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=64)
    sock.setblocking(False)
    return sock


def port_of(sock: socket.socket) -> int:
    port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


class Manager:
    """What systemd has: sockets with names, for as many starts of the node as come."""

    def __init__(self, workers: int, stack: ExitStack) -> None:
        self.node = NodeProcess().prepare(
            lambda text: text.replace("workers = 1\n", f"workers = {workers}\n")
        )
        text = (self.node.directory / "data" / "config.toml").read_text()
        imaps = re.search(r'name = "imaps"\naddr = "127\.0\.0\.1:(\d+)', text)
        assert imaps is not None
        stray_unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.by_name = listening()  # elsewhere than the configuration says
        self.by_address = listening(int(imaps[1]))
        self.stray = listening()
        self.lmtp = [listening(), listening(host=LOOPBACK6 if has_ipv6() else "127.0.0.2")]
        passed = [
            ("imap", self.by_name),
            ("sora-node.socket", self.by_address),
            ("nobody", self.stray),
            ("odd", stray_unix),
            *(("lmtp", each) for each in self.lmtp),
        ]
        for _, sock in passed:
            stack.enter_context(sock)
        numbers = [sock.fileno() for _, sock in passed]
        names = ":".join(name for name, _ in passed)
        self.node.pass_fds = tuple(numbers)
        self.node.python = (
            *(sys.executable, str(LAUNCHER), names, ",".join(map(str, numbers))),
            sys.executable,
        )


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    with ExitStack() as stack:
        made = Manager(request.param, stack)
        stack.enter_context(made.node)
        yield made


def greeting(port: int) -> bytes:
    with LineClient(port) as client:
        return client.line()


def test_sockets_find_their_servers_by_name_then_by_address(manager: Manager) -> None:
    node = manager.node
    assert node.port("imap") == port_of(manager.by_name)
    assert node.port("imaps") == port_of(manager.by_address)
    assert {greeting(node.port("imap"))[:4] for _ in range(8)} == {b"* OK"}
    with imap_inbox(node) as client:
        assert client.imap(b"NOOP")[0].startswith(b"OK")
    with socket.create_connection(manager.lmtp[1].getsockname()[:2], 10) as other:
        assert other.recv(100).startswith(b"220 ")
    assert deliver(node, node.address, message(1)).startswith(b"250")
    assert stored(node) == [message(1)]
    assert f"imap listens on 127.0.0.1:{node.port('imap')} (handed over" in node.log
    assert f"pop3 listens on 127.0.0.1:{node.port('pop3')}\n" in node.log  # its own


def test_what_nobody_wants_is_an_error_with_its_cure_and_no_reason_to_serve_nobody(manager: Manager) -> None:
    log = manager.node.log
    stray = (
        f"descriptor 5 (nobody) was handed over, listens on 127.0.0.1:{port_of(manager.stray)}, and no server"
    )
    assert stray in log
    assert "FileDescriptorName=" in log
    assert "descriptor 6 (odd) was handed over and cannot be used: it is no TCP socket" in log


def test_programs_that_the_node_starts_are_not_told_of_the_sockets(manager: Manager) -> None:
    children = manager.node.children()
    assert children
    for pid in children:
        with suppress(FileNotFoundError, ProcessLookupError):  # PostgreSQL's come and go
            assert b"LISTEN_" not in Path(f"/proc/{pid}/environ").read_bytes()


def drain(node: NodeProcess, *arguments: str) -> None:
    command = [sys.executable, "-m", "node", "drain", "--config", str(node.config), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_drain_cuts_new_connections_off_and_can_be_taken_back(manager: Manager) -> None:
    node = manager.node
    session = imap_inbox(node)
    drain(node, "--within", "1h")
    for _ in range(6):  # whichever process accepts
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", node.port("imap")), 10) as cut,
        ):
            assert cut.recv(10)
    assert session.imap(b"NOOP")[0].startswith(b"OK")
    drain(node, "--undo")
    assert {greeting(node.port("imap"))[:4] for _ in range(6)} == {b"* OK"}
    session.close()


def test_connections_wait_while_the_node_is_started_again(manager: Manager) -> None:
    node = manager.node
    with imap(node) as session:
        assert node.stop() == 0
        assert session.line().startswith(b"* BYE")
    waiting = [LineClient(port_of(manager.by_name)) for _ in range(4)]
    node.start()
    for each in waiting:
        assert each.line().startswith(b"* OK")
        each.close()
