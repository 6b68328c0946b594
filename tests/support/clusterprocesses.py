"""Nodes of one cluster as real processes on this machine, on one database and one directory of objects."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from node.commands.access import read_config
from node.control import ask, control_path
from tests.support.ports import free_port

from . import commands
from .nodeprocess import NodeProcess
from .waiting import PATIENCE_S

SECRET = base64.b64encode(bytes(range(32))).decode()

SECTION = """
[cluster]
enabled = true
addr = "{ip}:{port}"
node_id = "{name}"
peers = [{peers}]
secret_key = "{secret}"
testing_allow_loopback = true
"""


class ClusterProcesses:
    """``names`` are node ids; the first one has the embedded database. ``edit``: of a config.toml, and whose.
    ``secrets``: of nodes with another one than the rest. ``s3``: "file", or "rclone", run by the first.

    Use as a context manager.
    """

    def __init__(
        self,
        names: tuple[str, ...] = ("node-1", "node-2", "node-3"),
        edit: Callable[[str, str], str] = lambda text, _name: text,
        secrets: Mapping[str, str] | None = None,
        s3: str = "file",
    ) -> None:
        self.names = names
        self.ips = {name: f"127.0.1.{number}" for number, name in enumerate(names, start=11)}
        self.port = free_port(*self.ips.values())
        self._edit = edit
        self._secrets = secrets or {}
        self._s3 = s3
        self.nodes: dict[str, NodeProcess] = {}
        self._exit = ExitStack()

    def __getitem__(self, name: str) -> NodeProcess:
        return self.nodes[name]

    def __enter__(self) -> ClusterProcesses:
        first, *others = self.names
        with ExitStack() as stack:
            node = NodeProcess().prepare(
                lambda text: self._edit(text, first) + self.section(first), s3=self._s3
            )
            self.nodes[first] = stack.enter_context(node)
            for name in others:
                other = node.beside(name)
                assert other.run_config is not None
                text = self._edit_again(other.run_config.read_text(), name)
                text = self._edit(self.own_staging(text, other.directory), name)
                other.run_config.write_text(text)
                self.nodes[name] = stack.enter_context(other)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *fault: Any) -> None:
        self._exit.__exit__(*fault)

    def section(self, name: str, **changes: str) -> str:
        peers = ", ".join(f'"{ip}:{self.port}"' for other, ip in self.ips.items() if other != name)
        values = {
            "ip": self.ips[name],
            "port": str(self.port),
            "name": name,
            "peers": peers,
            "secret": self._secrets.get(name, SECRET),
        }
        return SECTION.format(**{**values, **changes})

    def _edit_again(self, text: str, name: str) -> str:
        """What ``beside`` copied, with this node's own section."""
        return re.sub(r"\n\[cluster\]\n.*?loopback = true(\n|$)", self.section(name), text, flags=re.S)

    @staticmethod
    def own_staging(text: str, directory: Path) -> str:
        """Staging is in the database, so the directory may be the node's own, and so are feed and control."""
        return re.sub(r'(?m)(\[uploader\]\n(?:.*\n)*?path = )"[^"]*"', rf'\1"{directory}/staging"', text)

    # --- what is asked ---

    def ask(self, name: str, *arguments: str, check: bool = True) -> Any:
        """``sora-node … --json`` of this node; its answer, or its complaint."""
        return self._run("node", name, arguments, check=check)

    def admin(self, name: str, *arguments: str, check: bool = True) -> Any:
        """The same of ``sora-admin``."""
        return self._run("node.admin", name, arguments, check=check)

    def _run(self, module: str, name: str, arguments: Sequence[str], *, check: bool) -> Any:
        done = commands.run(module, (*arguments, "--config", str(self.config(name)), "--json"))
        if check and done.returncode:
            raise RuntimeError(f"{module} {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return json.loads(done.stdout) if done.stdout else done.stderr

    def config(self, name: str) -> Path:
        node = self.nodes[name]
        return node.run_config or node.config

    def members(self, name: str) -> dict[str, dict[str, Any]]:
        """As ``name`` sees them."""
        socket = control_path(read_config(self.config(name)))
        found = ask(socket, "cluster.members", timeout_s=PATIENCE_S)  # a program for each look is too slow
        return {each["name"]: each for each in found["members"]}

    def states(self, name: str) -> dict[str, str]:
        return {each: found["state"] for each, found in self.members(name).items()}

    def wait_for(self, condition: Callable[[], object], patience_s: float = PATIENCE_S) -> float:
        """How long it took."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < patience_s, {name: self.states(name) for name in self.nodes}
            time.sleep(0.1)
        return time.monotonic() - started
