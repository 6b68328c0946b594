"""A block decided or lifted on one node holds on all, and ends when it should."""

from __future__ import annotations

import pytest

from node.config.services import RateLimitSync
from node.ratelimit import parse_subject
from node.ratelimit.blocks import FOREVER

from .cluster import Member, Nodes

BAD = "198.51.100.7"
SUBJECT = parse_subject(BAD, 64)


def until(member: Member) -> float:
    """Seconds from now on, by the member's clock."""
    (block,) = member.guards.limiter.blocks(member.wall())
    return block.until - member.wall()


def test_a_block_by_rule_holds_everywhere_at_once(nodes: Nodes) -> None:
    first, *others = nodes.three()
    first.fail(BAD, 10)
    assert first.refuses(BAD)
    assert all(other.refuses(BAD) for other in others)


def test_an_operators_block_and_its_end_hold_everywhere(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    first.guards.add(SUBJECT, lasts_s=3600, reason="guesses")
    assert second.refuses(BAD)
    nodes.pass_by(1)
    second.guards.remove(SUBJECT)
    assert not any(member.refuses(BAD) for member in (first, second, third))


def test_who_lifts_a_block_takes_its_word_back_from_who_made_it(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.guards.add(SUBJECT, lasts_s=None, reason="")
    nodes.pass_by(1)
    second.guards.remove(SUBJECT)
    late = nodes.add("d")
    assert not late.refuses(BAD)
    assert len(first.clustering.blocks) == 0


def test_a_lifted_block_stays_lifted_for_who_comes_days_later(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.guards.add(SUBJECT, lasts_s=30 * 86_400, reason="")
    nodes.cluster.kill("a")  # its block outlives it
    nodes.pass_by(1)
    second.guards.remove(SUBJECT)
    nodes.pass_by(5 * 86_400)
    late = nodes.add("d")
    assert not late.refuses(BAD)


def test_blocks_outlive_the_node_that_made_them_and_reach_who_comes_later(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.guards.add(SUBJECT, lasts_s=3600, reason="")
    nodes.cluster.kill("a")
    assert second.refuses(BAD)
    assert nodes.add("d").refuses(BAD)


def test_a_node_that_was_restarted_learns_its_own_blocks_from_the_others(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    first.guards.add(SUBJECT, lasts_s=3600, reason="")
    nodes.cluster.kill("a")
    nodes.pass_by(5)
    again = nodes.add("a")
    assert again.refuses(BAD)
    again.guards.remove(SUBJECT)
    assert not any(member.refuses(BAD) for member in (second, third, again))


@pytest.mark.parametrize("skew_s", [-3600.0, -1.0, 1.0, 3600.0, 86_400.0])
def test_a_block_ends_when_it_should_whatever_the_clock_of_its_node_says(nodes: Nodes, skew_s: float) -> None:
    first, second = nodes.add("a", skew_s=skew_s), nodes.add("b")
    first.guards.add(SUBJECT, lasts_s=900, reason="")
    nodes.pass_by(300)
    late = nodes.add("c")
    for member in (first, second, late):
        assert until(member) == pytest.approx(600, abs=2.5)
    nodes.pass_by(603)
    assert not any(member.refuses(BAD) for member in (first, second, late))


@pytest.mark.parametrize("skew_s", [-7200.0, 7200.0])
def test_a_later_word_wins_between_nodes_whose_clocks_differ(nodes: Nodes, skew_s: float) -> None:
    first, second = nodes.add("a", skew_s=skew_s), nodes.add("b")
    for working in (first, second, first, second):
        working.guards.add(SUBJECT, lasts_s=9000, reason="")
        nodes.pass_by(5)
        assert first.refuses(BAD)
        assert second.refuses(BAD)
        other = second if working is first else first
        other.guards.remove(SUBJECT)
        nodes.pass_by(5)
        assert not first.refuses(BAD)
        assert not second.refuses(BAD)


def test_a_partition_heals_to_equal_blocks(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    nodes.cluster.cut("c")
    first.guards.add(SUBJECT, lasts_s=3600, reason="")
    third.guards.add(parse_subject("198.51.100.8", 64), lasts_s=3600, reason="")
    assert not third.refuses(BAD)
    nodes.cluster.heal()
    for member in (first, second, third):
        assert member.refuses(BAD)
        assert member.refuses("198.51.100.8")


def test_a_block_for_ever_is_one_for_who_hears_of_it(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.guards.add(SUBJECT, lasts_s=None, reason="")
    (block,) = second.guards.limiter.blocks(second.wall())
    assert block.until == FOREVER


def test_a_block_for_ever_is_told_again_before_its_entry_ends(nodes: Nodes) -> None:
    first, *_ = nodes.three()
    first.guards.add(SUBJECT, lasts_s=None, reason="")
    for _ in range(50):
        nodes.pass_by(10 * 86_400)
        first.clustering.blocks.refresh()
    assert nodes.add("d").refuses(BAD)


def test_long_words_of_an_operator_are_cut_not_lost(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.guards.add(SUBJECT, lasts_s=60, reason="\N{SNOWMAN}" * 320)
    assert second.refuses(BAD)


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_clock_that_is_set_between_two_words_changes_nothing(nodes: Nodes, step_s: float) -> None:
    """The first node is a new life of itself, with another clock, after each word."""
    first, second, third = nodes.three()
    for _ in range(3):
        first.guards.add(SUBJECT, lasts_s=900, reason="")
        nodes.pass_by(1)
        skew_s = first.skew_s + step_s
        nodes.cluster.kill("a")
        first = nodes.add("a", skew_s=skew_s)
        assert all(member.refuses(BAD) for member in (first, second, third))
        first.guards.remove(SUBJECT)
        assert not any(member.refuses(BAD) for member in (first, second, third))


def test_a_shorter_block_is_the_last_word_also_for_who_comes_after_it(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.guards.add(SUBJECT, lasts_s=30 * 86_400, reason="")
    nodes.cluster.kill("a")  # it cannot take its word back
    nodes.pass_by(1)
    second.guards.add(SUBJECT, lasts_s=60, reason="")
    nodes.pass_by(3600)
    assert not nodes.add("d").refuses(BAD)


def test_a_word_that_was_heard_late_is_outlived_by_the_later_one(nodes: Nodes) -> None:
    """Neither had heard of the other: the longer block came first, and its node is gone."""
    first, second, third = nodes.three()
    nodes.cluster.cut("a")
    first.guards.add(SUBJECT, lasts_s=30 * 86_400, reason="")
    nodes.pass_by(1)
    second.guards.add(SUBJECT, lasts_s=60, reason="")
    nodes.cluster.heal()
    nodes.cluster.kill("a")
    nodes.pass_by(3600)
    late = nodes.add("d")
    assert not any(member.refuses(BAD) for member in (second, third, late))


def test_a_node_takes_its_word_back_when_another_has_the_last(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.guards.add(SUBJECT, lasts_s=3600, reason="")
    nodes.pass_by(1)
    second.guards.add(SUBJECT, lasts_s=7200, reason="")
    assert (len(first.clustering.blocks), len(second.clustering.blocks)) == (0, 1)
    nodes.cluster.kill("b")
    again = nodes.add("b")
    nodes.pass_by(1)
    first.guards.add(SUBJECT, lasts_s=60, reason="")
    assert (len(first.clustering.blocks), len(again.clustering.blocks)) == (1, 0)


def test_a_restarted_node_does_not_take_back_its_later_word_for_its_own_older_one(nodes: Nodes) -> None:
    """It hears the older first, of one that missed the later. Both are one entry: who comes after would hear
    nothing."""
    first, _second, _third = nodes.three()
    first.guards.add(SUBJECT, lasts_s=30 * 86_400, reason="")
    nodes.pass_by(1)
    nodes.cluster.cut("b")
    first.guards.add(SUBJECT, lasts_s=3600, reason="")
    nodes.cluster.kill("a")
    nodes.cluster.cut()  # whole again, and nobody has compared yet
    again = nodes.add("a")
    late = nodes.add("d")
    assert until(again) == pytest.approx(3600)
    assert until(late) == pytest.approx(3600)
    nodes.pass_by(1)
    late.guards.remove(SUBJECT)
    assert len(again.clustering.blocks) == 0


def test_of_two_copies_of_its_word_a_restarted_node_has_the_one_that_covers_more(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    nodes.cluster.cut("c")
    third.guards.add(SUBJECT, lasts_s=30 * 86_400, reason="")
    nodes.pass_by(1)
    first.guards.add(SUBJECT, lasts_s=60, reason="")
    nodes.cluster.cut("b")
    first.gossip.catch_up()  # of the third's, so that its own word has to outlive that
    nodes.cluster.kill("a")
    nodes.cluster.cut()
    again = nodes.add("a")
    nodes.pass_by(3600)
    again.clustering.blocks.refresh()
    assert len(again.clustering.blocks) == 1
    assert not any(member.refuses(BAD) for member in (again, second, third, nodes.add("d")))


def test_switched_off_nothing_is_told_or_taken(nodes: Nodes) -> None:
    first = nodes.add("a", sync=RateLimitSync(sync_blocks=False))
    second = nodes.add("b")
    first.guards.add(SUBJECT, lasts_s=60, reason="")
    second.guards.add(parse_subject("198.51.100.8", 64), lasts_s=60, reason="")
    assert not second.refuses(BAD)
    assert not first.refuses("198.51.100.8")


def test_switched_on_by_a_reload_what_holds_is_told(nodes: Nodes) -> None:
    first = nodes.add("a", sync=RateLimitSync(sync_blocks=False))
    second = nodes.add("b")
    first.guards.add(SUBJECT, lasts_s=60, reason="")
    first.clustering.blocks.turn(is_on=True)
    assert second.refuses(BAD)
    first.clustering.blocks.turn(is_on=False)
    assert not nodes.add("c").refuses(BAD)


def test_members_are_never_blocked(nodes: Nodes) -> None:
    first, _second, third = nodes.three()
    assert set(first.peers) == {"10.0.0.2", "10.0.0.3"}
    first.guards.add(parse_subject("10.0.0.2", 64), lasts_s=60, reason="")
    assert not first.refuses("10.0.0.2")
    assert not third.refuses("10.0.0.2")


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x90", b"\x93\x01\x02\x91\x01"])
def test_what_cannot_be_read_is_counted_and_left(nodes: Nodes, value: bytes) -> None:
    from cluster.facts import Kind

    first, second, _ = nodes.three()
    first.gossip.put(Kind.BLOCK, {b"key": value}, 60)
    assert second.clustering.unreadable == 1
