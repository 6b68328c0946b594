from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from storage.leases import Attempts
from tls import retry
from tls.ports import CaSettings, Failure, IssuingFailed
from tls.retry import PRODUCTION, STAGING, Blocked, Step, after_failure, after_success, next_step, pause_s

NOW = datetime(2026, 11, 22, tzinfo=UTC)
FIRST, SECOND = CaSettings("https://one.example/dir"), CaSettings("https://two.example/dir")


def failed(kind: Failure = Failure.UNREACHABLE, *, after: Attempts | None = None, **more: float) -> Attempts:
    error = IssuingFailed(kind, "words of the CA", retry_after_s=more.get("retry_after_s"))
    return after_failure(after or Attempts(), error, NOW, 0.5, "aa")


def wait_s(attempts: Attempts) -> float:
    assert attempts.blocked_until is not None
    return (attempts.blocked_until - NOW).total_seconds()


def test_pauses_grow_to_six_hours_and_are_spread() -> None:
    minutes = [round(pause_s(failures, 0.5) / 60) for failures in range(1, 13)]
    assert minutes == [1, 2, 5, 10, 20, 30, 60, 120, 240, 360, 360, 360]
    assert pause_s(1, 0.0) == pytest.approx(48)
    assert pause_s(1, 0.999) == pytest.approx(72, abs=0.1)


def test_failures_count_on_and_say_what_the_ca_said() -> None:
    attempts = failed(after=failed())
    assert (attempts.failures, wait_s(attempts)) == (2, 120)
    assert attempts.last_failure == "unreachable: words of the CA"
    assert attempts.last_failure_at == NOW


@pytest.mark.parametrize(
    ("retry_after_s", "expected_s"), [(7200.0, 7200.0), (5.0, 60.0), (1e9, 8 * 86_400.0), (None, 86_400.0)]
)
def test_a_rate_limit_blocks_for_as_long_as_the_ca_says(
    retry_after_s: float | None, expected_s: float
) -> None:
    error = IssuingFailed(Failure.RATE_LIMITED, "too many", retry_after_s=retry_after_s)
    assert wait_s(after_failure(Attempts(), error, NOW, 0.5, "aa")) == expected_s


def test_what_the_ca_had_no_part_in_is_tried_again_soon() -> None:
    many = Attempts(failures=8)
    assert wait_s(failed(Failure.UNPUBLISHED, after=many)) == 600


@pytest.mark.parametrize("kind", [Failure.REJECTED_NAME, Failure.BAD_ACCOUNT])
def test_a_permanent_failure_ends_with_the_configuration_or_after_a_day(kind: Failure) -> None:
    attempts = failed(kind)
    assert wait_s(attempts) == 86_400
    assert retry.blocked_until(attempts, NOW, "aa") == NOW + timedelta(days=1)
    assert retry.blocked_until(attempts, NOW, "bb") is None
    assert retry.blocked_until(attempts, NOW + timedelta(days=1), "aa") is None


def test_other_failures_survive_a_change_of_the_configuration() -> None:
    assert retry.blocked_until(failed(), NOW, "bb") is not None


def test_success_clears_all_but_the_memory_of_the_last_failure() -> None:
    attempts = after_success(failed(), NOW)
    assert attempts == Attempts(
        last_failure="unreachable: words of the CA", last_failure_at=NOW, last_success_at=NOW
    )


def test_the_next_ca_is_asked_only_after_three_failures_in_a_row() -> None:
    cas = (FIRST, SECOND)
    assert next_step(cas, {}, NOW, "aa") == Step(FIRST)
    twice = failed(after=failed())
    assert next_step(cas, {FIRST.directory: twice}, NOW, "aa") == Blocked(
        NOW + timedelta(seconds=120), twice.blocked_why
    )
    thrice = failed(after=twice)
    assert next_step(cas, {FIRST.directory: thrice}, NOW, "aa") == Step(SECOND)
    later = NOW + timedelta(minutes=6)
    assert next_step(cas, {FIRST.directory: thrice}, later, "aa") == Step(FIRST)


def test_a_ca_that_refuses_for_good_is_passed_over_at_once() -> None:
    assert next_step((FIRST, SECOND), {FIRST.directory: failed(Failure.BAD_ACCOUNT)}, NOW, "aa") == Step(
        SECOND
    )


def test_with_all_blocked_the_first_to_be_free_is_waited_for() -> None:
    slow = failed(after=Attempts(failures=5))
    attempts = {FIRST.directory: slow, SECOND.directory: failed()}
    assert next_step((FIRST, SECOND), attempts, NOW, "aa") == Blocked(
        NOW + timedelta(seconds=60), "unreachable: words of the CA"
    )


def test_after_a_failed_validation_the_staging_twin_is_tried_first() -> None:
    real = CaSettings(PRODUCTION, email="a@example.com", eab_kid="kid", eab_hmac_key="key")
    later = NOW + timedelta(hours=1)
    step = next_step((real,), {PRODUCTION: failed(Failure.VALIDATION)}, later, "aa")
    assert step == Step(real, CaSettings(STAGING, email="a@example.com"))
    assert next_step((real,), {PRODUCTION: failed(Failure.TIMEOUT)}, later, "aa") == Step(real)
    assert next_step((FIRST,), {FIRST.directory: failed(Failure.VALIDATION)}, later, "aa") == Step(FIRST)
