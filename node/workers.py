"""Background loops of a node, supervised: one that fails is logged and restarted with back-off.

This is one of the three places that catch unknown exceptions (the others: the driver, the gossip endpoint).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

log = logging.getLogger("sora.workers")

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0

Job = Callable[[asyncio.Event], Awaitable[None]]  # runs until the event is set


class Workers:
    """Starts jobs by name and stops them all."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.failures: Counter[str] = Counter()
        self.failing: set[str] = set()  # waiting to be started again

    def start(self, name: str, job: Job) -> None:
        self.failures[name] += 0
        self._tasks[name] = asyncio.create_task(self._supervise(name, job), name=name)

    async def stop(self, deadline_s: float) -> None:
        """Ask all jobs to end and wait; what has not ended by the deadline is cancelled and named."""
        self._stop.set()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks.values(), timeout=deadline_s)
        for task in late:
            log.warning("%s did not stop within %.0f s and is cancelled", task.get_name(), deadline_s)
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _supervise(self, name: str, job: Job) -> None:
        backoff = FIRST_BACKOFF_S
        while not self._stop.is_set():
            started = asyncio.get_running_loop().time()
            self.failing.discard(name)
            try:
                await job(self._stop)
            except Exception:
                self.failures[name] += 1
                self.failing.add(name)
                log.exception("%s failed and is started again in %.1f s", name, backoff)
            else:
                return
            if asyncio.get_running_loop().time() - started > MAX_BACKOFF_S:
                backoff = FIRST_BACKOFF_S
            try:
                await asyncio.wait_for(self._stop.wait(), backoff)
            except TimeoutError:
                backoff = min(backoff * 2, MAX_BACKOFF_S)


def every(seconds: float, action: Callable[[], None]) -> Job:
    """A job that calls ``action`` at intervals until stopped."""

    async def run(stop: asyncio.Event) -> None:
        while not stop.is_set():
            action()
            try:
                await asyncio.wait_for(stop.wait(), seconds)
            except TimeoutError:
                continue

    return run
