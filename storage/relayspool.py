"""The writing side of the relay queue: any process of a node puts messages in, one takes them out.

Layout: ``pending``, ``processing`` and ``failed`` below the spool, one file a message under its id in
exactly one of them. When it is due is the file's modification time, so the queue can be put in order
without opening anything; a copy that loses those times only makes mail due at once.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final

from .addresses import MAX_ADDRESS_CHARS
from .dirsync import DirectorySync
from .dsn import NO_REQUEST, DsnRequest
from .errors import InvalidName
from .objects.disk import TEMPORARY_SUFFIX, Disk, make_dirs, storage_error
from .relayfile import Hold, RelayEnvelope, encode_head, joined_size
from .relaylayout import PENDING, STATES
from .relayroom import RelayLimits, RelayRoom, spool_error

log = logging.getLogger("sora.relay")

MAX_RECIPIENTS: Final = 1_000
# What the queue refuses as full, it must still be able to report: a report takes the place of what failed
UNLIMITED_KIND: Final = "bounce"
# RFC 5321 §4.1.2 has none of these outside of quotes; with them a command could be made to say something else
_UNFIT: Final = re.compile(r"[\x00-\x20\x7f<>\ud800-\udfff]")


class SpoolDisk(Disk):
    """``Disk``, and the file times that say when a message is due."""

    def set_due(self, path: Path, due_at: float) -> None:
        os.utime(path, (due_at, due_at))

    def open_append(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)


def check_address(address: str) -> None:
    """Raises InvalidName."""
    if not address or _UNFIT.search(address) or len(address) > MAX_ADDRESS_CHARS:
        raise InvalidName(f"{address!r} cannot stand in an SMTP command")


class RelaySpool:
    """Puts messages into the queue at ``root``. ``clock``: seconds since 1970. All methods block."""

    def __init__(
        self,
        root: Path,
        clock: Callable[[], float],
        disk: SpoolDisk | None = None,
        limits: RelayLimits = RelayLimits(),  # noqa: B008  # immutable
    ) -> None:
        self.root = root
        self.room = RelayRoom(root, limits)
        self._clock = clock
        self._disk = disk or SpoolDisk()
        self._sync = DirectorySync(self._disk)

    def place_of(self, state: str, message_id: str) -> Path:
        return self.root / state / message_id

    def make_directories(self) -> None:
        """Raises Unavailable, StagingFull."""
        try:
            for state in STATES:
                make_dirs(self._disk, self.root / state)
        except OSError as error:
            raise storage_error(error, f"making {self.root}") from error

    def submit(
        self,
        sender: str,
        recipients: Sequence[str],
        message: bytes | Sequence[bytes],
        *,
        kind: str,
        account: int | None,
        key: bytes = b"",
        dsn: DsnRequest = NO_REQUEST,
        held_s: float = 0.0,
    ) -> str:
        """``protocols.ports.Outbox.submit``, blocking. Raises InvalidName, StagingFull, Unavailable."""
        if not 0 < len(recipients) <= MAX_RECIPIENTS:
            raise InvalidName(f"a message has 1 to {MAX_RECIPIENTS} recipients")
        for address in (*recipients, *([sender] if sender else [])):
            check_address(address)
        now = self._clock()
        hold = Hold(key, math.ceil(now + held_s)) if held_s else None
        message_id = self._id_of(key, now, is_held=hold is not None)
        if key and hold is None and self.state_of(message_id) is not None:
            return message_id
        pieces, size = joined_size(message)
        envelope = RelayEnvelope(message_id, sender, tuple(recipients), kind, account, now, size, dsn, hold)
        head = encode_head(envelope)
        if kind != UNLIMITED_KIND:
            self.room.admit(len(head) + size)
        first = head + pieces[0] if pieces else head
        self._put(message_id, chain([first], islice(pieces, 1, None)), hold.until if hold else now)
        return message_id

    def let_go(self, message_id: str) -> bool:
        """Due now, if it still waits; whether it does. Never raises StorageError: at the worst it is due when
        it was to be."""
        try:
            self._disk.set_due(self.place_of(PENDING, message_id), self._clock())
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("%s waits until its time, it cannot be made due: %s", message_id, error)
            return False
        return True

    def withdraw(self, message_id: str) -> None:
        """Remove what is held. Never raises StorageError: at the worst it stays until its time."""
        try:
            self._disk.unlink(self.place_of(PENDING, message_id))
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s stays until its time, it cannot be removed: %s", message_id, error)

    def state_of(self, message_id: str) -> str | None:
        """Where it is; None: it is not (any more)."""
        for state in (*STATES, *STATES):  # twice: it may have been moved past where we looked
            if self.place_of(state, message_id).is_file():
                return state
        return None

    @staticmethod
    def _id_of(key: bytes, now: float, *, is_held: bool) -> str:
        """Each attempt holds a copy of its own: which of them goes is settled by their names."""
        unique = secrets.token_hex(4)
        if not key:
            return f"{int(now * 1000):011x}-{unique}"
        name = f"k{hashlib.sha256(key).hexdigest()[:24]}"
        return f"{name}-{unique}" if is_held else name

    def _put(self, message_id: str, pieces: Iterable[bytes], due_at: float) -> None:
        target = self.place_of(PENDING, message_id)
        temporary = target.with_name(f".{message_id}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
        try:
            self._write(temporary, pieces, due_at)
            self._disk.rename(temporary, target)
            self._sync.sync([target.parent])
        except OSError as error:
            self._take_back(temporary, target)
            raise spool_error(error, "queueing mail") from error

    def _write(self, path: Path, pieces: Iterable[bytes], due_at: float) -> None:
        fd = self._disk.create(path)
        try:
            for piece in pieces:
                self._disk.write(fd, piece)
            self._disk.set_due(path, due_at)
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)

    def _take_back(self, *paths: Path) -> None:
        """The caller is told that nothing was taken, so nothing may be left."""
        for path in paths:
            try:
                self._disk.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.error("%s was refused to its sender and cannot be removed: %s", path.name, error)
