"""Sets against a model of plain Python sets."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.imap.seqset import SeqSet, UidSet, format_uids, parse_parts

number = st.integers(0, 30)  # 0 is written as *
parts = st.lists(st.tuples(number, number), min_size=1, max_size=6).map(tuple)


def expand(ranges: list[tuple[int, int]]) -> list[int]:
    return [value for low, high in ranges for value in range(low, high + 1)]


@settings(max_examples=200)
@given(parts, st.integers(1, 30))
def test_ranges_are_the_union_ascending_and_disjoint(given_parts: tuple, maximum: int) -> None:
    model: set[int] = set()
    for first, last in given_parts:
        low, high = sorted((first or maximum, last or maximum))
        model.update(range(low, high + 1))
    ranges = SeqSet(given_parts).ranges(maximum)
    assert expand(ranges) == sorted(model)
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("text", "maximum", "ranges"),
    [
        (b"1:*", 5, [(1, 5)]),
        (b"*:1", 5, [(1, 5)]),
        (b"9:*", 5, [(5, 9)]),
        (b"1:*,3", 0, [(3, 3)]),
        (b"*", 0, []),
        (b"2,1,3", 9, [(1, 3)]),
    ],
)
def test_star(text: bytes, maximum: int, ranges: list) -> None:
    assert UidSet(parse_parts(text)).ranges(maximum) == ranges


@settings(max_examples=200)
@given(st.lists(st.integers(1, 50), max_size=30, unique=True))
def test_format_keeps_the_order_and_parses_back(uids: list[int]) -> None:
    text = format_uids(uids)
    if not uids:
        assert text == b""
        return
    assert expand([(low, high) for low, high in parse_parts(text)]) == uids


def test_seq_and_uid_sets_are_never_equal() -> None:
    assert SeqSet(((1, 2),)) != UidSet(((1, 2),))
