"""Who is blocked, for how long, and above all who is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.ratelimit import Capacity, Rules, parse_subject
from node.ratelimit.limiter import REMEMBER_FAMILIAR_S, REMEMBER_OFFENCE_S, SWEPT_AT_ONCE
from node.ratelimit.rules import FAMILIAR_FACTOR

from .conftest import Bench

ANN, BOB = "ann@example.org", "bob@example.org"
HOME, ELSEWHERE = "192.0.2.7", "198.51.100.9"


def test_a_pair_is_blocked_after_its_failures_and_nobody_else(bench: Bench) -> None:
    for _ in range(4):
        assert not bench.fail(HOME).blocks
    (block,) = bench.fail(HOME).blocks
    assert (block.rule, block.user, block.count, block.until - block.since) == ("user", ANN, 5, 900)
    assert bench.is_blocked(HOME)
    assert not bench.is_blocked(HOME, BOB)
    assert not bench.is_blocked(ELSEWHERE)
    assert bench.door(HOME) is None
    bench.now += 900
    assert not bench.is_blocked(HOME)


def test_failures_of_a_window_that_is_over_do_not_count(bench: Bench) -> None:
    for _ in range(4):
        bench.fail(HOME)
    bench.now += 600
    for _ in range(4):
        assert not bench.fail(HOME).blocks
    assert bench.fail(HOME).blocks


def test_an_address_is_blocked_for_its_failures_whoever_it_tried(bench: Bench) -> None:
    bench.rules = replace(bench.rules, fast_users=0)
    for n in range(49):
        assert not bench.fail(HOME, f"user{n}@example.org").blocks
    (block,) = bench.fail(HOME, BOB).blocks
    assert (block.rule, block.user, block.count, block.last_user) == ("address", "", 50, BOB)
    assert bench.is_blocked(HOME, "somebody@else.example")
    assert bench.door(HOME) == block
    assert bench.door("192.0.2.8") is None
    bench.now = block.until
    assert bench.door(HOME) is None
    assert not bench.is_blocked(HOME)


def test_many_users_in_a_row_block_at_once(bench: Bench) -> None:
    for n in range(9):
        assert not bench.fail(HOME, f"user{n}@example.org").blocks
    (block,) = bench.fail(HOME, "user9@example.org").blocks
    assert (block.rule, block.count, block.until - block.since) == ("fast", 10, 300)


@pytest.mark.parametrize("between", ["a success", "a pause", "the same users"])
def test_what_is_not_in_a_row_does_not_block_at_once(bench: Bench, between: str) -> None:
    for n in range(9):
        bench.fail(HOME, f"user{n}@example.org")
    if between == "a success":
        bench.succeed(HOME, "good@example.org")
    elif between == "a pause":
        bench.now += 60
    user = "user3@example.org" if between == "the same users" else "user9@example.org"
    assert not bench.fail(HOME, user).blocks


def test_the_same_wrong_password_counts_once(bench: Bench) -> None:
    """A telephone with an old password, every minute of a day."""
    for _ in range(24 * 60):
        assert not bench.fail(HOME, password=b"old").blocks
        assert bench.ask(HOME) == (None, 0.0)
        assert bench.failures(HOME) <= 1
        bench.now += 60


def test_a_wrong_password_counts_for_each_address_and_user(bench: Bench) -> None:
    bench.rules = replace(bench.rules, fast_users=3)
    for user in (ANN, BOB):
        assert not bench.fail(HOME, user, b"123456").blocks
    assert bench.fail(HOME, "eve@example.org", b"123456").blocks


def test_nobody_is_locked_out_from_elsewhere(bench: Bench) -> None:
    """A botnet guesses Ann's password; she logs in from home as ever, and from new places too."""
    bench.succeed(HOME)
    for n in range(2000):
        bench.fail(f"10.{n >> 8}.{n & 255}.1")
        bench.now += 0.1
    assert bench.ask(HOME) == (None, 0.0)
    assert bench.ask(ELSEWHERE) == (None, 0.0)
    assert not list(bench.limiter.blocks(bench.now))


