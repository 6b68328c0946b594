"""Figures of the cluster are in the catalogue, and the engine has those that are asked of it."""

from __future__ import annotations

from dataclasses import replace

from cluster.effects import Change, MemberChanged
from node.clustering.readings import FIGURES, read_cluster
from node.metrics.catalogue import CLUSTER
from node.metrics.registry import Registry

from .cluster import Nodes
from .test_contract import Reals


async def test_the_engine_has_every_figure() -> None:
    reals = Reals()
    try:
        await reals.add("a")
        figures = await reals.gossips[0].figures()
    finally:
        await reals.close()
    assert set(FIGURES) <= set(figures)


def test_every_family_is_read_and_fits(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.clustering.figures = dict.fromkeys(FIGURES, 1)
    view = replace(second.gossip.view(), round_trip_s=0.001)
    first.clustering.heard(MemberChanged(Change.UPDATED, view))
    first.clustering.skews = {"b": -100.0, "c": 0.5}
    registry = Registry()
    registry.add(lambda: read_cluster(first.clustering))
    snapshot = registry.snapshot()
    assert {family.name for family in CLUSTER} == set(snapshot)
    assert snapshot["sora_cluster_members"][("alive",)] == (3.0,)
    assert snapshot["sora_cluster_members"][("failed",)] == (0.0,)
    assert snapshot["sora_cluster_round_trip_seconds"] == {("b",): (0.001,)}
    assert snapshot["sora_cluster_clock_skew_seconds"] == {("b",): (100.0,)}
