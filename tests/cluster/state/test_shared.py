from __future__ import annotations

import pytest

from cluster.effects import Change, FactChanged, NoticeHeard
from cluster.errors import PacketRejected
from cluster.facts import RULES, Kind, NoticeKind
from cluster.profile import SORA
from cluster.state import Capacity
from cluster.state.codec import Delta, Item, Lane, Range, encode

from .network import Network, address_of

BLOCK, FAILURES, CONNECTIONS = Kind.BLOCK, Kind.FAILURES, Kind.CONNECTIONS


def put(net: Network, number: int, kind: Kind, key: bytes, value: bytes, ttl_s: float = 600.0) -> bool:
    node = net[number]
    return node.state.put(kind, key, value, ttl_s, node.at)


def remove(net: Network, number: int, kind: Kind, key: bytes) -> None:
    net[number].state.remove(kind, key, net[number].at)


def test_a_block_is_everywhere_after_one_way() -> None:
    net = Network(5, latency_s=(0.001, 0.001))
    put(net, 0, BLOCK, b"192.0.2.1", b"15")
    net.run(0.0012)
    for number in range(5):
        assert net[number].seen(BLOCK) == {("n0000", b"192.0.2.1"): b"15"}
        assert net[number].facts == ({} if number == 0 else {(BLOCK, "n0000", b"192.0.2.1"): b"15"})


def test_what_is_not_urgent_goes_in_batches() -> None:
    net = Network(3)
    for number in range(100):
        put(net, 0, FAILURES, b"k", b"%d" % number)
    net.run(0.3)
    assert net.sent == 0
    net.run(1.0)
    assert net[1].seen(FAILURES) == net[2].seen(FAILURES) == {("n0000", b"k"): b"99"}
    assert sum(isinstance(effect, FactChanged) for effect in net[1].heard) == 1


def test_nothing_is_sent_when_all_know_all() -> None:
    net = Network(5)
    for number in range(5):
        put(net, number, BLOCK, b"a%d" % number, b"x", ttl_s=3600)
        put(net, number, CONNECTIONS, b"a%d" % number, b"x", ttl_s=3600)
    net.run(10.0)
    assert net.are_equal()
    sent = net.sent_bytes
    net.run(60.0)
    assert net.sent_bytes == sent


def test_the_same_value_is_not_sent_again_while_fresh() -> None:
    net = Network(3)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=100)
    net.run(5.0)
    sent = net.sent
    put(net, 0, BLOCK, b"a", b"x", ttl_s=100)
    net.run(5.0)
    assert net.sent == sent
    net.run(5.0)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=100)  # 85 s are left
    net.run(1.0)
    assert net.sent > sent
    assert net[1].state.entries(BLOCK, net[1].at)[0].deadline == pytest.approx(net.now + 99, abs=0.1)


def test_a_shorter_time_is_sent() -> None:
    net = Network(2)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=1000)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=10)
    net.run(11.0)
    assert net[1].seen(BLOCK) == net[0].seen(BLOCK) == {}


def test_entries_run_out_and_that_is_told() -> None:
    net = Network(3)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=5.0)
    net.run(4.9)
    assert net[1].facts
    assert net[1].seen(BLOCK)
    net.run(0.7)
    assert not net[1].facts
    assert not net[1].seen(BLOCK)
    net.run(60.0)
    assert [node.state.figures()["state_entries"] for node in net.nodes.values()] == [0, 0, 0]


def test_removal_is_told_and_not_undone_by_one_who_missed_it() -> None:
    net = Network(3)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=300)
    net.run(3.0)
    net.sides["n0002"] = 1
    remove(net, 0, BLOCK, b"a")
    net.run(20.0)
    assert not net[1].facts
    assert net[2].facts
    net.sides["n0002"] = 0
    net.run(5.0)
    assert not net[2].facts
    assert net.are_equal()
    assert all(not node.seen(BLOCK) for node in net.nodes.values())


def test_a_removal_is_remembered_as_long_as_the_entry_could_be_believed() -> None:
    net = Network(3)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=300)
    net.run(3.0)
    net.sides["n0002"] = 1
    put(net, 0, BLOCK, b"a", b"y", ttl_s=1)  # over long before the other comes back
    net.run(250.0)
    assert net[2].seen(BLOCK)
    net.sides["n0002"] = 0
    net.run(3.0)
    assert not net[2].seen(BLOCK)


