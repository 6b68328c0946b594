from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.state.known import MAX_AHEAD, Known

spans = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    max_size=15,
)


def numbers(known: Known) -> set[int]:
    found = set(range(1, known.upto + 1))
    for after, upto in known.ahead:
        found |= set(range(after + 1, upto + 1))
    return found


def filled(ranges: list[tuple[int, int]]) -> Known:
    known = Known()
    for after, upto in ranges:
        known.add(after, upto)
    return known


@settings(max_examples=200, deadline=None)
@given(spans, spans)
def test_it_is_a_set_of_numbers(ranges: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    known, other = filled(ranges), filled(others)
    model = {number for after, upto in ranges for number in range(after + 1, upto + 1)}
    other_model = {number for after, upto in others for number in range(after + 1, upto + 1)}
    assert numbers(known) == model
    assert [number for number in range(1, 60) if known.has(number)] == sorted(model)
    edges = [(known.upto, known.upto), *known.ahead]
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(edges)), "disjoint, with gaps"
    for after, upto in others:
        assert known.covers(after, upto) == (set(range(after + 1, upto + 1)) <= model)
    beyond = known.beyond(other.upto, other.ahead)
    assert {n for after, upto in beyond for n in range(after + 1, upto + 1)} == model - other_model
    assert known.lacks(other.upto, other.ahead) == bool(other_model - model)
    for after, upto in other.beyond(known.upto, known.ahead):
        known.add(after, upto)
    assert numbers(known) == model | other_model


@pytest.mark.parametrize("count", [MAX_AHEAD, MAX_AHEAD + 100])
def test_it_is_bounded(count: int) -> None:
    known = filled([(2 * number + 1, 2 * number + 2) for number in range(count)])
    assert len(known.ahead) <= MAX_AHEAD
    assert known.upto == 0
    known.add(0, 2 * count + 5)
    assert (known.upto, known.ahead) == (2 * count + 5, [])
