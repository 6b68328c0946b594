"""Real processes on the loopback: how soon a death is known, of our nodes and of Debian's ``serf agent``.

``python -m tests.bench.deaths``. Five of each side by side; one of each is killed at a time, so both have
the same machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from contextlib import ExitStack

from tests.support.clusternode import ClusterNode
from tests.support.serfagent import SerfAgent
from tests.support.waiting import eventually

KEY = bytes(range(7, 39))
SURVIVORS = 4


def times(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds from kill -9 to "failed", for one that survives: ours, and the agents'."""
    of_ours, of_agents = [], []
    with ExitStack() as stack:
        agents = [stack.enter_context(SerfAgent("a0", "127.0.204.1", KEY))]
        ours = [stack.enter_context(ClusterNode("o0", "127.0.205.1", KEY))]
        for i in range(1, SURVIVORS + rounds):
            ip = f"127.0.204.{i + 1}", f"127.0.205.{i + 1}"
            agents.append(stack.enter_context(SerfAgent(f"a{i}", ip[0], KEY, join=[agents[0].address])))
            ours.append(stack.enter_context(ClusterNode(f"o{i}", ip[1], KEY, join=[ours[0].address])))
        for cluster in (agents, ours):
            eventually(lambda c=cluster: all(len(n.states()) == len(c) for n in c))
        for i in range(rounds):
            agent, node = agents[-1 - i], ours[-1 - i]
            begin = time.monotonic()
            agent.kill()
            node.kill()
            noticed = eventually(lambda v=node: ours[0].when("failed", v.name))  # type: ignore[misc]
            assert noticed is not None
            of_ours.append(noticed - begin)
            eventually(lambda v=agent: agents[0].states()[v.name] == "failed", every_s=0.1)  # type: ignore[misc]
            of_agents.append(time.monotonic() - begin)
        late = [node.do("figures")["loop_delays"] for node in ours if node.process.poll() is None]
        print(f"loops of ours were late {late} times")
    return of_ours, of_agents


def shown(name: str, seconds: list[float]) -> str:
    each = ", ".join(f"{one:.2f}" for one in seconds)
    return f"{name}: mean {statistics.mean(seconds):.2f} s ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.deaths", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    if shutil.which("serf") is None:
        sys.exit("SKIPPED: serf is not installed (apt-get install serf)")
    ours, agents = times(wanted.rounds)
    print(shown("a death known among our nodes", ours))
    print(shown("among agents", agents))


if __name__ == "__main__":
    main()
