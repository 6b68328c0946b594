from __future__ import annotations

import pytest

from cluster.address import Address
from cluster.effects import Change
from cluster.errors import PacketRejected, Reason
from cluster.messages import Ack, Alive, Dead, IndirectPing, Message, Nack, Ping, State, Suspect
from cluster.probing import MAX_RELAYS, Attempt, Sequence, attempts
from cluster.profile import LAN, SORA, Profile
from cluster.swim import Swim

from .swimnet import FakeDelegate, Outbox, address, instant, lone, name

PEER = name(1)


def cluster(count: int, profile: Profile = SORA) -> tuple[Swim, Outbox, FakeDelegate]:
    """One that knows ``count - 1`` others; nothing was sent yet."""
    swim, outbox, delegate = lone(profile)
    for number in range(1, count):
        swim.receive(Alive(1, name(number), address(number)), address(number), instant(0.0))
    while swim.broadcasts(1300, 2):
        pass
    delegate.changes.clear()
    return swim, outbox, delegate


def tick_until(swim: Swim, end: float) -> float:
    """Every deadline up to ``end``; the last of them."""
    now = 0.0
    while (deadline := swim.next_deadline()) <= end:
        now = deadline
        swim.tick(instant(now))
    return now


def pings(outbox: Outbox) -> list[tuple[Address, Ping]]:
    return [(to, m) for to, messages in outbox.sent for m in messages if isinstance(m, Ping)]


def first_ping(swim: Swim, outbox: Outbox) -> float:
    """When it was sent."""
    while not pings(outbox):
        now = swim.next_deadline()
        swim.tick(instant(now))
    return now


def test_the_attempts_of_a_probe() -> None:
    assert attempts(SORA) == (
        (0.1, Attempt.PING),
        (0.25, Attempt.ELSEWHERE),
        (0.25, Attempt.PING),
        (0.5, Attempt.PING),
    )
    assert attempts(LAN) == ((0.5, Attempt.ELSEWHERE),)


def test_sequence_numbers_wrap() -> None:
    numbers = Sequence(2**32 - 2)
    assert [numbers.next() for _ in range(3)] == [2**32 - 1, 0, 1]


def test_a_ping_that_is_answered_ends_the_probe_and_measures() -> None:
    swim, outbox, delegate = cluster(2)
    start = first_ping(swim, outbox)
    [(to, ping)] = pings(outbox)
    assert (to, ping.node, ping.source, ping.source_node) == (address(1), PEER, address(0), name(0))
    swim.receive(Ack(ping.seq_no, b"coordinate"), to, instant(start + 0.02))
    assert delegate.pings == [(PEER, pytest.approx(0.02), b"coordinate")]
    view = swim.get(PEER)
    assert view is not None
    assert view.round_trip_s == pytest.approx(0.02)
    assert swim.next_deadline() == pytest.approx(start + SORA.probe_interval_s)
    swim.receive(Ack(ping.seq_no), to, instant(start + 0.03))  # twice
    assert swim.figures()["probe_acks"] == 1


def test_each_ping_of_a_probe_has_its_own_round_trip() -> None:
    swim, outbox, delegate = cluster(2)
    start = tick_until(swim, first_ping(swim, outbox) + 0.11)
    first, again = [ping for _, ping in pings(outbox)][:2]
    assert first.seq_no != again.seq_no
    swim.receive(Ack(again.seq_no), address(1), instant(start + 0.03))
    assert [round_trip for _, round_trip, _ in delegate.pings] == [pytest.approx(0.03)]


def run_probe(profile: Profile, count: int = 6) -> tuple[Swim, Outbox, float, str]:
    """A first probe that nobody answers, up to just before its end."""
    swim, outbox, _ = cluster(count, profile)
    start = first_ping(swim, outbox)
    target = pings(outbox)[0][1].node
    tick_until(swim, start + profile.probe_interval_s - 0.001)
    return swim, outbox, start, target


