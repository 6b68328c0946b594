from __future__ import annotations

import pytest

from cluster.errors import PacketRejected
from cluster.serf.clocks import LamportClock


def test_starts_at_one_and_counts_what_is_said() -> None:
    clock = LamportClock()
    assert (clock.stamp(), clock.stamp(), clock.time) == (1, 2, 3)


@pytest.mark.parametrize(("heard", "time"), [(-1, 5), (0, 5), (4, 5), (5, 6), (9, 10)])
def test_moves_beyond_what_is_heard(heard: int, time: int) -> None:
    clock = LamportClock()
    clock.time = 5
    clock.witness(heard)
    assert clock.time == time


@pytest.mark.parametrize("heard", [1 << 33, 1 << 62, (1 << 64) - 1])
def test_one_forged_stamp_does_not_end_the_clock(heard: int) -> None:
    clock = LamportClock()
    with pytest.raises(PacketRejected, match="stale"):
        clock.witness(heard)
    assert clock.time == 1
