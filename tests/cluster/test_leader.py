from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from cluster.address import Address
from cluster.effects import MemberView
from cluster.leader import LeaderChanged, Leadership, Standing, leader
from cluster.messages import VSN, State


def member(name: str, *, joined: float = 0.0, state: State = State.ALIVE, **tags: str) -> MemberView:
    tags.setdefault("sora", "1")
    return MemberView(name, Address("10.0.0.1", 7946), state, 1, tags, VSN, joined, joined)


def settled(*members: MemberView, own: str = "b") -> Leadership:
    """After all have been there for long."""
    leadership = Leadership(own, 0.0, waits_for_peer=True)
    leadership.look(members, 100.0)
    return leadership


A, B, C = member("a"), member("b"), member("c")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (A, "a"),
        (member("a", state=State.SUSPECT), "a"),
        (member("a", state=State.DEAD), "b"),
        (member("a", state=State.LEFT), "b"),
        (member("a", eligible="no"), "b"),
        (member("a", eligible="yes"), "a"),
        (member("a", slow="yes"), "b"),
        (replace(A, is_leaving=True), "b"),
        (replace(A, tags={"role": "agent"}), "b"),
        (member("a", joined=95.0), "b"),
        (member("a", joined=90.0), "a"),
    ],
)
def test_the_lowest_name_that_may_lead_does(first: MemberView, expected: str) -> None:
    assert settled(C, first, B).leader == expected


def test_a_slow_node_leads_when_all_are_slow() -> None:
    slow = [member(name, slow="yes") for name in "abc"]
    assert settled(*slow).leader == "a"


def test_nobody_leads_when_nobody_may() -> None:
    assert settled(member("a", eligible="no"), replace(B, is_leaving=True)).leader is None
    assert leader({"a": Standing(0, 5.0)}, 6.0) is None


def test_the_view_decides_not_the_order() -> None:
    assert settled(A, B, C, own="a").leader == settled(C, B, A, own="c").leader == "a"


def test_who_joins_waits_until_settled_and_the_look_is_announced() -> None:
    leadership = settled(B, C)
    assert leadership.leader == "b"
    assert leadership.is_own
    newcomer = member("a", joined=101.0)
    assert leadership.look([newcomer, B, C], 101.0) is None
    assert leadership.next_deadline() == 111.0
    assert leadership.look([newcomer, B, C], 111.0) == LeaderChanged("a", "b")
    assert not leadership.is_own
    assert leadership.next_deadline() == inf


def test_a_lost_leader_is_followed_at_once() -> None:
    leadership = settled(A, B, C)
    assert leadership.look([member("a", state=State.DEAD), B, C], 101.0) == LeaderChanged("b", "a")


def test_a_leaving_leader_hands_over_before_it_goes() -> None:
    leadership = settled(A, B, C, own="a")
    assert leadership.is_own
    assert leadership.look([replace(A, is_leaving=True), B, C], 101.0) == LeaderChanged("b", "a")


def test_a_leader_that_was_slow_has_to_settle_again() -> None:
    leadership = settled(A, B)
    leadership.look([member("a", slow="yes"), B], 110.0)
    assert leadership.leader == "b"
    leadership.look([A, B], 120.0)
    assert leadership.leader == "b"
    assert leadership.next_deadline() == 130.0
    leadership.look([A, B], 130.0)
    assert leadership.leader == "a"


def test_a_node_alone_waits_for_a_peer_or_the_grace() -> None:
    leadership = Leadership("b", 0.0, waits_for_peer=True)
    leadership.look([B], 12.0)
    assert leadership.leader is None
    assert leadership.next_deadline() == 30.0
    assert leadership.look([B], 30.0) == LeaderChanged("b", None)


def test_a_node_that_lost_the_others_goes_on_leading() -> None:
    leadership = Leadership("b", 0.0, waits_for_peer=True)
    leadership.look([B, C], 1.0)
    leadership.look([B, member("c", state=State.DEAD)], 11.0)
    assert leadership.leader == "b"


def test_an_agent_is_no_peer_that_ends_the_wait() -> None:
    leadership = Leadership("b", 0.0, waits_for_peer=True)
    leadership.look([B, replace(A, tags={})], 12.0)
    assert leadership.leader is None


def test_without_peers_only_settling_is_waited_for() -> None:
    leadership = Leadership("b", 0.0, waits_for_peer=False)
    leadership.look([B], 9.0)
    assert leadership.leader is None
    assert leadership.next_deadline() == 10.0
    leadership.look([B], 10.0)
    assert leadership.leader == "b"
