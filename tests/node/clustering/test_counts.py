"""Limits per user and per address hold over all nodes."""

from __future__ import annotations

import pytest

from cluster.facts import Kind
from node.clustering.counts import FLUSH_S, FRESH_S, RECONCILE_S
from node.sessions import EVERYBODY, SessionLimits
from protocols.errors import TooManySessions

from .cluster import SERVER, Member, Nodes

LIMITS = SessionLimits(per_address=2, per_user=3, per_user_and_address=2, total=1)
IP = "192.0.2.1"
KEY = (SERVER, "user", 7)


def test_logins_of_a_user_count_on_all_nodes(nodes: Nodes) -> None:
    first, second, third = nodes.three(limits=SessionLimits(per_user=3))
    sessions = [first.log_in("1", 7), first.log_in("2", 7), second.log_in("3", 7)]
    nodes.pass_by(FLUSH_S)
    with pytest.raises(TooManySessions):
        third.log_in("4", 7)
    third.log_in("5", 8)
    first.sessions.closed(sessions[0])
    nodes.pass_by(FLUSH_S)
    third.log_in("6", 7)


def test_a_user_at_one_address_counts_on_all_nodes(nodes: Nodes) -> None:
    first, second, third = nodes.three(limits=SessionLimits(per_user_and_address=2))
    first.log_in("1", 7, "2001:db8::1")
    second.log_in("2", 7, "2001:db8::2")  # the same /64
    nodes.pass_by(FLUSH_S)
    with pytest.raises(TooManySessions):
        third.log_in("3", 7, "2001:db8::3")
    third.log_in("4", 7, "2001:db8:0:1::1")


def test_doors_hear_when_an_address_gets_full_elsewhere(nodes: Nodes) -> None:
    first, second, _ = nodes.three(limits=LIMITS)
    for ip in (IP, "2001:db8::5"):
        leaves = [first.sessions.count_arrival(SERVER, ip) for _ in range(2)]
        nodes.pass_by(FLUSH_S)
        assert second.sessions.is_full(SERVER, ip)
        server, told = second.noticed[-1]
        assert server == SERVER
        assert second.sessions.is_full(server, told)
        leaves[0]()
        nodes.pass_by(FLUSH_S)
        assert not second.sessions.is_full(SERVER, ip)
        assert set(second.noticed) == {(server, told)}
        second.noticed.clear()


def test_the_limit_of_a_whole_server_is_each_nodes_own(nodes: Nodes) -> None:
    first, second, _ = nodes.three(limits=LIMITS)
    first.sessions.count_arrival(SERVER, EVERYBODY)
    nodes.pass_by(FLUSH_S)
    assert first.sessions.is_full(SERVER, EVERYBODY)
    assert not second.sessions.is_full(SERVER, EVERYBODY)


def test_without_limits_nothing_is_told(nodes: Nodes) -> None:
    first, *_ = nodes.three()
    before = nodes.cluster.messages
    first.sessions.count_arrival(SERVER, IP)
    nodes.pass_by(FLUSH_S)
    assert nodes.cluster.messages == before


def test_many_changes_are_one(nodes: Nodes) -> None:
    first, second, _ = nodes.three(limits=LIMITS)
    before = nodes.cluster.messages
    for _ in range(1000):
        first.sessions.count_arrival(SERVER, IP)()
    first.sessions.count_arrival(SERVER, IP)
    nodes.pass_by(FLUSH_S)
    assert nodes.cluster.messages == before + 4  # an entry and a notice for each of the others
    assert second.clustering.counts.elsewhere((SERVER, "address", 0xC0000201)) == 1


def hold_entries_back(member: Member) -> None:
    member.gossip.put = lambda *_: None  # type: ignore[method-assign]


def test_near_the_limit_the_others_do_not_wait_for_entries(nodes: Nodes) -> None:
    first, second, third = nodes.three(limits=SessionLimits(per_user=4))
    hold_entries_back(first)
    first.log_in("1", 7)
    nodes.pass_by(FLUSH_S)
    assert second.sessions.elsewhere(KEY) == 0  # a quarter of it
    sessions = [first.log_in(str(number), 7) for number in (2, 3, 4)]
    nodes.pass_by(FLUSH_S)
    for member in (second, third):
        with pytest.raises(TooManySessions):
            member.log_in("5", 7)
    for session in sessions[1:]:
        first.sessions.closed(session)
    nodes.pass_by(FLUSH_S)
    second.log_in("6", 7)


def test_what_a_notice_said_is_over_when_the_entry_must_have_come(nodes: Nodes) -> None:
    first, second, third = nodes.three(limits=SessionLimits(per_user=1, per_address=1))
    hold_entries_back(first)
    first.log_in("1", 7)
    first.sessions.count_arrival(SERVER, IP)
    nodes.pass_by(FLUSH_S)
    assert second.sessions.elsewhere(KEY) == 1
    second.noticed.clear()
    nodes.pass_by(FRESH_S)
    second.clustering.counts.settle()
    assert second.sessions.elsewhere(KEY) == 0
    assert second.noticed == [(SERVER, IP)]
    nodes.cluster.kill("a")
    assert third.sessions.elsewhere(KEY) == 0


def test_a_notice_that_cannot_be_read_is_counted(nodes: Nodes) -> None:
    first = nodes.add("a")
    for payload in (b"", b"\x01", b"\x91\x01", b"\x91\x92\x90\x01", b"\xc1"):
        first.clustering.counts.heard_at_once("b", payload)
    assert first.clustering.unreadable == 5


def test_a_dead_node_holds_no_places(nodes: Nodes) -> None:
    first, second, _ = nodes.three(limits=SessionLimits(per_user=1))
    first.log_in("1", 7)
    nodes.pass_by(FLUSH_S)
    with pytest.raises(TooManySessions):
        second.log_in("2", 7)
    nodes.cluster.kill("a")
    second.log_in("3", 7)


def test_a_limit_set_by_a_reload_counts_what_is_there(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.log_in("1", 7)
    for member in (first, second):
        member.sessions.limit(SERVER, SessionLimits(per_user=1))
        member.clustering.counts.reconcile()
    with pytest.raises(TooManySessions):
        second.log_in("2", 7)


def test_what_did_not_fit_into_the_queue_is_repaired(nodes: Nodes) -> None:
    first, second, _ = nodes.three(limits=SessionLimits(per_user=1), max_event_queue_size=10)
    for account in range(50):
        first.log_in(str(account), account)
    nodes.pass_by(FLUSH_S)
    assert first.clustering.dropped == 40
    second.log_in("unseen", 49)
    nodes.pass_by(RECONCILE_S)
    first.clustering.counts.reconcile()
    with pytest.raises(TooManySessions):
        second.log_in("seen", 48)


@pytest.mark.parametrize(
    ("key", "value"), [(b"\xc1", b"\x01"), (b"\x90", b"\x01"), (b"\x93\xa1a\xa7address\x05", b"\xa1x")]
)
def test_what_cannot_be_read_is_counted_and_left(nodes: Nodes, key: bytes, value: bytes) -> None:
    first, second, _ = nodes.three(limits=LIMITS)
    first.gossip.put(Kind.CONNECTIONS, {key: value}, 60)
    assert second.clustering.unreadable == 1