def test_what_was_removed_before_anyone_heard_of_it_costs_nothing() -> None:
    net = Network(2)
    put(net, 0, FAILURES, b"a", b"1")
    remove(net, 0, FAILURES, b"a")
    net.run(3.0)
    assert net.sent == 0
    assert net[0].state.figures()["state_entries"] == 0


def test_10_000_blocks_at_once_arrive_all_and_once() -> None:
    net = Network(5, loss=0.05)
    for number in range(10_000):
        assert put(net, 0, BLOCK, b"198.51.%d.%d" % divmod(number, 256), b"t=%d" % number, ttl_s=3600)
    net.run(30.0, until=lambda: all(len(net[n].facts) == 10_000 for n in range(1, 5)))
    assert net.now < 104.0
    for number in range(1, 5):
        told = [effect for effect in net[number].heard if isinstance(effect, FactChanged)]
        assert len(told) == len({fact.key for fact in told}) == 10_000
    net.run(3.0)
    assert net.are_equal()


def test_a_partition_heals_to_equal_state() -> None:
    net = Network(6, seed=3)
    for number in range(3):
        net.sides[f"n{number:04}"] = 1
    for number in range(6):
        for key in range(50):
            put(net, number, CONNECTIONS, b"user%d" % key, b"%d" % number, ttl_s=3600)
            put(net, number, BLOCK, b"%d.%d" % (number, key), b"x", ttl_s=3600)
    net.run(5.0)
    assert not net.are_equal()
    assert len(net[0].seen(BLOCK)) == len(net[5].seen(BLOCK)) == 150
    net.sides.clear()
    assert net.run(10.0, until=net.are_equal)
    assert len(net[0].seen(CONNECTIONS)) == 300
    assert all(node.seen(CONNECTIONS) == net[0].seen(CONNECTIONS) for node in net.nodes.values())


def test_a_new_node_gets_all_by_push_pull() -> None:
    net = Network(4, knows_all=False, pings=False)
    net.introduce([f"n{number:04}" for number in range(3)])
    for key in range(2_000):
        put(net, 0, BLOCK, b"%d" % key, b"x")
        put(net, 1, CONNECTIONS, b"%d" % key, b"2")
    net.run(10.0)
    net.push_pull(3, 1)
    net[3].member("n0001", Change.JOINED)
    net[1].member("n0003", Change.JOINED)
    net.run(1.0)
    assert len(net[3].seen(BLOCK)) == 2_000
    assert net[3].seen(CONNECTIONS) == net[1].seen(CONNECTIONS)


# --- lives and deaths ---------------------------------------------------------------------------------


def test_counts_of_a_dead_node_end_after_the_grace_and_come_back_with_it() -> None:
    net = Network(3)
    put(net, 0, CONNECTIONS, b"user", b"3", ttl_s=3600)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=3600)
    net.run(3.0)
    net[0].is_up = False
    net[1].member("n0000", Change.FAILED)
    net.run(2 * SORA.suspicion_mult * SORA.probe_interval_s - 0.1)
    assert net[1].seen(CONNECTIONS)
    net.run(0.3)
    assert not net[1].seen(CONNECTIONS)
    assert net[1].facts == {(BLOCK, "n0000", b"a"): b"x"}
    net[0].is_up = True
    net[1].member("n0000", Change.JOINED, epoch=net[0].epoch)
    assert net[1].seen(CONNECTIONS) == {("n0000", b"user"): b"3"}
    assert len(net[1].facts) == 2


def test_a_node_back_within_the_grace_loses_nothing() -> None:
    net = Network(2)
    put(net, 0, CONNECTIONS, b"user", b"3", ttl_s=3600)
    net.run(3.0)
    net[1].member("n0000", Change.FAILED)
    net.run(2.0)
    net[1].member("n0000", Change.JOINED, epoch=net[0].epoch)
    net.run(60.0)
    assert net[1].facts
    assert len(net[1].heard) == 1


