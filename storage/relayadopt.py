"""Takes over the messages of a spool whose node is gone.

Three steps a message, so that a crash neither loses nor doubles it, whatever file systems the two spools
are on: copy it to ``adopting`` (durable), remove it from the old spool (durable), move it to ``pending`` or
``failed``. What lies in ``adopting`` is not relayed; adopting the same directory again finishes what was
begun. Who adopts for another user (an operator as root, for a node that is stopped) gives the files to that
user.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import NotFound, NotPermitted
from .objects.disk import make_dirs, storage_error
from .relaylayout import ADOPTING, FAILED, PENDING, PROCESSING, is_copy, is_message
from .relayqueue import RelayQueue, lock_spool
from .relayspool import SpoolDisk

log = logging.getLogger("sora.relay")

# Where a message goes: what was being relayed when the node died is tried again.
_GOES_TO: Final = {PENDING: PENDING, PROCESSING: PENDING, FAILED: FAILED}


@dataclass(frozen=True, slots=True)
class Adopted:
    pending: int
    failed: int


class Adoption:
    """Of the spool at ``source`` by ``queue``. Blocks."""

    def __init__(self, queue: RelayQueue, source: Path, disk: SpoolDisk | None = None) -> None:
        self._queue = queue
        self._source = source
        self._disk = disk or SpoolDisk()
        self._ours = queue.root / ADOPTING
        self._counts = {PENDING: 0, FAILED: 0}

    def run(self) -> Adopted:
        """Raises NotFound: no spool; NotPermitted: our own; SpoolTaken: its node runs; Unavailable."""
        source = self._source
        if not (source / PENDING).is_dir():
            raise NotFound(f"{source} is no relay queue: it has no directory {PENDING}")
        if source.samefile(self._queue.root):
            raise NotPermitted(f"{source} is this node's own relay queue")
        try:
            lock = lock_spool(source)
            try:
                self._run()
            finally:
                os.close(lock)
        except OSError as error:
            raise storage_error(error, f"adopting {source}") from error
        return Adopted(self._counts[PENDING], self._counts[FAILED])

    def _run(self) -> None:
        make_dirs(self._disk, self._ours)
        self._give_away(self._ours)
        self._finish_interrupted()
        for state in _GOES_TO:
            directory = self._source / state
            if not directory.is_dir():
                continue
            with os.scandir(directory) as entries:
                found = [Path(entry.path) for entry in entries if is_message(entry)]
            for path in found:
                self._adopt(path, _GOES_TO[state])

    def _finish_interrupted(self) -> None:
        """Copies whose original is gone are the only ones left; others are made anew."""
        for copy in _copies(self._ours):
            target, _, name = copy.name.partition(".")
            if any((self._source / each / name).exists() for each in _GOES_TO):
                self._disk.unlink(copy)
            else:
                self._promote(copy, target, name)

    def _adopt(self, path: Path, target: str) -> None:
        if self._queue.state_of(path.name) is not None:
            log.warning("%s is in this queue already and stays in %s", path.name, path.parent)
            return
        copy = self._ours / f"{target}.{path.name}"
        self._copy(path, copy)
        self._disk.unlink(path)
        self._disk.fsync_dir(path.parent)
        self._promote(copy, target, path.name)

    def _copy(self, path: Path, copy: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(copy)
        fd = self._disk.create(copy)
        try:
            with path.open("rb") as file, os.fdopen(os.dup(fd), "wb") as out:
                shutil.copyfileobj(file, out, 1024 * 1024)
            self._give_away(copy)
            self._disk.set_due(copy, path.stat().st_mtime)
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)
        self._disk.fsync_dir(self._ours)

    def _give_away(self, path: Path) -> None:
        """To the user of the queue."""
        user = self._queue.root.stat()
        if user.st_uid != os.geteuid():
            os.chown(path, user.st_uid, user.st_gid)

    def _promote(self, copy: Path, target: str, name: str) -> None:
        self._disk.rename(copy, self._queue.place_of(target, name))
        self._disk.fsync_dir(self._queue.root / target)
        self._disk.fsync_dir(self._ours)
        self._counts[target] += 1


def interrupted(queue: RelayQueue) -> int:
    """Messages of an adoption that was not finished; run it again for them."""
    try:
        return len(_copies(queue.root / ADOPTING))
    except FileNotFoundError:
        return 0


def _copies(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        return [Path(entry.path) for entry in entries if is_copy(entry)]
