"""How much the relay queue may hold: messages, bytes, and what must stay free on its disk.

Counting reads the whole directory, so it is done now and then, in the thread of a submission; between two
counts each process adds what it has put in itself. The bounds are therefore kept to within what the other
processes of the node queue in that time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import NotFound, StagingFull, StorageError, Unavailable
from .objects.disk import storage_error
from .relaylayout import FAILED, STATES, is_message, is_temporary

COUNT_EVERY_S: Final = 10.0
COUNT_SHARE: Final = 0.02  # of the time, at most: a long queue is counted less often


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """0: no limit. ``max_messages`` are those on their way; ``max_bytes`` are of failed mail, too."""

    max_messages: int = 0
    max_bytes: int = 0
    min_free_bytes: int = 0


@dataclass(slots=True)
class Level:
    messages: int = 0
    bytes: int = 0


class RelayRoom:
    """Of the queue at ``root``. ``clock``: monotonic seconds. May be used from several threads, and
    ``limits`` may be set anew at any time."""

    def __init__(
        self,
        root: Path,
        limits: RelayLimits,
        clock: Callable[[], float] = time.monotonic,
        statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
    ) -> None:
        self.limits = limits
        self.level = Level()
        self._root = root
        self._clock = clock
        self._statvfs = statvfs
        self._count_at = float("-inf")
        self._lock = threading.Lock()

    def admit(self, size_bytes: int) -> None:
        """For one message. Raises StagingFull; Unavailable: the directory cannot be read."""
        if self._must_count():
            self.count()
        limits, level = self.limits, self.level
        with self._lock:
            if limits.max_messages and level.messages + 1 > limits.max_messages:
                raise StagingFull(f"the relay queue holds its limit of {limits.max_messages} messages")
            if limits.max_bytes and level.bytes + size_bytes > limits.max_bytes:
                raise StagingFull(f"the relay queue has {level.bytes} bytes, the limit is {limits.max_bytes}")
            self._check_disk(size_bytes)
            level.messages += 1
            level.bytes += size_bytes

    def count(self) -> None:
        """The level as it is. Some 3 us a message. Raises Unavailable."""
        began, before = self._clock(), Level(self.level.messages, self.level.bytes)
        found = self._found()
        took_s = self._clock() - began
        with self._lock:
            self._count_at = began + max(COUNT_EVERY_S, took_s / COUNT_SHARE)
            # what was admitted meanwhile may not have been seen
            found.messages += max(0, self.level.messages - before.messages)
            found.bytes += max(0, self.level.bytes - before.bytes)
            self.level = found

    def fill_ratio(self) -> float:
        """Of the limit that is nearest, by the last count: 1.0 is full."""
        limits, level = self.limits, self.level
        return max(
            level.messages / limits.max_messages if limits.max_messages else 0.0,
            level.bytes / limits.max_bytes if limits.max_bytes else 0.0,
        )

    def _must_count(self) -> bool:
        if not self.limits.max_messages and not self.limits.max_bytes:
            return False
        with self._lock:
            now = self._clock()
            if now < self._count_at:
                return False
            self._count_at = now + COUNT_EVERY_S  # one thread does it; the others go by the last count
            return True

    def _check_disk(self, size_bytes: int) -> None:
        if not self.limits.min_free_bytes:
            return
        try:
            disk = self._statvfs(self._root)
        except OSError as error:
            raise spool_error(error, f"asking for the room of {self._root}") from error
        free = disk.f_bavail * disk.f_frsize
        if free - size_bytes < self.limits.min_free_bytes:
            raise StagingFull(
                f"{free} bytes are free below {self._root}, {self.limits.min_free_bytes} must stay so"
            )

    def _found(self) -> Level:
        level = Level()
        try:
            for state in STATES:
                with os.scandir(self._root / state) as entries:
                    for entry in entries:
                        if is_message(entry):
                            level.messages += state != FAILED
                        elif not is_temporary(entry):
                            continue
                        level.bytes += _size(entry)
        except OSError as error:
            raise spool_error(error, f"counting the relay queue {self._root}") from error
        return level


def spool_error(error: OSError, doing: str) -> StorageError:
    """A spool whose directories are gone (its disk is not mounted?) is away, not a message that is absent."""
    found = storage_error(error, doing)
    return Unavailable(str(found)) if isinstance(found, NotFound) else found


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # moved meanwhile
        return 0
