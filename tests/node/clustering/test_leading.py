"""Hooks run when the lead begins and ends here, and it is handed over before a node goes."""

from __future__ import annotations

import asyncio

from cluster.leader import ELIGIBLE_TAG, SETTLE_S, SLOW_TAG
from node.clustering.about import LOAD_EVERY_S
from node.clustering.leading import SLOW_FOR_S

from .cluster import Member, Nodes


def beat(*members: Member) -> None:
    for member in members:
        member.clustering.leadership.review()


def settle(nodes: Nodes, *members: Member) -> None:
    nodes.pass_by(SETTLE_S)
    beat(*members)


def leaders(*members: Member) -> set[str]:
    return {member.clustering.leadership.leader for member in members}


def test_all_agree_on_the_lowest_name_and_its_hooks_run(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    told: list[tuple[str, bool]] = []
    for member in (first, second, third):
        member.clustering.leadership.add(lambda begins, name=member.gossip.name: told.append((name, begins)))
    assert leaders(first, second, third) == {""}
    settle(nodes, first, second, third)
    assert leaders(first, second, third) == {"a"}
    assert told == [("a", True)]
    first.clustering.leadership.add(lambda begins: told.append(("late", begins)))
    assert told[-1] == ("late", True)


def test_a_node_that_drains_hands_over_and_takes_back(nodes: Nodes) -> None:
    first, second, third = members = nodes.three()
    settle(nodes, *members)
    told: list[bool] = []
    first.clustering.leadership.add(told.append)
    asyncio.run(first.clustering.hand_over())
    beat(*members)
    assert leaders(second, third) == {"b"}
    assert told == [True, False]
    about = second.clustering.abouts.of("a")
    assert about is not None
    assert about.load is not None
    assert about.load.state == "draining"
    asyncio.run(first.clustering.resume())
    settle(nodes, *members)
    assert leaders(*members) == {"a"}
    assert told == [True, False, True]


def test_a_node_that_drains_still_leads_nothing_when_its_gossip_was_started_anew(nodes: Nodes) -> None:
    first, *_ = nodes.three()
    asyncio.run(first.clustering.hand_over())
    first.gossip.tags = {"sora": "1"}  # what an engine begins with
    first.clustering.restore()
    assert first.gossip.tags[ELIGIBLE_TAG] == "no"


def test_a_node_that_cannot_work_passes_the_lead_on(nodes: Nodes) -> None:
    first, second, third = members = nodes.three()
    settle(nodes, *members)
    first.clustering.is_able = lambda: False  # its database is away
    asyncio.run(first.clustering._beat(LOAD_EVERY_S))
    beat(*members)
    assert leaders(*members) == {"b"}
    second.clustering.is_able = third.clustering.is_able = lambda: False
    for member in (second, third):
        asyncio.run(member.clustering._beat(LOAD_EVERY_S))
    beat(*members)
    assert leaders(*members) == {"a"}


def test_the_lead_moves_on_when_its_node_leaves_or_dies(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    settle(nodes, first, second, third)
    asyncio.run(first.clustering.leave())
    assert leaders(second, third) == {"b"}
    assert not first.clustering.leadership.is_ours
    nodes.cluster.kill("b")
    assert leaders(third) == {"c"}


def test_a_slow_node_is_passed_over_until_it_has_been_well_for_a_while(nodes: Nodes) -> None:
    first, _second, _third = members = nodes.three()
    settle(nodes, *members)
    first.clustering.leadership.feels(is_slow=True)
    beat(*members)
    assert first.gossip.tags[SLOW_TAG] == "yes"
    assert leaders(*members) == {"b"}
    first.clustering.leadership.feels(is_slow=False)
    assert SLOW_TAG in first.gossip.tags
    nodes.pass_by(SLOW_FOR_S)
    first.clustering.leadership.feels(is_slow=False)
    assert SLOW_TAG not in first.gossip.tags
    settle(nodes, *members)
    assert leaders(*members) == {"a"}
