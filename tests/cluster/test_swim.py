"""Several nodes: forming, failing, coming back, being cut off, and what must hold whatever happens."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.address import Address
from cluster.effects import Change, Joined
from cluster.errors import PacketRejected, Reason
from cluster.messages import VSN, Ack, Alive, Dead, ErrorReply, NodeRecord, PushPull, State, User
from cluster.profile import LAN, SORA
from cluster.pushpull import MAX_PEERS

from .swimnet import SwimNet, SwimNode, address, instant, lone, name

# --- forming ---


def test_nodes_that_join_one_know_all() -> None:
    net = SwimNet(8)
    net.join_all()
    assert net.all_alive()
    assert net.nodes[name(5)].effects == [Joined(address(0), "")]
    assert len(net.changes(Change.JOINED)) == 8 * 8
    assert {view.joined for view in net.nodes[name(0)].swim} <= {0.0} | {
        when for when, _, _ in net.changes(Change.JOINED)
    }


def test_a_join_that_nobody_answers_is_told() -> None:
    net = SwimNet(1)
    node = net.nodes[name(0)]
    net.join(node, [address(7), node.address])
    net.run_for(11.0)
    assert [
        (effect.address, bool(effect.error)) for effect in node.effects if isinstance(effect, Joined)
    ] == [
        (node.address, True),
        (address(7), True),
    ]


def test_a_peer_that_comes_up_later_is_found() -> None:
    net = SwimNet(1)
    node = net.nodes[name(0)]
    node.run(lambda: node.swim.set_peers([address(1), node.address], instant(net.now)))
    net.run_for(20.0)
    net.add(1)
    net.run_for(SORA.rejoin_interval_s + 11.0)
    assert net.all_alive()


def test_idle_nodes_cost_what_a_probe_costs() -> None:
    net = SwimNet(6)
    net.join_all()
    net.run_for(10.0)
    for node in net.nodes.values():
        node.packets = node.octets = 0
    net.run_for(80.0)
    for node in net.nodes.values():
        assert node.packets / 80 <= 1.5 * 2.0
        assert node.octets / 80 <= 1.5 * 327
    assert net.changes(Change.SUSPECTED) == []
    assert {view.incarnation for node in net.nodes.values() for view in node.swim} == {1}
    assert all(view.round_trip_s is not None for view in net.nodes[name(0)].swim.alive())


# --- failing ---


def deaths(profile_name: str, count: int = 5, seeds: int = 12) -> list[float]:
    """Seconds from the end of a process until all others hold it for dead."""
    found = []
    for seed in range(seeds):
        net = SwimNet(count, seed=seed, profile={"sora": SORA, "lan": LAN}[profile_name])
        net.join_all()
        net.run_for(3.0 + net.rng.random())
        killed_at = net.now
        net.kill(net.nodes[name(1)])
        assert net.run_until(killed_at + 60.0, lambda net=net: net.all_see(1, State.DEAD)), f"seed={seed}"
        found.append(net.now - killed_at)
    return found


def test_a_death_is_known_sooner_than_to_agents() -> None:
    ours, agents = deaths("sora"), deaths("lan")
    assert sum(ours) / len(ours) < 4.5 < 5.3 < sum(agents) / len(agents) < 6.3
    assert max(ours) < 8.0


def test_loss_makes_us_suspect_less_than_agents_do() -> None:
    suspicions = []
    for profile in (SORA, LAN):
        net = SwimNet(5, seed=3, profile=profile)
        net.join_all()
        net.loss, net.has_streams = 0.2, False
        net.run_for(300.0)
        suspicions.append(sum(node.swim.figures()["suspicions_raised"] for node in net.nodes.values()))
        if profile is SORA:
            assert net.changes(Change.FAILED) == []
    assert suspicions[0] * 4 < suspicions[1]


@pytest.mark.parametrize("seed", range(3))
def test_a_death_does_not_make_the_survivors_doubt_themselves(seed: int) -> None:
    """Nacks come while the probe runs."""
    net = SwimNet(5, seed=seed)
    net.join_all()
    net.kill(net.nodes[name(1)])
    scores: list[int | float] = []
    for _ in range(80):
        net.run_for(0.1)
        scores += [node.swim.figures()["awareness"] for node in net.up()]
    assert net.all_see(1, State.DEAD)
    assert max(scores) == 0
    assert sum(node.swim.figures()["probe_nacks"] for node in net.up()) >= 6


def test_a_node_that_leaves_is_left_at_once_and_goes() -> None:
    net = SwimNet(5)
    net.join_all()
    leaver = net.nodes[name(2)]
    began = net.now
    leaver.run(lambda: leaver.swim.leave(instant(net.now)))
    assert net.run_until(began + 2.0, lambda: net.all_see(2, State.LEFT))
    assert not leaver.swim.has_left  # still answers
    assert net.run_until(began + 8.0, lambda: leaver.swim.has_left)
    assert net.changes(Change.FAILED) == []
    view = leaver.swim.get(name(2))
    assert view is not None
    assert view.state is State.LEFT


def test_the_last_one_leaves_at_once() -> None:
    swim, _, _ = lone()
    swim.leave(instant(1.0))
    swim.leave(instant(1.0))
    swim.tick(instant(1.0))
    assert swim.has_left


def test_a_member_that_left_after_all() -> None:
    net = SwimNet(3)
    net.join_all()
    net.kill(net.nodes[name(2)])
    net.run_for(20.0)
    swim = net.nodes[name(0)].swim
    swim.force_dead(name(1), instant(net.now))
    swim.force_dead(name(2), instant(net.now))
    assert [view.state for view in swim] == [State.ALIVE, State.ALIVE, State.LEFT]
    swim.forget(name(2))
    swim.forget(name(1))
    assert [view.name for view in swim] == [name(0), name(1)]


# --- coming back ---


@pytest.mark.parametrize("away_s", [0.2, 3.0, 20.0, 100.0])
def test_a_restarted_node_overtakes_its_past_life(away_s: float) -> None:
    net = SwimNet(5, seed=2)
    net.join_all()
    old = net.nodes[name(2)]
    for _ in range(3):
        old.run(lambda: old.swim.set_meta_changed(instant(net.now)))
    net.run_for(2.0)
    net.kill(old)
    net.run_for(away_s)
    new = net.add(2)
    net.join(new, [address(0)])
    began = net.now
    new_life = (State.ALIVE, 5)
    assert net.run_until(began + 2.0, lambda: all(n.views().get(name(2)) == new_life for n in net.up()))
    net.run_for(30.0)
    assert net.all_alive()


def test_after_leaving_a_name_comes_back() -> None:
    net = SwimNet(4)
    net.join_all()
    leaver = net.nodes[name(3)]
    leaver.run(lambda: leaver.swim.leave(instant(net.now)))
    net.run_for(5.0)
    net.kill(leaver)
    net.join(net.add(3, at=Address("10.7.7.7", 7946)), [address(0)])
    began = net.now
    assert net.run_until(began + 2.0, net.all_alive)
    view = net.nodes[name(1)].swim.get(name(3))
    assert view is not None
    assert view.address == Address("10.7.7.7", 7946)


@pytest.mark.parametrize("away_s", [0.5, 4.0, 60.0])
def test_a_node_comes_back_with_another_address(away_s: float) -> None:
    net = SwimNet(5, seed=4)
    net.join_all()
    net.kill(net.nodes[name(2)])
    net.run_for(away_s)
    moved = net.add(2, at=Address("10.7.7.7", 7946))
    net.join(moved, [address(0)])
    began = net.now
    assert net.run_until(began + 15.0, lambda: all(n.swim.by_address(moved.address) for n in net.up()))
    net.run_for(20.0)
    assert net.all_alive()
    for node in net.up():
        view = node.swim.get(name(2))
        assert view is not None
        assert view.address == moved.address


def test_two_nodes_of_one_name_are_reported_and_disturb_nobody_else() -> None:
    net = SwimNet(5)
    net.join_all()
    for node in net.nodes.values():
        node.delegate.changes.clear()
    double = net.add(2, at=Address("10.7.7.7", 7946), key="double")
    net.join(double, [address(0)])
    net.run_for(60.0)
    assert (name(2), address(2), double.address) in net.nodes[name(0)].delegate.conflicts
    assert (name(2), double.address, address(2)) in double.delegate.conflicts
    assert net.changes(Change.FAILED) == []
    for number in (0, 1, 3, 4):
        view = net.nodes[name(number)].swim.get(name(2))
        assert view is not None
        assert view.address == address(2)
    # They outbid each other, but not for ever faster.
    assert max(view.incarnation for view in net.nodes[name(0)].swim) < 40
    assert max(node.packets for node in net.nodes.values()) / net.now < 12


def test_all_restarted_at_once() -> None:
    net = SwimNet(6, seed=5)
    net.join_all()
    for node in list(net.nodes.values()):
        net.kill(node)
    for number in range(6):
        net.join(net.add(number), [address(other) for other in range(6)])
    began = net.now
    assert net.run_until(began + 3.0, net.all_alive)
    net.run_for(30.0)
    assert net.all_alive()
    assert net.changes(Change.FAILED) == []


# --- standing still, being cut off ---


@pytest.mark.parametrize("seconds", [1.0, 2.5])
def test_a_short_pause_is_forgiven(seconds: float) -> None:
    net = SwimNet(5, seed=6)
    net.join_all()
    net.pause(net.nodes[name(1)], seconds)
    net.run_for(20.0)
    assert net.changes(Change.FAILED) == []
    assert net.all_alive()


@pytest.mark.parametrize("seed", range(4))
def test_a_long_pause_ends_with_nobody_else_accused(seed: int) -> None:
    net = SwimNet(5, seed=seed)
    net.join_all()
    net.pause(net.nodes[name(1)], 30.0)
    began = net.now
    assert net.run_until(began + 20.0, lambda: net.all_see(1, State.DEAD))
    net.run_until(began + 30.0)
    assert net.run_until(began + 34.0, net.all_alive)
    net.run_for(20.0)
    assert net.all_alive()
    assert {whom for _, _, whom in net.changes(Change.FAILED)} == {name(1)}
    assert {whom for _, _, whom in net.changes(Change.SUSPECTED)} == {name(1)}


def cut(*pairs: tuple[set[int], set[int]]) -> Callable[[Address, Address], bool]:
    ways = [({address(a) for a in froms}, {address(b) for b in tos}) for froms, tos in pairs]
    return lambda source, to: any(source in froms and to in tos for froms, tos in ways)


def test_halves_of_a_partition_find_each_other() -> None:
    net = SwimNet(6, seed=7)
    net.join_all()
    left, right = {0, 1, 2}, {3, 4, 5}
    net.is_cut = cut((left, right), (right, left))
    net.run_for(60.0)
    assert net.nodes[name(0)].views()[name(5)][0] is State.DEAD
    assert net.nodes[name(5)].views()[name(1)][0] is State.DEAD
    assert net.nodes[name(0)].views()[name(1)][0] is State.ALIVE
    net.is_cut = cut()
    healed = net.now
    assert net.run_until(healed + SORA.rejoin_interval_s + 12.0, net.all_alive)
    net.run_for(10.0)
    assert net.all_alive()


def test_two_that_cannot_reach_each_other_stay_alive_through_the_others() -> None:
    net = SwimNet(5, seed=8)
    net.join_all()
    net.is_cut = cut(({1}, {2}), ({2}, {1}))
    net.run_for(120.0)
    assert net.changes(Change.FAILED) == []


def test_who_is_heard_but_does_not_hear_recovers() -> None:
    """One way only: nothing reaches n001."""
    net = SwimNet(5, seed=9)
    net.join_all()
    net.is_cut = cut(({0, 2, 3, 4}, {1}))
    began = net.now
    assert net.run_until(began + 20.0, lambda: net.all_see(1, State.DEAD))
    others = {name(number) for number in (0, 2, 3, 4)}
    assert net.nodes[name(1)].swim.is_slow
    for node in (net.nodes[other] for other in sorted(others)):
        assert all(node.views()[other][0] <= State.SUSPECT for other in others)
    net.is_cut = cut()
    assert net.run_until(net.now + 20.0, net.all_alive)


# --- push/pull ---


def record(node: str, state: State = State.ALIVE, *, vsn: bytes = VSN, incarnation: int = 1) -> NodeRecord:
    return NodeRecord(node, Address("10.8.0.1", 7946), b"", incarnation, state, vsn)


POISON = bytes((1, 5, 2, 0, 0, 0))


def test_records_become_what_the_rules_make_of_them() -> None:
    swim, outbox, delegate = lone()
    at = instant(1.0)
    for node in ("failed", "doubted", "gone", "fine"):
        swim.receive(Alive(1, node, Address("10.8.0.1", 7946)), address(1), at)
    asked = PushPull(
        (
            record("failed", State.DEAD),
            record("doubted", State.SUSPECT),
            record("gone", State.LEFT),
            record("fine", incarnation=2),
            record("new"),
            record("unknown", State.SUSPECT),
            record("forgotten", State.DEAD),
        ),
        b"state",
        False,
    )
    delegate.state = b"ours"
    reply = swim.receive_push_pull(asked, address(1), at)
    assert {node.node: node.state for node in reply.nodes} == {
        name(0): State.ALIVE,
        **dict.fromkeys(("failed", "doubted", "gone", "fine"), State.ALIVE),
    }
    assert (reply.user_state, reply.is_join, delegate.merged) == (b"ours", False, [b"state"])
    assert {view.name: view.state for view in swim} == {
        name(0): State.ALIVE,
        "failed": State.SUSPECT,
        "doubted": State.SUSPECT,
        "gone": State.LEFT,
        "fine": State.ALIVE,
        "new": State.ALIVE,
    }
    assert len(outbox.sent) == 2  # both that are doubted hear of it


def test_one_wrong_version_does_not_keep_the_others_apart() -> None:
    swim, _, _ = lone()
    at = instant(1.0)
    asked = PushPull((record("good"), record("poison", vsn=POISON)), b"", True)
    swim.receive_push_pull(asked, address(1), at)
    assert [view.name for view in swim] == ["good", name(0)]
    assert swim.figures()["records_refused"] == 1
    assert POISON not in {node.vsn for node in swim.receive_push_pull(asked, address(1), at).nodes}


def test_what_is_all_of_another_version_is_refused() -> None:
    swim, _, delegate = lone()
    with pytest.raises(PacketRejected) as refusal:
        swim.receive_push_pull(PushPull((record("x", vsn=POISON),), b"s", True), address(1), instant(1.0))
    assert refusal.value.reason is Reason.VERSION
    assert (delegate.merged, swim.figures()["push_pulls_failed"]) == ([], 1)


def test_what_the_layer_above_refuses_is_not_merged() -> None:
    swim, outbox, delegate = lone()
    delegate.refuses = PacketRejected(Reason.FORGED, "no")
    with pytest.raises(PacketRejected):
        swim.receive_push_pull(PushPull((record("x"),), b"s", True), address(1), instant(1.0))
    swim.join([address(1)], instant(1.0))
    swim.stream_reply(outbox.streams[0][0], PushPull((record("x"),), b"s", True), instant(1.1))
    assert outbox.effects == [Joined(address(1), "forged: no")]
    assert [view.name for view in swim] == [name(0)]


def test_an_answer_to_something_else_is_no_join() -> None:
    swim, outbox, _ = lone()
    swim.join([address(1)], instant(1.0))
    swim.stream_reply(outbox.streams[0][0], Ack(1), instant(1.1), "")
    assert outbox.effects == [Joined(address(1), "an answer to something else")]
    assert swim.figures()["push_pulls_failed"] == 1


@pytest.mark.parametrize(
    ("count", "interval_s"),
    [(2, 15.0), (15, 15.0), (16, 30.0), (32, 30.0), (33, 60.0), (64, 60.0), (65, 90.0), (256, 150.0)],
)
def test_push_pulls_become_rarer_in_large_clusters(count: int, interval_s: float) -> None:
    swim, outbox, _ = lone()
    for number in range(1, count):
        swim.receive(Alive(1, name(number), address(number)), address(number), instant(0.0))
    asked: list[float] = []
    while len(asked) < 3:
        now = swim.next_deadline()
        for number in range(1, count):  # all are healthy
            view = swim.get(name(number))
            if view is not None and view.state is not State.ALIVE:
                again = Alive(view.incarnation + 1, name(number), address(number))
                swim.receive(again, address(number), instant(now))
        streams = len(outbox.streams)
        swim.tick(instant(now))
        asked += [now for _, _, m in outbox.streams[streams:] if isinstance(m, PushPull) and not m.is_join]
    assert [later - before for before, later in pairwise(asked)] == [pytest.approx(interval_s)] * 2


def test_a_forged_record_is_passed_over() -> None:
    swim, _, _ = lone()
    forged = NodeRecord("evil\n", Address("127.0.0.1", 7946), b"", 1, State.ALIVE)
    swim.receive_push_pull(PushPull((forged, record("x")), b"", False), address(1), instant(1.0))
    assert [view.name for view in swim] == [name(0), "x"]


def test_the_long_dead_are_left_out_unless_the_other_speaks_of_them() -> None:
    swim, _, _ = lone()
    swim.receive(Alive(4, "x", address(1)), address(1), instant(1.0))
    swim.receive(Dead(4, "x", name(0)), address(1), instant(2.0))
    nothing = PushPull((), b"", True)
    recent = swim.receive_push_pull(nothing, address(1), instant(20.0))
    assert [node.node for node in recent.nodes] == [name(0), "x"]
    later = swim.receive_push_pull(nothing, address(1), instant(50.0))
    assert [node.node for node in later.nodes] == [name(0)]
    about = swim.receive_push_pull(PushPull((record("x"),), b"", True), address(1), instant(50.0))
    assert [(node.node, node.incarnation) for node in about.nodes] == [(name(0), 1), ("x", 4)]


def test_peers_are_bounded_and_only_missing_ones_are_tried() -> None:
    swim, outbox, _ = lone()
    swim.set_peers([Address(f"10.1.{n // 250}.{n % 250}", 1) for n in range(MAX_PEERS + 50)], instant(0.0))
    assert len(outbox.streams) == MAX_PEERS
    for ticket, _, _ in list(outbox.streams):
        swim.stream_reply(ticket, None, instant(1.0))
    before = len(outbox.streams)
    swim.tick(instant(SORA.rejoin_interval_s))
    assert len(outbox.streams) == before + 3
    assert all(message.is_join for _, _, message in outbox.streams if isinstance(message, PushPull))


def test_peers_that_are_no_longer_named_are_not_tried_again() -> None:
    swim, outbox, _ = lone()
    swim.set_peers([address(1), address(2)], instant(0.0))
    swim.set_peers([address(2), address(3)], instant(0.0))
    assert [to for _, to, _ in outbox.streams] == [address(1), address(2), address(3)]
    for ticket, _, _ in list(outbox.streams):
        swim.stream_reply(ticket, None, instant(1.0))
    swim.tick(instant(SORA.rejoin_interval_s))
    assert {to for _, to, _ in outbox.streams[3:]} == {address(2), address(3)}
    told = [effect.address for effect in outbox.effects if isinstance(effect, Joined)]
    assert told == [address(1), address(2), address(3)]


def test_messages_that_do_not_belong_in_datagrams_are_refused() -> None:
    swim, _, delegate = lone()
    for message in (PushPull((), b"", False), ErrorReply("x")):
        with pytest.raises(PacketRejected) as refusal:
            swim.receive(message, address(1), instant(1.0))
        assert refusal.value.reason is Reason.UNKNOWN_TYPE
    swim.receive(User(b"\x03event"), address(1), instant(1.0))
    assert delegate.user == [b"\x03event"]
    swim.stream_reply(99, Ack(1), instant(1.0))


def test_rounds_of_gossip_only_when_there_is_something_to_tell() -> None:
    swim, outbox, delegate = lone()
    swim.receive(Alive(1, name(1), address(1)), address(1), instant(0.0))
    assert swim.next_deadline() <= 0.0
    while swim.broadcasts(1300, 2):
        pass
    assert swim.next_deadline() > 0.0
    delegate.has_news = True
    swim.tick(instant(0.0))
    assert outbox.rounds == [address(1)]
    assert swim.next_deadline() == pytest.approx(SORA.gossip_interval_s)


# --- whatever happens ---


def wreck(net: SwimNet, rng: random.Random, seconds: float) -> None:
    """Kill, restart, pause, cut and lose for a while; check at each step that incarnations never fall."""
    seen: dict[tuple[int, str], int] = {}
    end = net.now + seconds
    while net.now < end:
        number = rng.randrange(len(net.nodes))
        node = net.nodes[name(number)]
        action = rng.randrange(6)
        if action == 0 and node.is_up and len(net.up()) > 2:
            net.kill(node)
        elif action == 1 and not node.is_up:
            net.join(net.add(number), [other.address for other in net.up()][:2])
        elif action == 2 and node.is_up:
            net.pause(node, rng.random() * 12)
        elif action == 3:
            some = {n for n in range(len(net.nodes)) if rng.random() < 0.4}
            rest = set(range(len(net.nodes))) - some
            net.is_cut = cut((some, rest), *([(rest, some)] if rng.random() < 0.5 else []))
        elif action == 4:
            net.is_cut = cut()
        else:
            net.loss = rng.choice((0.0, 0.1, 0.4))
        net.run_for(rng.random() * 6)
        for other in net.up():
            for whom, (_, incarnation) in other.views().items():
                key = (id(other), whom)
                assert seen.get(key, 0) <= incarnation, f"seed={net.seed}: {whom} fell at {other.name}"
                seen[key] = incarnation


def heal(net: SwimNet) -> None:
    net.is_cut = cut()
    net.loss = 0.0
    net.run_for(75.0)


@pytest.mark.parametrize("seed", range(12))
def test_views_agree_after_all_is_quiet(seed: int) -> None:
    net = SwimNet(5, seed=seed)
    net.join_all()
    wreck(net, random.Random(seed), 90.0)
    heal(net)
    up = {node.name for node in net.up()}
    first = {whom: view for whom, view in net.up()[0].views().items() if whom in up}
    assert {state for state, _ in first.values()} == {State.ALIVE}, f"seed={seed}: {first}"
    for node in net.up():
        views = node.views()
        assert {whom: views[whom] for whom in up} == first, f"seed={seed}: {node.name}"
        assert all(views[whom][0] >= State.DEAD for whom in views if whom not in up), f"seed={seed}"
        assert node.rejected == [] or all(r.reason is Reason.STALE for r in node.rejected)


def trace(seed: int) -> list[tuple[float, Change, str, int]]:
    net = SwimNet(5, seed=seed)
    net.join_all()
    wreck(net, random.Random(seed), 30.0)
    return [change for node in net.nodes.values() for change in node.delegate.changes]


def test_a_seed_gives_the_same_run() -> None:
    assert trace(3) == trace(3)
    assert trace(3) != trace(4)


MESSAGES = st.one_of(
    st.builds(
        Alive,
        st.integers(0, 6),
        st.sampled_from([name(0), name(1), name(2)]),
        st.sampled_from([address(0), address(1), address(2)]),
        st.sampled_from([b"", b"\xff\x80"]),
    ),
    st.builds(
        Dead, st.integers(0, 6), st.sampled_from([name(0), name(1), name(2)]), st.sampled_from([name(1), "x"])
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGES, max_size=25), st.integers(0, 2**32))
def test_a_live_node_outlives_whatever_is_said_of_it(said: list[Alive | Dead], seed: int) -> None:
    """Any statements reach one of three; afterwards all three hold all for alive, at one incarnation."""
    net = SwimNet(3, seed=seed)
    net.join_all()
    victim: SwimNode = net.nodes[name(0)]
    before = {whom: incarnation for whom, (_, incarnation) in victim.views().items()}
    for message in said:
        victim.run(lambda message=message: victim.swim.receive(message, address(1), instant(net.now)))
        for whom, (_, incarnation) in victim.views().items():
            assert incarnation >= before[whom]
            before[whom] = incarnation
    net.run_for(45.0)
    assert net.all_alive()
    assert len({tuple(sorted(node.views().items())) for node in net.up()}) == 1
