"""The landing zone of bodies on their way to the object store: in the database, or on this node's disk.

``database``: the encoded frames ride in the transaction that appends the message, so there is nothing to
do here but to watch the level. ``disk``: the body is a file named by its hash, durable before the append.

A staged file may belong to a delivery that has not committed yet, and several deliveries and the uploader
may hold the same bytes at once. Therefore (invariants):

* a delivery always puts a file of its own in place, which makes the file young, and never removes one;
* files go only in the uploader's sweep, which lists those older than ``IN_FLIGHT_S``, asks the database
  which of them a staged content still needs, and calls ``remove`` for the others;
* ``remove`` looks at the age once more, after moving the file aside: a delivery that replaced it meanwhile
  has put a new one in place, and a young one that was moved is put back;
* readers look aside as well, and the sweep finds files that a crash left there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from .api import UploadStore
from .errors import NotFound, StagingFull, StorageError
from .floor import DiskFloor
from .model import Content, ContentHash, ContentId, ContentRef, StagedContent
from .objects.disk import TEMPORARY_SUFFIX, Disk, in_thread, place, remove, storage_error

log = logging.getLogger("sora.staging")

# Longer than any delivery takes from staging its body to the end of its commit (lock and statement
# timeouts end it far sooner), and longer than the sweep takes from its question to the removal.
IN_FLIGHT_S = 10 * 60.0
SAMPLE_EVERY_S = 5.0
SAMPLE_SHARE = 0.01  # of the time at most: measuring a large backlog is itself work, of every process
IDENTITY_FILE = "node-name"
ASIDE_SUFFIX = ".aside"


class StagingBound:
    """Refuses new bodies well before the disk or database is full.

    The level is sampled in the background while bodies come in; what this process adds in between is
    counted here. So the bound is exceeded by no more than what the other processes (of the node, or with the
    database of all nodes) take in within one interval: SAMPLE_EVERY_S, or a hundred times what a look takes.
    """

    def __init__(
        self,
        max_bytes: int,
        sample: Callable[[], Awaitable[int]],
        clock: Callable[[], float] = time.monotonic,
        floors: Sequence[DiskFloor] = (),
    ) -> None:
        """``floors``: of the disks that a body goes to."""
        self.max_bytes = max_bytes
        self.level_bytes = 0
        self.refused = 0
        self._floors = floors
        self._has_sample = False
        self._sample = sample
        self._clock = clock
        self._next_sample_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Wait for the first look: a process that has just started knows nothing of the backlog."""
        if not self._has_sample:
            self._look()
        if not self._has_sample and self._task is not None:
            await asyncio.shield(self._task)

    def admit(self, size_bytes: int) -> None:
        """Raises StagingFull."""
        self._look()
        if self.level_bytes + size_bytes > self.max_bytes:
            self.refused += 1
            raise StagingFull(
                f"{self.level_bytes} bytes wait for the object store, the limit is {self.max_bytes}"
            )
        for floor in self._floors:
            floor.admit(size_bytes)
        self.level_bytes += size_bytes

    def _look(self) -> None:
        if self._clock() >= self._next_sample_at and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._refresh_quietly())

    async def refresh(self) -> None:
        """Raises Unavailable."""
        started = self._clock()
        self._next_sample_at = started + SAMPLE_EVERY_S  # also when it fails
        before = self.level_bytes
        sampled = await self._sample()
        self._has_sample = True
        took = self._clock() - started
        self._next_sample_at = started + max(SAMPLE_EVERY_S, took / SAMPLE_SHARE)
        # what was admitted during the sample may not be in it
        self.level_bytes = sampled + max(0, self.level_bytes - before)

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh()
        except StorageError as error:
            log.warning("staging level unknown, keeping the last one: %s", error)
        finally:
            self._task = None


class DatabaseStaging:
    """Bodies in PostgreSQL: any node can serve and upload them."""

    def __init__(self, uploads: UploadStore, bound: StagingBound) -> None:
        self._uploads = uploads
        self._bound = bound

    async def put(self, content: Content, frames: Sequence[bytes]) -> StagedContent:
        size = sum(map(len, frames))
        await self._bound.ready()
        self._bound.admit(size)
        return StagedContent(content, tuple(frames), None, size)

    async def get(self, ref: ContentRef) -> list[bytes] | None:
        if ref.staged_node is not None:
            return None
        return await self._uploads.staged_frames(ref.id)

    async def get_many(self, refs: Sequence[ContentRef]) -> dict[ContentId, list[bytes]]:
        """One read for all."""
        return await self._uploads.staged_frames_of([ref.id for ref in refs if ref.staged_node is None])

    async def pending(self) -> list[ContentHash]:
        return []

    async def held(self) -> list[ContentHash]:
        return []

    async def remove(self, content_hash: ContentHash) -> bool:
        return True  # mark_stored dropped the frames


