from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.budget import ByteBudget
from storage.errors import StagingFull, Unavailable
from storage.floor import DiskFloor
from storage.intake import THREAD_BYTES, LocalIntake
from storage.mime.message import describe
from storage.staging import DatabaseStaging, StagingBound
from tests.support.faults import Fault, FaultyDisk, Kind
from tests.support.queue import MemoryQueue
from tests.support.way import MIB, Way, message


@pytest.mark.parametrize("size", [0, 2_000, THREAD_BYTES + 10_000, 2 * MIB])
@pytest.mark.parametrize("use_disk", [False, True])
async def test_take_describes_and_stages(tmp_path: Path, size: int, use_disk: bool) -> None:
    way = Way(tmp_path, MemoryQueue(), use_disk=use_disk)
    data = message(1, size) if size else b""
    staged = await way.stage(data)
    assert staged.content == describe(data, staged.content.hash)
    assert staged.content.hash == hashlib.sha256(data).digest()
    assert (staged.node is None) != use_disk
    if use_disk:
        assert staged.frames == ()
    else:
        assert way.codec.decode_all(b"".join(staged.frames), staged.content.hash) == data
        assert staged.encoded_bytes == sum(map(len, staged.frames))


async def test_full_disk_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    for at in range(1, 20):
        fault = Fault(at, Kind.NO_ROOM)
        way = Way(tmp_path / str(at), MemoryQueue(), disk=FaultyDisk(fault), use_disk=True)
        try:
            await way.stage(message(1))
        except StagingFull:
            left = [path for path in way.staging_dir.rglob("*") if path.is_file()]
            # once it is in place it may be another delivery's as well and is the sweep's to take
            assert [path.name for path in left if path.suffix == ".tmp"] == []
            continue
        assert not fault.has_fired
        return
    pytest.fail("never got through")


async def test_staging_bound_refuses_before_the_disk_does(tmp_path: Path) -> None:
    way = Way(tmp_path, MemoryQueue(), max_staging_bytes=20_000)
    sizes = []
    with pytest.raises(StagingFull, match="the limit is 20000"):
        for number in range(100):
            staged = await way.stage(message(number, 4_000))
            sizes.append(staged.encoded_bytes)
    assert 20_000 - max(sizes) <= sum(sizes) <= 20_000


async def test_bound_follows_the_level_once_the_backlog_drains() -> None:
    level, now = 0, 0.0

    async def sample() -> int:
        return level

    bound = StagingBound(100, sample, lambda: now)
    await bound.refresh()
    bound.admit(90)
    with pytest.raises(StagingFull):
        bound.admit(20)
    level = 50
    now += 60
    with pytest.raises(StagingFull):
        bound.admit(20)  # starts a sample
    for _ in range(3):
        await asyncio.sleep(0)
    bound.admit(20)
    assert bound.level_bytes == 70