def test_a_familiar_user_has_more_budget_and_no_effect_on_the_address(bench: Bench) -> None:
    bench.succeed(HOME)
    blocks = []
    for _ in range(5 * FAMILIAR_FACTOR):
        assert not blocks
        counted = bench.fail("192.0.2.200")  # the neighbourhood
        assert not counted.deltas
        blocks += counted.blocks
    assert [block.rule for block in blocks] == ["user"]
    assert bench.failures("192.0.2.200") == 0


def test_familiarity_ends(bench: Bench) -> None:
    bench.succeed(HOME)
    bench.now += REMEMBER_FAMILIAR_S
    for _ in range(5):
        bench.fail(HOME)
    assert bench.is_blocked(HOME)


def test_an_office_with_one_infected_machine_goes_on_working(bench: Bench) -> None:
    """Its address is blocked by a rule; who logged in before still may, strangers may not."""
    bench.succeed(HOME)
    for n in range(10):
        bench.fail(HOME, f"user{n}@example.org")
    assert bench.door(HOME) is None
    assert bench.ask(HOME) == (None, 0.0)
    assert bench.is_blocked(HOME, BOB)


def test_a_success_does_not_wash_an_address_clean(bench: Bench) -> None:
    """The attacker has an account here."""
    bench.rules = replace(bench.rules, fast_users=0, user_failures=0)
    for n in range(50):
        bench.succeed(HOME, "mallory@example.org")
        bench.fail(HOME, f"user{n}@example.org")
    assert bench.is_blocked(HOME, ANN)


def test_a_success_starts_a_pair_afresh(bench: Bench) -> None:
    for _ in range(100):
        for _ in range(4):
            bench.fail(HOME)
        bench.succeed(HOME)
    assert not bench.is_blocked(HOME)


def test_blocks_in_a_row_grow_up_to_a_day_and_are_forgotten(bench: Bench) -> None:
    lasted = []
    for _ in range(9):
        for _ in range(5):
            blocks = bench.fail(HOME).blocks
        (block,) = (each for each in blocks if each.rule == "user")
        lasted.append(block.until - block.since)
        bench.now = block.until
    assert lasted == [900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 86400]
    bench.now += REMEMBER_OFFENCE_S
    for _ in range(5):
        blocks = bench.fail(HOME).blocks
    assert [each.until - each.since for each in blocks if each.rule == "user"] == [900]


def test_what_was_on_its_way_when_the_block_fell_is_no_new_offence(bench: Bench) -> None:
    """Checks that ran at the same time."""
    for _ in range(40):
        bench.fail(HOME)
    (block,) = bench.limiter.blocks(bench.now)
    assert (block.rule, block.level, block.count) == ("user", 0, 5)
    bench.now += 1
    for n in range(100):
        bench.fail(HOME, f"user{n}@example.org")
    assert [each.rule for each in bench.limiter.blocks(bench.now)] == ["fast", "user"]
    assert bench.failures(HOME) == 140


def test_delays_grow(bench: Bench) -> None:
    bench.rules = replace(bench.rules, user_failures=0)
    delays = []
    for _ in range(9):
        delays.append(bench.ask(HOME).delay_s)
        bench.fail(HOME)
    assert delays == [0, 0, 1, 2, 4, 8, 16, 30, 30]
    assert bench.ask(HOME, BOB).delay_s == 0  # nine failures of the address are not enough
    bench.fail(HOME)
    assert bench.ask(HOME, BOB).delay_s == 1
    assert bench.ask(ELSEWHERE).delay_s == 0


@pytest.mark.parametrize(
    ("rules", "failures"),
    [
        (Rules(is_enabled=False), 1000),
        (Rules(user_failures=0, address_failures=0, fast_users=0, delay_after=0), 1000),
    ],
)
def test_what_is_off_does_nothing(rules: Rules, failures: int) -> None:
    bench = Bench(rules)
    for n in range(failures):
        assert not bench.fail(HOME, f"user{n % 50}@example.org").blocks
    assert bench.ask(HOME) == (None, 0.0)


