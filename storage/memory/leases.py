"""Leases and attempts in memory. ``now`` plays the database's clock and may be replaced to let time pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from storage.leases import CLOCK_LEEWAY, NOTES_KEPT, Attempts, Lease, clipped


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Row:
    lease: Lease
    expires_at: datetime


class MemoryLeases:
    def __init__(self, now: Callable[[], datetime] = _utc_now) -> None:
        self.now = now
        self._rows: dict[str, _Row] = {}

    async def take(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        now = self.now()
        row = self._rows.get(name)
        longest = now + timedelta(seconds=ttl_s) + CLOCK_LEEWAY
        if row is not None and now < row.expires_at <= longest and row.lease.holder != holder:
            return None
        fence = max(int(now.timestamp()), row.lease.fence + 1 if row else 0)
        lease = Lease(name, holder, fence)
        self._rows[name] = _Row(lease, now + timedelta(seconds=ttl_s))
        return lease

    async def renew(self, lease: Lease, ttl_s: float) -> bool:
        row = self._rows.get(lease.name)
        if row is None or row.lease != lease or row.expires_at <= self.now():
            return False
        row.expires_at = self.now() + timedelta(seconds=ttl_s)
        return True

    async def release(self, lease: Lease) -> None:
        row = self._rows.get(lease.name)
        if row is not None and row.lease == lease:
            row.expires_at = datetime.min.replace(tzinfo=UTC)

    async def holder(self, name: str) -> str:
        row = self._rows.get(name)
        return row.lease.holder if row is not None and row.expires_at > self.now() else ""

    async def clock(self) -> datetime:
        return self.now()


class MemoryAttemptRecord:
    def __init__(self, now: Callable[[], datetime] = _utc_now) -> None:
        self.now = now
        self._attempts: dict[tuple[str, str], Attempts] = {}
        self._notes: list[tuple[datetime, tuple[str, str, str]]] = []

    async def load(self, ca: str, wanted_id: str) -> Attempts:
        return self._attempts.get((ca, wanted_id), Attempts())

    async def save(self, ca: str, wanted_id: str, attempts: Attempts) -> None:
        self._attempts[ca, wanted_id] = replace(
            attempts,
            blocked_why=clipped(attempts.blocked_why),
            last_failure=clipped(attempts.last_failure),
        )

    async def note(self, ca: str, what: str, subject: str) -> None:
        oldest = self.now() - NOTES_KEPT
        self._notes = [note for note in self._notes if note[0] >= oldest]
        self._notes.append((self.now(), (ca, what, subject)))

    async def count(self, ca: str, what: str, subject: str, within_s: float) -> int:
        oldest = self.now() - timedelta(seconds=within_s)
        return sum(oldest < at <= self.now() and noted == (ca, what, subject) for at, noted in self._notes)
