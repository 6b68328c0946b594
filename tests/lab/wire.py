"""The wire of the lab: one process that is a switch between the namespaces, and can be told to be a bad one.

Theory: each machine has a TAP device for its network card, and this process holds the other ends, so every
frame passes through here. Cutting, losing and delaying is per direction of a pair of machines and needs
nothing of the kernel but TAP. Commands come as JSON lines over a Unix socket:

    {"cut": ["a", "b"]}   {"loss": ["a", "b", 0.1]}   {"delay": ["a", "b", 0.05, 0.01]}   {"heal": []}

each for frames from the first to the second machine; "*" is any.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import itertools
import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
FRAME_BYTES = 65_536
GROUP_BIT = 1  # of the first byte of a destination: broadcast and multicast
FRAMES_AT_ONCE = 64
MAX_DELAYED = 50_000
PATIENCE_S = 30.0  # with who has connected and has a command to say
DELAYED_FRAMES_ARE_LOST = "the wire holds too many frames"


@dataclass(slots=True)
class Way:
    """From one machine to another."""

    is_cut: bool = False
    loss: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    namespace: str
    ip: str
    prefix: int = 24

    @property
    def mac(self) -> bytes:
        return bytes((2, 0, *socket.inet_aton(self.ip)))


@dataclass(slots=True)
class Port:
    machine: Machine
    descriptor: int


@dataclass
class Wire:
    """``rng`` decides about losses and jitter."""

    machines: list[Machine]
    rng: random.Random
    ports: dict[str, Port] = field(default_factory=dict)
    ways: dict[tuple[str, str], Way] = field(default_factory=dict)
    passed: int = 0
    dropped: int = 0

    def __post_init__(self) -> None:
        names = [machine.name for machine in self.machines]
        self.ways = {pair: Way() for pair in itertools.permutations(names, 2)}
        self._by_mac: dict[bytes, str] = {machine.mac: machine.name for machine in self.machines}
        self._delayed: list[tuple[float, int, str, bytes]] = []
        self._order = itertools.count()

    def plug_in(self) -> None:
        """Give every machine its card, up and addressed. Needs root."""
        for number, machine in enumerate(self.machines):
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            device = f"sl{os.getpid() % 1_000_000}-{number}"
            request = struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI)
            fcntl.ioctl(descriptor, TUNSETIFF, request)
            self.ports[machine.name] = Port(machine, descriptor)
            mac = ":".join(f"{byte:02x}" for byte in machine.mac)
            _ip("link", "set", device, "netns", machine.namespace, "name", "eth0")
            _ip("-n", machine.namespace, "link", "set", "eth0", "address", mac, "up")
            _ip("-n", machine.namespace, "addr", "add", f"{machine.ip}/{machine.prefix}", "dev", "eth0")
            _ip("-n", machine.namespace, "link", "set", "lo", "up")

    # --- frames ---

    def readable(self, name: str, now: float) -> None:
        for _ in range(FRAMES_AT_ONCE):
            try:
                frame = os.read(self.ports[name].descriptor, FRAME_BYTES)
            except BlockingIOError:
                return
            for target in self._targets(name, frame):
                self._carry(name, target, frame, now)

    def _targets(self, source: str, frame: bytes) -> Iterator[str]:
        if frame[0] & GROUP_BIT:
            yield from (name for name in self.ports if name != source)
        elif (target := self._by_mac.get(frame[:6])) is not None and target != source:
            yield target

    def _carry(self, source: str, target: str, frame: bytes, now: float) -> None:
        way = self.ways[source, target]
        if way.is_cut or (way.loss and self.rng.random() < way.loss):
            self.dropped += 1
            return
        if not way.delay_s:
            self._put(target, frame)
            return
        if len(self._delayed) >= MAX_DELAYED:
            self.dropped += 1
            print(DELAYED_FRAMES_ARE_LOST, file=sys.stderr)
            return
        at = now + way.delay_s + self.rng.uniform(0, way.jitter_s)
        heapq.heappush(self._delayed, (at, next(self._order), target, frame))

    def _put(self, target: str, frame: bytes) -> None:
        try:
            os.write(self.ports[target].descriptor, frame)
            self.passed += 1
        except OSError:  # its queue is full, or its card is down: a wire loses such frames
            self.dropped += 1

    def release(self, now: float) -> float | None:
        """Let go of what was delayed long enough; seconds until the next."""
        while self._delayed and self._delayed[0][0] <= now:
            _, _, target, frame = heapq.heappop(self._delayed)
            self._put(target, frame)
        return self._delayed[0][0] - now if self._delayed else None

    # --- commands ---

    def obey(self, command: dict[str, list[object]]) -> dict[str, object]:
        for word, arguments in command.items():
            match word, arguments:
                case "cut", [str(source), str(target)]:
                    for way in self._chosen(source, target):
                        way.is_cut = True
                case "loss", [str(source), str(target), int() | float() as loss]:
                    for way in self._chosen(source, target):
                        way.loss = float(loss)
                case "delay", [
                    str(source),
                    str(target),
                    int() | float() as delay_s,
                    int() | float() as more_s,
                ]:
                    for way in self._chosen(source, target):
                        way.delay_s, way.jitter_s = float(delay_s), float(more_s)
                case "heal", []:
                    self.ways = {pair: Way() for pair in self.ways}
                case "figures", []:
                    continue
                case _:
                    return {"error": f"unknown command {word} {arguments}"}
        return {"passed": self.passed, "dropped": self.dropped, "delayed": len(self._delayed)}

    def _chosen(self, source: str, target: str) -> Iterator[Way]:
        for (a, b), way in self.ways.items():
            if source in (a, "*") and target in (b, "*"):
                yield way


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def serve(wire: Wire, commands: socket.socket) -> None:
    """Until standard input ends: whoever started the lab is gone then."""
    selector = selectors.DefaultSelector()
    for name, port in wire.ports.items():
        selector.register(port.descriptor, selectors.EVENT_READ, name)
    selector.register(commands, selectors.EVENT_READ, commands)
    selector.register(sys.stdin, selectors.EVENT_READ, sys.stdin)
    wait_s: float | None = None
    while True:
        for key, _ in selector.select(wait_s):
            if key.data is sys.stdin:
                if not os.read(0, 1024):
                    return
            elif key.data is commands:
                _answer(wire, commands)
            else:
                wire.readable(key.data, time.monotonic())
        wait_s = wire.release(time.monotonic())


def _answer(wire: Wire, commands: socket.socket) -> None:
    connection, _ = commands.accept()
    with connection, contextlib.suppress(OSError, ValueError), connection.makefile("rw") as stream:
        connection.settimeout(PATIENCE_S)
        stream.write(json.dumps(wire.obey(json.loads(stream.readline()))) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.wire", description=__doc__)
    parser.add_argument("socket", type=Path, help="where commands are taken")
    parser.add_argument("machines", help="JSON: a list of [name, namespace, address]")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    machines = [Machine(*row) for row in json.loads(arguments.machines)]
    wire = Wire(machines, random.Random(arguments.seed))
    wire.plug_in()
    with socket.socket(socket.AF_UNIX) as commands:
        commands.bind(str(arguments.socket))
        commands.listen(8)
        print("ready", flush=True)
        serve(wire, commands)


if __name__ == "__main__":
    main()
