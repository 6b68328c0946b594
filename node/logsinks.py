"""Where log lines go, and what happens when they cannot go there: a full disk, a syslog that is away.

The node goes on. Lines are counted as lost, stderr is told once, and the first line that gets through again
is preceded by one that says how many are missing. Every line is one write that appends, so the processes of a
node can share a file, and nothing waits in a buffer for a disk that has room again.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

SYSLOG: Final = "/dev/log"


@dataclass(slots=True)
class Loss:
    """Of this process, since its start. ``cause`` is empty while lines get through."""

    lines: int = 0
    cause: str = ""
    missing: int = 0  # lines of the present outage

    def failed(self, cause: str) -> bool:
        """A line is lost; whether it is the first of an outage."""
        is_first = not self.cause
        self.cause = cause
        self.lines += 1
        self.missing += 1
        return is_first

    def ended(self) -> int:
        """Lines get through again; how many did not."""
        missing, self.missing, self.cause = self.missing, 0, ""
        return missing


LOSS = Loss()


class Sink(Protocol):
    def write(self, record: logging.LogRecord, line: str) -> None:
        """Raises OSError when nothing, or not all of it, was written."""
        ...

    def close(self) -> None: ...


def _say_on_stderr(text: str) -> None:
    with contextlib.suppress(OSError):  # it may be on the same disk
        os.write(2, text.encode("utf-8", "backslashreplace"))


class LineHandler(logging.Handler):
    def __init__(self, sink: Sink, loss: Loss, complain: Callable[[str], None] = _say_on_stderr) -> None:
        super().__init__()
        self._sink = sink
        self._loss = loss
        self._complain = complain

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError, LookupError):  # arguments that do not fit the message
            self.handleError(record)
            return
        try:
            if self._loss.cause:
                self._write_missing()
            self._sink.write(record, line)
        except OSError as error:
            if self._loss.failed(error.strerror or str(error)):
                self._complain(f"sora: log lines are being lost: {self._loss.cause}\n")

    def retry(self) -> None:
        """See whether lines get through again, though there is none to write."""
        self.acquire()
        try:
            if self._loss.cause:
                with contextlib.suppress(OSError):  # not yet
                    self._write_missing()
        finally:
            self.release()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sink.close()
        super().close()

    def _write_missing(self) -> None:
        missing = self._loss.missing
        text = "%d log lines were lost: %s"
        notice = logging.LogRecord(
            "sora.logs", logging.WARNING, __file__, 0, text, (missing, self._loss.cause), None
        )
        self._sink.write(notice, self.format(notice))
        self._loss.ended()


class DescriptorSink:
    """A descriptor that is open and stays so."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_torn = False  # the last line was written in part

    def write(self, _record: logging.LogRecord, line: str) -> None:
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        if self._is_torn:
            data = b"\n" + data
        while data:
            written = os.write(self._descriptor, data)
            data = data[written:]
            self._is_torn = bool(data)

    def close(self) -> None:
        """Belongs to whoever opened it."""


class FileSink(DescriptorSink):
    """Opened anew when somebody has moved the file away (logrotate). Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(_open(path))
        self._identity = _identity(os.fstat(self._descriptor))

    def write(self, record: logging.LogRecord, line: str) -> None:
        self._reopen_if_moved()
        super().write(record, line)

    def close(self) -> None:
        os.close(self._descriptor)

    def _reopen_if_moved(self) -> None:
        try:
            is_there = _identity(os.stat(self._path)) == self._identity
        except FileNotFoundError:
            is_there = False
        if is_there:
            return
        fresh = _open(self._path)
        old, self._descriptor = self._descriptor, fresh
        self._identity = _identity(os.fstat(fresh))
        self._is_torn = False
        os.close(old)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class _Syslog(logging.handlers.SysLogHandler):
    def format(self, record: logging.LogRecord) -> str:
        return str(record.__dict__["line"])

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the library's name
        raise  # ``LineHandler`` counts it


class SyslogSink:
    def __init__(self) -> None:
        self._handler = _Syslog(address=SYSLOG, facility="mail")

    def write(self, record: logging.LogRecord, line: str) -> None:
        record.__dict__["line"] = line
        self._handler.emit(record)

    def close(self) -> None:
        self._handler.close()
