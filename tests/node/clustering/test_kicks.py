"""An order to end sessions is carried out once by each node, on those that were there when it was given."""

from __future__ import annotations

import pytest

from cluster.facts import Kind
from node.controlconnections import kick_for_others
from node.sessions import Sessions
from protocols.ports import Peer

from .cluster import Connection, Nodes

ANN = {"user": "ann@example.org"}


def test_each_other_node_does_it_once(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    first.clustering.kicks.order(ANN)
    nodes.cluster.heal()  # everything is told again
    for member in (second, third):
        assert [filters for filters, _ in member.kicked] == [ANN]
    assert first.kicked == []


def test_two_orders_are_two(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    keys = [first.clustering.kicks.order(ANN), first.clustering.kicks.order(ANN)]
    assert [second.clustering.kicks.ended_by(key) for key in keys] == [1, 2]
    assert second.clustering.kicks.ended_by(b"another") is None


@pytest.mark.parametrize("skew_s", [-3600.0, 0.0, 3600.0])
def test_an_order_that_comes_late_means_the_sessions_of_its_time(nodes: Nodes, skew_s: float) -> None:
    first, second = nodes.add("a"), nodes.add("b", skew_s=skew_s)
    nodes.cluster.cut("b")
    given_at = nodes.clocks.now
    first.clustering.kicks.order(ANN)
    nodes.pass_by(40)
    nodes.cluster.heal()
    ((_, before),) = second.kicked
    assert before == pytest.approx(given_at, abs=0.01)


def test_no_clock_that_can_be_set_says_which_sessions_were_there() -> None:
    """It was an hour ahead when the first session began, and has been set since."""
    walls, now = iter((4_600.0, 1_020.0)), [500.0]
    sessions = Sessions(wall_clock=lambda: next(walls), clock=lambda: now[0])
    early, late = (Connection(name, Peer("192.0.2.1", 1)) for name in ("early", "late"))
    sessions.opened(early, "imap", "imaps")
    now[0] = 520.0
    sessions.opened(late, "imap", "imaps")
    assert kick_for_others(sessions)({}, 510.0) == 1
    assert [len(each.goodbyes) for each in (early, late)] == [1, 0]


def test_after_a_minute_it_is_over(nodes: Nodes) -> None:
    first, second = nodes.add("a"), nodes.add("b")
    nodes.cluster.cut("b")
    first.clustering.kicks.order(ANN)
    nodes.pass_by(61)
    nodes.cluster.heal()
    assert second.kicked == []


def test_an_order_that_is_too_long_is_refused(nodes: Nodes) -> None:
    first = nodes.add("a")
    with pytest.raises(ValueError, match="too long"):
        first.clustering.kicks.order({"user": "a" * 1000})


def test_what_cannot_be_read_ends_nobody(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.gossip.put(Kind.KICK, {b"1": b"\x01", b"2": b"\xc1", b"3": b"\x81\x01\x02"}, 60)
    assert second.kicked == []
    assert second.clustering.unreadable == 3
