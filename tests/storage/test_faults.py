"""The n-th operation fails, or the process dies there, for every n: in deliver, upload and purge.

Invariants: what was acknowledged is readable with exact bytes and there once; nothing acknowledged is
ever lost, power cut included; once faults stop, staging runs empty, every object is present, and no object
is left that neither a content nor the deletion queue knows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from storage.adoption import Adoption
from storage.errors import CommitUnknown, StorageError, Unavailable
from storage.model import ContentRef, NewMessage
from storage.objects.fs import FileBlobStore
from storage.objects.keys import object_key
from storage.staging import IN_FLIGHT_S
from tests.support.faults import Fault, FaultyBlobs, FaultyCalls, FaultyDisk, Killed, Kind, UnsyncedDisk
from tests.support.queue import MailQueue, MemoryQueue, PostgresQueue
from tests.support.stores import PostgresStores, postgres_stores
from tests.support.way import NODE, Way, message

__all__ = ["postgres_stores"]  # a fixture

WRITES = (
    "append",
    "mark_stored",
    "release",
    "restore_turns",
    "take_over",
    "lease",
    "purge_messages",
    "purge_contents",
    "forget_doomed",
)
# two small ones, the first again as another message, and one of several frames
MAIL = [message(1), message(2), message(1), message(3, 300_000)]
SPOOLED = message(4, 1_200_000)
MAX_OPERATIONS = 400


class World:
    """What outlives a process: directories, objects, database."""

    def __init__(self, root: Path, queue: MailQueue, fault: Fault, *, use_disk: bool) -> None:
        self.root = root
        self.queue = queue
        self.fault = fault
        self.use_disk = use_disk
        self.disk = FaultyDisk(fault)
        self.mail = FaultyCalls(queue.mail, fault, WRITES)
        self.acked: list[tuple[ContentRef, bytes]] = []

    def node(self, name: str = NODE) -> Way:
        """A life with faults."""
        self.fault.is_over = False
        return Way(
            self.root,
            self.queue,
            uploads=FaultyCalls(self.queue.uploads, self.fault, WRITES),
            store=FaultyBlobs(FileBlobStore(self.root / "objects", self.disk), self.fault),
            disk=self.disk,
            use_disk=self.use_disk,
            node=name,
        )

    def calm(self) -> Way:
        """A life without faults; a death before it was a power cut."""
        if self.fault.is_dead:
            self.disk.cut_power()
        self.fault.is_over = True
        return Way(self.root, self.queue, disk=UnsyncedDisk(), use_disk=self.use_disk)

    async def deliver(self, way: Way, data: bytes, token: int) -> None:
        """As LMTP does: an unknown commit is looked up before answering, a retry has the same key."""
        key = hashlib.sha256(b"%d" % token).digest()
        staged = await way.stage(data)
        try:
            await self.mail.append(staged, [NewMessage(self.queue.inbox, delivery_key=key)])
        except CommitUnknown:
            if not await self.queue.mail.delivered(self.queue.inbox, key):
                raise
        except Unavailable:
            await way.intake.discard(staged)
            raise
        refs = [ref for ref in await self.queue.live() if ref.hash == staged.content.hash]
        self.acked.append((refs[-1], data))

    async def deliver_all(self, way: Way) -> None:
        for token, data in enumerate(MAIL):
            await self.deliver_until_acked(way, data, token)

    async def deliver_until_acked(self, way: Way, data: bytes, token: int) -> None:
        try:
            await self.deliver(way, data, token)
        except StorageError:
            await self.deliver(way, data, token)  # the MTA's next try

    async def check(self) -> None:
        """All invariants, and that the way drains."""
        way = self.calm()
        await way.uploader.adopt()  # as it does at its start
        await self._check_messages(way)
        for _ in range(5):
            await self.queue.pass_time(24 * 3600)
            await way.drain()
        self.age_staging()
        await way.uploader.sweep()
        await way.cleaner().step()
        assert (await way.uploader.backlog()).contents == 0
        assert [path for path in way.staging_dir.rglob("*") if path.is_file()] == []
        assert await self.queue.purge.doomed(10) == []
        keys = {object_key(ref.hash, ref.id) for ref in await self.queue.contents()}
        assert await way.objects() == keys
        await self._check_messages(self.calm())

    async def _check_messages(self, way: Way) -> None:
        """Every acknowledged one is there with its bytes; beyond those only what was not answered."""
        live = Counter(ref.hash for ref in await self.queue.live())
        acked = Counter(ref.hash for ref, _ in self.acked)
        assert all(live[content_hash] >= count for content_hash, count in acked.items()), (live, acked)
        assert live.total() <= acked.total() + self.fault.has_fired
        now = {ref.id: ref for ref in await self.queue.contents()}
        for ref, data in self.acked:
            assert await way.read(now[ref.id]) == data
            assert await way.read(ref) == data  # a reference from before

    def age_staging(self) -> None:
        for path in (self.root / "staging").rglob("*"):
            if path.is_file():
                then = path.stat().st_mtime - IN_FLIGHT_S - 1
                os.utime(path, (then, then))


Scenario = Callable[[World], Awaitable[None]]


async def deliver(world: World) -> None:
    way = world.node()
    await world.deliver_all(way)
    await world.deliver_until_acked(way, SPOOLED, len(MAIL))


async def upload(world: World) -> None:
    await world.deliver_all(world.calm())
    way = world.node()
    for _ in range(4):
        with contextlib.suppress(StorageError):
            await way.uploader.step()
            world.age_staging()
            await way.uploader.sweep()
        await world.queue.pass_time(way.uploader.settings.lease_s + 200)


async def adopt(world: World) -> None:
    """The machine is made anew under another name; later its directory is adopted into the database."""
    await world.deliver_all(world.calm())
    way = world.node("rebuilt")
    for _ in range(2):
        with contextlib.suppress(StorageError):
            await way.uploader.adopt()
    for _ in range(2):
        with contextlib.suppress(StorageError):
            await Adoption(way.uploads, way.codec, way.staging_dir, disk=way.disk).run()


async def purge(world: World) -> None:
    calm = world.calm()
    await world.deliver_all(calm)
    await calm.drain()
    await world.deliver(calm, message(9), 9)  # expunged before it was uploaded
    for index in (0, 1, 4):
        await world.queue.expunge_all_of(world.acked[index][0].hash)
    world.acked = [world.acked[3]]
    way = world.node()
    cleaner = way.cleaner(FaultyCalls(world.queue.purge, world.fault, WRITES))
    for _ in range(2):
        with contextlib.suppress(StorageError):
            await cleaner.step()
    await world.deliver_until_acked(way, MAIL[1], 10)  # the same bytes again, perhaps under a new key
    with contextlib.suppress(StorageError):
        await cleaner.step()


async def try_every_fault(
    root: Path,
    new_queue: Callable[[], Awaitable[MailQueue]],
    scenario: Scenario,
    kind: Kind,
    *,
    use_disk: bool,
) -> None:
    for at in range(1, MAX_OPERATIONS):
        fault = Fault(at, kind)
        world = World(root / str(at), await new_queue(), fault, use_disk=use_disk)
        with contextlib.suppress(Killed):
            await scenario(world)
        try:
            await world.check()
        except BaseException as error:
            error.add_note(f"fault {fault!r} of {fault.trace}")
            raise
        Way.close_all()
        if not fault.has_fired:
            assert at > 4, "nothing was injected"
            return
        shutil.rmtree(world.root)
    pytest.fail("the scenario never runs without a fault")


SCENARIOS = pytest.mark.parametrize("scenario", [deliver, upload, purge])
KINDS = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
STAGING = pytest.mark.parametrize("use_disk", [False, True], ids=["database", "disk"])


@SCENARIOS
@KINDS
@STAGING
async def test_nothing_acknowledged_is_lost(
    tmp_path: Path, scenario: Scenario, kind: Kind, use_disk: bool
) -> None:
    async def new_queue() -> MailQueue:
        return MemoryQueue()

    await try_every_fault(tmp_path, new_queue, scenario, kind, use_disk=use_disk)


@KINDS
async def test_nothing_is_lost_by_adopting(tmp_path: Path, kind: Kind) -> None:
    async def new_queue() -> MailQueue:
        return MemoryQueue()

    await try_every_fault(tmp_path, new_queue, adopt, kind, use_disk=True)


async def test_nothing_is_lost_by_adopting_on_postgresql(
    tmp_path: Path, postgres_stores: PostgresStores
) -> None:
    await try_every_fault(
        tmp_path, lambda: PostgresQueue.create(postgres_stores), adopt, Kind.ANSWER_LOST, use_disk=True
    )


@SCENARIOS
@pytest.mark.parametrize("kind", [Kind.ANSWER_LOST, Kind.DIES_AFTER], ids=lambda kind: kind.value)
async def test_nothing_acknowledged_is_lost_on_postgresql(
    tmp_path: Path, postgres_stores: PostgresStores, scenario: Scenario, kind: Kind
) -> None:
    await try_every_fault(
        tmp_path, lambda: PostgresQueue.create(postgres_stores), scenario, kind, use_disk=False
    )
