"""A bounded local cache of encoded bodies: a directory of files named by content hash.

Invariants: the files never add up to more than the capacity, also while a body is being added and with
several processes on one directory; the sum is kept in the lock file and every change to it happens under
the lock. What a crash leaves behind (a reservation without its file, a temporary file) is put right by the
scan at the next start. Nothing here is precious: files are not fsynced, a torn one is found by the codec
and dropped, and an error of the disk is a miss, never an error of the reader.

Recency is kept in memory, least recently used first, and across restarts by the files' modification time.
Each process evicts from what it knows; files of others it learns of when it has nothing left to evict.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.model import ContentHash

from .disk import TEMPORARY_SUFFIX, Descriptor, Disk, place, remove, temporary_name

log = logging.getLogger("sora.cache")

TOUCH_EVERY_S = 3600.0  # recency on disk need not be finer: it only matters after a restart
STALE_TEMPORARY_S = 3600.0
_TOTAL = struct.Struct(">q")


@dataclass(slots=True)
class CacheCounters:
    hits: int = 0
    misses: int = 0
    added: int = 0
    evicted: int = 0
    dropped: int = 0  # damaged
    errors: int = 0  # of the disk


class BodyCache:
    """All methods block for a file operation or two; ``open``, ``put`` and ``adopt`` belong in a thread."""

    def __init__(
        self,
        root: Path,
        capacity_bytes: int,
        max_object_bytes: int,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root
        self.capacity_bytes = capacity_bytes
        self.max_object_bytes = min(max_object_bytes, capacity_bytes)
        self.counters = CacheCounters()
        self._disk = disk or Disk()
        self._clock = clock
        self._recent: OrderedDict[bytes, float] = OrderedDict()  # hash to time of the last touch
        self._mutex = threading.Lock()
        self._lock_fd = -1

    # --- life ---

    def open(self) -> None:
        """Take stock of the directory: about 1 s for 200,000 files. Raises OSError."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with self._locked():
            self._scan()
            self._make_room(0)

    def close(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def sweep(self, idle_s: float) -> int:
        """Compare the books with the directory, and drop what was not read for ``idle_s``; how many."""
        with self._locked():
            self._scan()
            before = self._clock() - idle_s
            idle = [digest for digest, touched in self._recent.items() if touched < before]
            return sum(self._unlink(ContentHash(digest)) for digest in idle)

    @property
    def used_bytes(self) -> int:
        """As of now, of all processes."""
        data = os.pread(self._lock_fd, _TOTAL.size, 0)
        return int(_TOTAL.unpack(data)[0]) if len(data) == _TOTAL.size else 0

    # --- reading ---

    def get(self, content_hash: ContentHash) -> bytes | None:
        """The encoded body as it is on disk: unchecked, decoding tells."""
        try:
            data = self._disk.read(self._path(content_hash))
        except FileNotFoundError:
            self.counters.misses += 1
            self._recent.pop(content_hash, None)
            return None
        except OSError as error:
            self._note(error)
            return None
        self._touch(content_hash)
        return data

    def open_file(self, content_hash: ContentHash) -> Descriptor | None:
        """For reading; it outlives the eviction of the file."""
        try:
            file = Descriptor(os.open(self._path(content_hash), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            self.counters.misses += 1
            return None
        except OSError as error:
            self._note(error)
            return None
        self._touch(content_hash)
        return file

    def __contains__(self, content_hash: ContentHash) -> bool:
        return self._path(content_hash).exists()

    def size_bytes(self, content_hash: ContentHash) -> int:
        """Of the encoded body; 0 when it is not here."""
        try:
            return os.stat(self._path(content_hash)).st_size
        except OSError:
            return 0

    # --- writing ---

    def put(self, content_hash: ContentHash, frames: Sequence[bytes]) -> bool:
        """Whether the body is in the cache now."""
        size = sum(map(len, frames))
        return self._add(content_hash, size, lambda path: place(self._disk, path, frames, durable=False))

    def adopt(self, content_hash: ContentHash, file: Path) -> bool:
        """Take over a file of this cache's ``temporary``; False: it was not taken and is still there."""
        size = file.stat().st_size

        def move(path: Path) -> None:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._disk.rename(file, path)

        return self._add(content_hash, size, move)

    def temporary(self, content_hash: ContentHash) -> Path:
        """Where to write a body that may be adopted."""
        return temporary_name(self.root / content_hash.hex())

    def drop(self, content_hash: ContentHash) -> None:
        """The file is damaged."""
        self.counters.dropped += 1
        with self._locked():
            self._unlink(content_hash)

    def _add(self, content_hash: ContentHash, size: int, write: Callable[[Path], None]) -> bool:
        if size > self.max_object_bytes:
            return False
        path = self._path(content_hash)
        with self._locked():
            if path.exists():
                return True
            if not self._make_room(size):
                return False
            self._set_used(self.used_bytes + size)
            try:
                write(path)
            except OSError as error:
                self._set_used(self.used_bytes - size)
                self._note(error)
                return False
        self._recent[content_hash] = self._clock()
        self.counters.added += 1
        return True

    # --- under the lock ---

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _set_used(self, total: int) -> None:
        os.pwrite(self._lock_fd, _TOTAL.pack(max(0, total)), 0)

    def _make_room(self, size: int) -> bool:
        has_scanned = False
        while self.used_bytes + size > self.capacity_bytes:
            if not self._recent:
                if has_scanned:
                    return False
                self._scan()
                has_scanned = True
                continue
            try:
                oldest, _ = self._recent.popitem(last=False)
            except KeyError:  # a reader on another thread has its hand on the only entry
                continue
            if self._unlink(ContentHash(oldest)):
                self.counters.evicted += 1
        return True

    def _unlink(self, content_hash: ContentHash) -> bool:
        """Exactly one process succeeds, and that one takes the bytes off the sum."""
        path = self._path(content_hash)
        self._recent.pop(content_hash, None)
        try:
            size = path.stat().st_size
            if not remove(self._disk, path):
                return False
        except FileNotFoundError:
            return False
        except OSError as error:
            self._note(error)
            return False
        self._set_used(self.used_bytes - size)
        return True

    def _scan(self) -> None:
        """Rebuild sum and recency from the directory."""
        found: list[tuple[float, bytes]] = []
        total = 0
        for entry in self._entries():
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            if entry.name.endswith(TEMPORARY_SUFFIX):
                self._disk.unlink(Path(entry.path))  # writers have the lock, so its writer is dead
            elif digest := _hash_of(entry.name):
                found.append((stat.st_mtime, digest))
                total += stat.st_size
        self._recent = OrderedDict((digest, touched) for touched, digest in sorted(found))
        self._set_used(total)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        for entry in os.scandir(self.root):
            if entry.is_dir(follow_symlinks=False):
                yield from os.scandir(entry.path)
            elif entry.name.endswith(TEMPORARY_SUFFIX):
                self._drop_stale(entry)

    def _drop_stale(self, entry: os.DirEntry[str]) -> None:
        """A body that is being fetched is written without the lock, so age tells."""
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_mtime < self._clock() - STALE_TEMPORARY_S:
                self._disk.unlink(Path(entry.path))

    # --- small ---

    def _touch(self, content_hash: ContentHash) -> None:
        self.counters.hits += 1
        now = self._clock()
        touched = self._recent.pop(content_hash, 0.0)
        if now - touched > TOUCH_EVERY_S:
            touched = now
            with contextlib.suppress(OSError):
                os.utime(self._path(content_hash), (now, now))
        self._recent[content_hash] = touched

    def _path(self, content_hash: ContentHash) -> Path:
        name = content_hash.hex()
        return self.root / name[:2] / name

    def _note(self, error: OSError) -> None:
        self.counters.errors += 1
        log.warning("cache %s: %s", self.root, error)


def _hash_of(name: str) -> bytes | None:
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return digest if len(digest) == 32 else None
