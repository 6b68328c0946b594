"""Every port takes garbage, floods and silence while somebody else works undisturbed."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.lineclient import LineClient
from tests.support.livenode import client_context, deliver, imap_inbox, message, pop3_login, start_delivery
from tests.support.nodeprocess import NodeProcess
from tests.support.waiting import eventually
from tls.selfsigned import self_signed

PORTS = ("imap", "imaps", "pop3", "pop3s", "lmtp", "managesieve")
MIB = 1024 * 1024
ENDLESS_BYTES = 50 * MIB
CONNECTIONS = 200
WAITS_AT_MOST_S = 30.0  # of a session beside them, on a machine with more to do than this
# what 200 connections may leave behind: their own state while open, and what the allocator keeps
MAX_GROWTH_BYTES = 48 * MIB


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess() as node:
        yield node


def rss(node: NodeProcess) -> int:
    """Resident memory of the node itself, in bytes."""
    assert node.process is not None
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def peak_rss(node: NodeProcess) -> int:
    assert node.process is not None
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def connect(node: NodeProcess, port: str) -> LineClient:
    client = LineClient(node.port(port), client_context(node) if port in ("imaps", "pop3s") else None)
    line = client.line()
    while line.startswith(b'"'):  # ManageSieve tells its capabilities first
        line = client.line()
    assert line.startswith((b"* OK", b"+OK", b"220", b"OK"))
    return client


def log_of(node: NodeProcess) -> str:
    return (node.directory / "node.log").read_text()


# --- wrong input, the protocol's own words ---------------------------------------------------------

LONG = b"A" * 50_000  # too long, and not so long that the connection ends
WRONG = {
    "imap": [
        (b"a1 " + LONG, b"a1 BAD"),
        (b"a2 NONSENSE", b"a2 BAD"),
        (b"+bad+ NOOP", b"* BAD"),
        (b"", b"* BAD"),
        (b"a3", b"a3 BAD"),
        (b"a4 SELECT INBOX", b"a4 BAD"),
        (b"a5 LOGIN {999999999999}", b"a5 BAD"),
        (b"a6 FETCH 1:* FLAGS", b"a6 BAD"),
        (b"\xff\xfe\x00garbage", b"* BAD"),
        (b"a7 NOOP", b"a7 OK"),
    ],
    "pop3": [
        (b"RETR 1", b"-ERR"),
        (b"USER " + LONG, b"-ERR"),
        (b"NONSENSE", b"-ERR"),
        (b"", b"-ERR"),
        (b"\xff\xfe\x00garbage", b"-ERR"),
        (b"QUIT", b"+OK"),
    ],
    "lmtp": [
        (b"MAIL FROM:<a@b.example>", b"503 5.5.1"),
        (b"EHLO x.example", b"500 5.5.1"),
        (b"NOOP " + LONG, b"500 5.5.2"),
        (b"NONSENSE", b"500 5.5.2"),
        (b"\xff\xfe\x00garbage", b"50"),
        (b"LHLO x.example", b"250"),
        (b"DATA", b"503 5.5.1"),
        (b"RCPT TO:<a@b.example>", b"503 5.5.1"),
        (b"MAIL FROM:broken", b"501 5"),
        (b"NOOP", b"250 2.0.0"),
    ],
    "managesieve": [
        (b"NONSENSE", b"NO"),
        (b"", b"NO"),
        (b"\xff\xfe\x00garbage", b"NO"),
        (b'AUTHENTICATE "PLAIN" "!!!"', b"NO"),
        (b"LISTSCRIPTS", b"NO"),
        (b'PUTSCRIPT "a" {8+}\r\nLOGOUT\r\n', b"NO"),
        (b"NOOP {20000+}\r\n" + b"LOGOUT\r\n" * 2500, b"NO"),
        (b"NOOP", b"OK"),
        (b"NOOP " + LONG, b"BYE"),
    ],
}


@pytest.mark.parametrize("port", PORTS)
def test_wrong_input_gets_the_protocols_own_error_and_the_session_lives(node: NodeProcess, port: str) -> None:
    protocol = port.removesuffix("s")
    with connect(node, port) as client:
        for line, expected in WRONG[protocol]:
            client.send(line + b"\r\n")
            reply = client.lmtp_reply() if protocol == "lmtp" else client.line()
            while protocol == "imap" and expected[:1] == b"a" and reply.startswith(b"* "):
                reply = client.line()
            assert reply.startswith(expected), (line[:40], reply)
    assert "unexpected" not in log_of(node)


# --- floods ----------------------------------------------------------------------------------------


def hang_up_soon(act: Callable[[socket.socket], None]) -> Callable[[NodeProcess, str, int], None]:
    """A connection without protocol: whatever happens to it, it must not be ours to fear."""

    def run(node: NodeProcess, port: str, _seed: int) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", node.port(port)), 30) as raw,
        ):
            act(raw)

    return run


def garbage(node: NodeProcess, port: str, seed: int) -> None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", node.port(port)), 30) as raw:
        raw.sendall(random.Random(seed).randbytes(200_000))
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(65536):
            continue


def endless_line(node: NodeProcess, port: str, _seed: int) -> None:
    """50 MB without a line end, over TLS where the port has it."""
    piece = b"x" * 65536
    with contextlib.suppress(OSError, AssertionError), connect(node, port) as client:
        for _ in range(ENDLESS_BYTES // len(piece)):
            client.send(piece)


def endless_message(node: NodeProcess, _port: str, _seed: int) -> None:
    """A message beyond every limit, whose end never comes."""
    with contextlib.suppress(OSError, AssertionError), start_delivery(node, node.address) as client:
        assert client.lmtp_reply().startswith(b"250")
        assert client.lmtp(b"DATA").startswith(b"354")
        for _ in range(2 * ENDLESS_BYTES // 65536):
            client.send(b"x" * 65536)


def huge_literal(node: NodeProcess, port: str, _seed: int) -> None:
    """A literal that does not wait to be asked for, before login."""
    with contextlib.suppress(OSError, AssertionError), connect(node, port) as client:
        command = b"NOOP" if port == "managesieve" else b"a LOGIN"
        client.send(command + b" {%d+}\r\n" % ENDLESS_BYTES)
        for _ in range(ENDLESS_BYTES // 65536):
            client.send(b"x" * 65536)


def never_reads(node: NodeProcess, port: str, _seed: int) -> None:
    """Pipelines commands with long answers and takes none of them, for as long as the node lets it send."""
    line = {
        "imap": b"a CAPABILITY\r\n",
        "pop3": b"CAPA\r\n",
        "lmtp": b"LHLO x\r\n",
        "managesieve": b"CAPABILITY\r\n",
    }[port.removesuffix("s")]
    with contextlib.suppress(OSError, AssertionError), connect(node, port) as client:
        client.socket.settimeout(0.5)
        for _ in range(20_000):
            client.send(line * 100)


KINDS: dict[str, Callable[[NodeProcess, str, int], None]] = {
    "garbage": garbage,
    "endless line": endless_line,
    "endless message": endless_message,
    "huge literal": huge_literal,
    "never reads": never_reads,
    "resets": hang_up_soon(
        lambda raw: raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    ),
}


def test_hostile_connections_disturb_nobody_and_memory_stays_bounded(node: NodeProcess) -> None:
    assert deliver(node, node.address, message(1)).startswith(b"250")
    with imap_inbox(node) as worker:
        before = rss(node)
        stop = threading.Event()
        slowest = 0.0
        errors: list[str] = []

        def work() -> None:
            nonlocal slowest
            while not stop.is_set():
                started = time.monotonic()
                for command in (b"NOOP", b"FETCH 1 (FLAGS BODY.PEEK[])", b"STATUS INBOX (MESSAGES)"):
                    status, _ = worker.imap(command)
                    if not status.startswith(b"OK"):
                        errors.append(status.decode())
                slowest = max(slowest, time.monotonic() - started)

        hanging = [
            socket.create_connection(("127.0.0.1", node.port(PORTS[n % len(PORTS)])), 30)
            for n in range(CONNECTIONS // 2)
        ]
        thread = threading.Thread(target=work)
        thread.start()
        try:
            jobs = [("endless line", port) for port in PORTS] + [("never reads", port) for port in PORTS]
            jobs += [("endless message", "lmtp"), ("huge literal", "imap"), ("huge literal", "imaps")]
            jobs += [("huge literal", "managesieve")]
            jobs += [
                (kind, PORTS[n % len(PORTS)])
                for n in range(CONNECTIONS // 4)
                for kind in ("garbage", "resets")
            ]
            with ThreadPoolExecutor(12) as pool:
                futures = [pool.submit(KINDS[kind], node, port, n) for n, (kind, port) in enumerate(jobs)]
                for future in futures:
                    future.result()
        finally:
            stop.set()
            thread.join()
            for each in hanging:
                each.close()
        assert not errors
        assert slowest < WAITS_AT_MOST_S, f"the other session waited {slowest:.1f} s"
        print(f"slowest round of the other session {slowest:.2f} s")
        print(f"rss {before / MIB:.1f} -> {rss(node) / MIB:.1f} MiB, peak {peak_rss(node) / MIB:.1f}")
        eventually(lambda: rss(node) - before < MAX_GROWTH_BYTES)
        assert peak_rss(node) - before < 2 * MAX_GROWTH_BYTES
    assert pop3_login(node).startswith(b"+OK")
    assert deliver(node, node.address, message(2)).startswith(b"250")
    assert "unexpected" not in log_of(node)
    assert "Traceback" not in log_of(node)


# --- TLS -------------------------------------------------------------------------------------------

START = {
    "imap": (b"a STARTTLS\r\n", b"a OK"),
    "pop3": (b"STLS\r\n", b"+OK"),
    "lmtp": (b"STARTTLS\r\n", b"220"),
    "managesieve": (b"STARTTLS\r\n", b"OK"),
}
INJECTED = {
    "imap": (b"b LOGIN x y\r\nc NOOP\r\n", b"a BAD"),
    "pop3": (b"USER x\r\nPASS y\r\n", b"-ERR"),
    "managesieve": (b"NOOP\r\nLOGOUT\r\n", b"BYE"),
    "lmtp": (b"LHLO evil.example\r\nMAIL FROM:<evil@example.test>\r\n", b"503"),
}


@pytest.mark.parametrize("port", ["imap", "pop3", "lmtp", "managesieve"])
def test_commands_injected_before_tls_end_the_connection(node: NodeProcess, port: str) -> None:
    with connect(node, port) as client:
        if port == "lmtp":
            assert client.lmtp(b"LHLO x.example").startswith(b"250")
        command, accepted = START[port]
        injected, refusal = INJECTED[port]
        client.send(command + injected)
        assert client.line().startswith(refusal)
        assert client.until_closed() == b""
    with connect(node, port) as client:  # behind the reply, in the place of a hello
        if port == "lmtp":
            assert client.lmtp(b"LHLO x.example").startswith(b"250")
        client.send(command)
        assert client.line().startswith(accepted)
        client.send(injected)
        assert client.until_closed() == b""


def test_a_new_certificate_is_shown_within_seconds_and_old_sessions_live(node: NodeProcess) -> None:
    key = Path(node.ready["key"])
    with imap_inbox(node) as session, connect(node, "imap") as plain:
        old = served(node)
        new_cert, new_key = self_signed(["localhost", "127.0.0.1"], datetime.now(UTC))
        for path, content in ((node.certificate, new_cert), (key, new_key)):
            fresh = path.with_suffix(".fresh")
            fresh.write_bytes(content)
            os.replace(fresh, path)
        wanted = ssl.PEM_cert_to_DER_cert(new_cert.decode())
        eventually(lambda: served(node) != old)
        assert served(node) == wanted
        assert session.imap(b"NOOP")[0].startswith(b"OK")
        plain.send(b"a STARTTLS\r\n")
        assert plain.line().startswith(b"a OK")
        plain.socket = client_context(node).wrap_socket(plain.socket, server_hostname="localhost")
        assert plain.imap(b"NOOP")[0].startswith(b"OK")
    # halves of different pairs are not taken
    broken, _ = self_signed(["localhost"], datetime.now(UTC))
    node.certificate.write_bytes(broken)
    eventually(lambda: "the old one stays" in log_of(node))
    assert served(node) == wanted


def served(node: NodeProcess) -> bytes:
    """What a new handshake on the imaps port shows."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", node.port("imaps")), 30) as raw,
        context.wrap_socket(raw) as wrapped,
    ):
        shown = wrapped.getpeercert(binary_form=True)
    assert shown is not None
    return shown
