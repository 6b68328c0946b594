from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.broadcast import TransmitQueue, retransmissions
from cluster.profile import LAN, SORA


def queue(limit: int = 3, *, max_items: int = 100) -> TransmitQueue:
    return TransmitQueue(lambda: limit, max_items=max_items)


@pytest.mark.parametrize(
    ("count", "ours", "agents"),
    [(1, 8, 4), (9, 8, 4), (10, 12, 8), (99, 12, 8), (100, 16, 12), (1000, 20, 16)],
)
def test_the_limit_grows_with_the_cluster_and_leaves_no_hole(count: int, ours: int, agents: int) -> None:
    assert (retransmissions(SORA, count), retransmissions(LAN, count)) == (ours, agents)


def test_an_empty_queue_gives_nothing() -> None:
    assert queue().take(1400, 2) == []


def test_a_message_goes_out_as_often_as_the_limit_says() -> None:
    q = queue(limit=3)
    q.add(b"news")
    assert [q.take(100, 2) for _ in range(5)] == [[b"news"], [b"news"], [b"news"], [], []]
    assert len(q) == 0


def test_no_message_is_twice_in_one_packet() -> None:
    q = queue(limit=8)
    q.add(b"a")
    assert q.take(1000, 2) == [b"a"]


def test_fewest_transmissions_then_larger_then_newest() -> None:
    q = queue(limit=9)
    q.add(b"oldest, and long")
    assert q.take(100, 2) == [b"oldest, and long"]
    for raw in (b"bb", b"dddd", b"cc"):
        q.add(raw)
    assert q.take(1000, 2) == [b"dddd", b"cc", b"bb", b"oldest, and long"]


def test_smaller_ones_fill_the_gap() -> None:
    q = queue()
    for raw in (b"x" * 50, b"y" * 40, b"z" * 10):
        q.add(raw)
    assert q.take(2 + 50 + 2 + 10, 2) == [b"x" * 50, b"z" * 10]
    assert q.take(42, 2) == [b"y" * 40]


def test_the_same_key_replaces_and_starts_over() -> None:
    q = queue(limit=2)
    q.add(b"suspect a", key="a")
    q.take(100, 2)
    q.add(b"alive a", key="a")
    assert len(q) == 1
    assert [q.take(100, 2) for _ in range(3)] == [[b"alive a"], [b"alive a"], []]
    assert "a" not in q


def test_without_a_key_nothing_is_replaced() -> None:
    q = queue()
    q.add(b"one")
    q.add(b"one")
    assert q.take(100, 2) == [b"one", b"one"]


def test_the_limit_is_asked_each_time() -> None:
    limits = [5]
    q = TransmitQueue(lambda: limits[0])
    q.add(b"a")
    assert q.take(10, 2) == [b"a"]
    limits[0] = 2
    assert q.take(10, 2) == [b"a"]
    assert q.take(10, 2) == []


def test_what_is_too_much_drops_the_most_transmitted() -> None:
    q = queue(limit=9, max_items=2)
    q.add(b"old", key="old")
    q.take(100, 2)
    q.add(b"new", key="new")
    q.add(b"newest", key="newest")
    assert "old" not in q
    assert q.dropped == 1
    assert sorted(q.take(100, 2)) == [b"new", b"newest"]


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from(["", "a", "b", "c"])), max_size=30),
    st.integers(1, 6),
    st.integers(10, 120),
    st.integers(0, 5),
)
def test_packets_fit_and_all_is_sent_to_the_limit(
    added: list[tuple[int, str]], limit: int, room: int, overhead: int
) -> None:
    q = queue(limit=limit)
    for number, (size, key) in enumerate(added):
        q.add(bytes([number]) * size, key=key)
    wanted = len(q)
    sent: Counter[bytes] = Counter()
    while packet := q.take(room, overhead):
        assert sum(len(raw) + overhead for raw in packet) <= room
        sent.update(packet)
    left = len(q)
    assert len(sent) + left == wanted
    assert set(sent.values()) <= {limit}