def test_ipv6_counts_by_prefix_and_mapped_addresses_as_ipv4(bench: Bench) -> None:
    for n in range(5):
        bench.fail(f"2001:db8:1:2::{n:x}")
    assert bench.is_blocked("2001:db8:1:2:ffff::1")
    assert not bench.is_blocked("2001:db8:1:3::1")
    for n in range(5):
        bench.fail(HOME if n % 2 else f"::ffff:{HOME}")
    assert bench.is_blocked(HOME)
    assert bench.is_blocked(f"::ffff:{HOME}")


def test_servers_count_together_and_judge_by_their_own_rules(bench: Bench) -> None:
    strict, lax = bench.rules, replace(bench.rules, user_failures=50, fast_users=0)
    bench.rules = lax
    for _ in range(6):
        assert not bench.fail(HOME).blocks
    bench.rules = strict
    assert bench.fail(HOME).blocks


def test_a_user_guessed_from_everywhere_is_reported_once(bench: Bench) -> None:
    reported = [bench.fail(f"10.0.{n}.1").is_reported for n in range(30)]
    assert [n for n, each in enumerate(reported) if each] == [9]


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    bench = Bench(capacity=Capacity(pairs=10, addresses=10, users=10))
    for n in range(100):
        bench.fail(f"10.0.0.{n}", f"user{n}@example.org")
        bench.succeed(f"10.1.{n}.0", f"other{n}@example.org")
        bench.fail("10.0.0.99", "kept@example.org", b"touched all the time")
    assert max(bench.limiter.sizes.values()) <= 10
    for _ in range(3):
        bench.fail("10.0.0.99", "kept@example.org")
    assert bench.ask("10.0.0.99", "kept@example.org").delay_s == 4


def test_sweeping_frees_everything_in_the_end(bench: Bench) -> None:
    for n in range(200):
        bench.fail(f"10.0.0.{n % 7}", f"user{n}@example.org")
        bench.succeed(f"10.1.{n}.0", f"other{n}@example.org")
    assert min(bench.limiter.sizes.values()) > 0
    bench.now += 40 * 86400
    assert not bench.limiter.sweep(bench.now)
    assert set(bench.limiter.sizes.values()) == {0}


def test_sweeping_many_takes_several_steps() -> None:
    bench = Bench(Rules(user_failures=0, address_failures=0, fast_users=0))
    for n in range(SWEPT_AT_ONCE + 10):
        bench.fail(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    bench.now += 86_400
    assert bench.limiter.sweep(bench.now)
    assert bench.limiter.sizes["addresses"] == 10
    assert not bench.limiter.sweep(bench.now)
    assert bench.limiter.sizes["addresses"] == 0


def test_a_clock_that_is_set_back_locks_nobody_in(bench: Bench) -> None:
    for _ in range(4):
        bench.fail(HOME)
    bench.now -= 3600
    assert bench.ask(HOME) == (None, 0.0)
    for _ in range(4):
        assert not bench.fail(HOME).blocks


def test_rules_hold_again_after_a_removal_and_a_clock_that_is_set_back(bench: Bench) -> None:
    for _ in range(5):
        bench.fail(HOME)
    bench.limiter.remove(parse_subject(HOME, 64), bench.now)
    bench.now -= 3600
    for _ in range(5):
        bench.fail(HOME)
    assert bench.is_blocked(HOME)
    assert bench.limiter.remove(parse_subject(HOME, 64), bench.now)
    assert not bench.is_blocked(HOME)


def test_equal_histories_give_equal_deltas() -> None:
    def run() -> list[object]:
        bench = Bench()
        return [bench.fail(f"10.0.0.{n % 3}", f"user{n % 11}@example.org") for n in range(300)]

    assert run() == run()
