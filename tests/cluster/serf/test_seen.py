from __future__ import annotations

import pytest

from cluster.errors import PacketRejected, Reason
from cluster.serf.seen import Seen


def test_each_is_new_once() -> None:
    seen = Seen()
    assert seen.is_new(5, "a", 6)
    assert not seen.is_new(5, "a", 6)
    assert seen.is_new(5, "b", 6)


def test_older_than_the_ring_is_stale() -> None:
    seen = Seen()
    assert seen.is_new(88, "a", 600)
    with pytest.raises(PacketRejected) as caught:
        seen.is_new(87, "a", 600)
    assert caught.value.reason is Reason.STALE


def test_a_slot_that_was_taken_over_is_not_given_back() -> None:
    seen = Seen()
    assert seen.is_new(512 + 3, "new", 515)
    with pytest.raises(PacketRejected):
        seen.is_new(3, "old", 515)


def test_what_is_before_the_beginning_counts_as_heard() -> None:
    seen = Seen()
    seen.oldest = 10
    assert not seen.is_new(9, "a", 10)
    assert seen.is_new(10, "a", 10)


def test_too_much_of_one_time_is_refused() -> None:
    seen = Seen()
    for number in range(256):
        assert seen.is_new(1, number, 2)
    with pytest.raises(PacketRejected) as caught:
        seen.is_new(1, 256, 2)
    assert caught.value.reason is Reason.OVERLOAD