def test_a_restart_ends_what_the_last_life_counted_but_not_its_blocks() -> None:
    net = Network(3)
    put(net, 0, CONNECTIONS, b"user", b"3", ttl_s=3600)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=3600)
    net.run(3.0)
    net[0].live()
    net[1].member("n0000", Change.UPDATED, epoch=net[0].epoch)
    assert net[1].facts == {(BLOCK, "n0000", b"a"): b"x"}
    put(net, 0, CONNECTIONS, b"other", b"1", ttl_s=3600)
    assert net.run(10.0, until=net.are_equal)
    net.run(5.0)
    for number in range(3):
        assert net[number].seen(CONNECTIONS) == {("n0000", b"other"): b"1"}
        assert net[number].seen(BLOCK) == {("n0000", b"a"): b"x"}
    assert net[0].facts == {(BLOCK, "n0000", b"a"): b"x"}, "the new life is told of its own old blocks"


def test_a_new_life_can_lift_a_block_of_the_last() -> None:
    net = Network(3)
    put(net, 0, BLOCK, b"a", b"x", ttl_s=3600)
    net.run(3.0)
    net[0].live()
    net.run(3.0)
    assert net[0].seen(BLOCK)
    remove(net, 0, BLOCK, b"a")
    net.run(3.0)
    assert not any(node.seen(BLOCK) for node in net.nodes.values())
    assert net.are_equal()


def test_a_life_whose_clock_was_set_back_goes_beyond_the_last() -> None:
    net = Network(3)
    put(net, 0, CONNECTIONS, b"old", b"3", ttl_s=3600)
    net.run(3.0)
    net[0].live(epoch=net[0].epoch - 3_600_000)
    put(net, 0, CONNECTIONS, b"new", b"1", ttl_s=3600)
    net.run(5.0)
    assert net[0].state.figures()["state_epoch_raised_total"] >= 1
    for number in range(3):
        assert net[number].seen(CONNECTIONS) == {("n0000", b"new"): b"1"}
    assert net.are_equal()


def test_the_same_epoch_again_with_fewer_writes_is_renumbered() -> None:
    net = Network(3)
    for number in range(5):
        put(net, 0, BLOCK, b"%d" % number, b"old")
    net.run(3.0)
    net[0].live(epoch=net[0].epoch)
    put(net, 0, BLOCK, b"0", b"new")
    put(net, 0, FAILURES, b"f", b"1")
    net.run(5.0)
    assert net.are_equal()
    assert net[1].seen(BLOCK)["n0000", b"0"] == net[0].seen(BLOCK)["n0000", b"0"] == b"new"
    assert net[2].seen(FAILURES) == {("n0000", b"f"): b"1"}


def test_owners_never_heard_of_as_members_stop_counting() -> None:
    net = Network(3)
    put(net, 0, CONNECTIONS, b"user", b"3", ttl_s=3600)
    net[1].member("n0000", Change.REAPED)
    net.run(5.0)
    assert net[1].seen(CONNECTIONS), "heard through another, and within the grace"
    net.run(6.0)
    assert not net[1].seen(CONNECTIONS)


# --- clocks -------------------------------------------------------------------------------------------


def test_an_hour_of_difference_between_clocks_does_not_matter() -> None:
    net = Network(3)
    net[0].skew = 3600.0
    net[2].skew = -3600.0
    for number in range(3):
        put(net, number, BLOCK, b"%d" % number, b"x", ttl_s=20.0)
    net.run(19.0)
    assert all(len(node.seen(BLOCK)) == 3 for node in net.nodes.values())
    net.run(2.0)
    assert all(len(node.seen(BLOCK)) == 0 for node in net.nodes.values())
    assert net[1].state.figures()["state_clock_ahead_total"] == 1


def test_who_answers_a_clock_that_is_ahead_has_the_last_word() -> None:
    net = Network(3)
    net[0].skew = 3600.0
    put(net, 0, BLOCK, b"a", b"blocked")
    net.run(1.0)
    put(net, 1, BLOCK, b"a", b"lifted")
    put(net, 1, BLOCK, b"b", b"other")
    net.run(1.0)
    written = {entry.value: entry.written for entry in net[2].state.entries(BLOCK, net[2].at)}
    assert written[b"lifted"] > written[b"blocked"]
    assert written[b"other"] < written[b"blocked"] - 3_000, "one clock does not drag the others along"
    put(net, 1, BLOCK, b"a", b"again")
    net.run(1.0)
    (again,) = (e.written for e in net[2].state.entries(BLOCK, net[2].at) if e.value == b"again")
    assert again > written[b"lifted"]


