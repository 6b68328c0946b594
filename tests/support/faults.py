"""Faults at the n-th operation: on the disk, in the object store, in the database.

``for fault in every_fault(): with a fresh world: run; if not fault.has_fired: break``. Before the fault
operations are counted, not delayed. After a death every further operation dies too, so that nothing a
``finally`` clause does can touch what the dead process left behind.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.api import BlobInfo, BlobStore
from storage.errors import CommitUnknown, StorageError, Unavailable
from storage.objects.disk import Disk


class Kind(enum.Enum):
    FAILS = "fails"  # nothing happens, an error is raised
    ANSWER_LOST = "answer lost"  # it happens, an error is raised
    NO_ROOM = "no room"  # like FAILS, of the disk: ENOSPC
    DIES_BEFORE = "dies before"  # the process is killed before it happens
    DIES_AFTER = "dies after"


LETHAL = (Kind.DIES_BEFORE, Kind.DIES_AFTER)


class Killed(BaseException):
    """The process is gone; no ``except Exception`` sees it."""


class Fault:
    def __init__(self, at: int, kind: Kind) -> None:
        self.at = at
        self.kind = kind
        self.count = 0
        self.has_fired = False
        self.is_over = False  # nothing fails any more
        self.trace: list[str] = []

    def __repr__(self) -> str:
        return f"<{self.kind.value} at {self.at}: {self.trace[self.at - 1 : self.at]}>"

    @property
    def is_dead(self) -> bool:
        return self.has_fired and self.kind in LETHAL and not self.is_over

    def strikes(self, operation: str) -> bool:
        """Count one operation; whether it is the one."""
        if self.is_over:
            return False
        if self.is_dead:
            raise Killed(operation)
        self.count += 1
        self.trace.append(operation)
        self.has_fired |= self.count == self.at
        return self.count == self.at


class UnsyncedDisk(Disk):
    """Does not wait for the hardware: these tests simulate it."""

    def fsync(self, fd: int) -> None:
        pass

    def fsync_dir(self, path: Path) -> None:
        pass


class FaultyDisk(UnsyncedDisk):
    """Also knows what a power cut would take: bytes and names that were not synced."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self._fault = fault
        self._names: dict[int, Path] = {}
        self._unsynced: set[Path] = set()
        self._unnamed: set[Path] = set()

    def cut_power(self) -> None:
        for path in self._unsynced:
            if path.exists():
                os.truncate(path, path.stat().st_size // 2)
        for path in self._unnamed:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _run(self, operation: str, act: Any) -> Any:
        strikes = self._fault.strikes(f"disk {operation}")
        kind = self._fault.kind
        if not strikes:
            return act()
        if kind is Kind.DIES_BEFORE:
            raise Killed(operation)
        if kind in (Kind.FAILS, Kind.NO_ROOM):
            code = errno.ENOSPC if kind is Kind.NO_ROOM else errno.EIO
            raise OSError(code, os.strerror(code), operation)
        act()
        if kind is Kind.DIES_AFTER:
            raise Killed(operation)
        raise OSError(errno.EIO, "answer lost", operation)

    def create(self, path: Path) -> int:
        def act() -> int:
            fd = Disk.create(self, path)
            self._names[fd] = path
            self._unnamed.add(path)
            return fd

        if self._fault.kind is Kind.ANSWER_LOST:
            return act()  # the answer of an open cannot be lost
        return int(self._run("create", act))

    def write(self, fd: int, data: bytes) -> None:
        if fd in self._names:
            self._unsynced.add(self._names[fd])
        self._run("write", lambda: Disk.write(self, fd, data))

    def fsync(self, fd: int) -> None:
        def act() -> None:
            self._unsynced.discard(self._names[fd])

        self._run("fsync", act)

    def close(self, fd: int) -> None:
        self._names.pop(fd, None)
        Disk.close(self, fd)

    def rename(self, source: Path, target: Path) -> None:
        def act() -> None:
            if not target.exists():
                self._unnamed.add(target)
            Disk.rename(self, source, target)
            self._unnamed.discard(source)
            if source in self._unsynced:
                self._unsynced.remove(source)
                self._unsynced.add(target)

        self._run("rename", act)

    def link(self, source: Path, target: Path) -> None:
        self._run("link", lambda: Disk.link(self, source, target))

    def unlink(self, path: Path) -> None:
        self._run("unlink", lambda: Disk.unlink(self, path))

    def mkdir(self, path: Path) -> None:
        def act() -> None:
            Disk.mkdir(self, path)
            self._unnamed.add(path)

        self._run("mkdir", act)

    def fsync_dir(self, path: Path) -> None:
        def act() -> None:
            self._unnamed = {name for name in self._unnamed if name.parent != path}

        self._run("fsync_dir", act)

    def read(self, path: Path) -> bytes:
        data: bytes = self._run("read", lambda: Disk.read(self, path))
        return data


class FaultyCalls:
    """Any contract of the database: its coroutines fail; ``writes`` may also lose their answer."""

    def __init__(self, inner: Any, fault: Fault, writes: Sequence[str]) -> None:
        self._inner = inner
        self._fault = fault
        self._writes = set(writes)  # what commits: it may have happened when the answer is lost

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*args: Any, **options: Any) -> Any:
            if not self._fault.strikes(f"database {name}"):
                return await method(*args, **options)
            kind = self._fault.kind
            if kind is Kind.DIES_BEFORE:
                raise Killed(name)
            if kind is Kind.DIES_AFTER:
                await method(*args, **options)
                raise Killed(name)
            if kind is Kind.ANSWER_LOST and name in self._writes:
                await method(*args, **options)
                raise CommitUnknown(f"{name}: connection lost during COMMIT")
            raise Unavailable(f"{name}: database away")

        return call


class FaultyBlobs:
    """A BlobStore whose answers may be lost."""

    def __init__(self, inner: BlobStore, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    async def _call(self, name: str, act: Any) -> Any:
        if not self._fault.strikes(f"object {name}"):
            return await act()
        kind = self._fault.kind
        if kind is Kind.DIES_BEFORE:
            raise Killed(name)
        if kind in (Kind.ANSWER_LOST, Kind.DIES_AFTER):
            await act()
        if kind is Kind.DIES_AFTER:
            raise Killed(name)
        raise Unavailable(f"object store away: {name}")

    async def put(self, key: str, frames: Sequence[bytes]) -> None:
        await self._call("put", lambda: self._inner.put(key, frames))

    async def put_many(
        self, objects: Mapping[str, Sequence[bytes]], slots: asyncio.Semaphore
    ) -> dict[str, int | StorageError]:
        done: dict[str, int | StorageError]
        try:
            done = await self._call("put_many", lambda: self._inner.put_many(objects, slots))
        except Unavailable as error:
            done = dict.fromkeys(objects, error)
        return done

    async def get(self, key: str) -> bytes:
        data: bytes = await self._call("get", lambda: self._inner.get(key))
        return data

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        if self._fault.strikes("object stream"):
            raise Killed("stream") if self._fault.kind in LETHAL else Unavailable("object store away")
        async for piece in self._inner.stream(key):
            yield piece

    async def head(self, key: str) -> BlobInfo | None:
        info: BlobInfo | None = await self._call("head", lambda: self._inner.head(key))
        return info

    async def delete(self, keys: Sequence[str]) -> None:
        await self._call("delete", lambda: self._inner.delete(keys))

    def list(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        return self._inner.list(prefix)
