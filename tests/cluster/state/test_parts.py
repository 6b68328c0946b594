"""The small parts, each for itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.effects import NoticeHeard
from cluster.errors import PacketRejected, Reason
from cluster.facts import NoticeKind
from cluster.state.codec import Notice, Notices
from cluster.state.digest import SUMMARY_BYTES, Digest
from cluster.state.notices import WINDOW, Incoming
from cluster.state.records import EpochMap, Owner, Record
from cluster.state.rumours import FEW, MAX_RUMOURS, Rumours
from cluster.state.urgent import TokenBucket
from cluster.state.wheel import GRAIN_S, Wheel


def home_with(numbers: list[int], *, name: str = "a", size: int = 10) -> EpochMap:
    home = EpochMap(Owner(name, 1), 1)
    for number in numbers:
        record = Record(home, 1, b"%d" % number)
        record.seq, record.value = number, bytes(size)
        home.by_seq[number] = record
    home.known.add(0, max(numbers))
    return home


# --- digest -------------------------------------------------------------------------------------------


def test_the_digest_follows_what_is_known_whatever_the_order() -> None:
    homes = [home_with([1, number + 2], name=f"n{number}") for number in range(200)]
    one, other = Digest(), Digest()
    for home in homes:
        one.touch(home)
    assert one.total() != other.total() == 0
    copies = [home_with([1, number + 2], name=f"n{number}") for number in range(200)]
    random.Random(1).shuffle(copies)
    for home in copies:
        home.known.forget()
        other.touch(home)
    assert other.total() != one.total()
    for home in copies:
        home.known.add(0, max(home.by_seq))
        other.touch(home)
    assert other.total() == one.total()
    assert len(one.summary()) == SUMMARY_BYTES
    assert other.differing(one.summary()) == 0
    copies[5].known.add(copies[5].known.upto, copies[5].known.upto + 1)
    other.touch(copies[5])
    assert other.differing(one.summary()) == 1 << copies[5].bucket
    copies[5].known.forget()
    copies[5].known.add(7, 9)
    other.touch(copies[5])
    ahead = other.total()
    copies[5].known.add(11, 12)
    other.touch(copies[5])
    assert other.total() != ahead, "what is beyond a gap counts"


def test_what_has_no_entries_does_not_count() -> None:
    digest, home = Digest(), home_with([1, 2])
    digest.touch(home)
    assert digest.total() != 0
    home.by_seq.clear()
    digest.touch(home)
    assert digest.total() == 0


# --- gossip -------------------------------------------------------------------------------------------


def test_rumours_are_sent_as_often_as_they_should() -> None:
    rumours, home = Rumours(lambda: 9), home_with([1, 2])
    rumours.add(home, 0, 1, is_pressing=True)
    rumours.add(home, 1, 2, is_pressing=False)
    sent = [page[2] for _ in range(30) for page in rumours.take(1300)]
    assert (sent.count(1), sent.count(2), len(rumours)) == (9, FEW, 0)


def test_news_overtake_what_was_sent_and_large_ones_leave_room_to_small_ones() -> None:
    rumours = Rumours(lambda: 9)
    small, large = home_with([1]), home_with([1], name="b", size=900)
    rumours.add(small, 0, 1, is_pressing=True)
    assert [page[0] for page in rumours.take(1300)] == [small]
    rumours.add(large, 0, 1, is_pressing=True)
    assert [page[0] for page in rumours.take(1010)] == [large]
    assert [page[0] for page in rumours.take(200)] == [small]
    assert rumours.take(20) == []


def test_rumours_are_bounded_and_the_most_told_go_first() -> None:
    rumours, home = Rumours(lambda: 9), home_with(list(range(1, 2_000)), size=500)
    rumours.add(home, 0, 1, is_pressing=True)
    rumours.take(1300)
    for number in range(1, 1 + MAX_RUMOURS):
        rumours.add(home, number, number + 1, is_pressing=True)
    assert len(rumours) == MAX_RUMOURS
    assert rumours.dropped == 1
    assert 1 not in [page[2] for _ in range(MAX_RUMOURS) for page in rumours.take(1300)]


# --- time ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=1, max_size=30))
def test_the_wheel_is_never_early_and_at_most_a_grain_late(times: list[tuple[float, float]]) -> None:
    """Each record is scheduled twice; the earlier time holds, once."""
    wheel, home = Wheel(), EpochMap(Owner("a", 1), 1)
    records = {}
    for number, (first, second) in enumerate(times):
        record = Record(home, 1, b"%d" % number)
        wheel.schedule(record, first)
        wheel.schedule(record, second)
        records[record] = min(first, second)
    found: dict[Record, float] = {}
    while (now := wheel.next_time()) < 1_000:
        for record in wheel.due(now):
            assert record not in found
            found[record] = now
    assert found.keys() == records.keys()
    assert all(records[record] <= at <= records[record] + GRAIN_S for record, at in found.items())


def test_the_bucket_holds_no_more_than_it_should() -> None:
    bucket = TokenBucket(200.0, 400.0)
    taken = sum(bucket.take(7, now / 100.0) for now in range(1_000)) * 7
    assert 400 + 200 * 9.9 - 7 <= taken <= 400 + 200 * 10
    assert not bucket.take(401, 1e6)
    assert bucket.take(200, 1e6, leave=200)
    assert not bucket.take(1, 1e6, leave=200)
    assert bucket.take(200, 1e6)
    assert not bucket.take(1, 0.0), "a time before does not fill it"


# --- notices ------------------------------------------------------------------------------------------


def notices(*numbers: int, epoch: int = 1) -> Notices:
    return Notices("a", epoch, 0, [Notice(number, 1, b"%d" % number) for number in numbers])


def heard(incoming: Incoming, message: Notices) -> list[int]:
    return [int(notice.payload) for notice in incoming.take(message)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=80))
def test_each_notice_is_heard_once_in_any_order(numbers: list[int]) -> None:
    incoming = Incoming()
    found = [number for each in numbers for number in heard(incoming, notices(each))]
    assert found == list(dict.fromkeys(numbers))
    assert incoming.duplicates == len(numbers) - len(found)


def test_what_is_older_than_the_window_is_not_heard() -> None:
    incoming = Incoming()
    assert heard(incoming, notices(1, WINDOW + 1)) == [1, WINDOW + 1]
    assert heard(incoming, notices(1)) == []
    assert heard(incoming, notices(2)) == [2]
    assert heard(incoming, notices(10 * WINDOW, 2, 3)) == [10 * WINDOW]


def test_a_new_life_counts_anew_and_the_last_is_stale() -> None:
    incoming = Incoming()
    assert heard(incoming, notices(1, 2)) == [1, 2]
    assert heard(incoming, notices(1, epoch=2)) == [1]
    with pytest.raises(PacketRejected) as caught:
        incoming.take(notices(3))
    assert caught.value.reason is Reason.STALE
    assert heard(incoming, notices(1, 2, epoch=2)) == [2]


def test_unknown_kinds_are_counted_as_heard_and_not_told() -> None:
    incoming = Incoming()
    assert incoming.take(Notices("a", 1, 0, [Notice(1, 200, b"x"), Notice(2, 1, b"y")])) == [
        NoticeHeard(NoticeKind.MAILBOX, "a", b"y")
    ]
