"""Left or failed, by what was said before, in any order."""

from __future__ import annotations

import math

import pytest

from cluster.effects import Change, MemberChanged
from cluster.messages import State
from cluster.profile import Profile
from cluster.serf.codec import decode, encode
from cluster.serf.messages import JoinIntent, LeaveIntent
from cluster.serf.roster import Status

from .nodes import Node, at, carry, network


def changes(node: Node) -> list[tuple[Change, str]]:
    return [(effect.change, effect.member.name) for effect in node.told(MemberChanged)]


def pair(profile: Profile | None = None) -> tuple[Node, Node]:
    node, other = Node(1, profile=profile), Node(2)
    node.meet(other)
    node.emitted.clear()
    return node, other


def test_who_goes_without_a_word_has_failed() -> None:
    node, other = pair()
    node.lose(other, 1)
    assert changes(node) == [(Change.FAILED, "n2")]
    assert node.serf.status("n2") is Status.FAILED


def test_who_said_so_has_left_whatever_membership_thinks() -> None:
    node, other = pair()
    node.hear(encode(LeaveIntent(3, "n2")))
    assert node.serf.members()[1].is_leaving
    node.lose(other, 1)
    assert changes(node) == [(Change.LEFT, "n2")]
    assert node.serf.members()[1].state is State.LEFT


def test_last_word_of_its_own_is_enough_when_the_intent_was_lost() -> None:
    node, other = pair()
    node.lose(other, 1, change=Change.LEFT)
    assert changes(node) == [(Change.LEFT, "n2")]


def test_an_intent_that_comes_late_makes_a_failed_member_a_left_one() -> None:
    node, other = pair()
    node.lose(other, 1)
    node.hear(encode(LeaveIntent(3, "n2")), 2)
    assert changes(node) == [(Change.FAILED, "n2"), (Change.LEFT, "n2")]
    assert node.members.rows["n2"].state is State.LEFT


def test_an_intent_heard_before_its_node_counts() -> None:
    node, other = Node(1), Node(2)
    node.hear(encode(LeaveIntent(3, "n2")))
    node.meet(other, 10)
    assert node.serf.status("n2") is Status.LEAVING


def test_intents_about_unknown_nodes_are_forgotten_after_five_minutes() -> None:
    node, other = Node(1), Node(2)
    node.hear(encode(LeaveIntent(3, "n2")), 0)
    node.hear(encode(JoinIntent(4, "n3")), 301)
    node.meet(other, 302)
    assert node.serf.status("n2") is Status.ALIVE


def test_intents_about_unknown_nodes_are_bounded() -> None:
    node, other = Node(1), Node(2)
    node.hear(encode(LeaveIntent(3, "n2")))
    for number in range(4096):
        node.hear(encode(JoinIntent(4, f"x{number}")))
    node.meet(other)
    assert node.serf.status("n2") is Status.ALIVE  # the oldest went


