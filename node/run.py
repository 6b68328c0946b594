"""Running a node in the foreground: the loop, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from . import notify
from .app import Node
from .composition import Composition
from .controlprocess import ControlProcess, worker_count
from .drain import Drain
from .footing import Footing, plain_footing
from .memory import keep_large_buffers_apart
from .reload import Reloader

if TYPE_CHECKING:
    from .config import Config, Loaded

log = logging.getLogger("sora.node")

OnReady = Callable[[Composition], Awaitable[None]]


def run(config: Config, on_ready: OnReady, read: Callable[[], Loaded], footing: Footing) -> int:
    """Serve until SIGTERM or Ctrl-C; answers the exit status. Start-up errors are raised.

    ``read`` reads the configuration again, for a reload. Ctrl-C a second time does not
    wait for running commands.
    """
    keep_large_buffers_apart()
    try:
        import uvloop
    except ImportError:
        log.warning("uvloop is missing: every idle TLS connection costs ten times the memory")
        return asyncio.run(serve(config, on_ready, read, footing))
    return uvloop.run(serve(config, on_ready, read, footing))


def compose(config: Config, footing: Footing) -> Composition:
    """A node of one process when one is to serve clients."""
    workers = worker_count(config)
    return Node(config, footing) if workers == 1 else ControlProcess(config, workers, footing)


async def serve(
    config: Config, on_ready: OnReady, read: Callable[[], Loaded], footing: Footing | None = None
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    notifier = notify.take(os.environ)
    node = compose(config, footing or plain_footing(config))
    reloader = Reloader(config, read, node.reload, notifier)
    node.commands |= reloader.table() | Drain(node, stop.set).table()
    beating = asyncio.create_task(notifier.keep_alive())

    def asked() -> None:
        if stop.is_set():
            log.warning("asked again to stop: running commands are cut off")
            node.hurry()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    loop.add_signal_handler(signal.SIGHUP, lambda: log.warning("SIGHUP is not heeded before the node serves"))
    try:
        starting = asyncio.create_task(node.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        stopping.cancel()
        try:
            await starting
        except asyncio.CancelledError:
            return 130
        await on_ready(node)
        notifier.ready()
        loop.add_signal_handler(signal.SIGHUP, reloader.request)
        await stop.wait()
        log.info("stopping")
        return 0
    finally:
        notifier.stopping()
        await node.stop()
        beating.cancel()
