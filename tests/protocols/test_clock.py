"""The session clock as tables: what happened when, and what the verdict is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.clock import ClockSettings, SessionClock, Verdict

ON, SLOW, EXPIRED, OVERDUE = Verdict.ON_TIME, Verdict.TOO_SLOW, Verdict.EXPIRED, Verdict.OVERDUE
MINUTE = 60.0


@pytest.mark.parametrize(
    ("received_by_minute", "verdicts"),
    [
        # nothing at all: the first two minutes are free
        ([0, 0], [ON, SLOW]),
        # 1,024 bytes a minute are enough, 1,000 are not
        ([1024, 2048, 3072, 4096, 5120], [ON, ON, ON, ON, ON]),
        ([1000, 2000], [ON, SLOW]),
        # a good start carries for three minutes, not longer
        ([9000, 9000, 9000, 9000, 9000], [ON, ON, ON, SLOW]),
        # a tunnel of two minutes in a fast upload
        ([100_000, 100_000, 100_000, 200_000, 300_000], [ON, ON, ON, ON, ON]),
        # one byte each minute
        ([1, 2, 3], [ON, SLOW]),
    ],
)
def test_speed_of_a_debt(received_by_minute: list[int], verdicts: list[Verdict]) -> None:
    clock = SessionClock(ClockSettings(min_bytes_per_minute=1024), 0.0)
    assert clock.owe(1000.0, 77)
    for minute, (received, expected) in enumerate(zip(received_by_minute, verdicts, strict=False), start=1):
        assert clock.verdict(1000.0 + minute * MINUTE, 77 + received) is expected, minute


def test_no_debt_no_verdict() -> None:
    clock = SessionClock(ClockSettings(min_bytes_per_minute=1024), 0.0)
    assert clock.next_look(0.0) is None
    assert clock.verdict(1e6, 0) is ON
    clock.owe(0.0, 0)
    clock.settle()
    assert clock.verdict(1e6, 0) is ON
    assert clock.next_look(0.0) is None


def test_check_that_is_off_wants_no_looks() -> None:
    clock = SessionClock(ClockSettings(), 0.0)
    assert not clock.owe(0.0, 0)
    assert clock.next_look(0.0) is None
    assert clock.verdict(1e9, 0) is ON


@pytest.mark.parametrize(
    ("idled", "at", "expected"),
    [
        ((), 1799, ON),
        ((), 1800, EXPIRED),
        ((), 3599, EXPIRED),
        ((), 3600, OVERDUE),
        (((10, 5000),), 6789, ON),  # 1,799 s of session time
        (((10, 5000),), 6790, EXPIRED),
        (((10, 5000), (5010, 9000)), 9000, ON),
        (((10, None),), 1e6, ON),  # still idling
        (((1900, None),), 1e6, ON),
        (((1900, 9000),), 9000, EXPIRED),
    ],
)
def test_session_time_without_idling(
    idled: tuple[tuple[float, float | None], ...], at: float, expected: Verdict
) -> None:
    clock = SessionClock(ClockSettings(session_s=1800), 0.0)
    for begin, end in idled:
        clock.pause(begin)
        if end is not None:
            clock.resume(end)
    assert clock.verdict(at, 0) is expected


def test_nothing_is_owed_while_idling() -> None:
    clock = SessionClock(ClockSettings(min_bytes_per_minute=1024), 0.0)
    clock.owe(0.0, 0)
    clock.pause(10.0)
    assert not clock.owe(20.0, 1)
    assert clock.verdict(1e6, 0) is ON
    clock.resume(1e6)
    assert clock.owe(1e6, 0)


def test_expired_session_may_still_be_too_slow() -> None:
    clock = SessionClock(ClockSettings(session_s=100, min_bytes_per_minute=1024), 0.0)
    clock.owe(0.0, 0)
    assert clock.verdict(60.0, 5000) is ON
    assert clock.verdict(150.0, 5000) is EXPIRED
    assert clock.verdict(190.0, 1_000_000) is EXPIRED
    assert clock.verdict(200.0, 1_000_000) is OVERDUE


steps = st.lists(
    st.tuples(
        st.sampled_from(["owe", "settle", "pause", "resume", "look"]),
        st.floats(0, 500),
        st.integers(0, 10_000),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(steps, st.sampled_from([None, 1800.0]), st.sampled_from([None, 1024]))
def test_whatever_happens_looks_lie_ahead_and_fast_clients_stay(
    happened: list[tuple[str, float, int]], session_s: float | None, minimum: int | None
) -> None:
    """A client that never falls behind twice the minimum is never too slow, and memory stays small."""
    clock = SessionClock(ClockSettings(session_s, minimum), 0.0)
    now, received = 0.0, 0
    for what, later, more in happened:
        now += later
        received += more + int(later * 2048 / 60) + 1
        if what == "owe":
            clock.owe(now, received)
        elif what == "settle":
            clock.settle()
        elif what == "pause":
            clock.pause(now)
        elif what == "resume":
            clock.resume(now)
        else:
            assert clock.verdict(now, received) is not SLOW
        look = clock.next_look(now)
        assert look is None or look > now
        assert len(clock._marks) < 10
