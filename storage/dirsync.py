"""Group commit of directories: threads that change the same directory share one fsync of it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from .objects.disk import Disk


class _Round:
    """One fsync, and everybody who waits for it."""

    def __init__(self) -> None:
        self.is_begun = False
        self.done = threading.Event()
        self.error: OSError | None = None


class DirectorySync:
    """``sync`` returns once an fsync that *began after the call* has ended, whoever ran it.

    A change made before the call is then durable: an fsync that was already under way might have missed it,
    so its result is not taken. All methods block.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._waiting: dict[Path, _Round] = {}  # the round that has not begun
        self._gates: dict[Path, threading.Lock] = {}  # one fsync of a directory at a time

    def sync(self, directories: Iterable[Path]) -> None:
        """Raises OSError."""
        for directory in directories:
            self._sync(directory)

    def _sync(self, directory: Path) -> None:
        with self._lock:
            gate = self._gates.setdefault(directory, threading.Lock())
            joined = self._waiting.setdefault(directory, _Round())
        with gate:
            if not joined.is_begun:
                self._run(directory, joined)
        joined.done.wait()
        if joined.error is not None:
            raise OSError(joined.error.errno, joined.error.strerror, str(directory)) from joined.error

    def _run(self, directory: Path, mine: _Round) -> None:
        with self._lock:
            mine.is_begun = True
            del self._waiting[directory]
        try:
            self._disk.fsync_dir(directory)
        except OSError as error:
            mine.error = error
        finally:
            mine.done.set()
