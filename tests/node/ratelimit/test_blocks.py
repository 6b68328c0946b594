"""Operators' blocks, and nodes that tell each other."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.state.clock import MAX_STAMP, HybridClock
from node.ratelimit import (
    BadDelta,
    BadSubject,
    Block,
    Delta,
    Failures,
    Lifted,
    Subject,
    decode,
    encode,
    parse_subject,
    render,
)
from node.ratelimit.blocks import FOREVER, MAX_RULE_BLOCKS, BlockTable

from .conftest import START, Bench

HOME = "192.0.2.7"
HERE = parse_subject(HOME, 64)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOME, HOME),
        ("::ffff:192.0.2.7", HOME),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.7/32", HOME),
        ("2001:db8::7", "2001:db8::/64"),
        ("2001:db8::7/128", "2001:db8::7/128"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("fe80::1%eth0", "fe80::/64"),
        ("0.0.0.0", "0.0.0.0"),
    ],
)
def test_subjects_are_shown_as_they_are_read(text: str, shown: str) -> None:
    assert render(parse_subject(text, 64)) == shown
    assert parse_subject(shown, 64) == parse_subject(text, 64)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "2001::/16", "0.0.0.0/0", "192.0.2.1/24", "mx", "", "1.2.3"])
def test_subjects_that_may_not_be_blocked(text: str) -> None:
    with pytest.raises(BadSubject):
        parse_subject(text, 64)


def test_an_operators_block_holds_for_everybody_until_removed(bench: Bench) -> None:
    bench.succeed(HOME)
    block = bench.limiter.add(parse_subject("192.0.2.0/24", 64), bench.now, lasts_s=None, reason="spam")
    bench.now += 3650 * 86400
    bench.limiter.sweep(bench.now)
    assert bench.door(HOME) == block
    assert bench.is_blocked(HOME)
    assert bench.door("192.0.3.7") is None
    assert [ended for ended, _ in bench.limiter.remove(block.subject, bench.now)] == [block]
    assert bench.door(HOME) is None
    assert bench.limiter.remove(block.subject, bench.now) == []


def test_removing_a_block_forgets_what_led_to_it(bench: Bench) -> None:
    for n in range(10):
        bench.fail(HOME, f"user{n}@example.org")
    for _ in range(5):
        bench.fail(HOME)
    assert sorted(block.rule for block, _ in bench.limiter.remove(HERE, bench.now)) == ["fast", "user"]
    assert bench.ask(HOME) == (None, 0.0)
    for _ in range(4):
        assert not bench.fail(HOME).blocks
    (block,) = bench.fail(HOME).blocks
    assert block.level == 0


def test_the_block_of_one_user_can_be_removed_alone(bench: Bench) -> None:
    for user in ("ann@example.org", "bob@example.org"):
        for _ in range(5):
            bench.fail(HOME, user)
    assert len(bench.limiter.remove(HERE, bench.now, user="ann@example.org")) == 1
    assert not bench.is_blocked(HOME, "ann@example.org")
    assert bench.is_blocked(HOME, "bob@example.org")


def test_other_nodes_block_too_and_unblock_too(bench: Bench) -> None:
    other = Bench(node="b")
    for n in range(10):
        counted = bench.fail(HOME, f"user{n}@example.org")
        for delta in counted.deltas:
            assert other.limiter.absorb(decode(json.loads(json.dumps(encode(delta)))), other.now)
            assert not other.limiter.absorb(delta, other.now)
    assert other.door(HOME) == bench.door(HOME)
    ((ended, word),) = bench.limiter.remove(HERE, bench.now)
    other.limiter.absorb(word, other.now)
    assert other.door(HOME) is None
    assert not other.limiter.absorb(ended, other.now)  # late, and too late


def test_counts_of_other_nodes_add_up(bench: Bench) -> None:
    for name in "bcd":
        other = Bench(node=name)
        for n in range(17):
            counted = other.fail(HOME, f"user{n % 4}@example.org")
            for delta in counted.deltas:
                bench.limiter.absorb(delta, bench.now)
    assert not bench.is_blocked(HOME)
    (block,) = bench.fail(HOME, "x@example.org").blocks
    assert (block.rule, block.count) == ("address", 3 * 17 + 1)


def test_own_counts_that_come_back_are_ignored(bench: Bench) -> None:
    (delta,) = bench.fail(HOME).deltas
    assert not bench.limiter.absorb(delta, bench.now)


def test_a_word_of_a_broken_clock_is_answered_and_not_followed(bench: Bench) -> None:
    """Years ahead: it can be lifted, and blocked again, and stamps on other keys stay where they were."""
    ahead = Block(HERE, "", "admin", "b", MAX_STAMP >> 1, START, START + 7200)
    bench.limiter.absorb(ahead, START)
    for lasts_s in (60.0, 120.0):
        assert bench.door(HOME)
        ((_, word),) = bench.limiter.remove(HERE, START)
        assert word.version > ahead.version
        assert bench.door(HOME) is None
        assert not bench.limiter.absorb(ahead, START)
        again = bench.limiter.add(HERE, START, lasts_s=lasts_s, reason="")
        assert bench.door(HOME) == again
    other = bench.limiter.add(parse_subject("198.51.100.1", 64), START, lasts_s=60, reason="")
    assert other.stamp < HybridClock().stamp(START + 1)


def test_at_the_end_of_all_stamps_the_end_of_a_block_still_wins(bench: Bench) -> None:
    last = Block(HERE, "", "admin", "z", MAX_STAMP, START, START + 7200)
    bench.limiter.absorb(last, START)
    assert bench.limiter.remove(HERE, START)
    assert bench.door(HOME) is None
    assert not bench.limiter.absorb(last, START)


def test_a_count_from_another_time_is_none(bench: Bench) -> None:
    assert not bench.limiter.absorb(Failures(HERE, "b", 1, START + 3600, 1000), START)
    assert not bench.limiter.absorb(Failures(HERE, "b", 1, START - 2 * 86_400, 1000), START)
    assert bench.door(HOME) is None


def test_a_clock_that_was_set_back_orders_nothing(bench: Bench) -> None:
    """An hour back between a block and its end, and again before the next one."""
    heard = []
    for back_s in (0.0, 3600.0, 7200.0):
        heard.append(bench.limiter.add(HERE, START - back_s, lasts_s=9 * 3600, reason=""))
        ((_, word),) = bench.limiter.remove(HERE, START - back_s - 1800)
        heard.append(word)
    versions = [word.version for word in heard]
    assert versions == sorted(versions)
    other = Bench(node="b")
    for word in reversed(heard):
        other.limiter.absorb(word, other.now)
    assert other.door(HOME) is None


def test_the_end_of_a_block_ends_no_later_one(bench: Bench) -> None:
    """The other node, whose clock is behind, blocked anew before it heard that the first block was lifted."""
    other = Bench(node="b", now=START - 3600)
    first = bench.limiter.add(HERE, bench.now, lasts_s=60, reason="first")
    other.limiter.absorb(first.moved(-3600), other.now)
    other.now += 61
    bench.now += 59
    ((_, lifted),) = bench.limiter.remove(HERE, bench.now)
    second = other.limiter.add(HERE, other.now, lasts_s=600, reason="second")
    assert not other.limiter.absorb(lifted.moved(-3600), other.now)
    assert other.door(HOME) == second
    assert bench.limiter.absorb(second.moved(3600), bench.now)
    assert bench.door(HOME) is not None


@pytest.mark.parametrize("ahead_s", [-3600.0, 0.0, 3600.0])
def test_of_a_block_and_an_end_that_were_said_at_once_the_block_holds(bench: Bench, ahead_s: float) -> None:
    """On both sides of a partition that know the same block, whatever their clocks say."""
    other = Bench(node="b", now=START + ahead_s)
    first = bench.limiter.add(HERE, bench.now, lasts_s=3600, reason="first")
    other.limiter.absorb(first.moved(ahead_s), other.now)
    ((_, lifted),) = bench.limiter.remove(HERE, bench.now + 1)
    second = other.limiter.add(HERE, other.now, lasts_s=600, reason="second")
    assert not other.limiter.absorb(lifted.moved(ahead_s), other.now)
    assert bench.limiter.absorb(second.moved(-ahead_s), bench.now + 2)
    for each in (bench, other):
        held = each.door(HOME)
        assert held is not None
        assert held.reason == "second"


def test_a_shorter_block_outlives_as_a_word_the_longer_one_it_replaced(bench: Bench) -> None:
    longer = bench.limiter.add(HERE, bench.now, lasts_s=30 * 86_400, reason="")
    shorter = bench.limiter.add(HERE, bench.now, lasts_s=60, reason="")
    for limiter in (bench.limiter, Bench(node="b").limiter):
        limiter.absorb(shorter, bench.now)
        limiter.sweep(bench.now + 86_400)
        assert not limiter.absorb(longer, bench.now + 86_400)
        assert not limiter.blocks(bench.now + 86_400)


def test_stamps_follow_words_that_are_forgotten(bench: Bench) -> None:
    """Another may still remember them: an hour ahead, and long over."""
    ahead = HybridClock().stamp(START + 3600)
    bench.limiter.absorb(Block(HERE, "", "admin", "b", ahead, START, START + 10), START)
    bench.limiter.sweep(START + 3000)
    assert bench.limiter.latest((HERE, "", True)) is None
    assert bench.limiter.add(HERE, START + 3000, lasts_s=10, reason="").stamp > ahead


SUBJECTS = [HERE, parse_subject("2001:db8::/48", 64)]
times = st.integers(0, 20).map(lambda n: START + n)
blocks = st.builds(
    Block,
    subject=st.sampled_from(SUBJECTS),
    user=st.just(""),
    rule=st.sampled_from(["address", "fast", "admin"]),
    origin=st.sampled_from("ab"),
    stamp=st.integers(0, 20),
    since=st.just(START),
    until=st.just(0.0),
    count=st.integers(0, 3),
).map(
    lambda block: replace(block, until=START + 5 + block.stamp % 11 + block.count)
)  # equal in equal versions
counts = st.builds(
    Failures,
    subject=st.sampled_from(SUBJECTS),
    origin=st.text(max_size=9),
    stamp=st.integers(0, 2**32 - 1),
    since=st.floats(0, FOREVER),
    count=st.integers(0, 2**31 - 1),
)
lifteds = st.builds(
    Lifted,
    subject=st.sampled_from(SUBJECTS),
    user=st.just(""),
    is_admin=st.booleans(),
    origin=st.sampled_from("ab"),
    stamp=st.integers(0, 20),
    covers=times,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(blocks | lifteds, max_size=5), st.randoms(use_true_random=False))
def test_the_order_and_repetition_of_words_do_not_matter(words: list[Block | Lifted], rng: object) -> None:
    def outcome(heard: tuple[Block | Lifted, ...]) -> set[Block]:
        table = BlockTable()
        for each in heard:
            table.merge(each, START)
        return set(table.active(START + 12))

    outcomes = [outcome(each + each) for each in itertools.permutations(words)]
    assert all(each == outcomes[0] for each in outcomes)


@settings(max_examples=100, deadline=None)
@given(blocks | lifteds | counts)
def test_deltas_survive_json(delta: Delta) -> None:
    assert decode(json.loads(json.dumps(encode(delta)))) == delta


GOOD = encode(Block(HERE, "", "fast", "b", 1, START, START + 10))


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        "block",
        ["block"],
        ["gossip", *GOOD[1:]],
        GOOD[:-1],
        [*GOOD, 1],
        *([*GOOD[:n], bad, *GOOD[n + 1 :]] for n in range(1, len(GOOD)) for bad in (None, [], float("nan"))),
        *([*GOOD[:n], "x" * 1000, *GOOD[n + 1 :]] for n in range(1, len(GOOD))),
        [*GOOD[:7], FOREVER * 2, *GOOD[8:]],
        [*GOOD[:5], MAX_STAMP + 1, *GOOD[6:]],
        [*GOOD[:5], -1, *GOOD[6:]],
        [*GOOD[:5], True, *GOOD[6:]],
        ["failures", str(HERE), "b", -1, 1, 1],
        ["failures", str(HERE), "b", 1, 1, 2**40],
        ["failures", str(33 << 1), "b", 1, 1, 1],
        ["failures", str(1 << 60), "b", 1, 1, 1],
    ],
)
def test_what_is_no_delta_is_refused(values: object) -> None:
    with pytest.raises(BadDelta):
        decode(values)


def test_rule_blocks_are_bounded() -> None:
    table = BlockTable(max_rule_blocks=10)
    for n in range(100):
        table.merge(Block(Subject(n << 9 | 64), "", "address", "a", n, START + n, START + 1000), START)
    table.merge(Block(HERE, "", "admin", "a", 1, START, FOREVER), START)
    left = list(table.active(START + 500))
    assert len(left) == 11
    assert {each.since for each in left if each.rule == "address"} == {START + n for n in range(90, 100)}
    assert MAX_RULE_BLOCKS >= 10_000


def test_operators_blocks_that_were_lifted_make_place_for_others() -> None:
    table = BlockTable(max_admin_blocks=3)
    for n in range(3):
        assert table.merge(Block(Subject(n << 9 | 64), "", "admin", "a", n, START, FOREVER), START)
    more = Block(HERE, "", "admin", "a", 1, START, FOREVER)
    assert not table.merge(more, START)
    assert table.merge(Lifted(Subject(1 << 9 | 64), "", True, "a", 9, START + 60), START)
    assert table.merge(more, START)
    assert len(table) == 3
