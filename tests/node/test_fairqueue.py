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


def test_who_is_late_gets_every_fourth_turn_while_others_wait() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(6):
        queue.put(1, f"late{number}", is_late=True)
        queue.put(2, f"prompt{number}")
    got = [queue.pop() for _ in range(12)]
    assert got[:8] == [
        *("prompt0", "prompt1", "prompt2", "late0"),
        *("prompt3", "prompt4", "prompt5", "late1"),
    ]
    assert got[8:] == ["late2", "late3", "late4", "late5"]
    assert not queue


def test_late_lines_give_way_first_where_they_are_the_longest() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(5):
        queue.put(1, f"late{number}", is_late=True)
        queue.put(2, f"prompt{number}")
    assert queue.yield_to(3) == "late4"
    assert queue.yield_to(3) == "prompt4"
    assert queue.yield_to(1) is None
    assert len(queue) == 8
