"""Debian's ``serf agent`` on a loopback address of its own, and the ``serf`` command to ask it things."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest


def needs_serf() -> str:
    """The path of serf, or a loud skip."""
    path = shutil.which("serf")
    if path is None:
        pytest.skip("serf is not installed; .ci/run installs it")
    return path


def free_port(ip: str) -> int:
    """One that neither UDP nor TCP uses on this address."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((ip, 0))
            port: int = tcp.getsockname()[1]
            with contextlib.suppress(OSError):
                udp.bind((ip, port))
                return port


class SerfAgent:
    """``with SerfAgent("a", "127.0.0.31", key) as agent``: runs until the end of the block.

    ``options``: more of ``serf agent``. What it logs is in ``log`` (a file).
    """

    def __init__(self, name: str, ip: str, key: bytes, options: Sequence[str] = ()) -> None:
        self.name, self.ip = name, ip
        self.port = free_port(ip)
        self._rpc = f"{ip}:{free_port(ip)}"
        self._directory = tempfile.TemporaryDirectory(prefix="serf-agent-")
        self.log = Path(self._directory.name, "log")
        self._argv = (
            "serf",
            "agent",
            f"-node={name}",
            f"-bind={ip}:{self.port}",
            f"-rpc-addr={self._rpc}",
            f"-encrypt={base64.b64encode(key).decode()}",
            *options,
        )
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SerfAgent:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._directory.cleanup()

    def start(self) -> None:
        """Returns when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=subprocess.STDOUT)
        self.until(lambda: self.command("info", is_checked=False).returncode == 0, "answers")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """SIGKILL ends it without a word; SIGINT makes it leave."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(20)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def command(self, *words: str, is_checked: bool = True) -> subprocess.CompletedProcess[str]:
        """``serf WORDS`` to this agent."""
        argv = ("serf", words[0], f"-rpc-addr={self._rpc}", *words[1:])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert not is_checked or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def members(self) -> dict[str, dict[str, Any]]:
        """``serf members -format=json -detailed``, by name: status, tags, protocol, addr …"""
        found = json.loads(self.command("members", "-format=json", "-detailed").stdout)["members"]
        return {member["name"]: member for member in found}

    def statuses(self) -> dict[str, str]:
        return {name: member["status"] for name, member in self.members().items()}

    def until(self, holds: Any, what: str, within_s: float = 20.0) -> None:
        """Wait for something that takes time; says what did not come, with the end of the log."""
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"agent {self.name}: never {what}\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)
