"""Bodies are found wherever they are, checked, and never empty by mistake."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import Corrupt, NotFound, StagingFull, Unavailable
from storage.memory.blobs import MemoryBlobStore
from storage.objects.codec import FRAME_BYTES
from storage.objects.keys import object_key
from tests.support.faults import Fault, FaultyDisk, Kind
from tests.support.queue import MemoryQueue
from tests.support.way import MIB, Way, message

SMALL, MEDIUM, LARGE = 2_000, 300_000, 3 * MIB + 17
Build = Callable[..., Way]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Each call is another life of the node, or another node, on the same database."""
    queue = MemoryQueue()
    store = MemoryBlobStore()
    count = iter(range(100))

    def make(*, fresh: bool = False, **options: object) -> Way:
        root = tmp_path / (f"other{next(count)}" if fresh else "node")
        return Way(root, queue, store=store, **options)  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize("size", [0, SMALL, MEDIUM, LARGE])
@pytest.mark.parametrize("use_disk", [False, True])
async def test_readable_from_staging_then_from_the_store(build: Build, size: int, use_disk: bool) -> None:
    data = message(1, size) if size else b""
    way = build(use_disk=use_disk)
    ref = await way.deliver(data)
    assert await way.read(ref, b"Return-Path: <>\r\n") == b"Return-Path: <>\r\n" + data
    await way.drain()
    for reader in (way, build(), build(fresh=True), build(fresh=True, has_cache=False)):
        assert await reader.read(way.queue.ref(ref.id)) == data


async def test_small_bodies_of_a_near_store_are_not_copied(build: Build) -> None:
    way = build()
    refs = [await way.deliver(message(number, size)) for number, size in enumerate((SMALL, MEDIUM, LARGE))]
    await way.drain()
    near = build(fresh=True, is_store_near=True)
    near.bodies.prefetch([way.queue.ref(ref.id) for ref in refs])
    for number, (ref, size) in enumerate(zip(refs, (SMALL, MEDIUM, LARGE), strict=True)):
        assert await near.read(way.queue.ref(ref.id)) == message(number, size)
    assert near.cache is not None
    assert [ref.hash in near.cache for ref in refs] == [False, False, True]


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_parts_and_streams(build: Build, size: int) -> None:
    way = build()
    data = message(2, size)
    prefix = b"Received: x\r\n"
    body = await way.bodies.open(await way.deliver(data), prefix)
    whole = prefix + data
    assert body.size_bytes == len(whole)
    cuts = (
        0,
        1,
        5,
        13,
        14,
        700,
        FRAME_BYTES + 12,
        FRAME_BYTES + 14,
        len(whole) - 1,
        len(whole),
        len(whole) + 9,
    )
    for start in cuts:
        for stop in (*cuts, None):
            assert await body.read(start, stop) == whole[start:stop]
    pieces = [piece async for piece in body.stream(3)]
    assert b"".join(pieces) == whole[3:]
    assert max(map(len, pieces)) <= FRAME_BYTES


async def test_opening_again_asks_neither_database_nor_store(build: Build) -> None:
    way = build()
    ref = await way.deliver(message(3))
    for _ in range(3):
        await way.read(ref)
    assert way.bodies.counters.staging_reads == 1
    assert way.bodies.counters.memory_hits == 2


async def test_fetched_bodies_fill_the_cache(build: Build) -> None:
    writer = build()
    refs = [await writer.deliver(message(n, size)) for n, size in enumerate((SMALL, MEDIUM, LARGE))]
    await writer.drain()
    reader = build(fresh=True)
    for ref in refs:
        await reader.read(writer.queue.ref(ref.id))
        assert reader.cache is not None
        assert ref.hash in reader.cache
    assert reader.bodies.counters.store_reads == 3


async def test_stale_reference_is_followed(build: Build) -> None:
    way = build()
    data = message(4)
    stale = await way.deliver(data)
    await way.drain()
    other = build(fresh=True)
    assert await other.read(stale) == data
    assert other.bodies.counters.relocated == 1


async def test_body_on_another_nodes_disk_is_unavailable_until_uploaded(build: Build) -> None:
    way = build(use_disk=True)
    data = message(5)
    ref = await way.deliver(data)
    other = build(fresh=True)
    there = replace(ref, staged_node="node-2")
    way.queue.rows[ref.id].node = "node-2"
    with pytest.raises(Unavailable, match="disk of node node-2"):
        await other.read(there)
    way.queue.rows[ref.id].node = ref.staged_node
    await way.drain()
    assert await other.read(there) == data


async def test_purged_body_is_not_found(build: Build) -> None:
    way = build(has_cache=False)
    ref = await way.deliver(message(6))
    way.queue.forget(ref.id)
    with pytest.raises(NotFound):
        await way.read(ref)


async def test_missing_object_is_unavailable_never_empty(build: Build) -> None:
    way = build()
    ref = await way.deliver(message(7))
    await way.drain()
    assert isinstance(way.store, MemoryBlobStore)
    way.store.objects.clear()
    with pytest.raises(Unavailable):
        await build(fresh=True).read(way.queue.ref(ref.id))


