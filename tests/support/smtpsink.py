"""Postfix's smtp-sink, which takes or refuses mail as it is told, and keeps what it took."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.ports import free_port

MARK = re.compile(rb"(?m)^X-Mark: (\S+)")
STARTS_WITHIN_S = 60.0


class SmtpSink:
    """``options`` as in smtp-sink(1): ``-r .`` answers the end of data with 4xx, for instance. ``keeps``:
    whether messages are written down; for figures they are not."""

    def __init__(self, *options: str, port: int | None = None, keeps: bool = True) -> None:
        self._options = options
        self._keeps = keeps
        self.port = port or free_port()

    def __enter__(self) -> SmtpSink:
        self.directory = Path(tempfile.mkdtemp(prefix="smtp-sink-"))
        self.directory.chmod(0o777)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def start(self, *options: str) -> None:
        program = shutil.which("smtp-sink") or "/usr/sbin/smtp-sink"
        dump = ["-d", f"{self.directory}/m."] if self._keeps else []
        command = [program, "-u", "postfix", *dump, *self._options, *options]
        self._process = subprocess.Popen([*command, f"127.0.0.1:{self.port}", "100"])
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < deadline, "smtp-sink does not listen"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """What was dumped so far; while it is stopped."""
        for path in self.directory.iterdir():
            path.unlink()

    def marks(self) -> Counter[str]:
        """How often each message was taken, by its X-Mark field."""
        found: Counter[str] = Counter()
        for path in self.directory.iterdir():
            try:
                raw = path.read_bytes()
            except FileNotFoundError:  # it removes what a client that went away had begun
                continue
            found.update(match.decode() for match in MARK.findall(raw)[:1])
        return found