@pytest.mark.parametrize(("profile", "direct"), [(SORA, 4), (LAN, 1)])
def test_a_silent_member_is_asked_in_every_way(profile: Profile, direct: int) -> None:
    _, outbox, _, target = run_probe(profile)
    assert len(pings(outbox)) == direct
    asked = [(to, m) for to, messages in outbox.sent for m in messages if isinstance(m, IndirectPing)]
    assert len(asked) == profile.indirect_checks
    assert len({to for to, _ in asked}) == profile.indirect_checks
    for to, ask in asked:
        assert ask.node == target
        assert ask.target != to
        assert ask.wants_nack
    [(_, to, ping)] = outbox.streams
    assert to == asked[0][1].target
    assert isinstance(ping, Ping)
    assert ping.node == target


def indirect(outbox: Outbox) -> IndirectPing:
    return next(m for _, messages in outbox.sent for m in messages if isinstance(m, IndirectPing))


def test_without_any_answer_it_is_suspected_and_told_so() -> None:
    swim, outbox, start, target = run_probe(SORA)
    assert swim.figures()["suspicions_raised"] == 0
    outbox.take()
    tick_until(swim, start + SORA.probe_interval_s)
    view = swim.get(target)
    assert view is not None
    assert view.state is State.SUSPECT
    assert (view.address, [Suspect(1, target, name(0))]) in outbox.sent
    assert swim.figures()["probes_failed"] == 1
    assert swim.figures()["awareness"] == 3  # of three helpers not one sent a nack


@pytest.mark.parametrize(("nacks", "score"), [(0, 3), (1, 2), (3, 0), (5, 0)])
def test_each_missing_nack_counts_against_this_node(nacks: int, score: int) -> None:
    swim, outbox, start, _ = run_probe(SORA)
    for _ in range(nacks):
        swim.receive(Nack(indirect(outbox).seq_no), address(2), instant(start + 0.5))
    tick_until(swim, start + SORA.probe_interval_s)
    assert swim.figures()["awareness"] == score


def test_an_answer_by_way_of_another_is_enough_but_measures_nothing() -> None:
    swim, outbox, start, target = run_probe(SORA)
    swim.receive(Ack(indirect(outbox).seq_no), address(2), instant(start + 0.6))
    tick_until(swim, start + SORA.probe_interval_s)
    view = swim.get(target)
    assert view is not None
    assert (view.state, view.round_trip_s) == (State.ALIVE, None)


def test_an_answer_on_a_stream_is_enough_and_counted() -> None:
    swim, outbox, start, target = run_probe(SORA)
    ticket, _, ping = outbox.streams[0]
    assert isinstance(ping, Ping)
    swim.stream_reply(ticket, Ack(ping.seq_no), instant(start + 0.7))
    tick_until(swim, start + SORA.probe_interval_s)
    view = swim.get(target)
    assert view is not None
    assert view.state is State.ALIVE
    assert swim.figures()["probe_tcp_fallbacks"] == 1


def test_a_stream_that_fails_is_no_answer() -> None:
    swim, outbox, start, target = run_probe(SORA)
    swim.stream_reply(outbox.streams[0][0], None, instant(start + 0.7))
    swim.stream_reply(4711, None, instant(start + 0.7))
    tick_until(swim, start + SORA.probe_interval_s)
    view = swim.get(target)
    assert view is not None
    assert view.state is State.SUSPECT


def test_who_contradicted_meanwhile_is_not_suspected_for_the_old_probe() -> None:
    swim, _, start, target = run_probe(SORA)
    view = swim.get(target)
    assert view is not None
    swim.receive(Alive(2, target, view.address), view.address, instant(start + 0.7))
    tick_until(swim, start + SORA.probe_interval_s)
    after = swim.get(target)
    assert after is not None
    assert (after.state, after.incarnation) == (State.ALIVE, 2)