@pytest.mark.parametrize("size", [SMALL, MEDIUM, LARGE])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
async def test_damaged_cache_copy_is_replaced_not_served(build: Build, size: int, damage: str) -> None:
    way = build()
    data = message(8, size)
    ref = await way.deliver(data)
    await way.drain()
    assert way.cache is not None
    file = way.cache._path(ref.hash)
    blob = bytearray(file.read_bytes())
    if damage == "flip":
        blob[len(blob) // 2] ^= 4
    else:
        blob = {"cut": blob[: len(blob) // 2], "empty": bytearray(), "foreign": bytearray(b"hello")}[damage]
    file.write_bytes(blob)
    reader = build()
    assert await reader.read(way.queue.ref(ref.id)) == data
    assert reader.bodies.counters.store_reads == 1
    assert reader.cache is not None
    assert reader.cache.counters.dropped == 1
    assert await build().read(way.queue.ref(ref.id)) == data


@pytest.mark.parametrize("size", [SMALL, MEDIUM, LARGE])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
async def test_damaged_object_is_corrupt_after_a_second_try(build: Build, size: int, damage: str) -> None:
    way = build()
    ref = await way.deliver(message(9, size))
    await way.drain()
    assert isinstance(way.store, MemoryBlobStore)
    key = object_key(ref.hash, ref.id)
    blob = way.store.objects[key]
    way.store.objects[key] = {
        "flip": blob[:-40] + bytes([blob[-40] ^ 1]) + blob[-39:],
        "cut": blob[:-1],
        "empty": b"",
    }[damage]
    reader = build(fresh=True)
    with pytest.raises(Corrupt):
        await reader.read(way.queue.ref(ref.id))
    assert reader.bodies.counters.store_reads == 2
    assert not list(reader.staging_dir.parent.rglob("*.tmp"))
    assert reader.cache is not None
    assert ref.hash not in reader.cache


async def test_large_body_damaged_while_it_is_read_is_fetched_again(build: Build) -> None:
    way = build()
    data = message(10, LARGE)
    ref = await way.deliver(data)
    await way.drain()
    body = await way.bodies.open(way.queue.ref(ref.id))
    assert way.cache is not None
    file = way.cache._path(ref.hash)
    with file.open("r+b") as open_file:
        open_file.seek(file.stat().st_size // 2)
        open_file.write(b"\xff" * 64)
    assert await body.read() == data


class SlowStore(MemoryBlobStore):
    def __init__(self) -> None:
        super().__init__()
        self.gets = 0
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()

    async def get(self, key: str) -> bytes:
        self.gets += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        self.running -= 1
        return await super().get(key)


async def uploaded(tmp_path: Path, count: int) -> tuple[Way, SlowStore]:
    store, queue = SlowStore(), MemoryQueue()
    writer = Way(tmp_path / "writer", queue, store=store)
    for number in range(count):
        await writer.deliver(message(number))
    await writer.drain()
    return Way(tmp_path / "reader", queue, store=store), store


async def test_concurrent_opens_share_one_fetch(tmp_path: Path) -> None:
    reader, store = await uploaded(tmp_path, 1)
    ref = next(iter(reader.queue.rows.values())).ref
    tasks = [asyncio.create_task(reader.read(ref)) for _ in range(5)]
    while not store.gets:
        await asyncio.sleep(0)
    tasks[0].cancel()  # who came first goes away; the others still get their body
    store.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [message(0)] * 4
    assert store.gets == 1


async def test_prefetch_is_bounded_and_feeds_the_opens(tmp_path: Path) -> None:
    reader, store = await uploaded(tmp_path, 10)
    refs = [row.ref for row in reader.queue.rows.values()]
    reader.bodies.prefetch(refs)
    while store.running < 4:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert store.most == 4
    store.gate.set()
    for number, ref in enumerate(refs):
        assert await reader.read(ref) == message(number)
    assert store.gets == 10
    await reader.bodies.close()


async def test_failed_prefetch_is_silent_and_the_open_tells(tmp_path: Path) -> None:
    reader, store = await uploaded(tmp_path, 1)
    store.gate.set()
    store.objects.clear()
    ref = next(iter(reader.queue.rows.values())).ref
    reader.bodies.prefetch([ref])
    with pytest.raises(Unavailable):
        await reader.read(ref)


# --- faults of the local disk while reading ---


@pytest.mark.parametrize("kind", [Kind.FAILS, Kind.NO_ROOM])
@pytest.mark.parametrize("size", [SMALL, MEDIUM, LARGE])
async def test_local_disk_faults_never_give_wrong_bytes(tmp_path: Path, size: int, kind: Kind) -> None:
    queue, store = MemoryQueue(), MemoryBlobStore()
    writer = Way(tmp_path / "writer", queue, store=store)
    data = message(1, size)
    ref = await writer.deliver(data)
    await writer.drain()
    for at in range(1, 60):
        fault = Fault(at, kind)
        reader = Way(tmp_path / str(at), queue, store=store, disk=FaultyDisk(fault))
        for _ in range(2):
            try:
                assert await reader.read(queue.ref(ref.id)) == data
            except StagingFull:
                pytest.fail("that is for who delivers, not for a reader")
            except Unavailable:
                continue
        fault.is_over = True
        assert await reader.read(queue.ref(ref.id)) == data
        assert not list((tmp_path / str(at)).rglob("*.tmp"))
        if not fault.has_fired:
            return
    pytest.fail("never without a fault")


async def test_descriptors_are_given_back(build: Build) -> None:
    way = build()
    ref = await way.deliver(message(1, LARGE))
    await way.drain()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        body = await way.bodies.open(way.queue.ref(ref.id))
        await body.read(0, 10)
    del body
    async with asyncio.timeout(60):  # threads and the collector may take a moment to let go
        while len(os.listdir("/proc/self/fd")) > before + 1:
            gc.collect()
            await asyncio.sleep(0)


async def test_closing_in_the_middle_of_a_fetch_leaves_no_file(build: Build) -> None:
    writer = build()
    ref = await writer.deliver(message(1, LARGE))
    await writer.drain()
    reader = build(fresh=True)
    task = asyncio.create_task(reader.read(writer.queue.ref(ref.id)))
    while not list(reader.staging_dir.parent.rglob("*.tmp")):
        await asyncio.sleep(0)
    await reader.bodies.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list(reader.staging_dir.parent.rglob("*.tmp"))
