from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import admission
from cluster.address import Address
from cluster.admission import MAX_INCARNATION, admit, is_compatible
from cluster.effects import Change
from cluster.errors import PacketRejected, Reason
from cluster.members import Member, MemberTable
from cluster.merging import RULES, Held, Verdict
from cluster.messages import VSN, Alive, Dead, MessageType, State, Suspect
from cluster.profile import SORA
from cluster.serf.tags import encode_tags

from .swimnet import address, instant, lone, name

PEER, WHERE = name(1), address(1)
OTHER = name(2)
ELSEWHERE = Address("10.9.9.9", 7946)


# --- merging: statement x what is held x incarnation ---


def held(state: State | None, incarnation: int = 5):  # type: ignore[no-untyped-def]
    """A node that holds ``PEER`` so, and knows ``OTHER``."""
    swim, outbox, delegate = lone()
    at = instant(1.0)
    swim.receive(Alive(1, OTHER, address(2)), WHERE, at)
    if state is not None:
        swim.receive(Alive(incarnation, PEER, WHERE), WHERE, at)
    if state is State.SUSPECT:
        swim.receive(Suspect(incarnation, PEER, OTHER), WHERE, at)
    elif state is State.DEAD:
        swim.receive(Dead(incarnation, PEER, OTHER), WHERE, at)
    elif state is State.LEFT:
        swim.receive(Dead(incarnation, PEER, PEER), WHERE, at)
    while swim.broadcasts(1300, 2):
        pass
    outbox.take()
    delegate.changes.clear()
    return swim, outbox, delegate


A, S, D, L = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT
ALIVE, SUSPECT, DEAD, LEAVE = "alive", "suspect", "dead", "leave"
C = Change
# statement, its incarnation (5 is held), held, expected: state, incarnation, changes, whether it is passed on
MERGES = [
    (ALIVE, 1, None, A, 1, [C.JOINED], True),
    (ALIVE, 5, A, A, 5, [], False),
    (ALIVE, 4, A, A, 5, [], False),
    (ALIVE, 6, A, A, 6, [], True),
    (ALIVE, 5, S, S, 5, [], False),
    (ALIVE, 6, S, A, 6, [C.CLEARED], True),
    (ALIVE, 4, D, D, 5, [], False),
    (ALIVE, 5, D, D, 5, [], False),
    (ALIVE, 6, D, A, 6, [C.JOINED], True),
    (ALIVE, 5, L, L, 5, [], False),
    (ALIVE, 6, L, A, 6, [C.JOINED], True),
    (SUSPECT, 5, None, None, 0, [], False),
    (SUSPECT, 4, A, A, 5, [], False),
    (SUSPECT, 5, A, S, 5, [C.SUSPECTED], True),
    (SUSPECT, 7, A, S, 7, [C.SUSPECTED], True),
    (SUSPECT, 4, S, S, 5, [], False),
    (SUSPECT, 5, S, S, 5, [], False),  # the same accuser again
    (SUSPECT, 6, D, D, 5, [], False),
    (SUSPECT, 6, L, L, 5, [], False),
    (DEAD, 5, None, None, 0, [], False),
    (DEAD, 4, A, A, 5, [], False),
    (DEAD, 5, A, D, 5, [C.FAILED], True),
    (DEAD, 8, A, D, 8, [C.FAILED], True),
    (DEAD, 4, S, S, 5, [], False),
    (DEAD, 5, S, D, 5, [C.FAILED], True),
    (DEAD, 6, D, D, 5, [], False),
    (DEAD, 6, L, L, 5, [], False),
    (LEAVE, 5, A, L, 5, [C.LEFT], True),
    (LEAVE, 5, S, L, 5, [C.LEFT], True),
    (LEAVE, 4, A, A, 5, [], False),
    (LEAVE, 6, D, D, 5, [], False),
]


def statement(kind: str, incarnation: int) -> Alive | Suspect | Dead:
    return {
        ALIVE: Alive(incarnation, PEER, WHERE),
        SUSPECT: Suspect(incarnation, PEER, OTHER),
        DEAD: Dead(incarnation, PEER, OTHER),
        LEAVE: Dead(incarnation, PEER, PEER),
    }[kind]


@pytest.mark.parametrize(("kind", "said", "before", "state", "incarnation", "changes", "is_news"), MERGES)
def test_merge(
    kind: str,
    said: int,
    before: State | None,
    state: State | None,
    incarnation: int,
    changes: list[Change],
    is_news: bool,
) -> None:
    swim, _, delegate = held(before)
    swim.receive(statement(kind, said), WHERE, instant(2.0))
    view = swim.get(PEER)
    assert (view and view.state) == state
    assert view is None or view.incarnation == incarnation
    assert [change for _, change, _, _ in delegate.changes] == changes
    assert bool(swim.broadcasts(1300, 2)) is is_news


