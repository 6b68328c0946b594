"""How long a worker is missing that was killed (kill -9), and what the processes of the node take:
``python -m tests.bench.repair``.

Twice: with what runs on the machine, and with 20 busy loops beside it.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from node.control import ask
from node.nursery import STEADY_S
from tests.support.nodeprocess import NodeProcess

from .measure import pss_bytes
from .processes import own_cpu

WORKERS = 2
ROUNDS = 8  # killed in turn: who dies again within ``STEADY_S`` is held back
LOOPS = 20
AIM_S = 2.0


@contextmanager
def busy(loops: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def workers(node: NodeProcess) -> dict[str, int]:
    """Process ids by name."""
    status = ask(node.directory / "data" / "control.sock", "status", {})
    return {each["name"]: each["pid"] for each in status["workers"]}


def repair_s(node: NodeProcess, name: str) -> float:
    """From the kill to the log line of the next one that it serves."""
    victim, log = workers(node)[name], (node.directory / "node.log").open()
    with log:
        log.seek(0, os.SEEK_END)
        os.kill(victim, signal.SIGKILL)
        killed = time.perf_counter()
        said = ""
        while f"{name} serves" not in said:
            time.sleep(0.002)
            said += log.read()
        return time.perf_counter() - killed


def rounds(node: NodeProcess, loops: int) -> None:
    took = []
    with busy(loops):
        for number in range(ROUNDS):
            time.sleep((STEADY_S + 0.5) / WORKERS)
            took.append(repair_s(node, f"worker-{number % WORKERS + 1}"))
        load = os.getloadavg()[0]
    print(
        f"  {loops:2} busy loops (load {load:4.1f}): replaced after {statistics.median(took):.2f} s"
        f" in the middle, {max(took):.2f} s at worst (aim: {AIM_S:.0f})",
        flush=True,
    )


def main() -> None:
    print("repair of a killed worker", flush=True)
    with NodeProcess().prepare(lambda text: text.replace("workers = 1\n", f"workers = {WORKERS}\n")) as node:
        assert node.process is not None
        spent = own_cpu(list(workers(node).values())).values()
        print(f"  CPU of each worker so far: {', '.join(f'{each:.2f} s' for each in spent)}", flush=True)
        print(f"  the whole tree takes {pss_bytes([node.process.pid]) / 2**20:.0f} MiB", flush=True)
        for loops in (0, LOOPS):
            rounds(node, loops)


if __name__ == "__main__":
    main()
