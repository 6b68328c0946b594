"""A clock that nobody can set."""

from __future__ import annotations

from node.steadyclock import SteadyClock


def test_it_goes_on_from_the_wall_clock_and_never_looks_at_it_again() -> None:
    walls, now = [1_800_000_000.0], [500.0]
    clock = SteadyClock(walls.pop, lambda: now[0])
    assert clock() == 1_800_000_000.0
    now[0] += 12.5
    assert clock() == 1_800_000_012.5
