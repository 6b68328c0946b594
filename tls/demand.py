"""Handshakes that wait for a certificate which is configured and not there yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from .unserved import Unserved

WAIT_S: Final = 5.0
MAX_WAITING: Final = 100  # for each name
SIGNAL_EVERY_S: Final = 1.0  # for each name, however many wait


class Demand:
    """``wanted`` is told which names are waited for. Names are those of the configuration, so few."""

    def __init__(self, wanted: Callable[[str], None]) -> None:
        self.wanted = wanted  # may be replaced
        self.wait_s = WAIT_S
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._signalled: dict[str, float] = {}  # loop time

    def waiting(self, name: str) -> int:
        return len(self._waiting.get(name, ()))

    async def wait(self, name: str) -> Unserved | None:
        """None: there is a certificate for the name now."""
        crowd = self._waiting.setdefault(name, set())
        if len(crowd) >= MAX_WAITING:
            return Unserved.CROWDED
        self._signal(name)
        arrival = asyncio.get_running_loop().create_future()
        crowd.add(arrival)
        try:
            async with asyncio.timeout(self.wait_s):
                await arrival
        except TimeoutError:
            return Unserved.NOT_IN_TIME
        finally:
            crowd.discard(arrival)
            if not crowd and self._waiting.get(name) is crowd:
                del self._waiting[name]
        return None

    def satisfy(self, is_there: Callable[[str], bool]) -> None:
        """Let those go on whose name has a certificate now."""
        for name in [each for each in self._waiting if is_there(each)]:
            for arrival in self._waiting.pop(name):
                if not arrival.done():
                    arrival.set_result(None)

    def _signal(self, name: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._signalled.get(name, -SIGNAL_EVERY_S) >= SIGNAL_EVERY_S:
            self._signalled[name] = now
            self.wanted(name)
