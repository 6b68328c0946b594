"""Debian's ``serf agent`` as a process, and its command line."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.waiting import eventually


class SerfAgent:
    """Use as a context manager. ``address`` is host:port of its gossip."""

    def __init__(
        self,
        name: str,
        ip: str,
        key: bytes,
        *,
        join: Sequence[str] = (),
        address: str = "",
        tags: Sequence[str] = (),
        handler: str = "",
    ) -> None:
        program = shutil.which("serf")
        assert program, "serf is not installed"
        self.name = name
        self.address = address or f"{ip}:{free_port(ip)}"
        self.rpc = f"{ip}:{free_port(ip)}"
        self._program = program
        self._directory = tempfile.TemporaryDirectory(prefix="serf-")
        self.log = Path(self._directory.name) / "log"
        arguments = [f"-node={name}", f"-bind={self.address}", f"-rpc-addr={self.rpc}", "-log-level=info"]
        arguments += [f"-encrypt={base64.b64encode(key).decode()}"]
        arguments += [f"-join={each}" for each in join] + [f"-tag={each}" for each in tags]
        arguments += [f"-event-handler={handler}"] if handler else []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([program, "agent", *arguments], stdout=log, stderr=log)
        eventually(self._answers, what=f"{name} is up: {self.log.read_text()[-500:]}")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.run("info", check=False).returncode == 0

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        first, *others = command
        line = [self._program, first, f"-rpc-addr={self.rpc}", *others]
        result = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert result.returncode == 0 or not check, f"{command}: {result.stdout}{result.stderr}"
        return result

    def states(self) -> dict[str, str]:
        return {each["name"]: each["status"] for each in self.members()}

    def members(self) -> list[dict[str, Any]]:
        """With ``protocol`` beside name, addr, tags and status."""
        output = self.run("members", "-format=json", "-detailed").stdout
        members: list[dict[str, Any]] = json.loads(output)["members"]
        return members

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> SerfAgent:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._directory.cleanup()
