"""Uploads: batches, faults of every kind, leases, sweeps."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from storage.errors import CommitUnknown, NotFound, Unavailable
from storage.memory.blobs import MemoryBlobStore
from storage.model import ContentId, UploadLease
from storage.objects.keys import object_key
from storage.staging import IN_FLIGHT_S, staging_identity
from storage.uploader import GROUP_BYTES, MAX_BACKOFF_S
from tests.support.queue import MemoryQueue
from tests.support.way import Way, message


class FlakyStore(MemoryBlobStore):
    """Refuses the next ``failures`` puts, or puts of certain sizes for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.puts = 0
        self.cuts_short = False
        self.refused_key = ""

    async def put(self, key: str, frames: Sequence[bytes]) -> None:
        self.puts += 1
        if self.failures or key == self.refused_key:
            self.failures = max(0, self.failures - 1)
            raise Unavailable("503 Slow Down")
        await super().put(key, [b"".join(frames)[:-1]] if self.cuts_short else frames)


@pytest.fixture
def store() -> FlakyStore:
    return FlakyStore()


@pytest.fixture
def way(tmp_path: Path, store: FlakyStore) -> Way:
    return Way(tmp_path, MemoryQueue(), store=store)


async def test_uploads_batches_until_nothing_is_left(way: Way, store: FlakyStore) -> None:
    refs = [await way.deliver(message(n)) for n in range(25)]
    assert [await way.uploader.step() for _ in range(4)] == [True, True, True, False]
    assert set(store.objects) == {object_key(ref.hash, ref.id) for ref in refs}
    assert way.uploader.counters.uploaded == 25
    assert way.uploader.counters.bytes == sum(map(len, store.objects.values()))
    assert (await way.uploader.backlog()).contents == 0
    assert way.cache is not None
    assert all(ref.hash in way.cache for ref in refs)


async def test_equal_bodies_are_one_object(way: Way, store: FlakyStore) -> None:
    first = await way.deliver(message(1))
    await way.queue.pass_time(1)  # another delivery, not a retry
    assert await way.deliver(message(1)) == first
    assert len(await way.queue.live()) == 2
    await way.drain()
    assert len(store.objects) == 1


async def test_store_away_costs_no_attempts_and_is_probed_singly(way: Way, store: FlakyStore) -> None:
    for n in range(10):
        await way.deliver(message(n))
    store.failures = 12
    await way.uploader.step()
    assert store.puts == 10
    assert way.uploader.is_paused
    pauses = []
    for _ in range(2):  # one probe each
        before = way.queue.now
        while not await way.uploader.step():
            way.queue.now += 0.1
        pauses.append(way.queue.now - before)
    assert store.puts == 12
    assert pauses[1] > pauses[0]
    while way.uploader.is_paused:
        way.queue.now += 0.1
    await way.uploader.step()  # the probe that goes through
    while len(store.objects) < 10:
        way.queue.now += 0.1
        await way.uploader.step()
    assert all(row.attempts == 0 for row in way.queue.rows.values())
    assert way.uploader.counters.transient_failures == 12


async def test_pause_is_bounded_in_a_long_outage(way: Way, store: FlakyStore) -> None:
    """Six hours: a probe now and then, and the first upload soon after the end."""
    await way.deliver(message(1))
    store.failures = 1 << 30
    while way.queue.now < 6 * 3600:
        await way.uploader.step()
        way.queue.now += 1
    assert 6 * 3600 / MAX_BACKOFF_S <= store.puts <= 6 * 3600 / (MAX_BACKOFF_S / 2) + 10
    store.failures = 0
    way.queue.now += MAX_BACKOFF_S
    await way.drain()
    assert len(store.objects) == 1


