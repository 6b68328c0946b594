"""Answers that are held back, and how many may be at a time; turns of those who want the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from protocols.errors import AuthenticationUnavailable

MAX_WAITING = 1000  # of all clients together: each holds a connection and a task


class WaitingRoom:
    """Belongs to one event loop. ``later`` is ``loop.call_later`` by default."""

    def __init__(
        self,
        most: int = MAX_WAITING,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._most = most
        self._later = later
        self._waiting: set[asyncio.Future[None]] = set()
        self._per_key: Counter[int] = Counter()
        self.turned_away = 0

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, key: int, seconds: float, *, most: int) -> bool:
        """Wait, unless ``most`` already wait under this key or the room is full; then False, at once.

        Raises AuthenticationUnavailable when the node stops meanwhile.
        """
        if seconds <= 0:
            return True
        if self._per_key[key] >= most or len(self._waiting) >= self._most:
            self.turned_away += 1
            return False
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.add(future)
        self._per_key[key] += 1
        try:
            (self._later or loop.call_later)(seconds, lambda: _release(future))
            await future
        finally:
            self._waiting.discard(future)
            self._per_key[key] -= 1
            if not self._per_key[key]:
                del self._per_key[key]
        return True

    def close(self) -> None:
        """Nobody waits any longer."""
        self._most = 0
        for future in self._waiting:
            if not future.done():
                future.set_exception(AuthenticationUnavailable("shutting down"))


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(slots=True)
class _Line:
    """``users``: who has a turn or waits for one."""

    semaphore: asyncio.Semaphore
    users: int = 0


class Turns:
    """At most so many at a time for one key; the others stand in line. Belongs to one event loop."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    @asynccontextmanager
    async def turn(self, key: int, most: int) -> AsyncIterator[bool]:
        """Holds a turn; whether one had to stand in line, so that things may have changed meanwhile.

        ``most`` is that of the first in the line.
        """
        line = self._lines.setdefault(key, _Line(asyncio.Semaphore(most)))
        line.users += 1
        try:
            has_waited = line.semaphore.locked()
            async with line.semaphore:
                yield has_waited
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[key]
