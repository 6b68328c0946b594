"""When to try again, and where, after an order failed. Pure: the clock and chance are arguments.

What was tried is in ``storage.leases.Attempts``, one for each CA and certificate, so that a change of the
leader does not begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from storage.leases import Attempts

from .ports import CaSettings, Failure, IssuingFailed

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0
SCHEDULE_S = (
    *(minutes * MINUTE_S for minutes in (1, 2, 5, 10, 20, 30)),
    *(hours * HOUR_S for hours in (1, 2, 4, 6)),
)
JITTER = 0.2
RATE_LIMITED_S = DAY_S  # when the CA does not say how long
PERMANENT_S = DAY_S
RETRY_AFTER_MAX_S = 8 * DAY_S  # the longest limit of Let's Encrypt is a week
OURS_MAX_S = 10 * MINUTE_S  # what the CA had no part in
FALL_BACK_AFTER = 3  # failures in a row, then the next CA is asked
PATIENCE_S = 30 * MINUTE_S  # who makes us wait longer is not waited for where there is another
LEEWAY = timedelta(minutes=5)  # between the clocks of nodes

PRODUCTION = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"
_PERMANENT = "until the configuration changes, "
_OURS = frozenset({Failure.UNPUBLISHED, Failure.INTERNAL})


def pause_s(failures: int, fraction: float) -> float:
    """After so many failures in a row; ``fraction`` in [0, 1) spreads it by a fifth either way."""
    step = SCHEDULE_S[min(max(failures, 1), len(SCHEDULE_S)) - 1]
    return step * (1 - JITTER + 2 * JITTER * fraction)


def after_failure(
    attempts: Attempts,
    error: IssuingFailed,
    now: datetime,
    fraction: float,
    config_digest: str,
    *,
    left_s: float = 0.0,
) -> Attempts:
    """``left_s``: how long the certificate that there is stays valid; 0: there is none. Nothing, also no
    Retry-After, makes us wait longer than half of that: it would be waiting for its end."""
    failures = attempts.failures + 1
    why = f"{error.failure.value}: {error.text}"
    wait_s = pause_s(failures, fraction)
    if error.is_permanent:
        wait_s = PERMANENT_S
        why = f"{_PERMANENT}{config_digest}: {why}"
    elif error.failure in _OURS:
        wait_s = min(wait_s, OURS_MAX_S)
    elif error.retry_after_s is not None:
        wait_s = max(wait_s, min(error.retry_after_s, RETRY_AFTER_MAX_S))
    elif error.failure is Failure.RATE_LIMITED:
        wait_s = RATE_LIMITED_S
    if left_s > 0:
        wait_s = min(wait_s, max(SCHEDULE_S[0], left_s / 2))
    return replace(
        attempts,
        failures=failures,
        blocked_until=now + timedelta(seconds=wait_s),
        blocked_why=why,
        last_failure=f"{error.failure.value}: {error.text}",
        last_failure_at=now,
    )


def after_success(attempts: Attempts, now: datetime) -> Attempts:
    """The moment that was picked was that of the certificate before."""
    return Attempts(
        last_failure=attempts.last_failure, last_failure_at=attempts.last_failure_at, last_success_at=now
    )


def blocked_until(attempts: Attempts, now: datetime, config_digest: str) -> datetime | None:
    """None: nothing is in the way. A permanent failure ends with the configuration that it was of; and what
    was noted in the future, by a clock that was wrong, was not."""
    if attempts.blocked_until is None or attempts.blocked_until <= now:
        return None
    if attempts.last_failure_at is not None and attempts.last_failure_at > now + LEEWAY:
        return None
    if attempts.blocked_why.startswith(_PERMANENT) and not attempts.blocked_why.startswith(
        f"{_PERMANENT}{config_digest}:"
    ):
        return None
    return attempts.blocked_until


@dataclass(frozen=True, slots=True)
class Blocked:
    until: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Step:
    """``trial``: a CA where the order is tried first, and its certificate thrown away."""

    ca: CaSettings
    trial: CaSettings | None = None


def next_step(
    cas: Sequence[CaSettings], attempts: Mapping[str, Attempts], now: datetime, config_digest: str
) -> Step | Blocked:
    """The first CA that may be asked. The ones after it are asked only once those before have failed
    FALL_BACK_AFTER times in a row, refuse for good, or want more than PATIENCE_S of us."""
    waiting: Blocked | None = None
    for ca in cas:
        known = attempts.get(ca.directory, Attempts())
        until = blocked_until(known, now, config_digest)
        if until is None:
            return Step(ca, _trial(ca, known))
        if waiting is None or until < waiting.until:
            waiting = Blocked(until, known.blocked_why)
        is_patient = known.failures < FALL_BACK_AFTER and (until - now).total_seconds() <= PATIENCE_S
        if is_patient and not known.blocked_why.startswith(_PERMANENT):
            break
    assert waiting is not None, "there is no CA"
    return waiting


def _trial(ca: CaSettings, known: Attempts) -> CaSettings | None:
    """After a failed validation at the real one its staging twin is asked first, whose limits are wide."""
    has_failed = known.failures and known.last_failure.startswith(Failure.VALIDATION.value)
    if ca.directory != PRODUCTION or not has_failed:
        return None
    return replace(ca, directory=STAGING, eab_kid="", eab_hmac_key="")