def test_skew_is_seen() -> None:
    net = Network(2)
    net[0].skew = 42.0
    put(net, 0, BLOCK, b"a", b"x")
    net.run(0.1)
    assert net[1].state.skews()["n0000"] == pytest.approx(42.0, abs=0.01)
    assert net[1].state.figures()["state_skew_max_s"] == pytest.approx(42.0, abs=0.01)


def test_a_step_of_the_own_clock_does_not_disorder_writes() -> None:
    net = Network(1)
    written = []
    for number, skew in enumerate((0.0, 3600.0, 0.0, -3600.0)):
        net[0].skew = skew
        put(net, 0, BLOCK, b"a", b"%d" % number)
        written.append(net[0].state.entries(BLOCK, net[0].at)[0].written)
    assert written == sorted(set(written))


# --- limits -------------------------------------------------------------------------------------------


def test_too_long_and_too_many_are_refused() -> None:
    net = Network(1)
    assert not put(net, 0, BLOCK, b"k" * 129, b"")
    assert not put(net, 0, BLOCK, b"k", b"v" * 1001)
    limit = RULES[Kind.NODE].max_entries
    assert all(put(net, 0, Kind.NODE, b"%d" % number, b"") for number in range(limit))
    assert not put(net, 0, Kind.NODE, b"more", b"")
    assert put(net, 0, Kind.NODE, b"0", b"changed"), "what is there may change"
    assert net[0].state.figures()["state_refused_total"] == 3


def test_a_longer_time_than_the_kind_may_have_is_cut() -> None:
    net = Network(2)
    put(net, 0, Kind.KICK, b"k", b"", ttl_s=1e6)
    net.run(61.0)
    assert not net[0].seen(Kind.KICK)
    assert not net[1].seen(Kind.KICK)


def test_a_full_node_sheds_counts_and_keeps_blocks() -> None:
    net = Network(3, capacity=Capacity(max_entries=100))
    for number in range(90):
        put(net, 0, FAILURES, b"%d" % number, b"1", ttl_s=30.0)
    net.run(3.0)
    for number in range(50):
        assert put(net, 1, BLOCK, b"%d" % number, b"x", ttl_s=3600)
    net.run(3.0)
    assert len(net[2].seen(BLOCK)) == len(net[1].seen(BLOCK)) == 50
    assert len(net[2].seen(FAILURES)) == 50
    figures = net[2].state.figures()
    assert figures["state_entries"] == 100
    assert figures["state_shed_total"] == 40
    assert len([1 for kind, *_ in net[2].facts if kind == FAILURES]) == 50, "what was shed was told"
    net.run(30.0)
    for number in range(20):
        assert put(net, 0, BLOCK, b"own%d" % number, b"x", ttl_s=3600)
    net.run(70.0)
    assert net.are_equal()
    assert all(len(node.seen(BLOCK)) == 70 for node in net.nodes.values())


def test_what_was_shed_comes_back_when_there_is_room() -> None:
    net = Network(3, capacity=Capacity(max_entries=100))
    for number in range(60):
        put(net, 0, FAILURES, b"%d" % number, b"1", ttl_s=3600.0)
        put(net, 1, BLOCK, b"%d" % number, b"x", ttl_s=20.0)
    net.run(10.0)
    assert len(net[2].seen(BLOCK)) == 60
    assert len(net[2].seen(FAILURES)) == 40
    net.run(70.0)
    assert len(net[2].seen(FAILURES)) == 60
    net.run(5.0)
    sent = net.sent
    net.run(30.0)
    assert net.sent == sent
    assert net.are_equal()


# --- notices ------------------------------------------------------------------------------------------


