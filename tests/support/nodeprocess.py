"""A whole node as a user starts it: ``sora-node quickstart`` in a process of its own, on free ports."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from node.quickstart import Wish, prepare
from storage.postgres.server import LocalServer
from tests.support import commands
from tests.support.ports import node_ports

ROOT = Path(__file__).resolve().parents[2]
STOP_WITHIN_S = 120


def public_directory(prefix: str) -> Path:
    """A fresh directory that PostgreSQL's unprivileged account may enter (pytest's own is closed to it)."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    directory.chmod(0o755)
    return directory


@dataclass
class NodeProcess:
    """Use as a context manager: the node is stopped and its directory removed at the end."""

    arguments: tuple[str, ...] = ()
    directory: Path = field(default_factory=lambda: public_directory("sora-node-"))
    ready: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    run_config: Path | None = None  # `sora-node run` with this file instead of quickstart
    python: tuple[str, ...] = (sys.executable,)  # what runs the program, and what stands before it
    environment: Mapping[str, str] = field(default_factory=dict)  # more of it
    pass_fds: tuple[int, ...] = ()

    def beside(self, name: str) -> NodeProcess:
        """A second node, not started yet, on the database, staging and object store of this running one."""
        directory = self.directory / name
        directory.mkdir()
        servers = ("postgres_path", "rclone_")  # this one runs them for both
        lines = [line for line in self.config.read_text().splitlines() if not line.startswith(servers)]
        text = "\n".join(lines).replace(f'"{self.directory}/data/cache"', f'"{directory}/cache"')
        path = directory / "config.toml"
        path.write_text(re.sub(r'(?m)^(addr = "127\.0\.0\.1):\d+"', r'\1:0"', text))
        return NodeProcess(directory=directory, run_config=path, ready=dict(self.ready))

    def prepare(self, edit: Callable[[str], str], *, s3: str = "file") -> NodeProcess:
        """Write the files of a first start, with ``edit`` applied to the config.toml."""
        data = self.directory / "data"
        sockets = LocalServer(data / "postgres", password="")
        sockets.directory.mkdir(mode=0o700, parents=True)
        made = prepare(Wish(data, s3=s3, ports=node_ports()), sockets.socket_directory)
        made.config.write_text(edit(made.config.read_text()))
        return self

    def start(self) -> NodeProcess:
        """Returns when the node says that it is ready. The data directory of an earlier start is kept."""
        if self.run_config is None:
            arguments = ("quickstart", "--data-dir", str(self.directory / "data"), "--ports", node_ports())
        else:
            arguments = ("run", "--config", str(self.run_config))
        command = [*self.python, "-m", "node", *arguments, "--json", *self.arguments]
        with (self.directory / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=self.pass_fds,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError(f"the node did not start:\n{(self.directory / 'node.log').read_text()}")
        self.ready |= json.loads(line)
        return self

    def stop(self) -> int:
        """As Ctrl-C does; answers the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(STOP_WITHIN_S)
        self._forget()
        return status

    def kill(self, *, children: bool = True) -> None:
        """kill -9, by default of PostgreSQL and rclone too."""
        assert self.process is not None
        pids = [self.process.pid, *(self.children() if children else ())]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self._forget()

    def children(self) -> list[int]:
        """All descendants of the node."""
        assert self.process is not None
        found, queue = [], [self.process.pid]
        while queue:
            parent = queue.pop()
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                    pids = [int(pid) for pid in task.read_text().split()]
                    found += pids
                    queue += pids
        return found

    def port(self, name: str) -> int:
        return int(self.ready["servers"][name].rpartition(":")[2])

    @property
    def log(self) -> str:
        return (self.directory / "node.log").read_text()

    @property
    def address(self) -> str:
        return str(self.ready["account"]["address"])

    @property
    def password(self) -> str:
        return str(self.ready["account"]["password"])

    @property
    def certificate(self) -> Path:
        return Path(self.ready["certificate"])

    @property
    def config(self) -> Path:
        return Path(self.ready["config"])

    def admin(self, *arguments: str, check: bool = True) -> str:
        """Run ``sora-admin``; answers what it printed."""
        done = commands.run("node.admin", ("--config", str(self.config), *arguments))
        if check and done.returncode:
            raise RuntimeError(f"sora-admin {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def wait_until_uploaded(self, patience_s: float = 60) -> None:
        """Until nothing is staged any more."""
        deadline = time.monotonic() + patience_s
        while (status := json.loads(self.admin("uploader", "status", "--json")))["staged"]:
            assert time.monotonic() < deadline, status
            time.sleep(0.2)

    def _forget(self) -> None:
        assert self.process is not None
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    def __enter__(self) -> NodeProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            if error is None:
                self.stop()
            else:
                self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
