"""Thousands of members, as somebody with the key may make them up: what they cost, and how it is told."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from cluster.effects import Change, MemberChanged
from node.clustering import doctor
from node.clustering.commands import cluster_commands
from node.clustering.health import NAMED, Seen, judge_cluster
from node.clustering.memberlog import LINES, PERIOD_S, MemberLog
from node.clustering.service import FEW_MEMBERS, TOGETHER_S

from .cluster import Member, Nodes


def make_up(member: Member, count: int, change: Change = Change.JOINED) -> list[str]:
    view = member.gossip.view()
    names = [f"made-up-{number:04}" for number in range(count)]
    for number, name in enumerate(names):
        address = view.address._replace(ip=f"10.1.{number >> 8}.{number & 255}")
        member.clustering.heard(MemberChanged(change, replace(view, name=name, address=address)))
    return names


def test_many_that_come_at_once_are_looked_at_together(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    member = nodes.add("a")
    roster = member.clustering.roster
    looks = []
    look = roster.look
    monkeypatch.setattr(roster, "look", lambda: looks.append(len(roster)) or look())
    names = make_up(member, 1_000)
    assert len(looks) == FEW_MEMBERS - 1  # with this node so many
    nodes.pass_by(TOGETHER_S)
    assert looks[-1] == 1_001
    assert len(looks) == FEW_MEMBERS
    assert list(roster.others) == names
    assert len(roster.peers()) == len(member.peers) == 1_000
    make_up(member, 1, Change.REAPED)
    nodes.pass_by(TOGETHER_S)
    assert list(roster.others) == names[1:]


def test_the_log_has_the_first_ones_of_a_minute_and_how_many_came_after(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sora.cluster")
    log, change = MemberLog(), MemberChanged(Change.JOINED, nodes.add("a").gossip.view())
    caplog.clear()
    for _ in range(LINES + 5):
        log.note(change, 10.0)
    log.summarize(10.0 + PERIOD_S - 1)
    assert [each.getMessage() for each in caplog.records] == ["node a joined, at 10.0.0.1:7946"] * LINES
    caplog.clear()
    log.note(change, 10.0 + PERIOD_S)
    log.summarize(10.0 + 2 * PERIOD_S)
    assert [each.getMessage() for each in caplog.records] == [
        "5 more changes of members were not logged one by one",
        "node a joined, at 10.0.0.1:7946",
    ]


def test_a_full_list_is_told_and_not_every_member_is_named(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.clustering.roster.MAX_MEMBERS", 60)
    member = nodes.add("a")
    names = make_up(member, 58)
    views = list(member.clustering.roster)

    async def members() -> list[object]:
        return list(views)

    member.gossip.members = members  # type: ignore[method-assign, assignment]
    nodes.pass_by(doctor.ACKS_WITHIN_S + 1)

    def findings() -> list[tuple[str, str]]:
        found = asyncio.run(cluster_commands(lambda: member.clustering)["cluster.doctor"]({}))
        return [(each["about"], each["what"]) for each in found["findings"]]  # type: ignore[index, call-overload]

    found = findings()
    assert [about for about, _ in found if about.startswith("made-up")] == names[: doctor.NAMED]
    assert ("members", "38 more of which as much can be said") in found
    assert not any("no more are taken" in what for _, what in found)
    views.append(replace(views[0], name="made-up-0058"))
    assert ("members", "60 are known, and no more are taken: somebody makes them up") in findings()
    assert member.clustering.roster.is_full


def test_health_says_that_no_more_are_taken_and_names_some_that_failed() -> None:
    detail = judge_cluster(Seen(alive=3, failed=[f"n{n}" for n in range(NAMED + 2)], is_full=True)).detail
    assert "no more members are taken" in detail
    assert detail.endswith(f"n{NAMED - 1} and 2 more")
