"""The log of this node for ``serf monitor``: lines as an agent writes them, from any thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

LOGGER: Final = "sora"
_MAX_LINE_CHARS: Final = 4096
_MAX_WAITING: Final = 1024  # lines on their way to the loop; more are dropped
LEVELS: Final = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERR": logging.ERROR,
    "ERROR": logging.ERROR,
}
_NAMES: Final = {logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN"}


def parse_level(text: str) -> int:
    """Raises ValueError."""
    level = LEVELS.get(text.upper())
    if level is None:
        raise ValueError(f"Unknown log level: {text}"[:100])
    return level


class Monitor(logging.Handler):
    """Attached to the logger ``sora`` from construction to ``close``. What the logger itself leaves out by
    its level is not seen here either. ``hear`` is called on the running loop."""

    def __init__(self, level: int, hear: Callable[[str], None]) -> None:
        super().__init__(level)
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._is_closed = False
        logging.getLogger(LOGGER).addHandler(self)

    def close(self) -> None:
        self._is_closed = True
        logging.getLogger(LOGGER).removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        if self._waiting >= _MAX_WAITING or self._loop.is_closed():
            return
        self._waiting += 1
        self._loop.call_soon_threadsafe(self._deliver, line_of(record))

    def _deliver(self, line: str) -> None:
        self._waiting -= 1
        if not self._is_closed:
            self._hear(line)


def line_of(record: logging.LogRecord) -> str:
    when = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(record.created))
    level = _NAMES.get(record.levelno, "ERR" if record.levelno >= logging.ERROR else record.levelname)
    topic = record.name.removeprefix(f"{LOGGER}.")
    return f"{when} [{level}] {topic}: {record.getMessage()}"[:_MAX_LINE_CHARS]
