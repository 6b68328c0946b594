"""The relay with 100,000 messages queued: ``python -m tests.bench.relay``.

A process of its own takes the queue over and empties it into Postfix's smtp-sink, with everything durable as
in a node: how long until the first message goes out, what memory that takes, then the rate, the CPU time a
message, and the memory at the end. Without a local smtp-sink it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from node.config import Config, RelayQueue
from node.relaying import runner_settings
from protocols.relay.breaker import Breaker
from protocols.relay.runner import Runner
from protocols.relay.smtp import SmtpSettings, SmtpTransport
from storage.memory.sendlog import MemorySendLog
from storage.memory.tables import Tables
from storage.relayqueue import RelayQueue as Queue
from storage.relayspool import RelaySpool
from tests.support.nodeprocess import ROOT
from tests.support.relaydisk import UnsyncedSpoolDisk
from tests.support.smtpsink import SmtpSink

QUEUED = 100_000
SUBMITTED = 5_000
THREADS = 16
SIZE_BYTES = 4096
SAMPLE_EVERY_S = 0.1
DEFAULTS = Config(relay_queue=RelayQueue(max_messages=0, max_size_bytes=0, min_free_disk_bytes=0))


def message(size_bytes: int = SIZE_BYTES) -> bytes:
    head = b"From: ann@near.test\r\nTo: bob@far.test\r\nSubject: figures\r\n\r\n"
    return head + b"0123456789 0123456789 0123456789 0123456789 0123456789 0123456789\r\n" * (
        (size_bytes - len(head)) // 67
    )


def fill(root: Path, count: int) -> None:
    """Not durable: it is not what is measured."""
    spool = RelaySpool(root, time.time, UnsyncedSpoolDisk())
    spool.make_directories()
    body = message()
    for _ in range(count):
        spool.submit("ann@near.test", ["bob@far.test"], body, kind="redirect", account=1)


def submissions_a_second(root: Path, count: int) -> float:
    """Durable ones, from as many threads as a node may have at it."""
    spool = RelaySpool(root, time.time)
    spool.make_directories()
    body = message()

    def one(_: int) -> None:
        spool.submit("ann@near.test", ["bob@far.test"], body, kind="redirect", account=1)

    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, range(count)))
    return count / (time.perf_counter() - began)


# --- the process that empties the queue ---


class _NoBouncer:
    async def bounce(self, sender: str, report: bytes, key: bytes) -> str:
        raise AssertionError("the sink refuses nothing")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class _Memory:
    """The most that is resident, looked at by a thread."""

    def __init__(self) -> None:
        self.peak = _resident_bytes()
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            self.peak = max(self.peak, _resident_bytes())

    def close(self) -> int:
        self._stop.set()
        return max(self.peak, _resident_bytes())


async def empty(root: Path, port: int, count: int) -> dict[str, float]:
    """Of ``count`` that are queued, what the docstring above promises."""
    logging.getLogger("sora.relay").setLevel(logging.WARNING)
    queue = Queue(root, time.time)
    transport = SmtpTransport(SmtpSettings("127.0.0.1", port, "bench.test"))
    settings = runner_settings(DEFAULTS, "bench.test")
    before = _resident_bytes()
    memory, began = _Memory(), time.perf_counter()
    await asyncio.to_thread(queue.open)
    runner = Runner(
        queue,
        transport,
        Breaker(5, 30.0, 3),
        _NoBouncer(),
        MemorySendLog(Tables()),
        settings,
        clock=time.time,
        monotonic=time.monotonic,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(runner.run(stop))
    taken = runner.figures.verdicts
    while not taken.total():
        await asyncio.sleep(0.001)
    started_s, at_start = time.perf_counter() - began, memory.peak
    cpu, wall, done = time.process_time(), time.perf_counter(), taken.total()
    while taken.total() < count:
        await asyncio.sleep(0.05)
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    stop.set()
    await running
    left = len(list(queue.entries()))
    queue.close()
    if left or taken[("redirect", "taken")] != count:
        raise RuntimeError(f"{left} left, {dict(taken)}")
    return {
        "started_s": started_s,
        "at_start_bytes": at_start - before,
        "rate": (count - done) / wall_s,
        "cpu_s": cpu_s / (count - done),
        "peak_bytes": memory.close() - before,
    }


def report(scale: float) -> None:
    if shutil.which("smtp-sink") is None:
        print("relay: smtp-sink is not installed (Debian: postfix); nothing is measured")
        return
    count = max(100, int(QUEUED * scale))
    directory = Path(tempfile.mkdtemp(prefix="relay-bench-"))
    try:
        rate = submissions_a_second(directory / "submitted", max(100, int(SUBMITTED * scale)))
        print(f"relay: {rate:,.0f} submissions a second from {THREADS} threads", flush=True)
        for size in sorted({max(100, count // 10), count}):
            _measure(directory / str(size), size)
    finally:
        shutil.rmtree(directory)


def _measure(root: Path, count: int) -> None:
    fill(root, count)
    with SmtpSink(keeps=False) as sink:
        command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "tests.bench.relay"]
        done = subprocess.run(
            [*command, "--empty", str(root), str(sink.port), str(count)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
    found = json.loads(done.stdout)
    print(
        f"relay: {count:,} queued: first one out after {found['started_s']:.2f} s with"
        f" {found['at_start_bytes'] / 1e6:.1f} MB, {found['rate']:,.0f} a second,"
        f" {found['cpu_s'] * 1e3:.2f} ms CPU a message, at most {found['peak_bytes'] / 1e6:.1f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the usual amounts, e.g. 0.1")
    parser.add_argument("--empty", nargs=3, metavar=("ROOT", "PORT", "COUNT"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.empty:
        root, port, count = wanted.empty
        print(json.dumps(uvloop.run(empty(Path(root), int(port), int(count)))))
    else:
        report(wanted.scale)


if __name__ == "__main__":
    main()
