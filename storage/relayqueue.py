"""The relay queue on disk, as the one process sees it that empties it.

Theory: a message is one file and is in exactly one state, which is the directory it lies in; every step is a
rename, made durable before the next one begins. What the remote said of each recipient is appended to the
file and synced before the file moves, so a crash at any point leaves a file that says all that is known:

* before the record is durable, the attempt is made again: the only repeats are of what the remote was just
  being handed when the process died;
* after it, only recipients that are still open are tried again.

At the start whatever lies in ``processing`` goes back to ``pending``. Nothing else is read then: memory and
the time of a start do not depend on the length of the queue (``relaywindow``).

Invariant: one process at a time, kept by a lock on ``lock``; others only add (``relayspool``). All methods
block and may be called from several threads, for one message from one at a time.

What has no name of a message, or is no file, is not ours: it stays where it is, and each sweep names what
it has not named before (``relaylayout``).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import Corrupt, NotFound, Unavailable
from .objects.disk import place, storage_error
from .relayfile import Record, RelayMessage, encode_record, read_body, read_message
from .relaylayout import FAILED, PENDING, PROCESSING, STATES, find_strays, is_id, is_message, is_temporary
from .relayroom import RelayLimits
from .relayspool import RelaySpool, SpoolDisk

log = logging.getLogger("sora.relay")

LOCK_FILE: Final = "lock"
OWNER_FILE: Final = "owner"
STALE_TEMPORARY_S: Final = 3600.0  # a submission takes seconds
TIME_GRAIN_S: Final = 0.001  # file times and our clock are rounded differently


class SpoolTaken(Exception):
    """Another process has the queue; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Depths:
    """Messages by state, and since when the one has been due that waits longest (0.0: none is due)."""

    pending: int
    processing: int
    failed: int
    overdue_s: float


