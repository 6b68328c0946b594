"""The record of attempts, which goes on in this process while the database is away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime

from storage.errors import Unavailable
from storage.leases import AttemptRecord, Attempts

NOTES_MAX = 1000


class LastingRecord:
    """Never raises. What was written while the database was away is not carried over: it errs on the side of
    trying once more, and counts again from the next failure."""

    def __init__(self, record: AttemptRecord, now: Callable[[], datetime]) -> None:
        self._record = record
        self._now = now
        self._attempts: dict[tuple[str, str], Attempts] = {}
        self._notes: deque[tuple[datetime, tuple[str, str, str]]] = deque(maxlen=NOTES_MAX)
        self.trouble = ""  # of the last call

    async def load(self, ca: str, wanted_id: str) -> Attempts:
        try:
            attempts = await self._record.load(ca, wanted_id)
        except Unavailable as error:
            self.trouble = str(error)
            return self._attempts.get((ca, wanted_id), Attempts())
        self.trouble = ""
        self._attempts[ca, wanted_id] = attempts
        return attempts

    async def save(self, ca: str, wanted_id: str, attempts: Attempts) -> None:
        self._attempts[ca, wanted_id] = attempts
        try:
            await self._record.save(ca, wanted_id, attempts)
        except Unavailable as error:
            self.trouble = str(error)

    async def note(self, ca: str, what: str, subject: str) -> None:
        try:
            await self._record.note(ca, what, subject)
        except Unavailable as error:
            self.trouble = str(error)
            self._notes.append((self._now(), (ca, what, subject)))

    async def count(self, ca: str, what: str, subject: str, within_s: float) -> int:
        now, wanted = self._now(), (ca, what, subject)
        ours = sum((now - at).total_seconds() < within_s and note == wanted for at, note in self._notes)
        try:
            return ours + await self._record.count(ca, what, subject, within_s)
        except Unavailable as error:
            self.trouble = str(error)
            return ours
