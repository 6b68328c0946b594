"""The disk of a node that is gone, mounted somewhere: all bodies that messages wait for are saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.adoption import Adoption, Fate
from storage.errors import NotFound
from storage.model import ContentRef
from storage.objects.codec import Codec, KeyRing
from tests.support.queue import MailQueue, MemoryQueue, PostgresQueue
from tests.support.stores import PostgresStores, Stores, memory_stores, postgres_stores, stores
from tests.support.way import Way, message

__all__ = ["memory_stores", "postgres_stores", "stores"]  # fixtures

CODEC = Codec(KeyRing(b"k" * 32))


async def queue_over(stores: Stores) -> MailQueue:
    if isinstance(stores, PostgresStores):
        return await PostgresQueue.create(stores)
    return MemoryQueue()


async def test_what_waits_for_a_lost_node_is_adopted(tmp_path: Path, stores: Stores) -> None:
    queue = await queue_over(stores)
    lost = Way(tmp_path / "lost", queue, use_disk=True, has_cache=False)
    mail = {number: message(number, 700_000 if number == 3 else 3_000) for number in range(8)}
    refs: dict[int, ContentRef] = {number: await lost.deliver(mail[number]) for number in (0, 1)}
    await lost.drain()  # these two are stored, and their files still there
    refs |= {number: await lost.deliver(mail[number]) for number in (2, 3, 4)}
    unknown = await lost.stage(mail[5])  # its append never came
    here = Way(tmp_path / "here", queue, store=lost.store, node="node-2", has_cache=False)
    again = await here.stage(mail[4])
    await queue.pass_time(1)
    await queue.append(again)  # delivered once more, so it is in the database
    (damaged,) = lost.staging_dir.rglob(refs[2].hash.hex())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (lost.staging_dir / "ab").mkdir(exist_ok=True)
    (lost.staging_dir / "ab" / ".torn.tmp").write_bytes(b"half")
    assert {ref.staged_node for ref in await queue.contents() if not ref.is_stored} == {"node-1", None}

    report = await Adoption(queue.uploads, CODEC, lost.staging_dir).run()
    assert report.counts == {
        Fate.ADOPTED: 1,
        Fate.HERE: 1,
        Fate.STORED: 2,
        Fate.UNKNOWN: 1,
        Fate.DAMAGED: 1,
    }
    (file,) = lost.staging_dir.rglob(unknown.content.hash.hex())
    assert sorted(report.left) == sorted([(damaged, Fate.DAMAGED), (file, Fate.UNKNOWN)])
    assert report.removed == 0
    await here.drain()
    for number in (0, 1, 3, 4):
        assert await here.read((await queue.uploads.locate([refs[number].id]))[0]) == mail[number]
    again_report = await Adoption(queue.uploads, CODEC, lost.staging_dir, remove=True).run()
    assert again_report.counts[Fate.STORED] == 4
    assert again_report.removed == 4
    assert sorted(path for path, _ in again_report.left) == sorted([damaged, file])
    assert file.exists()
    assert damaged.exists()


async def test_files_sealed_with_another_key_are_kept(tmp_path: Path) -> None:
    queue = MemoryQueue()
    lost = Way(tmp_path, queue, use_disk=True)
    await lost.deliver(message(1))
    report = await Adoption(queue.uploads, Codec(KeyRing(b"x" * 32)), lost.staging_dir, remove=True).run()
    assert report.counts[Fate.DAMAGED] == 1
    assert [path.exists() for path, _ in report.left] == [True]


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await Adoption(MemoryQueue().uploads, CODEC, tmp_path / "none").run()
    (tmp_path / "file").write_text("no directory here")
    assert (await Adoption(MemoryQueue().uploads, CODEC, tmp_path).run()).counts == dict.fromkeys(Fate, 0)
