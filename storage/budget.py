"""A limit in bytes on what runs at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class ByteBudget:
    """First come, first served. A request above the whole budget waits for all of it."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.free_bytes = total_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def clamp(self, size_bytes: int) -> int:
        """What a request for ``size_bytes`` takes and has to give back."""
        return min(size_bytes, self.total_bytes)

    async def take(self, size_bytes: int) -> int:
        """Wait until there is room; returns what to give back."""
        wanted = self.clamp(size_bytes)
        if not self._waiting and wanted <= self.free_bytes:
            self.free_bytes -= wanted
            return wanted
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(wanted)
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove((wanted, turn))
                self._wake()
            raise
        return wanted

    def give_back(self, taken_bytes: int) -> None:
        self.free_bytes += taken_bytes
        self._wake()

    @contextlib.asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        taken = await self.take(size_bytes)
        try:
            yield
        finally:
            self.give_back(taken)

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free_bytes:
            wanted, turn = self._waiting.popleft()
            if turn.cancelled():
                continue
            self.free_bytes -= wanted
            turn.set_result(None)
