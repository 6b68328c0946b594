"""Failures on all nodes count together, each once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.clustering import failures
from node.config.services import RateLimitSync

from .cluster import Member, Nodes

BAD = "198.51.100.7"


def flush(*members: Member) -> None:
    for member in members:
        member.clustering.failures.flush()


def test_the_first_failures_are_told_at_once(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.fail(BAD, 1)
    assert second.counted(BAD) == (0, 1)
    first.fail("198.51.100.8", 8)
    assert second.counted("198.51.100.8") == (0, 8)


def test_many_addresses_that_fail_once_leave_room_for_those_that_go_on(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MAX_SINGLE", 10)
    first, second, _ = nodes.three()
    for number in range(30):
        first.fail(f"198.51.{number}.1", 1)
    assert sum(second.counted(f"198.51.{number}.1")[1] for number in range(30)) == 10
    assert first.clustering.failures.dropped == 20
    first.fail("198.51.29.1", 2)  # the first one again, and a second one
    assert second.counted("198.51.29.1") == (0, 2)
    first.fail("198.51.0.1", 2)
    first.fail(BAD, 1)
    assert second.counted(BAD) == (0, 1)
    nodes.pass_by(first.clustering.failures.window_s + 1)
    first.fail("198.51.29.2", 1)
    assert second.counted("198.51.29.2") == (0, 1)


def test_what_is_between_steps_follows_with_the_flush(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    first.fail(BAD, 7)
    assert second.counted(BAD) == (0, 4)
    flush(first)
    assert second.counted(BAD) == (0, 7)


def test_failures_on_several_nodes_block_together_and_are_counted_once(nodes: Nodes) -> None:
    first, second, third = members = nodes.three()
    first.fail(BAD, 4)
    second.fail(BAD, 4)
    flush(*members)
    flush(*members)
    for member in members:
        member.gossip.catch_up()  # told again
    assert first.counted(BAD) == (4, 4)
    assert third.counted(BAD) == (0, 8)
    assert not third.refuses(BAD)
    third.fail(BAD, 2)
    assert all(member.refuses(BAD) for member in members)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), max_size=12), st.booleans())
def test_however_failures_fall_all_agree_after_a_flush(fails: list[tuple[str, int]], has_cut: bool) -> None:
    nodes = Nodes()
    members = dict(zip("abc", nodes.three(), strict=True))
    for number, (name, times) in enumerate(fails):
        if has_cut and number == len(fails) // 2:
            nodes.cluster.cut("b")
        ip = f"198.51.100.{number % 2}"
        members[name].fail(ip, times)
    nodes.cluster.heal()
    flush(*members.values())
    for ip in ("198.51.100.0", "198.51.100.1"):
        seen = [member.counted(ip) for member in members.values()]
        assert len({own + others for own, others in seen}) == 1
        assert sum(own for own, _ in seen) == seen[0][0] + seen[0][1]


def test_counts_end_with_their_node_and_their_window(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    first.fail(BAD, 4)
    second.fail(BAD, 2)
    nodes.cluster.kill("a")
    assert third.counted(BAD) == (0, 2)
    nodes.pass_by(1801)
    assert third.counted(BAD) == (0, 0)


@pytest.mark.parametrize("skew_s", [-7200.0, 7200.0])
def test_counts_of_a_node_whose_clock_is_off_count_as_long(nodes: Nodes, skew_s: float) -> None:
    first, second = nodes.add("a", skew_s=skew_s), nodes.add("b")
    for seconds in (0, 100, 100):
        nodes.pass_by(seconds)
        first.fail(BAD, 1)
        flush(first)
    assert second.counted(BAD)[1] == first.counted(BAD)[0] > 0
    nodes.pass_by(1500)
    assert second.counted(BAD)[1] == first.counted(BAD)[0] > 0
    nodes.pass_by(200)
    assert second.counted(BAD)[1] == 0


def test_switched_off_nothing_is_told_or_taken(nodes: Nodes) -> None:
    first = nodes.add("a", sync=RateLimitSync(sync_failure_counts=False))
    second = nodes.add("b")
    first.fail(BAD, 4)
    second.fail(BAD, 4)
    flush(first, second)
    assert first.counted(BAD) == second.counted(BAD) == (4, 0)


def test_blocks_are_shared_without_counts(nodes: Nodes) -> None:
    off = RateLimitSync(sync_failure_counts=False)
    first, second, _ = nodes.three(sync=off)
    first.fail(BAD, 10)
    assert second.refuses(BAD)
    assert second.counted(BAD) == (0, 0)