async def test_backlog_of_an_outage_drains_oldest_first(way: Way, store: FlakyStore) -> None:
    order: list[str] = []
    put = store.put

    async def noted(key: str, frames: Sequence[bytes]) -> None:
        await put(key, frames)
        order.append(key)

    store.put = noted  # type: ignore[method-assign]
    store.failures = 1 << 30
    refs = []
    for number in range(60):  # more come while the probes go through the first ones
        refs.append(await way.deliver(message(number)))
        await way.uploader.step()
        await way.queue.pass_time(3)
    store.failures = 0
    await way.queue.pass_time(MAX_BACKOFF_S)
    await way.drain()
    keys = [object_key(ref.hash, ref.id) for ref in refs]
    assert sorted(order) == sorted(keys)
    rest = order[1:]  # after the probe that went through
    turns = [keys.index(key) for key in rest]
    # a batch goes up at once: in order from batch to batch
    batches = [turns[at : at + 10] for at in range(0, len(turns), 10)]
    assert all(max(before) < min(after) for before, after in pairwise(batches)), turns
    assert all(row.attempts == 0 for row in way.queue.rows.values())


async def test_a_body_that_alone_is_refused_does_not_block_the_way(way: Way, store: FlakyStore) -> None:
    refs = [await way.deliver(message(n)) for n in range(3)]
    store.failures = 3
    await way.uploader.step()
    store.refused_key = object_key(refs[0].hash, refs[0].id)  # the oldest, so the first probe
    for _ in range(100):
        await way.uploader.step()
        await way.queue.pass_time(1)
    assert len(store.objects) == 2
    assert way.queue.rows[refs[0].id].attempts == 0


async def test_a_store_that_has_lost_its_bucket_costs_no_attempts(way: Way, store: FlakyStore) -> None:
    await way.deliver(message(1))
    put = store.put

    async def no_bucket(key: str, frames: Sequence[bytes]) -> None:
        raise NotFound("NoSuchBucket")

    store.put = no_bucket  # type: ignore[method-assign]
    await way.uploader.step()
    assert way.uploader.is_paused
    assert way.uploader.counters.stuck == 0
    store.put = put  # type: ignore[method-assign]
    await way.queue.pass_time(MAX_BACKOFF_S)
    await way.drain()
    assert len(store.objects) == 1


async def test_one_refused_body_does_not_hold_up_the_others(way: Way, store: FlakyStore) -> None:
    refs = [await way.deliver(message(n)) for n in range(3)]
    store.refused_key = object_key(refs[0].hash, refs[0].id)
    await way.uploader.step()
    assert len(store.objects) == 2
    assert not way.uploader.is_paused
    assert not await way.uploader.step()  # not due before a while
    store.refused_key = ""
    way.queue.now += 31
    await way.drain()
    assert len(store.objects) == 3


async def test_object_cut_short_is_never_marked(way: Way, store: FlakyStore) -> None:
    ref = await way.deliver(message(1))
    store.cuts_short = True
    await way.uploader.step()
    assert not way.queue.ref(ref.id).is_stored
    store.cuts_short = False
    way.queue.now += 60
    await way.drain()
    assert way.queue.ref(ref.id).is_stored
    assert await way.read(way.queue.ref(ref.id)) == message(1)


