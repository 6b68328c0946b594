"""What systemd is told of a node (sd_notify(3)): ready, reloading, stopping, and that its loop still turns.

Without NOTIFY_SOCKET everything here does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger("sora.node")

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """``address``: a path, ``@name`` for an abstract one, empty for none. ``watchdog_s``: how soon systemd
    takes silence for a hang; 0 never."""

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        self._address = address
        self._watchdog_s = watchdog_s if address else 0.0
        self._has_failed = False

    def ready(self) -> None:
        """Serving; also the end of a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    async def keep_alive(self) -> None:
        """Until cancelled; a loop that hangs is silent, and systemd ends the node."""
        while self._watchdog_s:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                sending.setblocking(False)
                sending.sendto(state.encode(), address)
        except OSError as error:  # serving mail does not depend on it
            if not self._has_failed:
                log.warning("systemd cannot be told of this node: %s: %s", self._address, error)
            self._has_failed = True


def take(environment: MutableMapping[str, str]) -> Notifier:
    """From what systemd has set, which is removed: embedded servers would speak in the node's name."""
    address, usec, pid = (environment.pop(name, "") for name in _VARIABLES)
    is_ours = not pid or pid == str(os.getpid())
    return Notifier(address, int(usec) / 1e6 if usec.isdecimal() and is_ours else 0.0)
