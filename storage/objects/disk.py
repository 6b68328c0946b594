"""The file operations that durability rests on, in one place.

Everything in ``storage`` that must survive a crash goes through a ``Disk``; tests hand in one that
fails or dies at its n-th operation. All methods block.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from storage.errors import NotFound, StagingFull, StorageError, Unavailable

T = TypeVar("T")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TEMPORARY_SUFFIX = ".tmp"
FILES_AT_ONCE = 100  # that are open for one group of objects


def storage_error(error: OSError, doing: str) -> StorageError:
    """The one mapping from what the operating system says."""
    if error.errno in _NO_ROOM:
        return StagingFull(f"no room while {doing}: {error.strerror}")
    if isinstance(error, FileNotFoundError):
        return NotFound(f"absent while {doing}: {error.filename}")
    return Unavailable(f"{doing} failed: {error}")


async def in_thread(work: Callable[[], T], doing: str) -> T:
    """Blocking file work off the loop; OSError becomes a StorageError that says what was being done."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise storage_error(error, doing) from error


class Disk:
    """The real one: thin over ``os``."""

    def __init__(self) -> None:
        self.synced_dirs: set[Path] = set()  # whose entry in the parent this process has made durable

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def fsync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path, 0o700)

    def read(self, path: Path) -> bytes:
        with open(path, "rb", buffering=0) as file:
            return file.read()


class Descriptor:
    """An open file that is closed when the last one who holds it lets go.

    Closing it explicitly would be a trap: a cancelled task goes on while its thread still reads or writes,
    and by then the number may be somebody's socket.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def make_dirs(disk: Disk, path: Path) -> None:
    """Create ``path`` and missing parents so that they survive a crash.

    A directory that another process has just made may not be durable yet, so each is synced once a
    process, whoever made it; only existing parents of the first call are trusted.
    """
    if path in disk.synced_dirs:
        return
    if not path.parent.is_dir():
        make_dirs(disk, path.parent)
    with contextlib.suppress(FileExistsError):
        disk.mkdir(path)
    disk.fsync_dir(path.parent)
    disk.synced_dirs.add(path)


def temporary_name(target: Path) -> Path:
    """A name beside ``target`` that no one else will take."""
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")


def place(disk: Disk, target: Path, pieces: Sequence[bytes], *, durable: bool = True) -> None:
    """Put a file in its place at once, or not at all; parents are made.

    With ``durable`` it survives a crash once this returns. Raises OSError; a temporary file is left
    only by a crash.
    """
    if durable:
        make_dirs(disk, target.parent)
    else:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    placing = _Placing(disk, target, pieces)
    try:
        placing.write()
        if durable:
            placing.sync()
        placing.close()
        placing.rename()
    except OSError:
        placing.give_up()
        raise
    if durable:
        disk.fsync_dir(target.parent)


class _Placing:
    """A file on its way to ``target``, in steps."""

    __slots__ = ("_disk", "_fd", "_pieces", "_temporary", "target")

    def __init__(self, disk: Disk, target: Path, pieces: Sequence[bytes]) -> None:
        self.target = target
        self._disk = disk
        self._pieces = pieces
        self._temporary = temporary_name(target)
        self._fd = -1

    def make_parents(self) -> None:
        make_dirs(self._disk, self.target.parent)

    def write(self) -> None:
        self._fd = self._disk.create(self._temporary)
        for piece in self._pieces:
            self._disk.write(self._fd, piece)

    def sync(self) -> None:
        self._disk.fsync(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)

    def rename(self) -> None:
        self._disk.rename(self._temporary, self.target)

    def give_up(self) -> None:
        with contextlib.suppress(OSError):
            self.close()
        with contextlib.suppress(OSError):
            self._disk.unlink(self._temporary)


_STEPS = (_Placing.make_parents, _Placing.write, _Placing.sync, _Placing.close, _Placing.rename)


def place_all(disk: Disk, files: Mapping[Path, Sequence[bytes]]) -> dict[Path, OSError]:
    """``place`` for several, durable. Those that failed, and why. Holds up to FILES_AT_ONCE descriptors.

    All of so many are written before the first is synced, and renamed before the first directory is: the
    file system finds most of its journal committed then, which saves a quarter of the CPU time. A directory
    is synced once.
    """
    failed: dict[Path, OSError] = {}
    placings = [_Placing(disk, target, pieces) for target, pieces in files.items()]
    for start in range(0, len(placings), FILES_AT_ONCE):
        _place_together(disk, placings[start : start + FILES_AT_ONCE], failed)
    return failed


def _place_together(disk: Disk, under_way: Sequence[_Placing], failed: dict[Path, OSError]) -> None:
    for step in _STEPS:
        under_way = [each for each in under_way if _goes_on(each, step, failed)]
    placed: dict[Path, list[Path]] = {}  # by directory
    for each in under_way:
        placed.setdefault(each.target.parent, []).append(each.target)
    for directory, targets in placed.items():
        try:
            disk.fsync_dir(directory)
        except OSError as error:
            failed.update(dict.fromkeys(targets, error))


def _goes_on(placing: _Placing, step: Callable[[_Placing], None], failed: dict[Path, OSError]) -> bool:
    try:
        step(placing)
    except OSError as error:
        placing.give_up()
        failed[placing.target] = error
        return False
    return True


def remove(disk: Disk, path: Path) -> bool:
    """Whether it was there. Raises OSError."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return False
    return True
