"""Real nodes on a network of their own (needs root): how soon a block holds everywhere, and what rest costs.

``python -m tests.bench.cluster``. A refusal is what a client sees: a connection that gets no greeting. Its
time counts from before the command on the first node to the end of the refused connection on another one, so
the command, the gossip, the door and the client's own round trips are in it.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.lab import namespaces
from tests.lab.lab import ADDRESSES, NODES, Lab, LabFault, until
from tests.lab.mail import add_neighbourhood

IMAP = 143
PATIENCE_S = 10.0
SOURCES = [f"10.20.30.{number}" for number in range(10, 20)]
RESTS_S = 30.0


def control(lab: Lab, node: str) -> Callable[..., Any]:
    """One connection to the control socket of a node."""
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(str(lab.directory / node / "data" / "control.sock"))
    stream = channel.makefile("rwb")

    def ask(command: str, **arguments: object) -> Any:
        stream.write(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
        stream.flush()
        answer = json.loads(stream.readline())
        if not answer["ok"]:
            raise LabFault(answer["error"])
        return answer["result"]

    return ask


def is_greeted(lab: Lab, node: str, source: str) -> bool:
    try:
        client = socket.create_connection((ADDRESSES[node], IMAP), PATIENCE_S, source_address=(source, 0))
        with client:
            return client.recv(100).startswith(b"* OK")
    except OSError:
        return False


class Knocking(threading.Thread):
    """Connects to a node again and again until it is refused."""

    def __init__(self, lab: Lab, node: str, source: str) -> None:
        super().__init__()
        self.lab, self.node, self.source = lab, node, source
        self.greeted = threading.Event()
        self.refused_at = 0.0

    def run(self) -> None:
        with namespaces.inside(self.lab.namespace("client")):
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                if is_greeted(self.lab, self.node, self.source):
                    self.greeted.set()
                else:
                    self.refused_at = time.monotonic()
                    return


def block_times(lab: Lab, rounds: int) -> list[float]:
    """Seconds until refused, one for each round and node but the first."""
    ask = control(lab, NODES[0])
    times = []
    for number in range(rounds):
        source = SOURCES[number % len(SOURCES)]
        knocking = [Knocking(lab, node, source) for node in NODES[1:]]
        for each in knocking:
            each.start()
        for each in knocking:
            if not each.greeted.wait(PATIENCE_S):
                raise LabFault(f"{each.node} greets nobody")
        begun = time.monotonic()
        ask("blocks.add", subject=source, lasts_s=600.0, reason="figures")
        for each in knocking:
            each.join()
            if not each.refused_at:
                raise LabFault(f"{each.node} did not refuse {source} within {PATIENCE_S} s")
            times.append(each.refused_at - begun)
        ask("blocks.remove", subject=source)
        with namespaces.inside(lab.namespace("client")):
            until("it is greeted again", _greeted_by_all(lab, source))
    return times


def _greeted_by_all(lab: Lab, source: str) -> Callable[[], bool]:
    return lambda: all(is_greeted(lab, node, source) for node in NODES)


def quantiles(times: list[float]) -> str:
    ordered = sorted(times)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    middle = statistics.median(ordered)
    return f"p50 {1000 * middle:.1f} ms, p99 {1000 * p99:.1f} ms, max {1000 * ordered[-1]:.1f} ms"


def rest(lab: Lab) -> str:
    """Gossip of one node while nothing happens; bytes with IP and UDP headers, streams without."""
    names = ("packets_sent", "packet_bytes_sent")
    before = lab.status(NODES[0])["cluster"]["gossip"]["figures"]
    begun = time.monotonic()
    time.sleep(RESTS_S)
    after = lab.status(NODES[0])["cluster"]["gossip"]["figures"]
    took = time.monotonic() - begun
    packets, raw = ((after[name] - before[name]) / took for name in names)
    return f"{packets:.2f} packets/s, {raw + 28 * packets:.0f} B/s"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    wanted = parser.parse_args()
    if lacking := namespaces.missing():
        sys.exit(f"SKIPPED: {lacking}")
    with Lab() as lab:
        add_neighbourhood(lab, SOURCES)
        for name in NODES:
            lab.start(name)
        until(
            "the cluster has formed",
            lambda: all(len(lab.status(name)["cluster"]["members"]) == len(NODES) for name in NODES),
        )
        print(f"at rest, each of {len(NODES)} nodes: {rest(lab)}")
        print(f"block on one node to refusal on another: {quantiles(block_times(lab, wanted.rounds))}")
        for one in NODES:
            for other in NODES:
                if one != other:
                    lab.lose(0.1, one, other)
        print(f"the same with 10 % loss between the nodes: {quantiles(block_times(lab, wanted.rounds))}")


if __name__ == "__main__":
    main()