def test_the_rules_have_a_row_for_everything() -> None:
    statements = (MessageType.ALIVE, MessageType.SUSPECT, MessageType.DEAD)
    assert set(RULES) == {(kind, what) for kind in statements for what in Held}


def test_only_what_is_ours_is_refuted() -> None:
    refuted = {key for key, verdicts in RULES.items() if Verdict.REFUTE in verdicts}
    assert {what for _, what in refuted} == {Held.OWN}


# --- about this node ---


@pytest.mark.parametrize(
    ("said", "incarnation", "is_news"),
    [
        (Suspect(1, name(0), OTHER), 2, True),
        (Suspect(7, name(0), OTHER), 8, True),
        (Dead(1, name(0), OTHER), 2, True),
        (Dead(9, name(0), OTHER), 10, True),
        (Dead(9, name(0), name(0)), 10, True),
        (Alive(1, name(0), address(0), b"\xff\x80"), 1, False),
        (Alive(1, name(0), address(0), b"\xff\x80", b""), 1, False),
        (Alive(1, name(0), address(0), encode_tags({"a": "b"})), 2, True),
        (Alive(4, name(0), address(0), b"\xff\x80"), 5, True),
        (Alive(4, name(0), ELSEWHERE), 5, True),
        # overtaken: what holds is said again
        (Suspect(0, name(0), OTHER), 1, True),
        (Dead(0, name(0), OTHER), 1, True),
    ],
)
def test_what_is_said_of_this_node_is_contradicted(
    said: Alive | Suspect | Dead, incarnation: int, is_news: bool
) -> None:
    swim, _, delegate = held(State.ALIVE)
    swim.receive(said, WHERE, instant(2.0))
    view = swim.get(name(0))
    assert view is not None
    assert (view.state, view.incarnation) == (State.ALIVE, incarnation)
    assert bool(swim.broadcasts(1300, 2)) is is_news
    assert swim.figures()["refutations"] == (incarnation > 1)
    assert swim.figures()["awareness"] == (incarnation > 1)
    assert bool(delegate.conflicts) is (isinstance(said, Alive) and said.address == ELSEWHERE)


def test_another_node_with_our_name_is_contradicted_at_a_bounded_rate() -> None:
    swim, _, delegate = held(None)
    for step in range(40):
        view = swim.get(name(0))
        assert view is not None
        swim.receive(Alive(view.incarnation + 1, name(0), ELSEWHERE), ELSEWHERE, instant(2.0 + step / 10))
    assert swim.figures()["refutations"] == 1
    assert len(delegate.conflicts) == 40


def test_while_leaving_nothing_is_refuted() -> None:
    swim, _, _ = held(State.ALIVE)
    swim.leave(instant(2.0))
    swim.receive(Dead(1, name(0), OTHER), WHERE, instant(2.1))
    swim.receive(Suspect(5, name(0), OTHER), WHERE, instant(2.1))
    swim.receive(Alive(5, name(0), address(0)), WHERE, instant(2.1))
    view = swim.get(name(0))
    assert view is not None
    assert (view.state, view.incarnation) == (State.LEFT, 1)


# --- addresses ---


@pytest.mark.parametrize(
    ("state", "age_s", "incarnation", "moves"),
    [
        (State.ALIVE, 100.0, 9, False),
        (State.SUSPECT, 1.0, 9, False),
        (State.DEAD, 1.0, 9, False),
        (State.DEAD, SORA.reclaim_after_s, 9, True),
        (State.DEAD, 100.0, 5, False),  # told that it is dead first
        (State.LEFT, 0.0, 9, True),
        (State.LEFT, 0.0, 5, False),
    ],
)
def test_a_name_at_another_address(state: State, age_s: float, incarnation: int, moves: bool) -> None:
    swim, outbox, delegate = held(state)
    swim.receive(Alive(incarnation, PEER, ELSEWHERE), ELSEWHERE, instant(1.0 + age_s))
    view = swim.get(PEER)
    assert view is not None
    assert view.address == (ELSEWHERE if moves else WHERE)
    if moves:
        assert [change for _, change, _, _ in delegate.changes] == [Change.JOINED]
        assert swim.by_address(ELSEWHERE) == view
        assert swim.by_address(WHERE) is None
    is_free = state is State.LEFT or (state is State.DEAD and age_s >= SORA.reclaim_after_s)
    assert delegate.conflicts == ([] if is_free else [(PEER, WHERE, ELSEWHERE)])
    told = [(to, messages) for to, messages in outbox.sent if to == ELSEWHERE]
    answer = Dead(5, PEER, name(0)) if state >= State.DEAD else Alive(5, PEER, WHERE)
    assert told == ([] if moves else [(ELSEWHERE, [answer])])


