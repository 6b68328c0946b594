"""A store some of whose calls hang."""

from __future__ import annotations

import asyncio
from typing import Any


class Stuck:
    """Passes calls on to ``real``; those named in ``hanging`` never come back, until cancelled."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.hanging: set[str] = set()
        self.cancelled: list[str] = []

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.real, name)

        async def call(*args: Any, **options: Any) -> Any:
            if name not in self.hanging:
                return await target(*args, **options)
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise

        return call
