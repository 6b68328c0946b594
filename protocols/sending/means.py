"""What sending works with, and how far it may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from protocols.ports import Outbox
from storage.api import AccountStore
from storage.sending import AnswerLog, HandoverLog, RedirectLog

from .srs import Srs

DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class SendingLimits:
    """0: no limit."""

    redirect_hops: int = 2
    redirects: int = 100
    redirects_window_s: float = 3600.0
    answers: int = 200  # of vacation
    answers_window_s: float = 86400.0
    notifications: int = 100  # each address counts
    notifications_window_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Means:
    """``outbox`` None: this node has no relay. ``handovers`` knows what was sent already, by keys of
    ``Occasion.key``."""

    outbox: Outbox | None
    handovers: HandoverLog
    redirect_log: RedirectLog
    answers: AnswerLog
    accounts: AccountStore
    limits: SendingLimits = SendingLimits()
    srs: Srs | None = None  # None: senders of redirected mail stay as they are
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def today(self) -> int:
        """Days since 1970."""
        return int(self.now().timestamp() // DAY_S)
