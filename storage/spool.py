"""Receives one body piecewise, and knows its hash when the last piece is in."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from pathlib import Path

from .errors import StagingFull, StorageError
from .floor import DiskFloor
from .model import ContentHash
from .objects.disk import Disk, storage_error

MEMORY_BYTES = 1024 * 1024  # more goes to a file that has no name and so vanishes with the process


class BodySpool:
    """``storage.api.Spool``; one task at a time uses it."""

    def __init__(self, directory: Path, disk: Disk | None = None, floor: DiskFloor | None = None) -> None:
        self.size_bytes = 0
        self._directory = directory
        self._disk = disk or Disk()
        self._floor = floor
        self._digest = hashlib.sha256()
        self._memory = bytearray()
        self._whole: bytes | None = None  # of the memory, where somebody has asked for it
        self._fd = -1
        self._failure: StorageError | None = None
        self._is_closed = False

    def write(self, data: bytes) -> None:
        """Raises StagingFull, Unavailable; the spool then only takes close()."""
        if self._failure is not None:
            raise self._failure
        if self._is_closed:
            raise ValueError("write to a closed spool")
        self._digest.update(data)
        self.size_bytes += len(data)
        self._whole = None
        if self._fd < 0 and self.size_bytes <= MEMORY_BYTES:
            self._memory += data
            return
        try:
            self._to_file(data)
        except StagingFull as error:
            self._failure = error
            raise
        except OSError as error:
            self._failure = storage_error(error, "receiving a body")
            raise self._failure from error

    def content_hash(self) -> ContentHash:
        return ContentHash(self._digest.digest())

    def buffer(self) -> bytes | mmap.mmap:
        """All that was written. A map stays valid after close(). Raises Unavailable."""
        if self._failure is not None:
            raise self._failure
        if self._fd < 0:
            if self._whole is None:
                self._whole = bytes(self._memory)
            return self._whole
        try:
            return mmap.mmap(self._fd, self.size_bytes, access=mmap.ACCESS_READ)
        except OSError as error:
            raise storage_error(error, "reading a received body") from error

    def close(self) -> None:
        self._is_closed = True
        self._memory = bytearray()
        self._whole = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _to_file(self, data: bytes) -> None:
        if self._floor is not None:
            self._floor.admit(len(data))
        if self._fd < 0:
            self._fd = open_unnamed(self._directory)
            self._disk.write(self._fd, bytes(self._memory))
            self._memory = bytearray()
        self._disk.write(self._fd, data)


def open_unnamed(directory: Path) -> int:
    """A read-write file without a name in ``directory``, which is made if need be. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system knows O_TMPFILE; a real fault shows again here
        fd, name = tempfile.mkstemp(dir=directory, prefix=".spool.")
        os.unlink(name)
        return fd
