"""A deadline wheel whose time passes when a test says so."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from protocols.deadlines import DeadlineWheel


class HandClock:
    """What a wheel needs of a loop, at a time of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._wheel: DeadlineWheel | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Any) -> None:
        """The wheel turns by ``pass_s`` alone."""

    def wheel(self) -> DeadlineWheel:
        """The one that turns with this clock."""
        if self._wheel is None:
            self._wheel = DeadlineWheel(cast("asyncio.AbstractEventLoop", self))
        return self._wheel

    def pass_s(self, seconds: float) -> None:
        """Tick by tick, as the wheel does."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + self.wheel().tick_s, end)
            self.wheel().advance(self.now)
