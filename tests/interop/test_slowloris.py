"""A thousand real connections that stall before TLS, before login and inside a literal: they cost next to no
processor time, are gone on time, and honest clients notice nothing."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import hellos
from tests.support.lineclient import LineClient
from tests.support.livenode import client_context, imap_inbox
from tests.support.nodeprocess import NodeProcess

BEFORE_TLS, BEFORE_LOGIN, IN_LITERAL = 334, 333, 333
HELLO_S, AUTH_S, SESSION_S = 10, 15, 15  # a running upload may take as long again as a session
LATE_S = 60.0
WINDOW_S = 4.0
MOST_CPU = 0.05
HONEST_S = float(HELLO_S)  # behind a stalled one it would wait until that is sent away
SECOND = """
[[servers]]
type = "imap"
name = "short"
addr = "127.0.0.1:0"
insecure_auth = true
absolute_session_timeout = "{session}s"
"""


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))

    def edit(text: str) -> str:
        text = re.sub(r'(?m)^(name = "imap")$', rf'\1\nauth_idle_timeout = "{AUTH_S}s"', text)
        return text + SECOND.format(session=SESSION_S)

    with NodeProcess().prepare(edit) as running:
        yield running


def cpu_s(node: NodeProcess) -> float:
    """Of the node's own process, PostgreSQL left out."""
    assert node.process is not None
    fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def dial(node: NodeProcess, port: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port(port)), 30)


def stall_before_tls(node: NodeProcess, number: int) -> socket.socket:
    sock = dial(node, "imaps")
    sock.sendall(hellos.recorded()[: (number % 3) * 100])  # nothing, or a part
    return sock


def stall_before_login(node: NodeProcess, number: int) -> socket.socket:
    sock = dial(node, "imap")
    assert sock.recv(4096).startswith(b"* OK")
    sock.sendall((b"", b"a LOG", b"a LOGIN {5}\r\n")[number % 3])
    return sock


def stall_in_literal(node: NodeProcess, _number: int) -> socket.socket:
    sock = dial(node, "short")
    assert sock.recv(4096).startswith(b"* OK")
    login = f'a LOGIN "{node.address}" "{node.password}"\r\n'
    sock.sendall(login.encode())
    said = b""
    while b"a OK" not in said:
        said += sock.recv(4096)
    sock.sendall(b"b APPEND INBOX {100000}\r\n")
    while b"+ " not in said:
        said += sock.recv(4096)
    sock.sendall(b"Subject: never whole\r\n")
    return sock


def work_honestly(node: NodeProcess, session: LineClient, until: float) -> list[float]:
    """Seconds of each round: an old session, and a new one with TLS and a login."""
    took = []
    while time.monotonic() < until:
        began = time.monotonic()
        assert session.imap(b"STATUS INBOX (MESSAGES)")[0].startswith(b"OK")
        with imap_inbox(node) as fresh:
            assert fresh.imap(b"NOOP")[0].startswith(b"OK")
        took.append(time.monotonic() - began)
        time.sleep(0.25)
    return took


def gone_after(socks: list[socket.socket], began: float, within_s: float) -> float:
    """Seconds from ``began`` until the last of them is closed by the node."""
    poll = select.poll()
    waiting = {sock.fileno(): sock for sock in socks}
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    while waiting:
        assert time.monotonic() - began < within_s, f"{len(waiting)} are still there"
        for descriptor, _ in poll.poll(200):
            with contextlib.suppress(ConnectionResetError, ssl.SSLError):
                if waiting[descriptor].recv(4096):
                    continue
            poll.unregister(descriptor)
            waiting.pop(descriptor).close()
    return time.monotonic() - began


def test_a_thousand_stalled_connections(node: NodeProcess) -> None:
    with imap_inbox(node) as session:
        idle = share_of_cpu(node)
        crowds: dict[str, tuple[list[socket.socket], float, float]] = {}
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            for name, count, stall, limit_s in (
                ("in a literal", IN_LITERAL, stall_in_literal, 2 * SESSION_S),
                ("before login", BEFORE_LOGIN, stall_before_login, AUTH_S),
                ("before TLS", BEFORE_TLS, stall_before_tls, HELLO_S),
            ):
                socks = list(pool.map(lambda number, stall=stall: stall(node, number), range(count)))
                crowds[name] = socks, time.monotonic(), limit_s
        many = sum(len(socks) for socks, _, _ in crowds.values())
        print(f"{many} stall after {time.monotonic() - began:.1f} s")
        stalled = share_of_cpu(node)
        print(f"processor: {idle:.1%} before, {stalled:.1%} with them")
        assert stalled - idle < MOST_CPU
        took = work_honestly(node, session, time.monotonic() + 1.5)
        print(f"honest rounds: worst {max(took):.2f} s of {len(took)}")
        assert max(took) < HONEST_S, took
        for name, (socks, since, limit_s) in reversed(crowds.items()):
            late_s = gone_after(socks, since, limit_s + LATE_S) - limit_s
            print(f"{name}: all gone {late_s:+.1f} s after their time")
        assert session.imap(b"STATUS INBOX (MESSAGES)")[1] == [b'* STATUS "INBOX" (MESSAGES 0)']
        with LineClient(node.port("imaps"), client_context(node)) as fresh:
            assert fresh.line().startswith(b"* OK")
        assert "Traceback" not in node.log


def share_of_cpu(node: NodeProcess) -> float:
    used, began = cpu_s(node), time.monotonic()
    time.sleep(WINDOW_S)
    return (cpu_s(node) - used) / (time.monotonic() - began)
