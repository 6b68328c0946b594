"""A store some of whose calls hang."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.looptime import pass_s


class Stuck:
    """Passes calls on to ``real``; those named in ``hanging`` never come back, until cancelled.

    With each of these calls ``passing_s`` go by on the loop's clock: what waits that long for it is over at
    once, and nothing is that never waits, however slow the machine."""

    def __init__(self, real: Any, passing_s: float = 0.0) -> None:
        self.real = real
        self.passing_s = passing_s
        self.hanging: set[str] = set()
        self.cancelled: list[str] = []

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.real, name)

        async def call(*args: Any, **options: Any) -> Any:
            if name not in self.hanging:
                return await target(*args, **options)
            if self.passing_s:
                pass_s(self.passing_s)
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise

        return call
