"""The bucket as a directory, for a single machine, for tests, and below the mirror.

A key is a path below the root. Files are 0600 and directories 0700; a file is in its place whole, and after a
crash too, or not at all.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from storage.objects.disk import TEMPORARY_SUFFIX, Disk, place, remove

from ..ports import BucketUnavailable

T = TypeVar("T")

OBJECT_BYTES_MAX = 1 << 20  # far above any chain with its key
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


class DirectoryBucket:
    """Raises BucketUnavailable for whatever the operating system says, ValueError for a key that is no plain
    relative path."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self._disk = disk or Disk()

    async def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        await self._call("writing", key, lambda: place(self._disk, path, [data]))

    async def get(self, key: str) -> bytes | None:
        path = self._path(key)
        return await self._call("reading", key, lambda: _read(path))

    async def list(self, prefix: str) -> list[str]:
        if ".." in prefix.split("/") or prefix.startswith("/"):
            raise ValueError(f"not a prefix of keys: {prefix!r}")
        return await self._call("listing", prefix, lambda: _keys(self.root, prefix))

    async def delete(self, key: str) -> None:
        path = self._path(key)
        await self._call("removing", key, lambda: remove(self._disk, path))

    async def close(self) -> None:
        """Nothing is held."""

    def _path(self, key: str) -> Path:
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"not a key of an object: {key!r}")
        return self.root / key

    async def _call(self, doing: str, key: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            reason = error.strerror or str(error)
            raise BucketUnavailable(f"{doing} {key} in {self.root} failed: {reason}") from error


def _read(path: Path) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(OBJECT_BYTES_MAX + 1)
    except FileNotFoundError:
        return None


def _keys(root: Path, prefix: str) -> list[str]:
    top = root / prefix.rpartition("/")[0]
    keys = (path.relative_to(root).as_posix() for path in _files(top))
    return sorted(key for key in keys if key.startswith(prefix))


def _files(top: Path) -> Iterator[Path]:
    """What stands below, without what a crash left half written. Raises OSError."""
    try:
        entries = list(os.scandir(top))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif not entry.name.endswith(TEMPORARY_SUFFIX):
            yield Path(entry.path)
