from __future__ import annotations

import asyncio
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
    assert purge.calls == ["messages"] * 3 + ["contents"] * 2 + ["doomed", "keys", "send log"]
    assert pauses == [PAUSE_S] * 3
    assert cleaner.counters.messages == 2 * BATCH


async def test_round_ends_with_its_time_budget() -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += 100

    purge = ScriptedPurge(messages=10**6)
    settings = CleanerSettings(time_budget_s=1000)
    cleaner = Cleaner(purge, MemoryBlobStore(), settings, lambda: now, sleep)  # type: ignore[arg-type]
    assert await cleaner.step()
    assert len(purge.calls) == 11
    assert set(purge.calls) == {"messages"}


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
    async with asyncio.timeout(5):
        await cleaner.run(stop)
    assert cleaner.counters.failures == 3