class RelayQueue(RelaySpool):
    """``owner``: the name of the node, for who finds the directory when the node is gone."""

    def __init__(
        self,
        root: Path,
        clock: Callable[[], float],
        disk: SpoolDisk | None = None,
        owner: str = "",
        limits: RelayLimits = RelayLimits(),  # noqa: B008  # immutable
    ) -> None:
        super().__init__(root, clock, disk, limits)
        self._owner = owner
        self._lock_fd = -1
        self._told: frozenset[str] = frozenset()  # strays that the log has named

    # --- life ---

    def open(self) -> int:
        """Take the queue over and recover it: how many messages a crash had left in the middle.

        Raises SpoolTaken, Unavailable, StagingFull.
        """
        self.make_directories()
        try:
            self._lock_fd = lock_spool(self.root)
            place(self._disk, self.root / OWNER_FILE, [self._owner.encode()])
            return self.recover()
        except OSError as error:
            self.close()
            raise storage_error(error, f"opening the relay queue {self.root}") from error

    def close(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For an operator whose node is stopped: it cannot start meanwhile.

        Raises NotFound: no node had a queue here; SpoolTaken; Unavailable, StagingFull.
        """
        if not (self.root / LOCK_FILE).exists():  # made here, it might be closed to the node's user
            raise NotFound(f"{self.root} is no relay queue: it has no file {LOCK_FILE}")
        try:
            fd = lock_spool(self.root)
        except OSError as error:
            raise storage_error(error, f"holding the relay queue {self.root}") from error
        try:
            self.recover()
            yield
        finally:
            os.close(fd)

    def recover(self, busy: Collection[str] = ()) -> int:
        """Back to pending with what lies in processing and nobody is busy with; how many.

        Raises Unavailable, StagingFull.
        """
        left = [name for name, _ in self._scan(PROCESSING) if name not in busy]
        self.release(left)
        return len(left)

    # --- looking ---

    def entries(self, longest_s: float = math.inf) -> Iterator[tuple[float, str]]:
        """Due time and id of everything pending, unordered. ``longest_s`` as in ``take``. Raises
        Unavailable."""
        now = self._clock()
        for name, due_at in self._scan(PENDING):
            yield min(due_at, now) if due_at > now + longest_s else due_at, name

    def ids(self, state: str) -> list[str]:
        """O(messages)."""
        return [name for _, name in sorted((at, name) for name, at in self._scan(state))]

    def depths(self) -> Depths:
        """Looks at every name: some 5 us a message."""
        counts, now, first = dict.fromkeys(STATES, 0), self._clock(), None
        for state in STATES:
            for _, due_at in self._scan(state):
                counts[state] += 1
                if state == PENDING and (first is None or due_at < first):
                    first = due_at
        overdue_s = max(0.0, now - first) if first is not None else 0.0
        return Depths(counts[PENDING], counts[PROCESSING], counts[FAILED], overdue_s)

    def look(self, message_id: str) -> tuple[str, float, RelayMessage]:
        """State, due time (of failed: since when) and what is known. Raises NotFound, Corrupt,
        Unavailable."""
        for _ in range(2):  # it may be moved while we look
            state = self.state_of(_checked(message_id))
            if state is None:
                break
            with contextlib.suppress(NotFound):
                path = self.place_of(state, message_id)
                message = self._read(path)
                return state, path.stat().st_mtime, message
        raise NotFound(f"no message {message_id} in the relay queue")

    def body(self, message: RelayMessage, state: str = PROCESSING, limit_bytes: int | None = None) -> bytes:
        """The message, or its beginning. Raises NotFound, Corrupt, Unavailable."""
        with self._open_to_read(self.place_of(state, message.id)) as fd:
            return read_body(fd, message, limit_bytes)

    # --- the way of a message ---

    def take(self, ids: Iterable[str], longest_s: float = math.inf) -> list[RelayMessage]:
        """Move what is due of these from pending to processing; what is not there, not due, or cannot be read
        now, is left out. ``longest_s``: nothing is put off for longer, so what is due later than that was put
        off by a clock that has been set back since, and is due.

        Raises Unavailable (also where nothing can be read), with messages possibly in processing that
        ``recover`` brings back.
        """
        now = self._clock()
        taken = [each for each in ids if self._take(each, now, longest_s)]
        if not taken:
            return []
        self._sync_both(PENDING, PROCESSING)
        messages: list[RelayMessage] = []
        unreadable: Unavailable | None = None
        for each in taken:
            try:
                messages.append(self._read(self.place_of(PROCESSING, each)))
            except Corrupt as error:
                log.error("%s is damaged and set aside with the failed: %s", each, error)
                self.bury(each)
            except NotFound:
                log.warning("%s has vanished from the queue", each)
            except Unavailable as error:
                log.error("%s cannot be read and waits in processing: %s", each, error)
                unreadable = error
        if unreadable is not None and not messages:
            raise unreadable
        return messages

    def record(self, message: RelayMessage, record: Record) -> None:
        """Append to the file and to ``message``; durable when it returns. Raises Unavailable, StagingFull.

        After an error it may be called again: a torn end of the file is cut off first.
        """
        raw = encode_record(record)
        path = self.place_of(PROCESSING, message.id)
        try:
            fd = self._disk.open_append(path)
            try:
                self._disk.truncate(fd, message.tail_at)
                os.lseek(fd, message.tail_at, os.SEEK_SET)
                self._disk.write(fd, raw)
                self._disk.fsync(fd)
            finally:
                self._disk.close(fd)
        except OSError as error:
            raise storage_error(error, "recording what became of relayed mail") from error
        message.tail_at += len(raw)
        message.progress.fold(record)

    def release(self, ids: Collection[str]) -> None:
        """Back to pending untried, due as before; what is not in processing any more is left out.

        Raises Unavailable.
        """
        if not ids:
            return
        try:
            for each in ids:
                with contextlib.suppress(FileNotFoundError):  # an operator was faster
                    self._disk.rename(self.place_of(PROCESSING, each), self.place_of(PENDING, each))
        except OSError as error:
            raise storage_error(error, "releasing mail of the relay queue") from error
        self._sync_both(PENDING, PROCESSING)

    def finish(self, message_id: str) -> None:
        """It is done with: remove it from processing. Idempotent. Raises Unavailable."""
        self._remove(PROCESSING, message_id)

    def postpone(self, message_id: str, due_at: float) -> None:
        """Back to pending. Idempotent. Raises Unavailable."""
        self._move(message_id, PROCESSING, PENDING, due_at)

    def bury(self, message_id: str) -> None:
        """To the failed, where it stays for a while. Idempotent. Raises Unavailable."""
        self._move(message_id, PROCESSING, FAILED, self._clock())

    # --- operators ---

    def retry(self, message_id: str) -> None:
        """Due at once, with all its attempts before it; recipients that took it stay out.

        Raises NotFound, Corrupt, Unavailable.
        """
        state, _, message = self.look(message_id)
        if state == FAILED:
            self._move(message_id, FAILED, PROCESSING, self._clock())
            self.record(message, Record(self._clock(), is_reset=True))
            self.postpone(message_id, self._clock())
        elif state == PENDING and not message.unreleased:  # whether that goes, its release says
            try:
                self._disk.set_due(self.place_of(PENDING, message_id), self._clock())
            except OSError as error:
                raise storage_error(error, "making mail due") from error

    def delete(self, message_id: str) -> None:
        """Nobody is told. Raises NotFound; Unavailable while it is being delivered."""
        state = self.state_of(_checked(message_id))
        if state == PROCESSING:
            raise Unavailable("the message is being delivered now")
        if state is None or not self._remove(state, message_id):
            raise NotFound(f"no message {message_id} in the relay queue")

    def sweep(self, retention_s: float) -> int:
        """Remove failed messages older than that (0: none), and what broken submissions left; how many
        messages. Names strays in the log. Raises Unavailable."""
        now, removed = self._clock(), 0
        if retention_s:
            old = [name for name, at in self._scan(FAILED) if now - at > retention_s]
            for name in old:
                removed += self._remove(FAILED, name)
        self._remove_temporaries(now)
        self._tell_of_strays()
        return removed

    # --- files ---

    def _scan(self, state: str) -> Iterator[tuple[str, float]]:
        try:
            with os.scandir(self.root / state) as found:
                for entry in found:
                    if not is_message(entry):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.name, entry.stat(follow_symlinks=False).st_mtime
        except OSError as error:
            raise storage_error(error, f"reading the relay queue ({state})") from error

    def _remove_temporaries(self, now: float) -> None:
        try:
            with os.scandir(self.root / PENDING) as found:  # one at a time: Path.glob has all of them at once
                for entry in found:
                    if is_temporary(entry):
                        with contextlib.suppress(FileNotFoundError):
                            if now - entry.stat(follow_symlinks=False).st_mtime > STALE_TEMPORARY_S:
                                self._disk.unlink(Path(entry.path))
        except OSError as error:
            raise storage_error(error, "removing what broken submissions left") from error

    def _tell_of_strays(self) -> None:
        strays = find_strays(self.root)
        news = [path for path in strays.paths if path not in self._told]
        self._told = frozenset(strays.paths)
        for path in news:
            log.warning(
                "%s in the relay queue %s is no message of it and left alone: move it away. A message whose"
                " file was renamed goes when it has its name again, the id in its first line",
                path,
                self.root,
            )
        if news and strays.count > len(strays.paths):
            log.warning("%d more lie there that are no messages", strays.count - len(strays.paths))

    def _take(self, message_id: str, now: float, longest_s: float) -> bool:
        source = self.place_of(PENDING, message_id)
        try:
            target = self.place_of(PROCESSING, message_id)
            # it was taken before, and has been postponed; or a key was used twice at the same instant
            if TIME_GRAIN_S < source.stat().st_mtime - now <= longest_s or target.exists():
                return False
            self._disk.rename(source, target)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, "taking mail from the relay queue") from error
        return True

    def _move(self, message_id: str, source: str, target: str, due_at: float) -> None:
        here, there = self.place_of(source, message_id), self.place_of(target, message_id)
        try:
            try:
                self._disk.set_due(here, due_at)
                self._disk.rename(here, there)
            except FileNotFoundError:
                if not there.exists():
                    raise
            self._sync.sync([self.root / target, self.root / source])
        except OSError as error:
            raise storage_error(error, f"moving mail from {source} to {target}") from error

    def _remove(self, state: str, message_id: str) -> bool:
        try:
            self._disk.unlink(self.place_of(state, message_id))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, "removing mail from the relay queue") from error
        finally:
            self._sync_both(state)
        return True

    def _sync_both(self, *states: str) -> None:
        try:
            self._sync.sync([self.root / state for state in states])
        except OSError as error:
            raise storage_error(error, "syncing the relay queue") from error

    def _read(self, path: Path) -> RelayMessage:
        with self._open_to_read(path) as fd:
            message = read_message(fd)
        if message.id != path.name:
            raise Corrupt(f"the relay file {path.name} says it is {message.id}")
        return message

    @contextlib.contextmanager
    def _open_to_read(self, path: Path) -> Iterator[int]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)
        except OSError as error:
            raise storage_error(error, "reading queued mail") from error


def _checked(message_id: str) -> str:
    """An id comes from an operator and becomes a file name. Raises NotFound."""
    if not is_id(message_id):
        raise NotFound(f"{message_id!r} is no id of the relay queue")
    return message_id


def lock_spool(root: Path) -> int:
    """The descriptor that holds the lock. Raises SpoolTaken, OSError."""
    fd = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise SpoolTaken(
            f"another process uses the relay queue {root}: a queue belongs to one node"
        ) from error
    except OSError:
        os.close(fd)
        raise
    return fd
