"""The lab: its machines, their processes, and the wire between them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from node.control import ask
from node.rclone import find_rclone
from storage.postgres.server import find_binaries

from . import leftovers, namespaces
from .wire import Machine

ROOT = Path(__file__).resolve().parents[2]
PROVISION = ROOT / "vagrant" / "provision"
NETWORK = "10.10.10.0/24"
ADDRESSES = {
    "client": "10.10.10.10",
    "node-1": "10.10.10.40",
    "node-2": "10.10.10.41",
    "node-3": "10.10.10.42",
    "postgres": "10.10.10.50",
    "s3": "10.10.10.51",
}
NODES = ("node-1", "node-2", "node-3")
PATIENCE_S = 60.0
STOP_WITHIN_S = 40.0
UNPRIVILEGED = "nobody"
ACCOUNT = "ann@lab.example"
PASSWORD_HINT = f"account {ACCOUNT}, password {{password}}"


class LabFault(Exception):
    """Something in the lab did not come about; the message has the last words of who failed."""


def until(claim: str, holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
    """Wait for a claim to become true; the seconds it took. Raises LabFault."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > patience_s:
            raise LabFault(f"after {patience_s:.0f} s it is still not so that {claim}")
        time.sleep(0.05)  # the processes of the lab run on the real clock
    return time.monotonic() - begun


@dataclass(frozen=True)
class SerfAgent:
    lab: Lab
    machine: str

    def members(self) -> dict[str, str]:
        """States of all but the agent itself; empty while it starts."""
        answer = self.lab.run(self.machine, "serf", "members", "-format=json", check=False)
        found = json.loads(answer)["members"] if answer.startswith("{") else []
        return {each["name"]: each["status"] for each in found if each["name"] != "agent"}


