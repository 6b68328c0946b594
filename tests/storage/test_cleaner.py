from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from storage.cleaner import BATCH, PAUSE_S, Cleaner, CleanerSettings
from storage.errors import Unavailable
from storage.memory.blobs import MemoryBlobStore
from tests.support.queue import MemoryQueue
from tests.support.way import Way, message


async def test_grace_is_kept_then_objects_go(tmp_path: Path) -> None:
    way = Way(tmp_path, MemoryQueue(), store=MemoryBlobStore())
    gone, kept = await way.deliver(message(1)), await way.deliver(message(2))
    await way.drain()
    await way.queue.expunge_all_of(gone.hash)
    cleaner = Cleaner(way.queue.purge, way.store, CleanerSettings(grace=timedelta(days=14)))
    await way.queue.pass_time(13 * 86400)
    await cleaner.step()
    assert len(await way.objects()) == 2
    assert cleaner.counters.messages == 0
    await way.queue.pass_time(2 * 86400)
    assert await cleaner.step()
    assert len(await way.objects()) == 1
    assert (cleaner.counters.messages, cleaner.counters.contents, cleaner.counters.objects) == (1, 1, 1)
    assert await way.read(way.queue.ref(kept.id)) == message(2)


async def test_max_age_expunges_first(tmp_path: Path) -> None:
    way = Way(tmp_path, MemoryQueue(), store=MemoryBlobStore())
    await way.deliver(message(1))
    await way.drain()
    await way.queue.pass_time(31 * 86400)
    young = await way.deliver(message(2))
    settings = CleanerSettings(grace=timedelta(0), max_age=timedelta(days=30))
    cleaner = Cleaner(way.queue.purge, way.store, settings)
    assert await cleaner.step()
    assert cleaner.counters.expired == 1
    assert await way.queue.live() == [young]
    assert await way.objects() == set()


class ScriptedPurge:
    """Every kind of batch comes back full so many times."""

    def __init__(self, **full: int) -> None:
        self.full = full
        self.calls: list[str] = []

    async def _batch(self, name: str, limit: int) -> int:
        self.calls.append(name)
        left = self.full.get(name, 0)
        self.full[name] = left - 1
        return limit if left > 0 else 0

    async def purge_messages(self, grace: timedelta, limit: int) -> int:
        return await self._batch("messages", limit)

    async def purge_contents(self, limit: int) -> int:
        return await self._batch("contents", limit)

    async def purge_delivery_keys(self, limit: int) -> int:
        return await self._batch("keys", limit)

    async def purge_days(self, grace: timedelta, limit: int) -> int:
        return await self._batch("days", limit)

    async def purge_send_log(self, limit: int) -> int:
        return await self._batch("send log", limit)

    async def doomed(self, limit: int) -> list[tuple[int, str]]:
        self.calls.append("doomed")
        return []


async def test_full_batches_are_followed_by_a_pause_and_another() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    purge = ScriptedPurge(messages=2, contents=1)
    cleaner = Cleaner(purge, MemoryBlobStore(), CleanerSettings(), lambda: 0.0, sleep)  # type: ignore[arg-type]
    assert await cleaner.step()
    turn = ["messages", "contents", "doomed", "days", "keys", "send log"]
    assert purge.calls == turn * 3
    assert pauses == [PAUSE_S] * 2
    assert (cleaner.counters.messages, cleaner.counters.contents) == (2 * BATCH, BATCH)


async def test_stages_before_the_one_that_is_busy_are_done_with() -> None:
    purge = ScriptedPurge(keys=2)
    cleaner = Cleaner(purge, MemoryBlobStore(), CleanerSettings(), lambda: 0.0, _no_sleep)  # type: ignore[arg-type]
    assert await cleaner.step()
    assert purge.calls[6:] == ["keys", "send log"] * 2


async def _no_sleep(_seconds: float) -> None:
    return


async def test_round_ends_with_its_time_budget() -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += 100

    purge = ScriptedPurge(messages=10**6)
    settings = CleanerSettings(time_budget_s=1000)
    cleaner = Cleaner(purge, MemoryBlobStore(), settings, lambda: now, sleep)  # type: ignore[arg-type]
    assert await cleaner.step()
    assert purge.calls.count("messages") == 11
    assert purge.calls.count("keys") == 10  # the others had their share
    assert (cleaner.counters.rounds, cleaner.counters.out_of_time) == (1, 1)


async def test_a_round_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sora.cleaner")
    purge = ScriptedPurge(messages=1, keys=1)
    cleaner = Cleaner(purge, MemoryBlobStore(), CleanerSettings(), lambda: 0.0, _no_sleep)  # type: ignore[arg-type]
    await cleaner.step()
    assert caplog.messages == ["cleaned in 0.0 s: 500 messages, 500 delivery keys"]
    caplog.clear()
    assert not await cleaner.step()
    assert caplog.messages == []


async def test_the_time_of_each_stage_is_counted() -> None:
    ticks = itertools.count(0.0, 1.0)
    cleaner = Cleaner(ScriptedPurge(), MemoryBlobStore(), CleanerSettings(), lambda: next(ticks))  # type: ignore[arg-type]
    await cleaner.step()
    assert cleaner.seconds["messages"] == 1.0
    assert cleaner.seconds["expired"] == 0.0


async def test_whose_turn_it_is_not_looks_again_soon() -> None:
    """Who leads may change; what is left to another is not done."""
    stop = asyncio.Event()
    purge, asked = ScriptedPurge(), 0

    def is_our_turn() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            stop.set()
        return False

    cleaner = Cleaner(purge, MemoryBlobStore(), CleanerSettings(wake_interval_s=0))  # type: ignore[arg-type]
    cleaner.is_our_turn = is_our_turn
    async with asyncio.timeout(60):
        await cleaner.run(stop)
    assert purge.calls == []


class AwayStore(MemoryBlobStore):
    async def delete(self, keys: Sequence[str]) -> None:
        raise Unavailable("object store away")


async def test_objects_stay_queued_while_the_store_is_away(tmp_path: Path) -> None:
    store = AwayStore()
    way = Way(tmp_path, MemoryQueue(), store=store)
    ref = await way.deliver(message(1))
    await way.drain()
    await way.queue.expunge_all_of(ref.hash)
    with pytest.raises(Unavailable):
        await way.cleaner().step()
    assert len(await way.queue.purge.doomed(10)) == 1
    assert len(store.objects) == 1


async def test_run_outlives_failures_and_stops() -> None:
    stop = asyncio.Event()
    rounds = 0

    class Broken(ScriptedPurge):
        async def purge_messages(self, grace: timedelta, limit: int) -> int:
            nonlocal rounds
            rounds += 1
            if rounds == 3:
                stop.set()
            raise Unavailable("away") if rounds == 1 else RuntimeError("a bug")

    cleaner = Cleaner(Broken(), MemoryBlobStore(), CleanerSettings(wake_interval_s=0))  # type: ignore[arg-type]
    cleaner.retry_after_s = 0
    async with asyncio.timeout(60):
        await cleaner.run(stop)
    assert cleaner.counters.failures == 3
