"""The smallest line protocol, to test the pump with: lines come back as they are, some words do more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from protocols.errors import PeerGone
from protocols.ports import Connection, Goodbye, Machine, Session


class EchoMachine:
    """Lines in, whatever is sent out."""

    def __init__(self) -> None:
        self.input = bytearray()
        self.output: list[bytes] = []
        self.is_paused = False

    def receive_data(self, data: bytes) -> None:
        self.input += data

    def next_event(self) -> object | None:
        line, found, rest = bytes(self.input).partition(b"\n")
        if not found or self.is_paused:
            return None
        self.input[:] = rest
        self.is_paused = line == b"tls"
        return line

    def data_to_send(self) -> bytes:
        data = b"".join(self.output)
        self.output.clear()
        return data

    def discard_input(self) -> int:
        count = len(self.input)
        self.input.clear()
        return count

    @property
    def buffered_bytes(self) -> int:
        return len(self.input)

    @property
    def is_mid_input(self) -> bool:
        return bool(self.input)


class EchoSession:
    """``wait`` waits for the gate, ``big`` sends much inline, ``stream`` sends much with drain."""

    def __init__(self, connection: Connection, machine: EchoMachine) -> None:
        self.connection, self.machine = connection, machine
        self.gate = asyncio.Event()
        self.log: list[str] = []
        self.stream_failed = False

    def say(self, data: bytes) -> None:
        self.machine.output.append(data + b"\n")

    def on_connect(self) -> Awaitable[None] | None:
        self.say(b"hello")
        return None

    def handle(self, event: object) -> Awaitable[None] | None:
        assert isinstance(event, bytes)
        self.log.append(event.decode())
        if event == b"bug":
            raise ValueError("secret detail")
        if event == b"big":
            self.say(b"x" * 10_000)
            return None
        if event == b"deadline":
            self.connection.set_deadline(5)
        slow = {b"wait": self.wait, b"latebug": self.late_bug, b"stream": self.stream, b"tls": self.tls}
        if event in slow:
            return slow[event]()
        if event == b"idle":
            self.connection.begin_idle()
        if event == b"done":
            self.connection.end_idle()
        if event == b"quit":
            self.say(b"bye")
            self.connection.close()
            return None
        self.say(event)
        return None

    async def wait(self) -> None:
        await self.gate.wait()
        self.say(b"waited")
        self.log.append("wait ended")

    async def late_bug(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("secret detail")

    async def stream(self) -> None:
        try:
            for _ in range(1000):
                self.connection.write(b"y" * 10_000)
                await self.connection.drain()
        except PeerGone:
            self.stream_failed = True
            raise

    async def tls(self) -> None:
        self.say(b"go")
        await self.connection.start_tls()
        self.machine.is_paused = False

    def on_wake(self) -> Awaitable[None] | None:
        self.log.append("wake")
        return None

    def on_timeout(self) -> None:
        self.say(b"timeout")
        self.connection.close()

    def on_bug(self, error: Exception) -> None:
        self.say(b"bug " + self.connection.session_id.encode())

    def on_goodbye(self, why: Goodbye) -> None:
        self.say(b"down" if why is Goodbye.SHUTDOWN else why.name.lower().encode())

    def on_close(self) -> Awaitable[None] | None:
        self.log.append("close")
        return None


class Sessions:
    """The factory; keeps what it made."""

    def __init__(self) -> None:
        self.made: list[EchoSession] = []

    def __call__(self, connection: Connection) -> tuple[Machine, Session]:
        machine = EchoMachine()
        self.made.append(EchoSession(connection, machine))
        return machine, self.made[-1]