def test_a_notice_reaches_whom_it_is_for_once() -> None:
    net = Network(4, duplication=1.0)
    node = net[0]
    node.state.tell(NoticeKind.MAILBOX, b"m1", node.at, to=["n0001", "n0002", "n0000", "nobody"])
    node.state.tell(NoticeKind.MAILBOX, b"m2", node.at)
    net.run(1.0)
    heard = {
        name: [e.payload for e in n.heard if isinstance(e, NoticeHeard)] for name, n in net.nodes.items()
    }
    assert heard == {"n0000": [], "n0001": [b"m1", b"m2"], "n0002": [b"m1", b"m2"], "n0003": [b"m2"]}
    with pytest.raises(ValueError):
        node.state.tell(NoticeKind.MAILBOX, bytes(1001), node.at)


def test_a_restarted_sender_is_heard_and_its_last_life_is_not() -> None:
    net = Network(2)
    caught: list[bytes] = []
    net.tap = lambda source, to, raw: caught.append(raw)
    net[0].state.tell(NoticeKind.MAILBOX, b"old", net[0].at)
    net.run(1.0)
    old = caught[0]
    net[0].live()
    net[0].state.tell(NoticeKind.MAILBOX, b"new", net[0].at)
    net.run(1.0)
    assert [e.payload for e in net[1].heard if isinstance(e, NoticeHeard)] == [b"old", b"new"]
    with pytest.raises(PacketRejected):
        net[1].state.receive(old, address_of("n0000"), net[1].at)


# --- who understands ----------------------------------------------------------------------------------


def test_agents_get_nothing_of_ours() -> None:
    net = Network(3)
    for number in (0, 1):
        net[number].member("n0002", Change.UPDATED, tag="role")
    sent_to: set[str] = set()
    net.tap = lambda source, to, raw: sent_to.add(to)
    put(net, 0, BLOCK, b"a", b"x")
    net[0].state.tell(NoticeKind.MAILBOX, b"m", net[0].at)
    net.run(5.0)
    assert sent_to == {"n0000", "n0001"} or sent_to == {"n0001"}
    assert net[0].state.broadcasts(1300, 3, "") == []


def test_broadcasts_keep_to_their_room() -> None:
    net = Network(20)
    for number in range(300):
        put(net, 0, FAILURES, b"key%d" % number, b"v" * (number % 90))
    net[0].state.tick(net[0].at)
    net.now += 1.0
    net[0].state.tick(net[0].at)
    total = 0
    for room in [60, 150, 200, 400, 800, 1300] * 40:
        parts = net[0].state.broadcasts(room, 3, "n0001")
        assert sum(len(part) + 3 for part in parts) <= room
        total += len(parts)
    assert total > 10


def test_two_nodes_of_one_name_do_not_outbid_each_other_without_end() -> None:
    net = Network(4)
    net[1].own_name = "n0000"  # as if configured so
    twin, node = net[1], net[0]
    twin.live(epoch=node.epoch + 5)
    for number in range(50):
        twin.state.put(BLOCK, b"twin%d" % number, b"x", 3600.0, twin.at)
        node.state.put(BLOCK, b"own%d" % number, b"x", 3600.0, node.at)
    net.run(60.0)
    raised = node.state.figures()["state_epoch_raised_total"]
    began = node.state.epoch
    net.run(60.0)
    assert raised > 0
    assert node.state.epoch - began < 600_000
    assert len(net[2].seen(BLOCK)) >= 50


def test_owners_that_have_nothing_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.state.store.MAX_OWNERS", 5)
    net = Network(2)
    for number in range(10):
        name = f"gone{number}"
        part = Range(name, 1, 0, 1, [Item(BLOCK, 1, b"k", b"v", 1, 2_400, 0)])
        net[0].state.receive(encode(Delta(name, 1, 0, Lane.REPAIR, [part])), net[1].address, net[0].at)
        net.run(1.0)
    assert net[0].facts.keys() == {(BLOCK, "gone8", b"k"), (BLOCK, "gone9", b"k")}
    assert net[0].state.figures()["state_refused_total"] == 0


def test_in_a_large_cluster_some_hear_of_a_block_and_push_it_on() -> None:
    net = Network(200, shares_views=True, pings=False)
    put(net, 0, BLOCK, b"a", b"x")
    assert 14 <= net.sent <= 20
    net.run(0.01)
    heard = sum(bool(node.facts) for node in net.nodes.values())
    assert heard > 170
    net.run(0.5)
    assert sum(bool(node.facts) for node in net.nodes.values()) == 199