def test_a_dead_one_that_speaks_is_told_once_a_second() -> None:
    swim, outbox, _ = held(State.DEAD)
    for step in range(25):
        swim.receive(Alive(1, PEER, WHERE), WHERE, instant(2.0 + step / 10))
    assert outbox.sent == [(WHERE, [Dead(5, PEER, name(0))])] * 3


def test_the_last_of_several_at_an_address_is_found() -> None:
    swim, _, _ = held(State.DEAD)
    swim.receive(Alive(1, "newcomer", WHERE), WHERE, instant(2.0))
    view = swim.by_address(WHERE)
    assert view is not None
    assert view.name == "newcomer"
    swim.forget(PEER)
    assert swim.by_address(WHERE) == view


def test_new_tags_are_an_update() -> None:
    swim, _, delegate = held(State.ALIVE)
    swim.receive(Alive(6, PEER, WHERE, encode_tags({"role": "mail"})), WHERE, instant(2.0))
    view = swim.get(PEER)
    assert view is not None
    assert view.tags == {"role": "mail"}
    assert [change for _, change, _, _ in delegate.changes] == [Change.UPDATED]


# --- what is not believed ---


def alive(**fields: object) -> Alive:
    return Alive(**{"incarnation": 3, "node": "x", "address": WHERE, **fields})  # type: ignore[arg-type]