async def test_slow_samples_are_taken_less_often() -> None:
    now, samples = 0.0, 0

    async def sample() -> int:
        nonlocal now, samples
        now += 2.0  # a large backlog on disk
        samples += 1
        return 0

    bound = StagingBound(100, sample, lambda: now)
    for _ in range(1000):
        now += 1.0
        bound.admit(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert samples == 6  # one per cent of the time


async def test_a_process_that_has_just_started_looks_first(tmp_path: Path) -> None:
    """It may be started into a backlog that fills the bound."""
    queue = MemoryQueue()
    before = Way(tmp_path, queue)
    sizes = [(await before.stage(message(number, 4_000))).encoded_bytes for number in range(3)]
    for number in range(3):
        await before.deliver(message(number, 4_000))
    with pytest.raises(StagingFull):
        await Way(tmp_path, queue, max_staging_bytes=sum(sizes) + 10).stage(message(9, 4_000))
    await Way(tmp_path, queue, max_staging_bytes=2 * sum(sizes)).stage(message(9, 4_000))


async def test_first_look_that_fails_refuses_nothing() -> None:
    async def away() -> int:
        raise Unavailable("database away")

    bound = StagingBound(100, away)
    await bound.ready()
    bound.admit(100)


def statvfs(free: int, size: int) -> Callable[[Path], os.statvfs_result]:
    return lambda _path: os.statvfs_result((4096, 1, size, free, free, 0, 0, 0, 0, 255))


@pytest.mark.parametrize(
    ("free", "size", "taken"),
    [
        (10_000, 100_000, True),
        (1_050, 100_000, True),
        (1_049, 100_000, False),
        (0, 100_000, False),
        (55, 100, True),  # of a small disk a twentieth
        (54, 100, False),
    ],
)
def test_a_reserve_of_the_disk_is_not_touched(free: int, size: int, taken: bool) -> None:
    floor = DiskFloor(Path("/disk"), 1_000, statvfs(free, size))
    if taken:
        floor.admit(50)
        assert floor.refused == 0
        return
    with pytest.raises(StagingFull, match="the disk of /disk has"):
        floor.admit(50)
    assert floor.refused == 1


def test_no_reserve_and_a_disk_that_cannot_be_looked_at_refuse_nothing() -> None:
    def fails(_path: Path) -> os.statvfs_result:
        raise PermissionError

    DiskFloor(Path("/disk"), 0, statvfs(0, 100)).admit(50)
    DiskFloor(Path("/disk"), 1_000, fails).admit(50)


@pytest.mark.parametrize("use_disk", [False, True])
async def test_a_full_disk_refuses_before_anything_is_written(tmp_path: Path, use_disk: bool) -> None:
    floor = DiskFloor(tmp_path, 1_000, statvfs(0, 100_000))
    way = Way(tmp_path, MemoryQueue(), use_disk=use_disk, floors=[floor])
    with pytest.raises(StagingFull):
        await way.stage(message(1))
    with pytest.raises(StagingFull):
        await way.stage(message(2, 2 * MIB))  # already while it is received
    assert floor.refused == 2
    assert not way.staging_dir.exists()
    assert not (tmp_path / "spool").exists()


async def test_what_is_admitted_during_a_sample_is_not_forgotten() -> None:
    gate = asyncio.Event()

    async def sample() -> int:
        await gate.wait()
        return 10

    bound = StagingBound(100, sample)
    refresh = asyncio.create_task(bound.refresh())
    await asyncio.sleep(0)
    bound.admit(30)
    gate.set()
    await refresh
    assert bound.level_bytes == 40


async def test_large_bodies_wait_for_memory(tmp_path: Path) -> None:
    queue = MemoryQueue()
    way = Way(tmp_path, queue)

    async def level() -> int:
        return 0

    budget = ByteBudget(3 * MIB)
    staging = DatabaseStaging(queue.uploads, StagingBound(1 << 40, level))
    intake = LocalIntake(staging, way.codec, describe, tmp_path / "spool", budget=budget)

    def spooled(number: int) -> object:
        spool = intake.spool()
        spool.write(message(number, 2 * MIB))
        return spool

    first = await intake.take(spooled(1))  # type: ignore[arg-type]
    second = asyncio.create_task(intake.take(spooled(2)))  # type: ignore[arg-type]
    for _ in range(50):
        await asyncio.sleep(0)
    assert not second.done()
    del first  # appended
    staged = await second
    assert budget.free_bytes < MIB + 1000
    del staged, second
    for _ in range(3):  # the loop itself holds the finished task for one round
        await asyncio.sleep(0)
    assert budget.free_bytes == 3 * MIB


async def test_failed_staging_gives_the_memory_back(tmp_path: Path) -> None:
    queue = MemoryQueue()
    way = Way(tmp_path, queue, max_staging_bytes=10)
    budget = ByteBudget(3 * MIB)
    way.intake._budget = budget
    with pytest.raises(StagingFull):
        await way.stage(message(1, 2 * MIB))
    assert budget.free_bytes == 3 * MIB


async def test_budget_is_first_come_first_served_and_survives_cancellation() -> None:
    budget = ByteBudget(10)
    order: list[int] = []

    async def use(number: int, size: int) -> None:
        async with budget.hold(size):
            order.append(number)

    held = await budget.take(8)
    tasks = [asyncio.create_task(use(number, size)) for number, size in enumerate((9, 1, 50))]
    await asyncio.sleep(0)
    assert order == []  # the small one does not overtake
    tasks[0].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == [1]
    budget.give_back(held)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [1, 2]
    assert budget.free_bytes == 10


async def test_budget_given_to_a_cancelled_taker_comes_back() -> None:
    budget = ByteBudget(10)
    held = await budget.take(10)
    taker = asyncio.create_task(budget.take(10))
    await asyncio.sleep(0)
    budget.give_back(held)  # the taker's turn is set ...
    taker.cancel()  # ... and it is cancelled before it runs
    await asyncio.gather(taker, return_exceptions=True)
    assert budget.free_bytes == 10
