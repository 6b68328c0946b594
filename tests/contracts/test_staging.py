"""One behaviour for every landing zone: rows of the database, files of a node, and both behind one face."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.api import Staging
from storage.errors import StagingFull
from storage.model import ContentRef, StagedContent
from storage.staging import IN_FLIGHT_S, DatabaseStaging, DiskStaging, StagingAreas, StagingBound
from tests.support.queue import MemoryQueue
from tests.support.stores import content

FRAMES = [b"first frame", b"second", b"third"]
LIMIT = 1000
KINDS = ["database", "disk", "areas, database", "areas, disk"]


class Zone:
    def __init__(self, kind: str, root: Path) -> None:
        self.kind = kind
        self.root = root
        self.queue = MemoryQueue()
        self.is_on_disk = kind.endswith("disk")
        database = DatabaseStaging(self.queue.uploads, StagingBound(LIMIT, self._nothing))
        disk = DiskStaging(root, "here", StagingBound(LIMIT, self._nothing))
        self.staging: Staging
        if kind.startswith("areas"):
            self.staging = StagingAreas(database, disk, use_disk=self.is_on_disk)
        else:
            self.staging = disk if self.is_on_disk else database

    async def add(self, body: bytes, frames: list[bytes]) -> ContentRef:
        return await self.queue.append(await self.staging.put(content(body), frames))

    def grow_old(self) -> None:
        for path in self.root.rglob("*"):
            if path.is_file():
                then = path.stat().st_mtime - IN_FLIGHT_S - 1
                os.utime(path, (then, then))

    async def _nothing(self) -> int:
        return 0


@pytest.fixture(params=KINDS)
def zone(request: pytest.FixtureRequest, tmp_path: Path) -> Zone:
    return Zone(request.param, tmp_path / "staging")


async def test_what_was_put_is_got_after_the_append(zone: Zone) -> None:
    ref = await zone.add(b"body", FRAMES)
    assert (ref.staged_node == "here") == zone.is_on_disk
    found = await zone.staging.get(ref)
    assert found is not None
    assert b"".join(found) == b"".join(FRAMES)


async def test_put_tells_what_the_append_needs(zone: Zone) -> None:
    staged = await zone.staging.put(content(b"body"), FRAMES)
    node, frames = ("here", ()) if zone.is_on_disk else (None, tuple(FRAMES))
    assert staged == StagedContent(content(b"body"), frames, node, sum(map(len, FRAMES)))


async def test_several_at_once(zone: Zone) -> None:
    refs = [await zone.add(b"body %d" % n, [b"frame %d" % n, b"end"]) for n in range(3)]
    await zone.queue.uploads.mark_stored([refs[1].id])
    found = await zone.staging.get_many(refs)
    expected = {ref.id: b"frame %dend" % n for n, ref in enumerate(refs) if n != 1 or zone.is_on_disk}
    assert {content_id: b"".join(frames) for content_id, frames in found.items()} == expected
    assert await zone.staging.get_many([]) == {}


async def test_what_lies_elsewhere_is_not_here(zone: Zone) -> None:
    ref = await zone.add(b"body", FRAMES)
    there = ContentRef(ref.id, ref.hash, ref.size_bytes, False, "there")
    assert await zone.staging.get(there) is None


async def test_the_same_bytes_may_be_put_again(zone: Zone) -> None:
    first = await zone.add(b"body", FRAMES)
    await zone.queue.pass_time(1)
    assert await zone.add(b"body", FRAMES) == first
    assert b"".join(await zone.staging.get(first) or []) == b"".join(FRAMES)


async def test_young_bodies_are_neither_offered_nor_removed(zone: Zone) -> None:
    ref = await zone.add(b"body", FRAMES)
    assert await zone.staging.pending() == []
    assert await zone.staging.remove(ref.hash) != zone.is_on_disk
    assert await zone.staging.get(ref) is not None


async def test_old_bodies_are_offered_and_removed_once(zone: Zone) -> None:
    ref = await zone.add(b"body", FRAMES)
    zone.grow_old()
    assert await zone.staging.pending() == ([ref.hash] if zone.is_on_disk else [])
    assert await zone.staging.remove(ref.hash)
    assert await zone.staging.remove(ref.hash)
    assert await zone.staging.pending() == []


async def test_over_the_bound_nothing_is_written(zone: Zone) -> None:
    with pytest.raises(StagingFull):
        await zone.staging.put(content(b"large"), [bytes(LIMIT + 1)])
    assert not zone.root.exists()
    await zone.add(b"small", FRAMES)


async def test_both_areas_serve_what_was_staged_before_a_change(tmp_path: Path) -> None:
    zone = Zone("areas, disk", tmp_path)
    on_disk = await zone.add(b"on disk", [b"d"])
    database = DatabaseStaging(zone.queue.uploads, StagingBound(LIMIT, zone._nothing))
    disk = DiskStaging(tmp_path, "here", StagingBound(LIMIT, zone._nothing))
    zone.staging = StagingAreas(database, disk, use_disk=False)
    in_database = await zone.add(b"in database", [b"b"])
    found = await zone.staging.get_many([on_disk, in_database])
    assert found == {on_disk.id: [b"d"], in_database.id: [b"b"]}