def test_an_old_node_is_not_asked_what_it_does_not_know() -> None:
    swim, outbox, _ = cluster(2)
    old = bytes((1, 2, 2, 2, 5, 5))
    swim.receive(Alive(2, PEER, address(1), b"", old), address(1), instant(0.0))
    swim.receive(Alive(1, name(2), address(2), b"", old), address(1), instant(0.0))
    tick_until(swim, first_ping(swim, outbox) + 0.79)
    assert [ask.wants_nack for ask in outbox.messages(IndirectPing) if isinstance(ask, IndirectPing)] == [
        False
    ]
    assert outbox.streams == []


def test_whom_others_suspect_is_probed_next_with_the_suspicion_first() -> None:
    swim, outbox, _ = cluster(6)
    swim.receive(Suspect(1, name(4), name(2)), address(2), instant(0.0))
    first_ping(swim, outbox)
    to, messages = outbox.sent[0]
    assert to == address(4)
    suspicion, ping = messages
    assert suspicion == Suspect(1, name(4), name(0))
    assert isinstance(ping, Ping)


def test_a_suspected_node_answers_the_suspicion_with_the_ack() -> None:
    swim, outbox, _ = cluster(3)
    swim.receive(Suspect(1, name(0), PEER), address(1), instant(0.0))
    swim.receive(Ping(5, name(0), address(1), PEER), address(1), instant(0.0))
    assert outbox.sent == [(address(1), [Ack(5, bytes(132))])]
    assert swim.broadcasts(1300, 2)  # goes along with the ack


def test_the_interval_grows_with_the_score() -> None:
    swim, _, start, _ = run_probe(SORA)
    begun = tick_until(swim, start + SORA.probe_interval_s)  # fails; the next begins at once
    assert swim.figures()["probes"] == 2
    tick_until(swim, begun + SORA.probe_interval_s * 4 - 0.01)
    assert swim.figures()["probes"] == 2
    tick_until(swim, begun + SORA.probe_interval_s * 4)
    assert swim.figures()["probes"] == 3


def test_a_node_alone_recovers_from_its_doubts() -> None:
    swim, _outbox, delegate = cluster(2)
    tick_until(swim, 40.0)
    view = swim.get(PEER)
    assert view is not None
    assert view.state is State.DEAD
    assert [change for _, change, _, _ in delegate.changes] == [Change.SUSPECTED, Change.FAILED]
    assert swim.figures()["awareness"] == 0
    assert not swim.is_slow


# --- pinging for others ---


def ask(seq_no: int = 9, *, wants_nack: bool = True, target: Address | None = None) -> IndirectPing:
    return IndirectPing(seq_no, target or address(2), name(2), wants_nack, address(1), PEER)


def relayed(swim: Swim, outbox: Outbox, **how: bool) -> Ping:
    swim.receive(ask(**how), address(1), instant(1.0))
    [(to, [ping])] = outbox.take()
    assert to == address(2)
    assert isinstance(ping, Ping)
    assert (ping.node, ping.source, ping.source_node) == (name(2), address(0), name(0))
    return ping


def idle_cluster() -> tuple[Swim, Outbox, FakeDelegate]:
    swim, outbox, delegate = cluster(3)
    swim._prober.stop()  # only what is relayed shall be seen
    return swim, outbox, delegate


def answers(swim: Swim, outbox: Outbox, end: float) -> list[tuple[float, Message]]:
    found = []
    while (deadline := swim.next_deadline()) <= end:
        swim.tick(instant(deadline))
        found += [(deadline, m) for _, messages in outbox.take() for m in messages]
    return found


def test_an_ack_is_passed_on_with_the_number_of_the_asker_and_without_payload() -> None:
    swim, outbox, delegate = idle_cluster()
    ping = relayed(swim, outbox)
    swim.receive(Ack(ping.seq_no, b"not for you"), address(2), instant(1.1))
    assert outbox.take() == [(address(1), [Ack(9)])]
    assert delegate.pings == []
    assert answers(swim, outbox, 3.0) == []


