"""What is past its grace period goes: messages, then contents nobody refers to, then their objects.

A round takes one bounded batch of each stage in turn, with a pause behind each turn, until nothing is left or
its time is over: no stage starves another, no lock is held for long, and the cleaner never takes more than
its share of the database. What a stage makes due for the next one is done in the same round.

One node of a cluster cleans, by preference: ``is_our_turn`` says whether this one does. Two at once are safe
(batches skip what another has locked), and only waste.

A content is queued for deletion in the same commit that drops its row, and its object is deleted before it
leaves the queue. Dying in between leaves the object in the queue, never an object that nobody knows of.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from .api import BlobStore, PurgeStore
from .errors import StorageError

log = logging.getLogger("sora.cleaner")

BATCH = 500
OBJECT_BATCH = 1000  # one DeleteObjects request
PAUSE_S = 0.1
RETRY_AFTER_S = 60.0
LOOK_FOR_TURN_S = 60.0


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
    days: int = 0
    delivery_keys: int = 0
    send_log: int = 0
    rounds: int = 0
    out_of_time: int = 0  # rounds that left something to do
    failures: int = 0


STAGES = ("expired", "messages", "contents", "objects", "days", "delivery_keys", "send_log")


@dataclass(frozen=True, slots=True)
class Stage:
    """``batch`` does one and says how much it did; less than ``size``: nothing more is due."""

    name: str  # of its counter
    batch: Callable[[], Awaitable[int]]
    size: int = BATCH


class Cleaner:
    """One in each node. ``seconds`` spent, by stage."""

    def __init__(
        self,
        purge: PurgeStore,
        store: BlobStore,
        settings: CleanerSettings,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counters = CleanCounters()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.is_our_turn: Callable[[], bool] = lambda: True
        self._purge = purge
        self._store = store
        self.settings = settings  # may be replaced; the next step goes by it
        self._clock = clock
        self._sleep = sleep
        self.retry_after_s = RETRY_AFTER_S

    async def step(self) -> bool:
        """One round within the time budget; whether it removed anything. Raises Unavailable."""
        started = self._clock()
        before = replace(self.counters)
        busy = self._stages()
        is_over = False
        while busy and not is_over:
            full: list[int] = []
            for number, stage in enumerate(busy):
                if await self._batch(stage) >= stage.size:
                    full.append(number)
                is_over = self._clock() - started >= self.settings.time_budget_s
                if is_over:
                    break
            busy = busy[full[0] :] if full else []  # what is behind a busy stage gets more to do by it
            if busy and not is_over:
                await self._sleep(PAUSE_S)
        self.counters.rounds += 1
        return self._report(before, self._clock() - started, is_over=is_over)

    async def _batch(self, stage: Stage) -> int:
        started = self._clock()
        done = await stage.batch()
        self.seconds[stage.name] += self._clock() - started
        setattr(self.counters, stage.name, getattr(self.counters, stage.name) + done)
        return done

    def _report(self, before: CleanCounters, seconds: float, *, is_over: bool) -> bool:
        """Whether anything was removed."""
        done = {name: getattr(self.counters, name) - getattr(before, name) for name in STAGES}
        removed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in done.items() if count)
        if removed:
            log.info("cleaned in %.1f s: %s", seconds, removed)
        if is_over:
            self.counters.out_of_time += 1
            log.info("the time of the clean-up is over; it goes on in %.0f s", self.settings.wake_interval_s)
        return bool(removed)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            delay = self.settings.wake_interval_s
            try:
                if self.is_our_turn():
                    await self.step()
                else:
                    delay = min(delay, LOOK_FOR_TURN_S)
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

    def _stages(self) -> list[Stage]:
        """In the order in which one makes work for the next."""
        settings, purge = self.settings, self._purge
        stages = [
            Stage("messages", lambda: purge.purge_messages(settings.grace, BATCH)),
            Stage("contents", lambda: purge.purge_contents(BATCH)),
            Stage("objects", self._delete_objects, OBJECT_BATCH),
            Stage("days", lambda: purge.purge_days(settings.grace, BATCH)),
            Stage("delivery_keys", lambda: purge.purge_delivery_keys(BATCH)),
            Stage("send_log", lambda: purge.purge_send_log(BATCH)),
        ]
        if (max_age := settings.max_age) is not None:
            stages.insert(0, Stage("expired", lambda: purge.expire(max_age, BATCH)))
        return stages

    async def _delete_objects(self) -> int:
        doomed = await self._purge.doomed(OBJECT_BATCH)
        if not doomed:
            return 0
        await self._store.delete([key for _, key in doomed])
        await self._purge.forget_doomed([number for number, _ in doomed])
        return len(doomed)