def test_a_burst_in_a_large_cluster_costs_no_more_than_the_bucket_has() -> None:
    net = Network(100, shares_views=True, pings=False)
    for number in range(50):
        net.now += 0.01
        put(net, 0, BLOCK, b"%d" % number, b"x")
        net[0].state.tick(net[0].at)
    assert net.sent <= 400 + 0.5 * 200 + 5 * 3
    assert net[0].state.figures()["state_overflows_total"] > 0
    net.run(3.0)
    assert all(len(node.facts) == 50 for node in net.nodes.values() if node is not net[0])


def test_of_many_lives_the_newest_are_kept_by_all_alike() -> None:
    net = Network(4)
    for life in range(12):
        put(net, 0, BLOCK, b"life%d" % life, b"x", ttl_s=3600)
        if life % 3:
            net.sides["n0003"] = 1
        net.run(2.0)
        net.sides.clear()
        net[0].live()
        for number in range(1, 4):
            net[number].member("n0000", Change.UPDATED, epoch=net[0].epoch)
    put(net, 0, BLOCK, b"last", b"x", ttl_s=3600)
    net.run(10.0)
    assert net.are_equal()
    seen = {key for _, key in net[1].seen(BLOCK)}
    assert seen == {b"last"} | {b"life%d" % life for life in range(5, 12)}
    assert all(node.seen(BLOCK) == net[1].seen(BLOCK) for node in net.nodes.values())
    assert net[0].facts.keys() == {(BLOCK, "n0000", key) for key in seen - {b"last"}}


def test_large_repairs_of_one_peer_do_not_overlap() -> None:
    net = Network(2, knows_all=False)
    for number in range(3_000):
        put(net, 0, BLOCK, b"%d" % number, b"x" * 50)
    net.run(1.0)
    net.stream_delay_s = 1.5
    net.introduce(net.nodes)
    assert net.run(10.0, until=lambda: len(net[1].facts) == 3_000)
    assert len({at for at, _, _ in net.streams}) == 1, (
        "while the first are on their way, digests differ all the time"
    )


def test_where_no_datagrams_pass_push_pull_brings_what_differs() -> None:
    net = Network(2, loss=1.0)
    put(net, 0, BLOCK, b"a", b"x")
    put(net, 1, CONNECTIONS, b"b", b"2")
    net.run(5.0)
    assert not net[0].facts
    assert not net[1].facts
    net.push_pull(1, 0)
    net.run(0.1)
    assert net[1].seen(BLOCK) == {("n0000", b"a"): b"x"}
    assert net[0].seen(CONNECTIONS) == {("n0001", b"b"): b"2"}
    assert net.are_equal()
    streams = len(net.streams)
    net.push_pull(1, 0)
    net.run(0.1)
    assert len(net.streams) == streams, "nothing differs any more"


def test_an_urgent_entry_is_not_held_back_by_a_batch() -> None:
    net = Network(3, pings=False, latency_s=(0.0005, 0.0005))
    put(net, 0, FAILURES, b"f", b"1")
    net.run(0.498)
    put(net, 0, BLOCK, b"a", b"x")
    put(net, 0, BLOCK, b"b", b"x")  # waits for 5 ms, the batch for 2
    net.run(0.004)
    for number in (1, 2):
        assert {key for _, _, key in net[number].facts} == {b"a", b"b", b"f"}


def test_an_urgent_entry_is_sent_again_shortly_after() -> None:
    net = Network(3, pings=False, loss=1.0)
    sent: list[float] = []
    net.tap = lambda source, to, raw: sent.append(round(net.now - 100.0, 4))
    put(net, 0, BLOCK, b"a", b"x")
    assert sent == [0.0, 0.0]
    net.run(0.03)
    assert sent.count(0.025) == 2


def test_any_word_of_a_new_life_ends_what_the_last_one_counted() -> None:
    net = Network(2)
    put(net, 0, CONNECTIONS, b"user", b"3", ttl_s=3600)
    net.run(3.0)
    net[0].live()
    assert net[1].seen(CONNECTIONS)
    net[0].state.tell(NoticeKind.MAILBOX, b"m", net[0].at)
    net.run(0.01)
    assert not net[1].seen(CONNECTIONS)
    assert not net[1].facts
