"""Accepting connections from our own listening sockets, in batches."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger("sora.listeners")

Arrived = Callable[[socket.socket, Any], None]  # the connection, non-blocking, and its peer's address

BATCH: Final = 100  # then everybody else gets a turn
# Out of descriptors or memory: the backlog keeps for this long what cannot be taken now.
PAUSE_S: Final = 1.0
# Other processes accept from the same sockets: one that has more than its share leaves them this much time.
YIELD_S: Final = 0.01
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Hands every new connection of ``sockets`` to ``arrived``, which owns it from then on.

    A socket may stop to listen and listen again in another process's hands: it is asked again every second.
    """

    def __init__(self, sockets: list[socket.socket], arrived: Arrived) -> None:
        self.sockets = sockets
        self._arrived = arrived
        self.yields = False  # to other processes that accept from the same sockets
        self._loop = asyncio.get_running_loop()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._is_accepting = False
        for sock in sockets:
            sock.setblocking(False)  # one that was inherited may not be
        self.resume()

    def pause(self) -> None:
        """Stop accepting, keep the sockets. Idempotent."""
        if not self._is_accepting:
            return
        self._is_accepting = False
        for sock in self.sockets:
            pause = self._pauses.pop(sock, None)
            if pause is not None:
                pause.cancel()
            else:
                self._loop.remove_reader(sock)

    def resume(self) -> None:
        """Idempotent."""
        if self._is_accepting:
            return
        self._is_accepting = True
        for sock in self.sockets:
            self._resume(sock)

    def close(self) -> None:
        """Stop accepting. Idempotent."""
        self.pause()
        for sock in self.sockets:
            sock.close()
        self.sockets = []

    def _resume(self, listening: socket.socket) -> None:
        self._pauses.pop(listening, None)
        self._loop.add_reader(listening, self._readable, listening)

    def _readable(self, listening: socket.socket) -> None:
        if self.yields:
            self._pause(listening, YIELD_S, self._resume_accepting)
        else:
            self._accept(listening)

    def _resume_accepting(self, listening: socket.socket) -> None:
        """What nobody else has taken meanwhile is ours."""
        self._resume(listening)
        self._accept(listening)

    def _pause(self, listening: socket.socket, seconds: float, then: Callable[[socket.socket], None]) -> None:
        self._loop.remove_reader(listening)
        self._pauses[listening] = self._loop.call_later(seconds, then, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it came and went
                continue
            except OSError as error:
                if error.errno == errno.EINVAL:  # it does not listen: the node drains
                    self._pause(listening, PAUSE_S, self._resume)
                    return
                if error.errno not in EXHAUSTED:
                    raise
                log.error("cannot accept connections: %s; trying again in %g s", error, PAUSE_S)
                self._pause(listening, PAUSE_S, self._resume)
                return
            sock.setblocking(False)
            self._arrived(sock, address)