async def test_damaged_staged_body_is_kept_counted_and_told(
    way: Way, store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    bad = await way.deliver(message(1))
    good = await way.deliver(message(2))
    frames = list(way.queue.rows[bad.id].frames)
    way.queue.rows[bad.id].frames = [frames[0][:-1]]
    await way.drain()
    assert set(store.objects) == {object_key(good.hash, good.id)}
    assert way.queue.rows[bad.id].attempts == 1
    assert way.queue.rows[bad.id].frames == [frames[0][:-1]]
    assert "cannot be uploaded and is kept" in caplog.text
    way.queue.rows[bad.id].frames = frames
    way.queue.now += 24 * 3600
    await way.drain()
    assert way.queue.ref(bad.id).is_stored


async def test_body_that_was_put_before_but_not_marked_needs_no_staging(way: Way, store: FlakyStore) -> None:
    ref = await way.deliver(message(1))
    row = way.queue.rows[ref.id]
    assert row.frames
    store.objects[object_key(ref.hash, ref.id)] = b"".join(row.frames)
    row.frames = []
    await way.drain()
    assert way.queue.ref(ref.id).is_stored


async def test_missing_body_is_stuck_not_marked(way: Way, store: FlakyStore) -> None:
    ref = await way.deliver(message(1))
    way.queue.rows[ref.id].frames = []
    await way.drain()
    assert not way.queue.ref(ref.id).is_stored
    assert way.uploader.counters.stuck == 1


async def test_object_of_a_content_purged_meanwhile_is_removed(way: Way, store: FlakyStore) -> None:
    ref = await way.deliver(message(1))
    put = store.put

    async def purge_then_put(key: str, frames: Sequence[bytes]) -> None:
        await way.queue.expunge_all_of(ref.hash)
        await way.queue.pass_time(1000)
        await way.cleaner().step()
        await put(key, frames)

    store.put = purge_then_put  # type: ignore[method-assign]
    await way.drain()
    assert way.uploader.counters.purged_meanwhile == 1
    await way.cleaner().step()
    assert store.objects == {}


async def test_unknown_commit_is_repeated_after_the_lease(way: Way, store: FlakyStore) -> None:
    ref = await way.deliver(message(1))
    mark = way.queue.uploads.mark_stored

    async def lost(ids: Sequence[ContentId]) -> list[ContentId]:
        way.queue.uploads.mark_stored = mark  # type: ignore[method-assign]
        raise CommitUnknown("connection lost")

    way.queue.uploads.mark_stored = lost  # type: ignore[method-assign]
    with pytest.raises(CommitUnknown):
        await way.uploader.step()
    assert not await way.uploader.step()
    way.queue.now += way.uploader.settings.lease_s + 1
    await way.drain()
    assert way.queue.ref(ref.id).is_stored
    assert store.puts == 2
    assert len(store.objects) == 1


async def test_two_uploaders_never_take_the_same_body(tmp_path: Path, store: FlakyStore) -> None:
    queue = MemoryQueue()
    one, two = (Way(tmp_path / name, queue, store=store) for name in "ab")
    for n in range(30):
        await one.deliver(message(n))
    while any(await asyncio.gather(one.uploader.step(), two.uploader.step())):
        pass
    assert store.puts == 30
    assert one.uploader.counters.uploaded + two.uploader.counters.uploaded == 30


async def test_run_uploads_at_once_when_notified_and_stops(way: Way, store: FlakyStore) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(way.uploader.run(stop))
    await way.deliver(message(1))
    way.uploader.notify()
    async with asyncio.timeout(60):
        while not store.objects:
            await asyncio.sleep(0)
        await way.deliver(message(2))
        way.uploader.notify()
        while len(store.objects) < 2:
            await asyncio.sleep(0)
        stop.set()
        await task


async def test_deliveries_shortly_after_each_other_are_uploaded_together(way: Way, store: FlakyStore) -> None:
    way.uploader.settings = replace(way.uploader.settings, gather_s=0.05)
    batches: list[int] = []
    lease = way.queue.uploads.lease

    async def counted(node: str, limit: int, lease_s: float) -> list[UploadLease]:
        leases = await lease(node, limit, lease_s)
        batches.append(len(leases))
        return leases

    way.queue.uploads.lease = counted  # type: ignore[method-assign]
    stop = asyncio.Event()
    task = asyncio.create_task(way.uploader.run(stop))
    async with asyncio.timeout(60):
        while not batches:
            await asyncio.sleep(0)
        for number in range(5):
            await way.deliver(message(number))
            way.uploader.notify()
        while len(store.objects) < 5:
            await asyncio.sleep(0)
        way.uploader.notify()
        stop.set()  # is not kept waiting
        await task
    assert batches == [0, 5]


async def test_a_probe_that_went_through_is_followed_by_the_backlog(way: Way, store: FlakyStore) -> None:
    stop = asyncio.Event()
    for number in range(12):
        await way.deliver(message(number))
    store.failures = 10
    await way.uploader.step()
    await way.queue.pass_time(200)
    task = asyncio.create_task(way.uploader.run(stop))
    async with asyncio.timeout(60):
        while len(store.objects) < 12:
            await asyncio.sleep(0)
        stop.set()
        await task


async def test_run_survives_what_it_does_not_know(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    lease = way.queue.uploads.lease
    calls = 0

    async def broken(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a bug")
        return await lease(*args)  # type: ignore[arg-type]

    way.queue.uploads.lease = broken  # type: ignore[method-assign, assignment]
    stop = asyncio.Event()
    task = asyncio.create_task(way.uploader.run(stop))
    async with asyncio.timeout(60):
        while "a bug" not in caplog.text:
            await asyncio.sleep(0)
    assert not task.done()
    stop.set()
    await task


async def test_a_lost_mark_is_made_good_without_waiting_for_the_lease(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.uploader.MIN_BACKOFF_S", 0.001)
    await way.deliver(message(1))
    mark_stored = way.queue.uploads.mark_stored

    async def away(ids: Sequence[ContentId]) -> list[ContentId]:
        way.queue.uploads.mark_stored = mark_stored  # type: ignore[method-assign]
        raise CommitUnknown("database away")

    way.queue.uploads.mark_stored = away  # type: ignore[method-assign]
    stop = asyncio.Event()
    task = asyncio.create_task(way.uploader.run(stop))
    async with asyncio.timeout(60):
        while (await way.uploader.backlog()).contents:
            way.queue.now += 0.01
            await asyncio.sleep(0.001)
    stop.set()
    await task
    assert way.queue.now < way.uploader.settings.lease_s
    assert way.uploader.counters.uploaded == 1


async def test_staging_is_read_in_bounded_groups(way: Way, store: FlakyStore) -> None:
    for number in range(10):
        await way.deliver(message(number, 120_000))
    await way.deliver(message(99, 2_000_000))
    asked: list[int] = []
    frames_of = way.queue.uploads.staged_frames_of

    async def counted(ids: Sequence[ContentId]) -> dict[ContentId, list[bytes]]:
        asked.append(sum(way.queue.ref(content_id).size_bytes for content_id in ids))
        return await frames_of(ids)

    way.queue.uploads.staged_frames_of = counted  # type: ignore[method-assign]
    await way.drain()
    assert len(store.objects) == 11
    assert len(asked) == 4
    assert sorted(asked)[-2] <= GROUP_BYTES < max(asked)


async def test_database_away_while_staging_is_read_costs_no_attempts(way: Way, store: FlakyStore) -> None:
    await way.deliver(message(1))
    frames_of = way.queue.uploads.staged_frames_of

    async def away(ids: Sequence[ContentId]) -> dict[ContentId, list[bytes]]:
        way.queue.uploads.staged_frames_of = frames_of  # type: ignore[method-assign]
        raise Unavailable("database away")

    way.queue.uploads.staged_frames_of = away  # type: ignore[method-assign]
    await way.uploader.step()
    assert way.uploader.is_paused
    await way.queue.pass_time(2)
    await way.drain()
    assert len(store.objects) == 1
    assert [row.attempts for row in way.queue.rows.values()] == [0]


# --- staging on disk ---


def staged_files(way: Way) -> list[Path]:
    return [path for path in way.staging_dir.rglob("*") if path.is_file()]


def age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


async def test_sweep_takes_only_old_files_that_nobody_needs(tmp_path: Path) -> None:
    way = Way(tmp_path, MemoryQueue(), use_disk=True)
    done = await way.deliver(message(1))
    await way.drain()
    waiting = await way.deliver(message(2))
    await way.stage(message(3))  # of an append that failed
    young = await way.stage(message(4))  # of one that has yet to happen
    assert await way.uploader.sweep() == 0
    for path in staged_files(way):
        if path.name != young.content.hash.hex():
            age(path, IN_FLIGHT_S + 1)
    assert await way.uploader.sweep() == 2
    names = {path.name for path in staged_files(way)}
    assert names == {waiting.hash.hex(), young.content.hash.hex()}
    assert await way.read(way.queue.ref(done.id)) == message(1)


async def test_delivery_of_the_same_bytes_keeps_the_file_of_an_uploaded_one(tmp_path: Path) -> None:
    way = Way(tmp_path, MemoryQueue(), use_disk=True)
    first = await way.deliver(message(1))
    await way.drain()
    (file,) = staged_files(way)
    age(file, IN_FLIGHT_S + 1)
    pending = await way.staging.pending()
    second = await way.stage(message(1))  # replaces the old file between the sweep's question and removal
    assert pending == [first.hash]
    assert not await way.staging.remove(first.hash)
    way.queue.forget(first.id)
    await way.queue.pass_time(1)
    ref = await way.queue.append(second)
    assert await Way(tmp_path, way.queue, use_disk=True, has_cache=False).read(ref) == message(1)


async def test_file_left_aside_by_a_crash_is_served_and_swept(tmp_path: Path) -> None:
    way = Way(tmp_path, MemoryQueue(), use_disk=True, has_cache=False)
    ref = await way.deliver(message(1))
    (file,) = staged_files(way)
    file.rename(file.with_name(file.name + ".aside"))
    assert await way.read(ref) == message(1)
    await way.drain()
    (file,) = staged_files(way)
    age(file, IN_FLIGHT_S + 1)
    assert await way.uploader.sweep() == 1
    assert staged_files(way) == []


async def test_torn_temporary_files_are_swept(tmp_path: Path) -> None:
    way = Way(tmp_path, MemoryQueue(), use_disk=True)
    await way.deliver(message(1))
    (file,) = staged_files(way)
    torn = file.with_name(".torn.tmp")
    torn.write_bytes(b"ha")
    age(torn, IN_FLIGHT_S + 1)
    await way.uploader.sweep()
    assert staged_files(way) == [file]


async def test_renamed_node_still_finds_what_it_staged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert staging_identity(tmp_path, "old-name") == "old-name"
    assert caplog.text == ""
    assert staging_identity(tmp_path, "new-name") == "old-name"
    assert "goes on under the name 'old-name', not 'new-name'" in caplog.text


async def test_bodies_of_a_node_with_another_name_are_adopted(tmp_path: Path) -> None:
    """The machine was built anew under another name, on the disk of the old one."""
    queue = MemoryQueue()
    old = Way(tmp_path, queue, use_disk=True, has_cache=False)
    refs = [await old.deliver(message(n)) for n in range(3)]
    new = Way(tmp_path, queue, has_cache=False, node="node-9")
    files = staged_files(new)
    for path in files:
        age(path, 24 * 3600)
    files[0].write_bytes(b"damaged")
    damaged = next(ref for ref in refs if ref.hash.hex() == files[0].name)
    assert await new.uploader.sweep() == 0  # never taken for garbage
    assert await new.uploader.adopt() == 2
    assert await new.uploader.adopt() == 0
    await new.drain()
    assert [queue.ref(ref.id).is_stored for ref in refs] == [ref != damaged for ref in refs]
    for path in staged_files(new):  # an adopted file is younger for no one
        age(path, 24 * 3600)
    assert await new.uploader.sweep() == 2
    assert staged_files(new) == [files[0]]
    assert (await new.uploader.backlog()).places[0].node == "node-1"


async def test_a_node_adopts_when_it_starts(tmp_path: Path) -> None:
    queue = MemoryQueue()
    ref = await Way(tmp_path, queue, use_disk=True).deliver(message(1))
    new = Way(tmp_path, queue, node="node-9")
    stop = asyncio.Event()
    task = asyncio.create_task(new.uploader.run(stop))
    async with asyncio.timeout(60):
        while not queue.ref(ref.id).is_stored:
            new.uploader.notify()
            await asyncio.sleep(0)
    stop.set()
    await task
    assert new.uploader.counters.adopted == 1


def test_torn_identity_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "node-name").write_text("")
    assert staging_identity(tmp_path, "name") == "name"
    assert staging_identity(tmp_path, "other") == "name"


async def test_hopeless_body_is_looked_at_once_a_day(way: Way, store: FlakyStore) -> None:
    ref = await way.deliver(message(1))
    way.queue.rows[ref.id].frames = [b"damaged"]
    way.queue.rows[ref.id].attempts = way.uploader.settings.max_attempts - 1
    await way.uploader.step()
    await way.queue.pass_time(23 * 3600)
    assert not await way.uploader.step()
    await way.queue.pass_time(3600)
    assert await way.uploader.step()
    assert way.queue.rows[ref.id].frames == [b"damaged"]
