"""How late the event loop runs what is due: the one figure that shows every blocking call."""

from __future__ import annotations

import asyncio
from time import perf_counter

from .counting import LAGS, Distribution

EVERY_S = 0.25


class LoopLag:
    """A worker that sleeps and looks how long it slept."""

    def __init__(self) -> None:
        self.lags = Distribution(LAGS)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            due = perf_counter() + EVERY_S
            try:
                await asyncio.wait_for(stop.wait(), EVERY_S)
            except TimeoutError:
                self.lags.add(max(0.0, perf_counter() - due))