class DiskStaging:
    """Bodies in files of this node."""

    def __init__(
        self,
        root: Path,
        node: str,
        bound: StagingBound,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.time,
        keep_s: float = IN_FLIGHT_S,
    ) -> None:
        """``keep_s``: the least age of a file that the sweep may take, at least IN_FLIGHT_S."""
        self._keep_s = max(keep_s, IN_FLIGHT_S)
        self._root = root
        self._node = node
        self._bound = bound
        self._disk = disk or Disk()
        self._clock = clock

    async def put(self, content: Content, frames: Sequence[bytes]) -> StagedContent:
        size = sum(map(len, frames))
        await self._bound.ready()
        self._bound.admit(size)
        path = self._path(content.hash)
        await in_thread(lambda: place(self._disk, path, frames), "staging a body")
        return StagedContent(content, (), self._node, size)

    async def get(self, ref: ContentRef) -> list[bytes] | None:
        if ref.staged_node != self._node:
            return None
        path = self._path(ref.hash)
        for candidate in (path, _aside(path), path):  # put back between the first two looks
            with contextlib.suppress(NotFound):
                return [await in_thread(partial(self._disk.read, candidate), "reading a staged body")]
        return None

    async def get_many(self, refs: Sequence[ContentRef]) -> dict[ContentId, list[bytes]]:
        found = {ref.id: await self.get(ref) for ref in refs}
        return {content_id: frames for content_id, frames in found.items() if frames is not None}

    async def pending(self) -> list[ContentHash]:
        return await in_thread(self._old_files, "looking for staged bodies")

    async def held(self) -> list[ContentHash]:
        return await in_thread(
            lambda: sorted({found for path in staged_files(self._root) if (found := hash_of(path))}),
            "looking for staged bodies",
        )

    async def remove(self, content_hash: ContentHash) -> bool:
        return await in_thread(lambda: self._remove(self._path(content_hash)), "removing a staged body")

    def _remove(self, path: Path) -> bool:
        aside = _aside(path)
        try:
            self._disk.rename(path, aside)
        except FileNotFoundError:
            if not aside.exists():
                return True
        if self._is_young(aside):
            with contextlib.suppress(FileExistsError):
                self._disk.link(aside, path)
            remove(self._disk, aside)
            return False
        remove(self._disk, aside)
        return not path.exists()

    def _is_young(self, path: Path) -> bool:
        return self._clock() - path.stat().st_mtime < self._keep_s

    def _old_files(self) -> list[ContentHash]:
        found: set[ContentHash] = set()
        for path in staged_files(self._root):
            try:
                is_young = self._is_young(path)
            except FileNotFoundError:
                continue
            if is_young:
                continue
            if path.name.endswith(TEMPORARY_SUFFIX):
                remove(self._disk, path)
            elif (content_hash := hash_of(path)) is not None:
                found.add(content_hash)
        return sorted(found)

    def _path(self, content_hash: ContentHash) -> Path:
        name = content_hash.hex()
        return self._root / name[:2] / name


class StagingAreas:
    """Puts new bodies where the configuration says and finds those that wait elsewhere, so that
    ``uploader.staging`` may be changed at any time."""

    def __init__(self, database: DatabaseStaging, disk: DiskStaging, *, use_disk: bool) -> None:
        self._database = database
        self._disk = disk
        self._target = disk if use_disk else database

    async def put(self, content: Content, frames: Sequence[bytes]) -> StagedContent:
        return await self._target.put(content, frames)

    async def get(self, ref: ContentRef) -> list[bytes] | None:
        return await (self._database if ref.staged_node is None else self._disk).get(ref)

    async def get_many(self, refs: Sequence[ContentRef]) -> dict[ContentId, list[bytes]]:
        here = [ref for ref in refs if ref.staged_node is not None]
        found = await self._disk.get_many(here) if here else {}
        if len(here) < len(refs):
            found |= await self._database.get_many([ref for ref in refs if ref.staged_node is None])
        return found

    async def pending(self) -> list[ContentHash]:
        return await self._disk.pending()

    async def held(self) -> list[ContentHash]:
        return await self._disk.held()

    async def remove(self, content_hash: ContentHash) -> bool:
        return await self._disk.remove(content_hash)


def staging_identity(root: Path, wanted: str, disk: Disk | None = None) -> str:
    """The name under which this directory's bodies are queued: that of its first start.

    A node that is renamed goes on under the old one, since bodies queued for the old name can be found
    nowhere else. Blocks; raises Unavailable, StagingFull.
    """
    path = root / IDENTITY_FILE
    try:
        known = path.read_text().strip()
    except FileNotFoundError:
        known = ""
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    if known:
        if known != wanted:
            log.warning("staging in %s goes on under the name %r, not %r", root, known, wanted)
        return known
    try:
        place(disk or Disk(), path, [wanted.encode()])
    except OSError as error:
        raise storage_error(error, f"writing {path}") from error
    return wanted


async def disk_level(root: Path) -> int:
    """Bytes of all staged files. O(files)."""
    return await in_thread(lambda: sum(_size(entry) for entry in _entries(root)), "measuring staged bodies")


def staged_files(root: Path) -> Iterator[Path]:
    """All files in the place of staged bodies; ``hash_of`` says which are. Raises OSError."""
    return (Path(entry.path) for entry in _entries(root))


def hash_of(path: Path) -> ContentHash | None:
    """Of the body in a staged file; None: it is none."""
    name = path.name.removesuffix(ASIDE_SUFFIX)
    try:
        return ContentHash(bytes.fromhex(name)) if len(name) == 64 else None
    except ValueError:
        return None


def _entries(root: Path) -> Iterator[os.DirEntry[str]]:
    try:
        shards = list(os.scandir(root))
    except FileNotFoundError:
        return
    for shard in shards:
        if shard.is_dir(follow_symlinks=False):
            yield from os.scandir(shard.path)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ASIDE_SUFFIX)
