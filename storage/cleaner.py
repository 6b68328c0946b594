"""What is past its grace period goes: messages, then contents nobody refers to, then their objects.

Each step is one bounded batch with a pause after it, so the cleaner never holds a lock for long and never
takes more than its share of the database. Running twice at once is safe (the contract's batches skip what
another has locked); running on every node is only waste.

A content is queued for deletion in the same commit that drops its row, and its object is deleted before it
leaves the queue. Dying in between leaves the object in the queue, never an object that nobody knows of.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from .api import BlobStore, PurgeStore
from .errors import StorageError

log = logging.getLogger("sora.cleaner")

BATCH = 500
OBJECT_BATCH = 1000  # one DeleteObjects request
PAUSE_S = 0.1
RETRY_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class CleanerSettings:
    grace: timedelta = timedelta(days=14)
    max_age: timedelta | None = None  # max_age_restriction; None: mail is kept
    wake_interval_s: float = 3600.0
    time_budget_s: float = 600.0  # of one round; the next goes on where it stopped


@dataclass(slots=True)
class CleanCounters:
    expired: int = 0
    messages: int = 0
    contents: int = 0
    objects: int = 0
    delivery_keys: int = 0
    send_log: int = 0
    failures: int = 0


class Cleaner:
    """One runs in the cluster at a time, by preference."""

    def __init__(
        self,
        purge: PurgeStore,
        store: BlobStore,
        settings: CleanerSettings,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counters = CleanCounters()
        self._purge = purge
        self._store = store
        self.settings = settings  # may be replaced; the next step goes by it
        self._clock = clock
        self._sleep = sleep
        self.retry_after_s = RETRY_AFTER_S

    async def step(self) -> bool:
        """One round within the time budget; whether it removed anything. Raises Unavailable."""
        deadline = self._clock() + self.settings.time_budget_s
        has_worked = False
        for counter, batch, size in self._stages():
            while True:
                done = await batch()
                setattr(self.counters, counter, getattr(self.counters, counter) + done)
                has_worked |= done > 0
                if self._clock() >= deadline:
                    return has_worked
                if done < size:
                    break
                await self._sleep(PAUSE_S)
        return has_worked

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            delay = self.settings.wake_interval_s
            try:
                await self.step()
            except StorageError as error:
                self.counters.failures += 1
                log.warning("cleaning stopped, trying again in %.0f s: %s", self.retry_after_s, error)
                delay = self.retry_after_s
            except Exception:  # a worker loop: nothing may end it
                self.counters.failures += 1
                log.exception("cleaner: unexpected error")
            try:
                async with asyncio.timeout(delay):
                    await stop.wait()
            except TimeoutError:
                continue

    def _stages(self) -> list[tuple[str, Callable[[], Awaitable[int]], int]]:
        """(counter, one batch, its size): in the order in which one makes work for the next."""
        settings, purge = self.settings, self._purge
        stages: list[tuple[str, Callable[[], Awaitable[int]], int]] = [
            ("messages", lambda: purge.purge_messages(settings.grace, BATCH), BATCH),
            ("contents", lambda: purge.purge_contents(BATCH), BATCH),
            ("objects", self._delete_objects, OBJECT_BATCH),
            ("delivery_keys", lambda: purge.purge_delivery_keys(BATCH), BATCH),
            ("send_log", lambda: purge.purge_send_log(BATCH), BATCH),
        ]
        if (max_age := settings.max_age) is not None:
            stages.insert(0, ("expired", lambda: purge.expire(max_age, BATCH), BATCH))
        return stages

    async def _delete_objects(self) -> int:
        doomed = await self._purge.doomed(OBJECT_BATCH)
        if not doomed:
            return 0
        await self._store.delete([key for _, key in doomed])
        await self._purge.forget_doomed([number for number, _ in doomed])
        return len(doomed)
