"""Log lines for a tired person (console) or a machine (JSON), on stdout, stderr, syslog or a file.

Lines carry what the caller passes as ``extra={"fields": {...}}``, under the same names everywhere: session,
ip (of the client), user, protocol, server. Foreign text is escaped, so nobody can forge a line. Secrets are
kept out where they live: ``node.config.Secret`` never renders, and no module passes a password to a logger.
"""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path

from .logsinks import LOSS, DescriptorSink, FileSink, LineHandler, Sink, SyslogSink

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


# What could end a line, or hide part of it from a reader: controls, line separators, changes of direction.
_UNSAFE = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0x2028,
    0x2029,
    0x200E,
    0x200F,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSAFE}
_BARE = re.compile(r"[\w.@:+/%=~-]+")


def _shown(value: object) -> str:
    """As it is when it is one plain word, else quoted and escaped."""
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


class ConsoleFormatter(logging.Formatter):
    """``2026-11-22 08:30:01.123 INFO     sora.imap: logged in  session=4f1c.2a ip=192.0.2.7 user=…``"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = record.getMessage().translate(_ESCAPES)
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<8} {record.name}: {text}"
        fields = getattr(record, "fields", None)
        if fields:
            line += "  " + " ".join(f"{key}={_shown(value)}" for key, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: time (RFC 3339, UTC), level, logger, message, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "time": f"{clock}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(getattr(record, "fields", None) or {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure(*, output: str, style: str, level: str) -> None:
    """Send the ``sora`` loggers (and warnings of libraries) to ``output``; replaces earlier handlers. Raises
    OSError."""
    handler = LineHandler(_sink(output), LOSS)
    handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("sora").setLevel(LEVELS[level])


def retry() -> None:
    """Where lines cannot be written, see whether they can be now."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.retry()


def _sink(output: str) -> Sink:
    if output == "stdout":
        return DescriptorSink(1)
    if output == "stderr":
        return DescriptorSink(2)
    if output == "syslog":
        return SyslogSink()
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    return FileSink(Path(output))
