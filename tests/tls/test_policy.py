from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tls.bundle import Bundle
from tls.policy import ASK_AGAIN_S, State, ask_again_s, judge, look_after_s, pick
from tls.ports import Renewal

START = datetime(2026, 11, 22, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MONTH_S = 720 * 3600.0


def bundle(lifetime: timedelta, start: datetime = START) -> Bundle:
    return Bundle(("mail.example.com",), start, start + lifetime, "00")


def test_nothing_there_is_missing() -> None:
    assert judge(None, START, MONTH_S).state is State.MISSING


@pytest.mark.parametrize(
    ("lifetime", "renew_before_s", "due_after"),
    [
        (90 * DAY, MONTH_S, 60 * DAY),
        (90 * DAY, 10 * 86_400.0, 80 * DAY),
        (45 * DAY, MONTH_S, 30 * DAY),  # a third
        (6 * DAY, MONTH_S, 4 * DAY),
        (HOUR, MONTH_S, HOUR * 2 / 3),
    ],
)
def test_without_a_window_it_is_due_at_renew_before_or_a_third(
    lifetime: timedelta, renew_before_s: float, due_after: timedelta
) -> None:
    about = bundle(lifetime)
    before = judge(about, START + due_after - timedelta(seconds=1), renew_before_s)
    assert before.state is State.OK
    assert before.renew_at == START + due_after
    assert judge(about, START + due_after, renew_before_s).state is State.DUE


def test_a_six_day_certificate_with_720h_is_renewed_once_not_in_a_loop() -> None:
    now, renewals, about = START, 0, bundle(6 * DAY)
    while now < START + 24 * DAY:
        verdict = judge(about, now, MONTH_S)
        assert verdict.is_clamped
        if verdict.state.needs_order:
            renewals, about = renewals + 1, bundle(6 * DAY, now)
        now += timedelta(minutes=10)
    assert renewals == 5  # every four days


def test_it_becomes_overdue_then_an_emergency_also_when_the_ca_picked_later() -> None:
    about = bundle(100 * DAY)
    assert judge(about, START + 79 * DAY, MONTH_S).state is State.DUE
    assert judge(about, START + 85 * DAY, MONTH_S).state is State.OVERDUE
    late = START + 99 * DAY
    assert judge(about, START + 95.5 * DAY, MONTH_S, late).state is State.EMERGENCY
    assert judge(about, START + 101 * DAY, MONTH_S).state is State.EMERGENCY


def test_the_moment_of_the_ca_comes_before_ours_but_not_beyond_expiry() -> None:
    about = bundle(90 * DAY)
    early = judge(about, START + 10 * DAY, MONTH_S, START + 10 * DAY)
    assert (early.state, early.by_ca) == (State.DUE, True)
    assert judge(about, START + 65 * DAY, MONTH_S, START + 70 * DAY).state is State.OK
    beyond = judge(about, START + 65 * DAY, MONTH_S, START + 90 * DAY)
    assert (beyond.state, beyond.by_ca) == (State.DUE, False)
    stale = judge(about, START + DAY, MONTH_S, START - DAY)
    assert (stale.state, stale.by_ca) == (State.OK, False)


def test_the_moment_is_picked_once_and_kept_while_the_window_has_it() -> None:
    window = Renewal(START, START + 10 * DAY, 3600)
    picked = pick(window, None, 0.25)
    assert picked == START + 2.5 * DAY
    assert pick(window, picked, 0.9) == picked
    moved = Renewal(START + 5 * DAY, START + 6 * DAY, 3600)
    assert pick(moved, picked, 0.5) == START + 5.5 * DAY


@pytest.mark.parametrize("end", [START, START - DAY])
def test_an_inverted_window_is_ignored(end: datetime) -> None:
    assert pick(Renewal(START, end, 3600), None, 0.5) is None


def test_the_ca_is_asked_again_within_bounds() -> None:
    assert [ask_again_s(told) for told in (None, 0, 3600, 1e9)] == [ASK_AGAIN_S, 60, 3600, 86_400]


@settings(max_examples=100)
@given(st.integers(60, 10**8), st.floats(1, 1e9), st.floats(0, 1.2))
def test_every_certificate_is_asked_for_before_it_expires(
    lifetime_s: int, before_s: float, share: float
) -> None:
    about = bundle(timedelta(seconds=lifetime_s))
    verdict = judge(about, START + timedelta(seconds=lifetime_s * share), before_s)
    assert verdict.renew_at is not None
    assert START <= verdict.renew_at < about.not_after
    assert verdict.state.needs_order or share < 1


def test_the_next_look_is_a_tick_away_or_when_something_is_due() -> None:
    short = judge(bundle(timedelta(minutes=9)), START, MONTH_S)
    assert look_after_s([], START, 0) == 600
    assert look_after_s([], START, 0.5) == 630
    assert look_after_s([short, judge(None, START, 1)], START, 0) == pytest.approx(360)
    assert look_after_s([judge(bundle(HOUR), START + HOUR, 1)], START, 0) == 600
