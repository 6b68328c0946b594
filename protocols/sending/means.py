"""What sending works with, and how far it may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from protocols.ports import Outbox
from storage.api import AccountStore
from storage.scripts import ScriptStore
from storage.sending import RedirectLog

# How long it is known that something was sent: longer than any MTA tries to deliver (RFC 5321 §4.5.4.1).
REMEMBERED_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class SendingLimits:
    """0: no limit."""

    redirect_hops: int = 2
    redirects: int = 100
    redirects_window_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Means:
    """``outbox`` None: this node has no relay. ``memory`` knows what was done already, by keys of
    ``Occasion.key``; ask it before, tell it after."""

    outbox: Outbox | None
    memory: ScriptStore
    redirect_log: RedirectLog
    accounts: AccountStore
    limits: SendingLimits = SendingLimits()
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
