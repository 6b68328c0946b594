"""Leases with fencing numbers, and what was tried for certificates: the contracts of ``postgres.leases``.

All times are the database's, aware UTC; ``_s`` are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    name: str
    holder: str
    fence: int


class Leases(Protocol):
    """One holder at a time, by the clock of the database alone. Raises Unavailable."""

    async def take(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """None: another holds it. Each take has a higher fence than all before, one by the holder too."""
        ...

    async def renew(self, lease: Lease, ttl_s: float) -> bool:
        """Whether it is still ours; False: it is lost, stop."""
        ...

    async def release(self, lease: Lease) -> None: ...

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

    async def save(self, ca: str, wanted_id: str, attempts: Attempts) -> None: ...

    async def note(self, ca: str, what: str, subject: str) -> None:
        """Something that counts against a budget has happened now: an order, a failed validation of a name, a
        certificate for a set."""
        ...

    async def count(self, ca: str, what: str, subject: str, within_s: float) -> int: ...
