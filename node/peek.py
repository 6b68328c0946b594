"""Looking at the first bytes of a socket without taking them.

The kernel is told how many bytes are wanted (SO_RCVLOWAT), so a client that sends its first message one byte
at a time wakes nobody until it is there; with a level-triggered loop and no low-water mark it would keep a
processor busy.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")
FIRST_LOOK: Final = 2048  # bytes; most first messages are smaller


class PeerLeft(Exception):
    """The peer closed, or reset, before it had sent what was needed."""


async def peek(
    sock: socket.socket, read: Callable[[bytes], T | int], on_wakeup: Callable[[], None] = lambda: None
) -> T:
    """What ``read`` makes of the first bytes, which stay in the socket.

    ``read`` is given all of them from the start, and answers a number when it has to see more: how many in
    all. It must answer something else in the end. Raises PeerLeft; the caller sets the time-out.
    """
    needed, size, has_waited = 1, FIRST_LOOK, False
    try:
        while True:
            data = _look(sock, size)
            if data is not None:
                if len(data) == 0 or (has_waited and len(data) < needed):
                    raise PeerLeft
                found = read(data)
                if not isinstance(found, int):
                    return found
                is_cut = len(data) == size < found  # the rest may be in the socket already
                needed, size, has_waited = found, max(size, found), False
                if is_cut:
                    continue
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
            await _readable(sock)
            has_waited = True
            on_wakeup()
    except ConnectionError as error:
        raise PeerLeft from error
    finally:
        if needed > 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _look(sock: socket.socket, size: int) -> bytes | None:
    """None: nothing is there yet."""
    try:
        return sock.recv(size, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return None


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
