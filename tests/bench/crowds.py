"""What many connections cost while they do nothing, and how soon they learn of news."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .clients import Imap
from .measure import Server, cpu_s, pss_bytes

ROOT = Path(__file__).resolve().parents[2]
SPARE_DESCRIPTORS = 500
AT_REST_S = 20.0


@contextmanager
def crowd(server: Server, count: int, *options: str, users: int = 5) -> Iterator[subprocess.Popen[str]]:
    """``count`` connected clients of a process of their own, spread over ``users`` accounts."""
    names = [next(server.users) for _ in range(min(users, count))]
    for name in names:  # the first login of a user hashes
        client = Imap(server.imap)
        client.login(name, server.password)
        client.close()
    port = server.imap if "--plain" in options else server.imaps
    arguments = ["--port", port, "--lmtp", server.lmtp, "--count", count, "--password", server.password]
    command = [sys.executable, "-m", "tests.bench.crowd", *map(str, arguments), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(names) + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"only a part of {count} clients came in")
        yield process
    finally:
        process.kill()
        process.wait()


def note(server: Server, what: str, found: str) -> None:
    server.notes[what] = found
    print(f"  {server.name:8} {what}: {found}", flush=True)


def at_rest(server: Server) -> float:
    """Percent of one core, of the server's whole process tree."""
    before = cpu_s(server.roots())
    time.sleep(AT_REST_S)
    return (cpu_s(server.roots()) - before) / AT_REST_S * 100


def possible(wanted: int) -> int:
    """As many as the descriptor limit allows."""
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS)


def idle_crowd(server: Server, scale: float) -> None:
    """10,000 idling TLS sessions: memory each, CPU at rest."""
    count = possible(int(10_000 * scale))
    nothing = at_rest(server)
    with crowd(server, 50):
        before = pss_bytes(server.roots())
        with crowd(server, count):
            time.sleep(2.0)  # let freed buffers settle
            each = (pss_bytes(server.roots()) - before) / count / 1024
            cpu = at_rest(server)
    note(server, f"{count:,} idle TLS sessions, memory each", f"{each:.1f} KiB")
    note(server, f"{count:,} idle TLS sessions, CPU at rest", f"{cpu:.2f} % ({nothing:.2f} % without any)")


def idle_wake_up(server: Server, scale: float) -> None:
    """1,000 idling TLS sessions of 20 users: from the LMTP reply to EXISTS."""
    count = possible(int(1_000 * scale))
    with crowd(server, count, users=20) as clients:
        assert clients.stdin is not None
        assert clients.stdout is not None
        clients.stdin.write(f"wake {max(10, int(300 * scale))}\n")
        clients.stdin.flush()
        latencies = sorted(json.loads(clients.stdout.readline()))
    middle, high = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    note(server, f"IDLE wake-up with {count:,} idlers", f"p50 {middle:.1f} ms, p99 {high:.1f} ms")


def stalled_crowd(server: Server, scale: float) -> None:
    """1,000 connections that stall inside a line: CPU while they do."""
    count = possible(int(1_000 * scale))
    with crowd(server, count, "--plain", "--stall", users=1):
        note(server, f"{count:,} stalled connections, CPU", f"{at_rest(server):.2f} %")


SCENARIOS = (idle_crowd, idle_wake_up, stalled_crowd)
