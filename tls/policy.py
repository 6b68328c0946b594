"""When a certificate is renewed. Pure: the clock and chance are arguments.

Lifetimes come from the certificate, never from constants: they range from six days to years, and shrink.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from .bundle import Bundle
from .ports import Renewal

TICK = timedelta(minutes=10)  # between two looks at everything
EMERGENCY_SHARE = 20  # of the lifetime is left: rules about sparing the CA end
OVERDUE_SHARE = 10  # of the lifetime has passed since it was due
LIFETIME_SHARE = 3
ASK_AGAIN_MIN_S, ASK_AGAIN_MAX_S, ASK_AGAIN_S = 60.0, 86_400.0, 6 * 3600.0


class State(enum.Enum):
    """The values are for people and metrics."""

    OK = "ok"
    DUE = "due"
    OVERDUE = "overdue"
    MISSING = "missing"
    EMERGENCY = "emergency"
    REVOKED = "revoked"
    INCOMPLETE = "incomplete"  # good, but not for all names

    @property
    def needs_order(self) -> bool:
        return self is not State.OK

    @property
    def spares_nothing(self) -> bool:
        """Rules about sparing the CA end."""
        return self in (State.EMERGENCY, State.REVOKED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``renew_at``: when it becomes due, or became; None: there is no certificate."""

    state: State
    renew_at: datetime | None = None
    is_clamped: bool = False  # renew_before is more than a third of the lifetime
    by_ca: bool = False  # the moment is from the CA's window

    @property
    def text(self) -> str:
        when = "" if self.renew_at is None else f", renewal {self.renew_at:%Y-%m-%d %H:%M} UTC"
        return self.state.value + when


def judge(
    bundle: Bundle | None,
    now: datetime,
    renew_before_s: float,
    picked: datetime | None = None,
    *,
    is_revoked: bool = False,
    is_incomplete: bool = False,
) -> Verdict:
    """``picked``: the moment in the CA's window; it is used within the lifetime only. One before that was
    picked for a certificate that is replaced already, and would make us order without end."""
    if bundle is None:
        return Verdict(State.MISSING)
    if is_revoked:
        return Verdict(State.REVOKED, now)
    lifetime = bundle.not_after - bundle.not_before
    ahead = timedelta(seconds=renew_before_s)
    is_clamped = ahead > lifetime / LIFETIME_SHARE
    usual = bundle.not_after - min(ahead, lifetime / LIFETIME_SHARE)
    by_ca = picked is not None and bundle.not_before < picked < bundle.not_after
    renew_at = picked if by_ca and picked is not None else usual
    state = _state(bundle, lifetime, renew_at, now)
    if state is State.OK and is_incomplete:
        state = State.INCOMPLETE
    return Verdict(state, renew_at, is_clamped, by_ca)


def _state(bundle: Bundle, lifetime: timedelta, renew_at: datetime, now: datetime) -> State:
    if bundle.not_after - now < lifetime / EMERGENCY_SHARE:
        return State.EMERGENCY
    if now < renew_at:
        return State.OK
    return State.OVERDUE if now - renew_at > lifetime / OVERDUE_SHARE else State.DUE


def pick(window: Renewal, known: datetime | None, fraction: float) -> datetime | None:
    """The moment of renewal in the CA's window (RFC 9773 §4.2): the one that is known while it is inside,
    else one at ``fraction`` of the window. None: the window ends before it begins."""
    if window.end <= window.start:
        return None
    if known is not None and window.start <= known <= window.end:
        return known
    return window.start + fraction * (window.end - window.start)


def ask_again_s(told_s: float | None) -> float:
    """How long the CA's renewal information is good for."""
    wanted = ASK_AGAIN_S if told_s is None else told_s
    return min(max(wanted, ASK_AGAIN_MIN_S), ASK_AGAIN_MAX_S)


def look_after_s(verdicts: list[Verdict], now: datetime, fraction: float) -> float:
    """How long until everything is looked at again: a tick and up to a tenth of jitter, less when something
    becomes due before. At least a second."""
    ahead = [
        (verdict.renew_at - now).total_seconds()
        for verdict in verdicts
        if verdict.renew_at is not None and verdict.renew_at > now
    ]
    return max(1.0, min([TICK.total_seconds(), *ahead]) * (1 + fraction / 10))
