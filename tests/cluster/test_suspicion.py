from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.awareness import Awareness
from cluster.profile import LAN, SORA
from cluster.suspicion import Suspicion, Timing, timing


@pytest.mark.parametrize(
    ("count", "wanted", "min_s", "max_s"),
    [
        (2, 0, 4.0, 24.0),
        (3, 0, 4.0, 24.0),
        (4, 2, 4.0, 24.0),
        (10, 2, 4.0, 24.0),
        (100, 2, 8.0, 48.0),
        (1000, 2, 12.0, 72.0),
        (10_000, 2, 16.0, 96.0),
    ],
)
def test_timing_of_an_agent(count: int, wanted: int, min_s: float, max_s: float) -> None:
    assert timing(LAN, count) == Timing(wanted, pytest.approx(min_s), pytest.approx(max_s))


def test_our_timing_is_shorter() -> None:
    assert timing(SORA, 5) == Timing(2, pytest.approx(2.4), pytest.approx(14.4))


def test_confirmations_bring_the_deadline_nearer() -> None:
    suspicion = Suspicion(Timing(2, 4.0, 24.0), "a", 100.0)
    assert suspicion.deadline == 124.0
    assert suspicion.confirm("b")
    assert suspicion.deadline == pytest.approx(100 + 11.381)  # floored to milliseconds
    assert suspicion.confirm("c")
    assert suspicion.deadline == 104.0


def test_who_says_it_twice_confirms_once_and_the_accuser_never() -> None:
    suspicion = Suspicion(Timing(2, 4.0, 24.0), "a", 0.0)
    assert [suspicion.confirm(who) for who in "abbcd"] == [False, True, False, True, False]
    assert suspicion.confirmations == 2


def test_when_no_one_can_confirm_the_minimum_holds() -> None:
    suspicion = Suspicion(Timing(0, 4.0, 24.0), "a", 0.0)
    assert suspicion.deadline == 4.0
    assert not suspicion.confirm("b")


def test_standing_still_does_not_count() -> None:
    suspicion = Suspicion(Timing(0, 4.0, 24.0), "a", 0.0)
    suspicion.postpone(30.0)
    assert suspicion.deadline == 34.0


@settings(max_examples=100)
@given(
    st.integers(1, 6), st.floats(0.1, 20), st.floats(1, 8), st.lists(st.sampled_from("abcdefgh"), max_size=12)
)
def test_the_deadline_never_moves_away_and_stays_within(
    wanted: int, min_s: float, ratio: float, accusers: list[str]
) -> None:
    suspicion = Suspicion(Timing(wanted, min_s, min_s * ratio), "a", 0.0)
    before = suspicion.deadline
    for accuser in accusers:
        is_news = suspicion.confirm(accuser)
        assert (suspicion.deadline < before) or not is_news or ratio < 1.01
        assert min_s <= suspicion.deadline <= min_s * ratio
        before = suspicion.deadline


def test_awareness_stays_in_its_range_and_stretches() -> None:
    awareness = Awareness(8)
    awareness.apply(-1)
    assert (awareness.score, awareness.scaled(0.5), awareness.is_slow) == (0, 0.5, False)
    awareness.apply(3)
    assert (awareness.score, awareness.scaled(0.5), awareness.is_slow) == (3, 2.0, True)
    awareness.apply(100)
    assert awareness.score == 7