REFUSED = [
    (alive(node="a\nb"), Reason.FORGED),
    (alive(node="\x1b[2J"), Reason.FORGED),
    (alive(node="n" * 256), Reason.FORGED),
    (alive(node="ä" * 128), Reason.FORGED),
    (alive(node=""), Reason.FORGED),
    *(
        (alive(address=Address(ip, 7946)), Reason.FORGED)
        for ip in (
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "127.8.9.1",
            "::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        )
    ),
    (alive(address=Address("10.1.1.1", 0)), Reason.FORGED),
    (alive(incarnation=0), Reason.FORGED),
    (alive(incarnation=MAX_INCARNATION + 1), Reason.FORGED),
    (alive(meta=bytes(513)), Reason.OVERSIZED),
    (alive(meta=b"\xff\xc1"), Reason.MALFORMED),
    (alive(vsn=b""), Reason.VERSION),
    (alive(vsn=bytes((1, 5, 2, 0, 0, 0))), Reason.VERSION),
    (alive(vsn=bytes((0, 0, 0, 2, 5, 5))), Reason.VERSION),
    (alive(vsn=bytes((5, 1, 2, 2, 5, 5))), Reason.VERSION),
    (alive(vsn=bytes((3, 5, 3, 2, 5, 5))), Reason.VERSION),
    (alive(vsn=bytes((1, 5, 2, 2, 4, 4))), Reason.VERSION),
    (alive(vsn=bytes((1, 9, 7, 2, 5, 5))), Reason.VERSION),
]


@pytest.mark.parametrize(("said", "reason"), REFUSED)
def test_what_is_not_believed_leaves_no_trace(said: Alive, reason: Reason) -> None:
    swim, _, delegate = lone()
    with pytest.raises(PacketRejected) as refusal:
        swim.receive(said, WHERE, instant(1.0))
    assert refusal.value.reason is reason
    assert [view.name for view in swim] == [name(0)]
    assert delegate.changes == []
    assert swim.broadcasts(1300, 2) == []


@pytest.mark.parametrize(
    "said",
    [
        Suspect(MAX_INCARNATION, PEER, OTHER),
        Dead(2**32 - 1, PEER, OTHER),
        Dead(2**32 - 1, name(0), OTHER),
        Suspect(6, PEER, PEER),
    ],
)
def test_accusations_that_leave_no_room_or_make_no_sense(said: Suspect | Dead) -> None:
    swim, _, _ = held(State.ALIVE)
    with pytest.raises(PacketRejected) as refusal:
        swim.receive(said, WHERE, instant(2.0))
    assert refusal.value.reason is Reason.FORGED
    view = swim.get(PEER)
    assert view is not None
    assert (view.state, view.incarnation) == (State.ALIVE, 5)


def test_a_known_member_need_not_repeat_its_versions() -> None:
    swim, _, _ = held(State.SUSPECT)
    swim.receive(Alive(6, PEER, WHERE, b"", b""), WHERE, instant(2.0))
    view = swim.get(PEER)
    assert view is not None
    assert (view.state, view.vsn) == (State.ALIVE, VSN)


def test_loopback_is_for_tests() -> None:
    admit(alive(address=Address("127.0.0.11", 7946)), accepts_loopback=True)
    with pytest.raises(PacketRejected):
        admit(alive(address=Address("0.0.0.0", 7946)), accepts_loopback=True)


@pytest.mark.parametrize(
    "vsn", [VSN, bytes((1, 5, 2, 2, 5, 4)), bytes((1, 5, 5, 2, 5, 5)), bytes((2, 2, 2, 4, 5, 5))]
)
def test_versions_of_agents_are_taken(vsn: bytes) -> None:
    assert is_compatible(vsn)


def test_members_are_bounded_and_the_longest_dead_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.members.MAX_MEMBERS", 4)
    assert admission.MAX_MEMBERS == 10_000
    swim, _, _ = held(State.ALIVE)
    swim.receive(Alive(1, name(3), address(3)), WHERE, instant(1.0))
    with pytest.raises(PacketRejected) as refusal:
        swim.receive(Alive(1, name(4), address(4)), WHERE, instant(2.0))
    assert refusal.value.reason is Reason.OVERLOAD
    swim.receive(Dead(1, OTHER, PEER), WHERE, instant(3.0))
    swim.receive(Dead(5, PEER, OTHER), WHERE, instant(4.0))
    swim.receive(Alive(1, name(4), address(4)), WHERE, instant(5.0))
    assert [view.name for view in swim] == [name(0), PEER, name(3), name(4)]


# --- the table itself ---


def table(count: int, seed: int = 1) -> MemberTable:
    rng = random.Random(seed)
    own = Member(name(0), address(0), 0.0)
    found = MemberTable(own, rng)
    found.move(own, own.address)
    found.set_state(own, State.ALIVE, 0.0)
    for number in range(1, count):
        row = found.add(name(number), address(number), 0.0)
        found.move(row, row.address)
        found.set_state(row, State.ALIVE, 0.0)
    return found


def test_every_live_member_is_probed_once_in_each_round() -> None:
    members = table(8)
    first = [members.next_to_probe(0.0) for _ in range(7)]
    second = [members.next_to_probe(0.0) for _ in range(7)]
    names = {name(number) for number in range(1, 8)}
    assert {row.name for row in first if row} == {row.name for row in second if row} == names
    assert first != second


def test_the_dead_leave_the_ring_after_a_while_and_come_back() -> None:
    members = table(4)
    row = members.rows[name(2)]
    members.set_state(row, State.DEAD, 10.0)
    for _ in range(6):
        assert members.next_to_probe(5.0) is not row
    assert members.count == 4
    for _ in range(6):
        assert members.next_to_probe(11.0) is not row
    assert members.count == 3
    assert row.name in members.rows
    members.set_state(row, State.ALIVE, 20.0)
    assert members.count == 4
    assert row in [members.next_to_probe(11.0) for _ in range(6)]


def test_with_nobody_to_probe() -> None:
    assert table(1).next_to_probe(0.0) is None
    members = table(3)
    for number in (1, 2):
        members.set_state(members.rows[name(number)], State.DEAD, 0.0)
    assert members.next_to_probe(-1.0) is None


@settings(max_examples=100)
@given(st.integers(1, 60), st.integers(0, 8), st.sets(st.integers(1, 59)), st.integers())
def test_picks_are_different_wanted_and_as_many_as_there_are(
    count: int, number: int, dead: set[int], seed: int
) -> None:
    members = table(count, seed)
    for which in sorted(dead):
        if which < count:
            members.set_state(members.rows[name(which)], State.DEAD, 1.0)
    picked = members.pick(number, lambda row: row.is_live)
    live = [row for row in members.ring if row.is_live]
    assert len(picked) == len({row.name for row in picked}) == min(number, len(live))
    assert all(row in live for row in picked)


def test_views_are_in_the_order_of_names_and_not_stale() -> None:
    members = table(5)
    assert [view.name for view in members.alive()] == [name(number) for number in range(1, 5)]
    members.set_state(members.rows[name(1)], State.SUSPECT, 1.0)
    members.set_state(members.rows[name(3)], State.DEAD, 1.0)
    assert [(view.name, view.state) for view in members.alive()] == [
        (name(1), State.SUSPECT),
        (name(2), State.ALIVE),
        (name(4), State.ALIVE),
    ]
    members.rows[name(2)].heard_in(0.010)
    members.rows[name(2)].heard_in(0.018)
    view = members.get(name(2))
    assert view is not None
    assert view.round_trip_s == pytest.approx(0.011)


def test_only_the_dead_are_forgotten() -> None:
    members = table(3)
    assert not members.forget(name(0))
    assert not members.forget(name(1))
    assert not members.forget("unknown")
    members.set_state(members.rows[name(1)], State.DEAD, 1.0)
    assert members.forget(name(1))
    assert [view.name for view in members] == [name(0), name(2)]
    assert [members.in_state(state) for state in State] == [2, 0, 0, 0]
    assert members.count == 2
