"""The change feed: a commit in one process reaches the sessions of every process of this host.

Within the process listeners are called at once. Between processes each one binds a datagram socket in a
shared directory and sends its changes to all other sockets found there: no broker, no start order, and a
process that died leaves a socket file which the next sender removes. Datagrams are hints. A full queue
drops one, and the views' periodic comparison of modseqs repairs that. A change that comes alone is told at
once; on a busy host what happens within EVERY_S goes together, since a packet wakes every process.

References: the port is ``protocols.ports.ChangeFeed``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.ports import SETTINGS, MailboxChanged
from protocols.settings import settings_changed
from storage.model import AccountId, MailboxId, ModSeq

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import Config

log = logging.getLogger("sora.feed")

_WIRE = struct.Struct("!QQQ")  # account, mailbox, modseq
MAX_CHANGES = 100  # in a packet
# Between two packets at least, unless one is full. News are to be in another process within 20 ms, of which
# the way takes 4 and more when the host is busy.
EVERY_S = 0.005
_RECEIVE_BUFFER_BYTES = 1 << 20  # some thousand hints
_DIRECTORY_TIME_GRAIN_NS = 100_000_000


def feed_directory(config: Config) -> Path:
    return Path(config.uploader.path) / "feed"


class LocalFeed:
    """Changes within one process."""

    def __init__(self) -> None:
        self._listeners: dict[MailboxId, list[Callable[[MailboxChanged], None]]] = {}

    def publish(self, change: MailboxChanged) -> None:
        self._dispatch(change)

    def subscribe(
        self, mailbox_id: MailboxId, listener: Callable[[MailboxChanged], None]
    ) -> Callable[[], None]:
        self._listeners.setdefault(mailbox_id, []).append(listener)

        def unsubscribe() -> None:
            listeners = self._listeners.get(mailbox_id, [])
            if listener in listeners:
                listeners.remove(listener)
            if not listeners:
                self._listeners.pop(mailbox_id, None)

        return unsubscribe

    def _dispatch(self, change: MailboxChanged) -> None:
        for listener in tuple(self._listeners.get(change.mailbox_id, ())):
            listener(change)


class HostFeed(LocalFeed):
    """Changes between all processes that share ``directory``.

    ``beyond`` is told of every change made on this host, for the other nodes; not of those that came in by
    ``publish_heard``.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.dropped = 0
        self.beyond: Callable[[MailboxChanged], None] = _nobody
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        # socket addresses are limited to 107 bytes; the descriptor stands for a directory however deep
        self._prefix = f"/proc/self/fd/{self._directory}"
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._socket.bind(f"{self._prefix}/{self._name}")
        self._unsent: list[bytes] = []
        self._sent_at = float("-inf")  # of the loop's clock
        self._peers: tuple[str, ...] = ()
        self._peers_seen_at = -1
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self._receive)

    def close(self) -> None:
        self._send_all()
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._remove(self._name)
        os.close(self._directory)

    def publish(self, change: MailboxChanged) -> None:
        self.publish_heard(change)
        self.beyond(change)

    def publish_heard(self, change: MailboxChanged) -> None:
        """What another node has committed and told."""
        self._dispatch(change)
        self._unsent.append(_WIRE.pack(change.account_id, change.mailbox_id, change.modseq))
        if self._loop is None or len(self._unsent) == MAX_CHANGES:
            self._send_all()
        elif change.mailbox_id == SETTINGS:  # what was changed is in force from now on
            self._loop.call_soon(self._send_all)
        elif len(self._unsent) == 1:
            self._loop.call_at(self._sent_at + EVERY_S, self._send_all)

    def _send_all(self) -> None:
        if self._unsent and self._socket.fileno() >= 0:
            packet = b"".join(self._unsent)
            self._unsent.clear()
            for name in self._others():
                self._send(name, packet)
            if self._loop is not None:
                self._sent_at = self._loop.time()

    def _others(self) -> tuple[str, ...]:
        changed_at = os.fstat(self._directory).st_mtime_ns
        if changed_at != self._peers_seen_at:
            # directory times are coarse: a listing is final only when the last change is long past
            is_settled = time.time_ns() - changed_at > _DIRECTORY_TIME_GRAIN_NS
            self._peers_seen_at = changed_at if is_settled else -1
            self._peers = tuple(name for name in os.listdir(self._directory) if name != self._name)
        return self._peers

    def _send(self, name: str, packet: bytes) -> None:
        try:
            self._socket.sendto(packet, f"{self._prefix}/{name}")
        except BlockingIOError:
            self.dropped += 1
        except (ConnectionRefusedError, FileNotFoundError):
            self._remove(name)  # its process is gone
            self._peers_seen_at = -1
        except OSError as error:
            self.dropped += 1
            log.warning("change not sent to process %s: %s", name, error)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)

    def _receive(self) -> None:
        while True:
            try:
                packet = self._socket.recv(MAX_CHANGES * _WIRE.size + 1)
            except BlockingIOError:
                return
            if len(packet) % _WIRE.size:
                log.warning("change of %d bytes ignored: sent by another version of Sora", len(packet))
                continue
            for account, mailbox, modseq in _WIRE.iter_unpack(packet):
                change = MailboxChanged(AccountId(account), MailboxId(mailbox), ModSeq(modseq))
                self._dispatch(change)
                self.beyond(change)


def announce(directory: Path, account_id: AccountId) -> None:
    """From a process beside the node, a command: tell its processes that settings of the account changed.

    Raises OSError where the node's directory is closed to this user."""
    if not directory.is_dir():
        return  # no node ran here
    feed = HostFeed(directory)
    try:
        feed.publish(settings_changed(account_id))
    finally:
        feed.close()


def _nobody(_change: MailboxChanged) -> None:
    """There are no other nodes."""
