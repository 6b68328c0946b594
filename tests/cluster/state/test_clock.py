from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.state.clock import MAX_AHEAD_S, MAX_STAMP, HybridClock, seconds

NOW = 1_790_000_000.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-7200, 7200), st.integers(-100_000, 200_000)), max_size=50))
def test_stamps_rise_whatever_the_wall_clock_does_and_others_say(steps: list[tuple[float, int]]) -> None:
    clock, last = HybridClock(), 0
    for skew, heard_ms in steps:
        clock.witness(int(NOW * 1000 + heard_ms) << 16, NOW + skew)
        stamp = clock.stamp(NOW + skew)
        assert stamp > last
        assert seconds(stamp) > seconds(last)
        last = stamp


def test_each_of_many_stamps_in_one_instant_shows() -> None:
    clock = HybridClock()
    stamps = [clock.stamp(NOW) for _ in range(10_000)]
    assert len({seconds(stamp) for stamp in stamps}) == 10_000
    assert abs(seconds(stamps[-1]) - NOW) < 0.01


def test_who_is_far_ahead_is_not_followed_but_can_be_answered() -> None:
    clock, ahead = HybridClock(), int((NOW + MAX_AHEAD_S + 1) * 1000) << 16
    assert not clock.witness(ahead, NOW)
    assert seconds(clock.stamp(NOW)) < NOW + 1
    answer = clock.stamp(NOW, after=ahead)
    assert answer > ahead
    assert seconds(clock.stamp(NOW)) < NOW + 1
    assert clock.witness(int((NOW + MAX_AHEAD_S - 1) * 1000) << 16, NOW)
    assert seconds(clock.stamp(NOW)) > NOW + MAX_AHEAD_S - 2


def test_the_largest_stamp_can_be_answered() -> None:
    assert HybridClock().stamp(NOW, after=MAX_STAMP) == MAX_STAMP
