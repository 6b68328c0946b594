"""Servers that the node starts itself are started again when they end without being asked.

Each is a job among the node's workers, which log what happened and pace repeated starts: one that ends
right after its start is not started without pause. A server that hangs is left alone. Time-outs answer for
it, and ending a database because it is slow would make matters worse.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from .workers import Job

log = logging.getLogger("sora.embedded")

LOOK_EVERY_S = 0.2


class Ended(Exception):
    """An embedded server is not running any more; the message says which and how it ended."""


class EmbeddedServer(Protocol):
    @property
    def is_running(self) -> bool: ...

    @property
    def last_words(self) -> str:
        """How its process ended and where its log is, for the operator."""
        ...

    async def restart(self) -> None:
        """Ready when it returns; never makes a new data directory."""
        ...


def kept_running(name: str, server: EmbeddedServer) -> Job:
    """A job that raises Ended when the server has ended, and starts it again when it is run anew."""

    async def run(stop: asyncio.Event) -> None:
        if not server.is_running:
            await server.restart()
            log.warning("%s runs again", name)
        while server.is_running:
            try:
                await asyncio.wait_for(stop.wait(), LOOK_EVERY_S)
            except TimeoutError:
                continue
            return
        raise Ended(f"{name} has ended: {server.last_words}")

    return run