@dataclass
class Lab:
    """Use as a context manager; everything is gone at the end."""

    seed: int = 1
    edit: Callable[[str, str], str] = lambda _name, text: text  # config.toml of a node, before it starts
    tag: str = field(default_factory=leftovers.tag)
    directory: Path = field(init=False)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    def __post_init__(self) -> None:
        if lacking := namespaces.missing():
            raise LabFault(lacking)
        self.directory = Path(tempfile.gettempdir()) / f"{leftovers.PREFIX}{self.tag}"
        self.directory.mkdir()
        self.directory.chmod(0o755)
        self._secret = base64.b64encode(secrets.token_bytes(32)).decode()
        self._database_password = secrets.token_urlsafe(12)
        self._s3_key = (f"lab{secrets.token_hex(6)}", secrets.token_hex(16))

    def __enter__(self) -> Lab:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.down()

    # --- building and clearing ---

    def up(self) -> None:
        """Network, database, object store, account; the nodes are prepared, not started. Before all, what
        killed labs left is cleared away."""
        leftovers.clear()
        for name in ADDRESSES:
            namespaces.make(self.namespace(name))
        self._start_wire()
        self._provision("postgres.sh", "postgres", self._database_environment())
        self.start("postgres")
        self._provision("objects.sh", "s3", self._objects_environment())
        self.start("s3")
        for name in NODES:
            self.prepare(name)
        until("PostgreSQL takes who comes", lambda: asyncio.run(self._is_open()))
        until("the S3 server answers", lambda: self._answers("s3", 9000))
        self.program("node-1", "node.admin", "migrate", "up")
        self.program(
            "node-1", "node.admin", "accounts", "create", ACCOUNT, "--password-stdin", stdin=self.password
        )

    def down(self) -> None:
        for name in sorted(self.processes, key=lambda name: name not in NODES):
            if name != "wire":
                self.stop(name)
        if (wire := self.processes.pop("wire", None)) is not None:
            wire.communicate()
        for name in ADDRESSES:
            namespaces.remove(self.namespace(name))
        shutil.rmtree(self.directory, ignore_errors=True)

    def namespace(self, name: str) -> str:
        return f"{leftovers.PREFIX}{self.tag}-{name}"

    def _start_wire(self) -> None:
        machines = [Machine(name, self.namespace(name), ip) for name, ip in ADDRESSES.items()]
        rows = json.dumps([[each.name, each.namespace, each.ip] for each in machines])
        command = [sys.executable, "-m", "tests.lab.wire", str(self.directory / "wire.sock"), rows]
        with (self.directory / "wire.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--seed", str(self.seed)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.processes["wire"] = process
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise LabFault(f"no wire:\n{(self.directory / 'wire.log').read_text()}")

    def prepare(self, name: str, peers: Sequence[str] = NODES) -> None:
        """Write the configuration of a node."""
        others = " ".join(ADDRESSES[each] for each in peers if each != name)
        program = self.directory / "sora-node"
        program.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m node "$@"\n')
        program.chmod(0o755)
        environment = {
            "NODE_ID": name,
            "ADDRESS": ADDRESSES[name],
            "PEERS": others,
            "DATABASE": ADDRESSES["postgres"],
            "DB_PASSWORD": self._database_password,
            "OBJECTS": ADDRESSES["s3"],
            "SECRET": self._secret,
            "SORA": str(program),
            "EXTRA": "workers = 1",
            **self._objects_environment(),
        }
        self._provision("node.sh", name, environment)
        path = self.config(name)
        path.write_text(self.edit(name, path.read_text()))

    def _database_environment(self) -> dict[str, str]:
        return {
            "LISTEN": ADDRESSES["postgres"],
            "ALLOW": NETWORK,
            "PASSWORD": self._database_password,
            "PG_BIN": str(find_binaries()),
            "PG_USER": UNPRIVILEGED,
        }

    def _objects_environment(self) -> dict[str, str]:
        access_key, secret_key = self._s3_key
        return {
            "LISTEN": ADDRESSES["s3"],
            "BUCKET": "lab-mail",
            "ACCESS_KEY": access_key,
            "SECRET_KEY": secret_key,
            "RCLONE": str(find_rclone()),
        }

    def _provision(self, script: str, name: str, environment: dict[str, str]) -> None:
        done = subprocess.run(
            ["sh", str(PROVISION / script)],
            env={**os.environ, **environment, "DIR": str(self.directory / name)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabFault(f"{script} for {name}:\n{done.stdout}{done.stderr}")

    # --- processes ---

    def start(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """A node is ready when this returns; a server soon. ``environment``: variables, besides ours."""
        is_node = name in NODES
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.entering(name, str(self.directory / name / "run"), *(("--json",) if is_node else ())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if is_node else log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        if is_node:
            stdout = self.processes[name].stdout
            assert stdout is not None
            if not stdout.readline():
                raise LabFault(f"{name} did not start:\n{self.log(name)[-4000:]}")

    def kill(self, name: str) -> None:
        """kill -9 of the whole session: a node's workers too."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def stop(self, name: str) -> None:
        """In order, as systemd does; SIGKILL when that takes too long."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def signal(self, name: str, number: signal.Signals) -> None:
        """To all processes of a machine: SIGSTOP and SIGCONT."""
        os.killpg(self.processes[name].pid, number)

    # --- looking and asking ---

    def config(self, name: str) -> Path:
        return self.directory / name / "config.toml"

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def entering(self, name: str, *command: str) -> list[str]:
        return namespaces.entering(self.namespace(name), *command)

    def run(self, machine: str, *command: str, stdin: str = "", check: bool = True) -> str:
        """A program on one of the machines; what it printed."""
        done = subprocess.run(
            self.entering(machine, *command),
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        if check and done.returncode:
            raise LabFault(f"{' '.join(command)} on {machine}: {done.stdout}{done.stderr}")
        return done.stdout

    def program(self, name: str, module: str, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """``node`` or ``node.admin`` with the configuration of a node, on its machine."""
        config = ("--config", str(self.config(name)))
        if module == "node.admin":
            arguments = (*config, *arguments)
        else:
            arguments = (*arguments, *config)
        return self.run(name, sys.executable, "-m", module, *arguments, stdin=stdin, check=check)

    def json_of(self, name: str, module: str, *arguments: str) -> Any:
        return json.loads(self.program(name, module, *arguments, "--json"))

    def ask(self, name: str, command: str) -> dict[str, Any]:
        """What a node says at its control socket, as its commands have it: a program is started for each of
        those, which is too much for what is looked at again and again."""
        found: dict[str, Any] = ask(
            self.directory / name / "data" / "control.sock", command, timeout_s=PATIENCE_S
        )
        return found

    def status(self, name: str) -> dict[str, Any]:
        """As ``sora-node status --json``."""
        return self.ask(name, "status")

    def connections(self, name: str) -> int:
        """Sessions on all nodes, as one of them has heard."""
        found = self.json_of(name, "node.admin", "connections", "list", "--all-nodes")
        return len(found["connections"]) + sum(each["total"] for each in found["nodes"].values())

    def has_program(self, program: str) -> bool:
        return shutil.which(program) is not None

    @contextlib.contextmanager
    def serf_agent(self, machine: str) -> Iterator[SerfAgent]:
        """Debian's agent on a machine, a member of the cluster; it leaves at the end."""
        command = ["serf", "agent", "-node=agent", f"-bind={ADDRESSES[machine]}:7946"]
        command += [f"-encrypt={self._secret}", f"-join={ADDRESSES['node-1']}", "-rpc-addr=127.0.0.1:7373"]
        with (self.directory / "serf.log").open("ab") as log:
            process = subprocess.Popen(self.entering(machine, *command), stdout=log, stderr=log)
        try:
            yield SerfAgent(self, machine)
            self.run(machine, "serf", "leave")
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def at(self, machine: str) -> Iterator[None]:
        """Sockets made meanwhile are on that machine."""
        with namespaces.inside(self.namespace(machine)):
            yield

    async def _is_open(self) -> bool:
        """It listens some time before it lets anybody in."""
        with self.at("client"):
            try:
                connection = await asyncpg.connect(
                    host=ADDRESSES["postgres"],
                    user="sora",
                    password=self._database_password,
                    database="postgres",
                )
            except (OSError, asyncpg.CannotConnectNowError):
                return False
        await connection.close()
        return True

    def _answers(self, name: str, port: int) -> bool:
        with self.at("client"):
            try:
                socket.create_connection((ADDRESSES[name], port), 1).close()
            except OSError:
                return False
        return True

    # --- the wire ---

    def wire(self, **command: Sequence[object]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(PATIENCE_S)
            channel.connect(str(self.directory / "wire.sock"))
            channel.sendall(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(channel.makefile().readline())
        if "error" in answer:
            raise LabFault(answer["error"])
        return answer

    def cut(self, source: str, target: str) -> None:
        """One direction; "*" is any machine."""
        self.wire(cut=[source, target])

    def part(self, one_side: Iterable[str], other_side: Iterable[str]) -> None:
        """Nothing passes between the two groups."""
        others = tuple(other_side)
        for one in one_side:
            for other in others:
                self.cut(one, other)
                self.cut(other, one)

    def lose(self, loss: float, source: str = "*", target: str = "*") -> None:
        self.wire(loss=[source, target, loss])

    def delay(self, delay_s: float, jitter_s: float = 0.0, source: str = "*", target: str = "*") -> None:
        self.wire(delay=[source, target, delay_s, jitter_s])

    def heal(self) -> None:
        self.wire(heal=[])
