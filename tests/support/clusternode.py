"""A node of the cluster layer alone, in a process of its own: for tests that kill, stop and watch one.

``python -m tests.support.clusternode --name a --bind 127.0.0.11:0 --key BASE64 [--join HOST:PORT ...]`` reads
commands as JSON lines and writes results and effects as JSON lines. ``ClusterNode`` is the other end.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import enum
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class ClusterNode:
    """Use as a context manager. ``heard`` grows: (monotonic seconds, effect as a dictionary)."""

    def __init__(
        self,
        name: str,
        ip: str,
        key: bytes,
        *,
        join: Sequence[str] = (),
        port: int = 0,
        profile: str = "SORA",
    ) -> None:
        self.name = name
        self.heard: list[tuple[float, dict[str, Any]]] = []
        self._results: queue.Queue[dict[str, Any]] = queue.Queue()
        arguments = ["--name", name, "--bind", f"{ip}:{port}", "--key", base64.b64encode(key).decode()]
        for each in join:
            arguments += ["--join", each]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.clusternode", *arguments, "--profile", profile],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address: str = self._results.get(timeout=60)["address"]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "effect" in message:
                self.heard.append((time.monotonic(), message))
            else:
                self._results.put(message)

    def do(self, command: str, **arguments: Any) -> Any:
        """Raises RuntimeError with what the node says of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        self.process.stdin.flush()
        result = self._results.get(timeout=60)
        if "error" in result:
            raise RuntimeError(result["error"])
        return result["result"]

    def states(self) -> dict[str, str]:
        return {each["name"]: each["state"] for each in self.do("members")}

    def effects(self, kind: str, since: float = 0.0) -> list[dict[str, Any]]:
        return [each for at, each in list(self.heard) if each["effect"] == kind and at >= since]

    def changes(self, since: float = 0.0) -> list[tuple[str, str]]:
        return [(e["change"], e["member"]["name"]) for e in self.effects("MemberChanged", since)]

    def when(self, change: str, name: str, since: float = 0.0) -> float | None:
        for at, each in list(self.heard):
            is_it = each["effect"] == "MemberChanged" and each["change"] == change
            if at >= since and is_it and each["member"]["name"] == name:
                return at
        return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop_running(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> ClusterNode:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.go_on()
            self.kill()


# --- in the process ---------------------------------------------------------------------------------


def _plain(value: object) -> Any:
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if hasattr(value, "_asdict"):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return {"effect": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    return value


def _say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def _serve(wanted: argparse.Namespace) -> None:
    import cluster.profile
    from cluster.address import Address
    from cluster.api import Settings
    from cluster.engine import Engine
    from cluster.facts import Kind, NoticeKind
    from cluster.peers import parse_peer
    from cluster.sockets import bind
    from cluster.thread import GossipThread

    sockets = bind(
        Address(*parse_peer(wanted.bind) if not wanted.bind.endswith(":0") else (wanted.bind[:-2], 0))
    )
    settings = Settings(
        wanted.name,
        sockets.address,
        (base64.b64decode(wanted.key),),
        tags={"sora": "1"},
        profile=getattr(cluster.profile, wanted.profile),
        epoch=int(time.time() * 1000),
        accepts_loopback=True,
    )

    def crashed(fault: BaseException) -> None:
        sys.stderr.write(f"crashed: {fault!r}\n")
        os._exit(3)

    thread = GossipThread(
        lambda: Engine(settings, rng=random.Random(), nonce=lambda: os.urandom(12)),
        sockets,
        on_effects=lambda effects: [_say(_plain(each)) for each in effects],  # type: ignore[arg-type, return-value]
        on_crash=crashed,
        peers=wanted.join,
    )
    await thread.start()
    _say({"address": str(sockets.address)})
    commands: dict[str, Callable[..., Any]] = {
        "members": thread.members,
        "figures": thread.figures,
        "leave": thread.leave,
        "join": lambda addresses: thread.join([Address(*parse_peer(each)) for each in addresses]),
        "event": lambda name, payload: thread.send_event(name, payload.encode("latin-1")),
        "ask": lambda name, payload, **more: thread.ask(name, payload.encode("latin-1"), **more),
        "respond": lambda token, payload: thread.respond(token, payload.encode("latin-1")),
        "tags": thread.set_tags,
        "force_leave": thread.force_leave,
        "set_keys": lambda keys: thread.set_keys([base64.b64decode(each) for each in keys]),
        "put": lambda kind, key, value: thread.put(Kind[kind], key.encode(), value.encode(), 3600.0),
        "remove": lambda kind, key: thread.remove(Kind[kind], key.encode()),
        "entries": lambda kind: thread.entries(Kind[kind]),
        "tell": lambda payload: thread.tell(NoticeKind.MAILBOX, payload.encode()),
    }
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        try:
            result = await commands[request.pop("do")](**request)
        except Exception as fault:
            _say({"error": repr(fault)})
        else:
            _say({"result": _plain(result)})
    await thread.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--name", "--bind", "--key"):
        parser.add_argument(name, required=True)
    parser.add_argument("--join", action="append", default=[])
    parser.add_argument("--profile", default="SORA")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