def test_without_an_ack_the_nack_comes_early_and_a_late_ack_still_counts() -> None:
    swim, outbox, _ = idle_cluster()
    ping = relayed(swim, outbox)
    found = answers(swim, outbox, 1.5)
    assert found == [
        (pytest.approx(1.1), ping),  # once more
        (pytest.approx(1.2), Nack(9)),
    ]
    swim.receive(Ack(ping.seq_no), address(2), instant(1.5))
    assert outbox.take() == [(address(1), [Ack(9)])]


def test_no_nack_that_nobody_wants() -> None:
    swim, outbox, _ = idle_cluster()
    ping = relayed(swim, outbox, wants_nack=False)
    assert [m for _, m in answers(swim, outbox, 3.0)] == [ping]


def test_pings_for_others_are_bounded() -> None:
    swim, outbox, _ = idle_cluster()
    for number in range(MAX_RELAYS):
        swim.receive(ask(number), address(1), instant(1.0))
    with pytest.raises(PacketRejected) as refusal:
        swim.receive(ask(), address(1), instant(1.0))
    assert refusal.value.reason is Reason.OVERLOAD
    answers(swim, outbox, 3.0)
    swim.receive(ask(), address(1), instant(3.0))


@pytest.mark.parametrize("ip", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "::1"])
def test_nobody_is_pinged_where_no_member_can_be(ip: str) -> None:
    swim, outbox, _ = idle_cluster()
    with pytest.raises(PacketRejected):
        swim.receive(ask(target=Address(ip, 22)), address(1), instant(1.0))
    assert outbox.sent == []


# --- standing still ---


def test_standing_still_accuses_nobody() -> None:
    """A SIGSTOP of 30 s in the middle of a probe and of a suspicion."""
    swim, outbox, delegate = cluster(4)
    swim.receive(Suspect(1, name(3), name(2)), address(2), instant(0.0))
    delegate.changes.clear()
    start = first_ping(swim, outbox)
    swim.tick(instant(start + 30.0))
    assert delegate.changes == []
    assert swim.figures()["loop_late"] == 1
    assert swim.is_slow
    swim.loop_was_late(29.0, instant(start + 30.0))  # the same, as its owner saw it
    assert swim.figures()["loop_late"] == 1
    assert swim.next_deadline() > start + 30.0


def test_a_loop_that_is_late_lowers_the_trust_in_oneself_once_an_interval() -> None:
    swim, _, _ = cluster(3)
    swim.loop_was_late(SORA.probe_timeout_s / 2, instant(10.0))
    assert swim.figures()["awareness"] == 0
    for step in range(4):
        swim.loop_was_late(0.15, instant(11.0 + step * 0.16))
    assert swim.figures()["awareness"] == 1
    swim.loop_was_late(0.15, instant(12.0))
    assert swim.figures()["awareness"] == 2


def test_a_leaving_node_probes_no_more() -> None:
    swim, outbox, _ = cluster(3)
    swim.leave(instant(0.1))
    tick_until(swim, 20.0)
    assert pings(outbox) == []
    assert swim.has_left


def test_pings_for_another_name_are_stale() -> None:
    swim, outbox, _ = cluster(2)
    for deliver in (
        lambda: swim.receive(Ping(1, "someone", address(1), PEER), address(1), instant(1.0)),
        lambda: swim.receive_ping_stream(Ping(1, "someone"), instant(1.0)),
    ):
        with pytest.raises(PacketRejected) as refusal:
            deliver()
        assert refusal.value.reason is Reason.STALE
    assert outbox.sent == []
    assert swim.receive_ping_stream(Ping(7, name(0)), instant(1.0)) == Ack(7)


def test_who_pings_us_and_is_held_for_dead_hears_of_it() -> None:
    swim, outbox, _ = cluster(3)
    swim.receive(Dead(1, PEER, name(2)), address(2), instant(1.0))
    outbox.take()
    swim.receive(Ping(1, name(0), address(1), PEER), address(1), instant(2.0))
    assert outbox.take() == [
        (address(1), [Ack(1, bytes(132))]),
        (address(1), [Dead(1, PEER, name(0))]),
    ]
