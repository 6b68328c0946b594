"""BlobStore on a directory: one file an object, durable with its name before ``put`` returns."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from storage.api import BlobInfo
from storage.errors import NotFound, StorageError

from .codec import FRAME_BYTES
from .disk import TEMPORARY_SUFFIX, Descriptor, Disk, in_thread, place, place_all, remove, storage_error

STALE_TEMPORARY_S = 24 * 3600.0  # no put takes a day, on whatever node
# A file in the page cache is read in 41 us on the loop and 127 us through a thread; beyond this size
# the copying itself would hold up the loop.
DIRECT_READ_BYTES = 64 * 1024


class FileBlobStore:
    """Objects below ``root``. Several processes and nodes may share it when the file system does."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self._root = root
        self._disk = disk or Disk()
        self._swept: set[Path] = set()

    async def check(self) -> None:
        """Once at start: the directory is there and writable. Raises Unavailable, StagingFull."""
        probe = self._root / f"probe.{os.getpid()}"

        def write_and_remove() -> None:
            place(self._disk, probe, [b"sora"])
            remove(self._disk, probe)

        await in_thread(write_and_remove, f"checking object directory {self._root}")

    async def put(self, key: str, frames: Sequence[bytes]) -> None:
        path = self._path(key)
        await in_thread(lambda: self._put(path, frames), f"writing object {key}")

    def _put(self, path: Path, frames: Sequence[bytes]) -> None:
        if path.parent not in self._swept:
            self._sweep(path.parent)
        place(self._disk, path, frames)

    async def put_many(
        self, objects: Mapping[str, Sequence[bytes]], slots: asyncio.Semaphore
    ) -> dict[str, int | StorageError]:
        async with slots:
            return await in_thread(lambda: self._put_many(objects), f"writing {len(objects)} objects")

    def _put_many(self, objects: Mapping[str, Sequence[bytes]]) -> dict[str, int | StorageError]:
        paths = {key: self._path(key) for key in objects}
        for directory in {path.parent for path in paths.values()} - self._swept:
            self._sweep(directory)
        failed = place_all(self._disk, {paths[key]: frames for key, frames in objects.items()})
        return {key: _outcome(key, path, failed.get(path)) for key, path in paths.items()}

    def _sweep(self, directory: Path) -> None:
        """Remove what crashes left of puts. Temporary files are beside their objects because a rename
        between directories costs as much as all the rest of a put (200 us)."""
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(directory):
                if entry.name.endswith(TEMPORARY_SUFFIX) and _is_stale(entry):
                    remove(self._disk, Path(entry.path))
        self._swept.add(directory)

    async def get(self, key: str) -> bytes:
        path = self._path(key)
        try:
            if os.stat(path).st_size <= DIRECT_READ_BYTES:
                return self._disk.read(path)
        except OSError as error:
            raise storage_error(error, f"reading object {key}") from error
        return await in_thread(lambda: self._disk.read(path), f"reading object {key}")

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        doing = f"reading object {key}"
        path = self._path(key)
        file = await in_thread(lambda: Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC)), doing)
        while piece := await in_thread(lambda: os.read(file.fd, FRAME_BYTES), doing):
            yield piece

    async def head(self, key: str) -> BlobInfo | None:
        try:
            stat = os.stat(self._path(key))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, f"looking at object {key}") from error
        return _info(key, stat)

    async def delete(self, keys: Sequence[str]) -> None:
        paths = [self._path(key) for key in keys]

        def unlink_all() -> None:
            for path in paths:
                remove(self._disk, path)

        await in_thread(unlink_all, "deleting objects")

    async def list(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        pending = [self._path(prefix) if prefix else self._root]
        while pending:
            infos, below = await in_thread(partial(_scan, self._root, pending.pop()), "listing objects")
            pending += below
            for info in infos:
                yield info

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part.startswith(".") or not part or "\0" in part for part in parts):
            raise NotFound(f"{key!r} cannot be the key of an object")
        return self._root.joinpath(*parts)


def _scan(root: Path, directory: Path) -> tuple[list[BlobInfo], list[Path]]:
    infos: list[BlobInfo] = []
    below: list[Path] = []
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return infos, below
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            below.append(directory / entry.name)
        else:
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue  # deleted while we looked
            infos.append(_info(str((directory / entry.name).relative_to(root)), stat))
    return infos, below


def _outcome(key: str, path: Path, error: OSError | None) -> int | StorageError:
    """The size of what was put, or what kept it from being put."""
    try:
        if error is not None:
            raise error
        return os.stat(path).st_size
    except OSError as found:
        return storage_error(found, f"writing object {key}")


def _is_stale(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.stat().st_mtime < time.time() - STALE_TEMPORARY_S
    except FileNotFoundError:
        return False


def _info(key: str, stat: os.stat_result) -> BlobInfo:
    return BlobInfo(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))