@pytest.mark.parametrize(
    ("intents", "status"),
    [
        ([LeaveIntent(3, "n2"), JoinIntent(4, "n2")], Status.ALIVE),
        ([JoinIntent(4, "n2"), LeaveIntent(3, "n2")], Status.ALIVE),
        ([JoinIntent(3, "n2"), LeaveIntent(4, "n2")], Status.LEAVING),
        ([LeaveIntent(4, "n2"), JoinIntent(3, "n2")], Status.LEAVING),
        ([LeaveIntent(4, "n2"), JoinIntent(4, "n2")], Status.LEAVING),
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_the_latest_intent_counts(
    intents: list[LeaveIntent | JoinIntent], status: Status, is_known: bool
) -> None:
    node, other = Node(1), Node(2)
    if is_known:
        node.meet(other)
    for intent in intents:
        node.hear(encode(intent))
    node.meet(other)
    assert node.serf.status("n2") is status


@pytest.mark.parametrize("intent", [JoinIntent(3, "n2"), LeaveIntent(3, "n2"), JoinIntent(3, "unknown")])
def test_an_intent_is_forwarded_once(intent: LeaveIntent | JoinIntent) -> None:
    node, _ = pair()
    node.hear(encode(intent))
    assert [decode(raw) for raw in node.serf.broadcasts(1000, 3, "")] == [intent]
    node.serf.broadcasts(1000, 3, "")
    node.hear(encode(intent))
    assert node.serf.broadcasts(1000, 3, "") == []


def test_every_node_of_a_cluster_falls_silent_about_an_intent() -> None:
    nodes = network(5)
    nodes[0].serf.leave(at(1))
    assert carry(nodes) == 5 * 2 * 4
    assert all(node.serf.status("n1") is Status.LEAVING for node in nodes)


def test_who_comes_back_is_alive_again() -> None:
    node, other = pair()
    node.hear(encode(LeaveIntent(3, "n2")))
    node.lose(other, 1)
    node.meet(other, 2)
    assert changes(node) == [(Change.LEFT, "n2"), (Change.JOINED, "n2")]
    node.lose(other, 3)
    assert changes(node) == [(Change.FAILED, "n2")]


# --- about ourselves ---


def test_a_leave_intent_about_us_is_answered_by_a_later_join_intent() -> None:
    nodes = network(3)
    nodes[1].hear(encode(LeaveIntent(9, "n1")))
    assert nodes[1].serf.status("n1") is Status.LEAVING
    carry(nodes)
    assert [node.serf.status("n1") for node in nodes] == [Status.ALIVE] * 3
    assert nodes[0].serf.figures()["serf_leaves_refuted"] == 1


def test_an_old_leave_intent_about_us_is_not_answered() -> None:
    node, _ = pair()
    node.serf.join_intent(at(1))
    node.hear(encode(LeaveIntent(1, "n1")))
    assert node.serf.figures()["serf_leaves_refuted"] == 0


def test_while_we_leave_nothing_is_answered() -> None:
    node, _ = pair()
    node.serf.leave(at(1))
    node.hear(encode(LeaveIntent(9, "n1")))
    assert node.serf.figures()["serf_leaves_refuted"] == 0
    assert node.serf.status("n1") is Status.LEAVING


def test_leaving_is_announced_when_the_intent_went_out_often_enough() -> None:
    node, _ = pair()
    node.serf.leave(at(1))
    assert not node.serf.has_announced_leave
    node.serf.broadcasts(1000, 3, "")
    assert not node.serf.has_announced_leave
    node.serf.broadcasts(1000, 3, "")
    assert node.serf.has_announced_leave


def test_alone_there_is_nobody_to_announce_it_to() -> None:
    node = Node(1)
    assert not node.serf.has_announced_leave
    node.serf.leave(at(1))
    assert node.serf.has_announced_leave


# --- force leave ---


def test_force_leave_is_for_failed_members_only() -> None:
    node, other = pair()
    assert not node.serf.force_leave("n2", at(1))
    assert not node.serf.force_leave("n1", at(1))
    assert not node.serf.force_leave("nobody", at(1))
    node.lose(other, 1)
    assert node.serf.force_leave("n2", at(2))
    assert not node.serf.force_leave("n2", at(3))
    assert changes(node) == [(Change.FAILED, "n2"), (Change.LEFT, "n2")]


def test_force_leave_reaches_all() -> None:
    nodes = network(4)
    for node in nodes[:3]:
        node.lose(nodes[3], 1)
    nodes[0].serf.force_leave("n4", at(2))
    carry(nodes[:3])
    assert [node.serf.status("n4") for node in nodes[:3]] == [Status.LEFT] * 3


def test_prune_forgets_at_once_everywhere() -> None:
    nodes = network(3)
    for node in nodes[:2]:
        node.lose(nodes[2], 1)
        node.emitted.clear()
    assert nodes[0].serf.force_leave("n3", at(2), prune=True)
    carry(nodes[:2])
    for node in nodes[:2]:
        assert changes(node) == [(Change.LEFT, "n3"), (Change.REAPED, "n3")]
        assert node.members.forgotten == ["n3"]
        assert node.serf.status("n3") is None


# --- forgetting ---


def test_the_gone_are_forgotten_in_time() -> None:
    node, second = pair(Profile(forget_failed_s=100.0, forget_left_s=50.0))
    third, fourth = Node(3), Node(4)
    node.meet(third)
    node.meet(fourth)
    assert node.serf.next_deadline() == math.inf
    node.lose(second, 10)
    node.lose(third, 20, change=Change.LEFT)
    node.lose(fourth, 30)
    node.emitted.clear()
    assert node.serf.next_deadline() == 70
    node.serf.tick(at(69.9))
    assert changes(node) == []
    node.serf.tick(at(70))
    assert changes(node) == [(Change.REAPED, "n3")]
    assert node.serf.next_deadline() == 110
    node.serf.tick(at(200))
    assert changes(node) == [(Change.REAPED, "n2"), (Change.REAPED, "n4")]
    assert node.serf.next_deadline() == math.inf
    assert [view.name for view in node.serf.members()] == ["n1"]


# --- push/pull ---


def test_push_pull_tells_who_left_and_who_is_there() -> None:
    node, second = pair()
    fresh = Node(3)
    fresh.meet(second)
    node.hear(encode(LeaveIntent(7, "n2")))
    node.lose(second, 1, change=Change.LEFT)
    fresh.lose(second, 1)
    fresh.emitted.clear()
    fresh.serf.merge_state(node.serf.local_state(at(2), is_join=True), node.address, at(2), is_join=True)
    assert changes(fresh) == [(Change.LEFT, "n2")]
    assert fresh.serf.broadcasts(1000, 3, "") == []  # push/pull is not forwarded


def test_a_restarted_node_refutes_that_it_has_left() -> None:
    node, _ = pair()
    node.hear(encode(LeaveIntent(7, "n2")))
    node.lose(Node(2), 1)
    again = Node(2)
    again.meet(node)
    again.serf.merge_state(node.serf.local_state(at(2), is_join=True), node.address, at(2), is_join=True)
    node.meet(again, 3)
    carry([node, again])
    assert node.serf.status("n2") is Status.ALIVE
    node.lose(again, 4)
    assert node.serf.status("n2") is Status.FAILED


def test_clocks_meet_one_below_since_their_value_was_not_used_yet() -> None:
    first, second = Node(1), Node(2)
    for _ in range(5):
        first.serf.join_intent(at(1))
    second.serf.merge_state(first.serf.local_state(at(2), is_join=False), first.address, at(2), is_join=False)
    assert second.serf.figures()["serf_clock"] == first.serf.figures()["serf_clock"] == 6
