"""Turns, and who gives way."""

from __future__ import annotations

import pytest

from node.fairqueue import FairQueue


def test_origins_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(ord(item[0]), item)
    assert [queue.pop() for _ in range(len(queue))] == ["a1", "b1", "c1", "a2", "c2", "a3"]
    with pytest.raises(IndexError):
        queue.pop()


def test_the_longest_line_gives_way_to_a_shorter_one() -> None:
    queue: FairQueue[str] = FairQueue()
    assert queue.yield_to(1) is None
    for item in ("a1", "a2", "a3", "b1"):
        queue.put(ord(item[0]), item)
    assert queue.yield_to(ord("a")) is None
    assert queue.yield_to(ord("c")) == "a3"
    queue.put(ord("c"), "c1")
    assert queue.yield_to(ord("b")) is None  # two each then: nobody has more than he
    assert [queue.pop() for _ in range(len(queue))] == ["a1", "b1", "c1", "a2"]
