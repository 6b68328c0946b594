"""Log lines for a tired person (console) or a machine (JSON), on stdout, stderr, syslog or a file.

Lines carry what the caller passes as ``extra={"fields": {...}}``: session, user, ip, protocol. Secrets are
kept out where they live: ``node.config.Secret`` never renders, and no module passes a password to a logger.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class ConsoleFormatter(logging.Formatter):
    """``2026-11-22 08:30:01.123 INFO  sora.lmtp  message delivered  session=… user=…``"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<8} {record.name}: {record.getMessage()}"
        fields = getattr(record, "fields", None)
        if fields:
            line += "  " + " ".join(f"{key}={value}" for key, value in fields.items())
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
    """Send the ``sora`` loggers (and warnings of libraries) to ``output``; replaces earlier handlers."""
    handler = _handler(output)
    handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("sora").setLevel(LEVELS[level])


def _handler(output: str) -> logging.Handler:
    if output == "stdout":
        return logging.StreamHandler(sys.stdout)
    if output == "stderr":
        return logging.StreamHandler(sys.stderr)
    if output == "syslog":
        return logging.handlers.SysLogHandler(address="/dev/log", facility="mail")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    return logging.handlers.WatchedFileHandler(output)  # reopens after logrotate
