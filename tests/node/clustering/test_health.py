"""A cluster in trouble makes a node degraded, and never more than that."""

from __future__ import annotations

import pytest

from node.clustering.health import Seen, judge_cluster
from node.health import State


def test_well() -> None:
    finding = judge_cluster(Seen(alive=3, leader="a"))
    assert finding.state is State.OK
    assert finding.detail == "3 nodes, a leads"


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen(alive=3, has_left=True), "has left"),
        (Seen(alive=3, trouble="gossip does not run"), "does not run"),
        (Seen(alive=3, conflict="a"), "two nodes are called a"),
        (Seen(alive=1), "sees no other one"),
        (Seen(alive=2, failed=["c", "d"]), "failed: c, d"),
    ],
)
def test_degraded(seen: Seen, words: str) -> None:
    finding = judge_cluster(seen)
    assert finding.state is State.DEGRADED
    assert words in finding.detail


@pytest.mark.parametrize("seen", [Seen(alive=1, has_peers=False), Seen(alive=1, age_s=5.0)])
def test_who_has_no_peers_or_has_just_started_may_be_alone(seen: Seen) -> None:
    assert judge_cluster(seen).state is State.OK
