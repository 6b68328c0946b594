"""Faults at the n-th operation on a relay queue, and what a power cut takes of it."""

from __future__ import annotations

import os
from pathlib import Path

from storage.objects.disk import Disk
from storage.relayspool import SpoolDisk

from .faults import Fault, FaultyDisk


class UnsyncedSpoolDisk(SpoolDisk):
    """Does not wait for the hardware."""

    def fsync(self, fd: int) -> None:
        pass

    def fsync_dir(self, path: Path) -> None:
        pass


class FaultySpoolDisk(FaultyDisk, SpoolDisk):
    """Beyond ``FaultyDisk``: a rename of a durable file, its removal and what is appended to it are undone
    by a power cut until they are synced; a rename is undone as a whole, as journals do it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self._moved: list[tuple[Path, Path]] = []
        self._removed: dict[Path, tuple[bytes, float]] = {}
        self._grown: dict[Path, int] = {}  # length that is durable
        self._appending: dict[int, Path] = {}

    def cut_power(self) -> None:
        for path, size in self._grown.items():
            if path.exists():
                os.truncate(path, size + (path.stat().st_size - size) // 2)
        for path, (data, due_at) in self._removed.items():
            if not path.exists():
                path.write_bytes(data)
                os.utime(path, (due_at, due_at))
        for source, target in reversed(self._moved):
            if target.exists() and not source.exists():
                os.rename(target, source)
        super().cut_power()

    def rename(self, source: Path, target: Path) -> None:
        if source.name.startswith("."):
            super().rename(source, target)
            return

        def act() -> None:
            Disk.rename(self, source, target)
            self._moved.append((source, target))
            if source in self._grown:
                self._grown[target] = self._grown.pop(source)

        self._run("rename", act)

    def unlink(self, path: Path) -> None:
        def act() -> None:
            data, due_at = path.read_bytes(), path.stat().st_mtime
            Disk.unlink(self, path)
            if not path.name.startswith("."):
                self._removed[path] = (data, due_at)

        self._run("unlink", act)

    def fsync_dir(self, path: Path) -> None:
        def act() -> None:
            self._moved = [pair for pair in self._moved if pair[1].parent != path]
            self._removed = {name: kept for name, kept in self._removed.items() if name.parent != path}
            self._unnamed = {name for name in self._unnamed if name.parent != path}

        self._run("fsync_dir", act)

    def set_due(self, path: Path, due_at: float) -> None:
        self._run("set_due", lambda: SpoolDisk.set_due(self, path, due_at))

    def open_append(self, path: Path) -> int:
        fd = SpoolDisk.open_append(self, path)
        self._appending[fd] = path
        self._grown.setdefault(path, path.stat().st_size)
        return fd

    def truncate(self, fd: int, size_bytes: int) -> None:
        def act() -> None:
            SpoolDisk.truncate(self, fd, size_bytes)
            path = self._appending[fd]
            self._grown[path] = min(self._grown.get(path, size_bytes), size_bytes)

        self._run("truncate", act)

    def fsync(self, fd: int) -> None:
        if fd not in self._appending:
            super().fsync(fd)
            return
        self._run("fsync", lambda: self._grown.pop(self._appending[fd], None))

    def close(self, fd: int) -> None:
        self._appending.pop(fd, None)
        super().close(fd)
