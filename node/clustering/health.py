"""How well the cluster does, seen from here, for the health report: pure.

Never worse than degraded: a node without its cluster serves mail, with limits and blocks of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from node.health import Finding, State, worst

ALONE_AFTER_S: Final = 30.0
NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """``trouble``: why gossip does not run. ``alive`` counts this node, too. ``is_full``: no more members are
    taken."""

    alive: int
    failed: Sequence[str] = ()
    is_full: bool = False
    has_peers: bool = True
    has_left: bool = False
    conflict: str = ""
    trouble: str = ""
    leader: str = ""
    age_s: float = 1e9  # since this node began to look for the others


def judge_cluster(seen: Seen) -> Finding:
    if seen.has_left:
        return Finding(State.DEGRADED, "this node has left the cluster; a restart brings it back")
    if seen.trouble:
        return Finding(State.DEGRADED, seen.trouble)
    findings = [Finding(State.OK, f"{seen.alive} nodes, {seen.leader or 'nobody'} leads")]
    if seen.conflict:
        findings.append(Finding(State.DEGRADED, f"two nodes are called {seen.conflict}"))
    if seen.alive < 2 and seen.has_peers and seen.age_s > ALONE_AFTER_S:
        why = "this node sees no other one: 'sora-node cluster doctor' looks for the reason"
        findings.append(Finding(State.DEGRADED, why))
    if seen.is_full:
        findings.append(Finding(State.DEGRADED, "no more members are taken: somebody makes them up"))
    if seen.failed:
        named = ", ".join(seen.failed[:NAMED])
        more = f" and {len(seen.failed) - NAMED} more" if len(seen.failed) > NAMED else ""
        findings.append(Finding(State.DEGRADED, f"failed: {named}{more}"))
    return worst(findings)
