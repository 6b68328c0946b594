"""``python -m tests.bench.membership``: how soon a death is known, and how often nobody died, ours beside an
agent's.

Both are the same machine with other timings, on a simulated network of half a millisecond. The agent's column
agrees with real ones: five of them know of a SIGKILL after 5.8 s on average.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from cluster.effects import Change
from cluster.messages import State
from cluster.profile import LAN, SORA, Profile
from tests.cluster.swimnet import SwimNet, name

PROFILES = {"agent": LAN, "Sora": SORA}


def formed(count: int, seed: int, profile: Profile) -> SwimNet:
    net = SwimNet(count, seed=seed, profile=profile)
    net.join_all()
    net.run_for(3.0 + net.rng.random())
    for node in net.nodes.values():
        node.delegate.changes.clear()
        node.packets = node.octets = 0
    return net


def death_s(count: int, seed: int, profile: Profile, loss: float) -> float:
    """From SIGKILL until all others hold it for failed."""
    net = formed(count, seed, profile)
    net.loss = loss
    killed_at = net.now
    net.kill(net.nodes[name(1)])
    assert net.run_until(killed_at + 120.0, lambda: net.all_see(1, State.DEAD)), f"seed={seed}"
    return net.now - killed_at


def quiet(
    count: int, seeds: int, seconds: float, profile: Profile, *, loss: float, has_streams: bool
) -> tuple[float, float, float, float]:
    """Suspicions and failures of nodes that live, by node and hour; packets and bytes sent, by node and
    second."""
    suspicions = failures = packets = octets = 0.0
    for seed in range(seeds):
        net = formed(count, seed, profile)
        before = sum(node.swim.figures()["suspicions_raised"] for node in net.nodes.values())
        net.loss, net.has_streams = loss, has_streams
        net.run_for(seconds)
        suspicions += sum(node.swim.figures()["suspicions_raised"] for node in net.nodes.values()) - before
        failures += len(net.changes(Change.FAILED))
        packets += sum(node.packets for node in net.nodes.values())
        octets += sum(node.octets for node in net.nodes.values())
    spent = seeds * count * seconds
    return suspicions / spent * 3600, failures / spent * 3600, packets / spent, octets / spent


def forgiven(count: int, seeds: int, profile: Profile, pause_s: float) -> float:
    """The share of pauses after which nobody was held for failed."""
    held = 0
    for seed in range(seeds):
        net = formed(count, seed, profile)
        net.pause(net.nodes[name(1)], pause_s)
        net.run_for(pause_s + 20.0)
        held += not net.changes(Change.FAILED)
    return held / seeds


def row(label: str, values: Sequence[str]) -> None:
    print(f"{label:52}" + "".join(f"{value:>22}" for value in values), flush=True)


def deaths(count: int, seeds: int, loss: float) -> None:
    cells = []
    for profile in PROFILES.values():
        found = sorted(death_s(count, seed, profile, loss) for seed in range(seeds))
        cells.append(f"{statistics.mean(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})")
    row(f"{count} nodes, {loss:.0%} loss: s until all know of a death", cells)


def losses(count: int, seeds: int, seconds: float, *, loss: float, has_streams: bool) -> None:
    found = [
        quiet(count, seeds, seconds, profile, loss=loss, has_streams=has_streams)
        for profile in PROFILES.values()
    ]
    label = f"{count} nodes, {loss:.0%} loss, {'with' if has_streams else 'without'} TCP: "
    if loss:
        row(f"{label}suspicions", [f"{each[0]:.2f}/h" for each in found])
        row(f"{label}failures", [f"{each[1]:.2f}/h" for each in found])
    row(f"{label}sent", [f"{each[2]:.2f}/s, {each[3]:.0f} B/s" for each in found])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.membership", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=600.0, help="of each quiet run")
    wanted = parser.parse_args()
    row("figures by node", list(PROFILES))
    for loss in (0.0, 0.2):
        deaths(5, wanted.seeds, loss)
    deaths(30, max(1, wanted.seeds // 4), 0.0)
    losses(5, 1, 120.0, loss=0.0, has_streams=True)
    for loss in (0.2, 0.4):
        for has_streams in (True, False):
            losses(5, wanted.seeds, wanted.seconds, loss=loss, has_streams=has_streams)
    for pause_s in range(2, 7):
        shares = [forgiven(5, wanted.seeds, profile, pause_s) for profile in PROFILES.values()]
        row(f"5 nodes: a pause of {pause_s} s is forgiven", [f"{share:.0%}" for share in shares])


if __name__ == "__main__":
    main()
