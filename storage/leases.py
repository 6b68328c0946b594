"""Leases with fencing numbers, and what was tried for certificates: the contracts of ``postgres.leases``.

All times are the database's, aware UTC; ``_s`` are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

NOTES_KEPT = timedelta(days=30)  # no budget looks back further
# a lease that is good for so much longer than asked was taken in the future
CLOCK_LEEWAY = timedelta(hours=1)
TEXT_MAX = 2000  # characters of what a CA said


@dataclass(frozen=True, slots=True)
class Lease:
    name: str
    holder: str
    fence: int


class Leases(Protocol):
    """One holder at a time, by the clock of the database alone. Raises Unavailable."""

    async def take(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """None: another holds it. Each take has a higher fence than all before, one by the holder too.

        A fence is the clock in whole seconds or one more than the last, whichever is more: fences do not
        fall back even when the rows were lost. One that was taken while the database's clock was far ahead is
        not waited for once that is corrected.
        """
        ...

    async def renew(self, lease: Lease, ttl_s: float) -> bool:
        """Whether it is still ours, then for ``ttl_s`` from now; False: it is lost, stop."""
        ...

    async def release(self, lease: Lease) -> None:
        """Harmless when it is not ours any more."""
        ...

    async def holder(self, name: str) -> str:
        """Empty: nobody."""
        ...

    async def clock(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Attempts:
    """What has been tried for one certificate at one CA. ``failures``: in a row."""

    failures: int = 0
    blocked_until: datetime | None = None
    blocked_why: str = ""
    last_failure: str = ""  # class and the CA's words
    last_failure_at: datetime | None = None
    last_success_at: datetime | None = None
    renew_at: datetime | None = None  # the moment picked in the CA's window
    renew_checked_at: datetime | None = None
    retry_after: datetime | None = None  # of the renewal information


class AttemptRecord(Protocol):
    """Survives every node. Raises Unavailable."""

    async def load(self, ca: str, wanted_id: str) -> Attempts: ...

    async def save(self, ca: str, wanted_id: str, attempts: Attempts) -> None:
        """Texts are stored as ``clipped`` gives them."""
        ...

    async def note(self, ca: str, what: str, subject: str) -> None:
        """Something that counts against a budget has happened now: an order, a failed validation of a name, a
        certificate for a set."""
        ...

    async def count(self, ca: str, what: str, subject: str, within_s: float) -> int:
        """Of the last ``within_s``, which is at most NOTES_KEPT; none from the future."""
        ...


def clipped(text: str) -> str:
    """What a database can store of a stranger's words: no NUL, no half characters, at most TEXT_MAX."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:TEXT_MAX]
