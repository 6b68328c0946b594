"""Where workers come from, seen from the control process: a process that has their imports, and forks.

Imports are most of what a new Python process costs (half a second of CPU time), and on a machine that is busy
enough to lose a worker there is none to be had; a fork takes a few milliseconds. The workers share the pages
of what was imported.

Requests and answers are packets over a Unix socket: a name with the worker's end of its link, answered in
order; and each end of a worker, which only its parent can see. A worker is killed and its end awaited by a
descriptor of the process, so neither depends on the nursery, nor can it meet another process with the same
number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

log = logging.getLogger("sora.processes")

BIRTH_WITHIN_S: Final = 60.0  # of the first, imports included, on a busy machine
STATUS_WITHIN_S: Final = 10.0
STOP_WITHIN_S: Final = 5.0
FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
STEADY_S: Final = 10.0  # one that lived so long did not fail for a reason that is still there
MAX_PACKET_BYTES: Final = 4096
MAX_NAME_BYTES: Final = 100
ROOT: Final = Path(__file__).resolve().parent.parent


class Born(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Comes with a descriptor of the process."""

    pid: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=1):
    reason: str


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=2):
    pid: int
    status: int  # as ``subprocess`` has it: negative is a signal


Packet = Born | Failed | Ended
encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Packet).decode


class Child:
    """A process of the nursery. ``descriptor`` is one of it, and ours."""

    def __init__(self, pid: int, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        self.pid = pid
        self.status: asyncio.Future[int | None] = loop.create_future()  # may come before its end is seen
        self._descriptor = descriptor
        self._end: asyncio.Future[None] = loop.create_future()
        loop.add_reader(descriptor, self._ended)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._end.set_result(None)

    def kill(self) -> None:
        """Idempotent; also when it has ended."""
        if not self._end.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    async def wait(self) -> int | None:
        """Until it has ended; its status, None when that cannot be known any more."""
        await asyncio.wait([self._end])
        await asyncio.wait([self.status], timeout=STATUS_WITHIN_S)
        return self.status.result() if self.status.done() else None


@dataclass(slots=True)
class _Life:
    process: subprocess.Popen[bytes]
    orders: socket.socket
    lost: asyncio.Future[None]


class Nursery:
    """One that ends is replaced; the workers it had go on, and their status is not known."""

    def __init__(self) -> None:
        self._life: _Life | None = None
        self._is_there = asyncio.Event()
        self._is_stopping = asyncio.Event()
        self._descriptors: Sequence[int] = ()
        self._expected: deque[asyncio.Future[Child]] = deque()
        self._children: dict[int, Child] = {}
        self._keeping: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._life is None else self._life.process.pid

    def start(self, descriptors: Sequence[int]) -> None:
        """Workers have ``descriptors``, by the same numbers. Raises OSError."""
        self._descriptors = descriptors
        self._keeping = asyncio.create_task(self._keep(self._begin()))

    async def bear(self, name: str, link: socket.socket) -> Child:
        """A worker that has a copy of ``link``. Raises OSError."""
        birth: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(BIRTH_WITHIN_S):
                await self._is_there.wait()
                assert self._life is not None
                socket.send_fds(self._life.orders, [name.encode()], [link.fileno()])
                self._expected.append(birth)
                return await birth
        except TimeoutError as error:
            self.kill()
            raise ChildProcessError(f"no process came within {BIRTH_WITHIN_S:.0f} s") from error

    def kill(self) -> None:
        """What is expected of it fails; what comes now waits for the next one."""
        self._is_there.clear()
        if self._life is not None:
            self._life.process.kill()

    async def stop(self) -> None:
        """Its workers have ended. Idempotent."""
        self._is_stopping.set()
        if self._keeping is None or self._life is None:
            return
        if not self._life.lost.done():
            self._life.orders.shutdown(socket.SHUT_RDWR)
        await asyncio.wait([self._keeping], timeout=STOP_WITHIN_S)
        self.kill()
        await self._keeping

    # --- one process after another ---

    def _begin(self) -> _Life:
        path = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as undo:
            undo.enter_context(ours)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.nurseryprocess"],
                stdin=theirs.fileno(),
                pass_fds=self._descriptors,
                env=environment,
                process_group=0,  # Ctrl-C is for the control process, which tells the others
            )
            undo.pop_all()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        life = self._life = _Life(process, ours, loop.create_future())
        loop.add_reader(ours, self._hear, life)
        self._is_there.set()
        return life

    async def _keep(self, life: _Life) -> None:
        backoff = 0.0
        while True:
            began = time.monotonic()
            status = await self._end(life)
            if time.monotonic() - began > STEADY_S:
                backoff = 0.0
            reason = f"the process that workers come from ended ({spell(status)})"
            while True:
                if self._is_stopping.is_set():
                    return
                log.error("%s; it is replaced", reason)
                if backoff:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._is_stopping.wait(), backoff)
                        return
                backoff = longer(backoff)
                try:
                    life = self._begin()
                    break
                except OSError as error:
                    reason = f"the process that workers come from cannot be started: {error}"

    async def _end(self, life: _Life) -> int:
        """Its status."""
        await life.lost
        self._is_there.clear()
        asyncio.get_running_loop().remove_reader(life.orders)
        life.orders.close()
        if not self._is_stopping.is_set():
            life.process.kill()  # without orders it is of no use
        status = await asyncio.to_thread(life.process.wait)
        while self._expected:
            self._answer(ChildProcessError(f"the process that workers come from ended ({spell(status)})"))
        for child in self._children.values():
            child.status.set_result(None)
        self._children.clear()
        return status

    # --- what it says ---

    def _hear(self, life: _Life) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(life.orders, MAX_PACKET_BYTES, 1)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it left requests unread
            packet, descriptors = b"", []
        if not packet:
            asyncio.get_running_loop().remove_reader(life.orders)
            life.lost.set_result(None)
            return
        match _decode(packet):
            case Born(pid):
                self._born(pid, descriptors)
            case Failed(reason):
                self._answer(ChildProcessError(reason))
            case Ended(pid, status):
                if (child := self._children.pop(pid, None)) is not None:
                    child.status.set_result(status)

    def _born(self, pid: int, descriptors: list[int]) -> None:
        if not descriptors:  # the kernel drops what finds no room; the worker ends with its link
            self._answer(ChildProcessError("no descriptor is left for it"))
            return
        child = self._children[pid] = Child(pid, descriptors[0])
        self._answer(child)

    def _answer(self, answer: Child | OSError) -> None:
        birth = self._expected.popleft()
        if birth.done():  # nobody waits for it any more, and it ends with its link
            return
        if isinstance(answer, Child):
            birth.set_result(answer)
        else:
            birth.set_exception(answer)


def longer(backoff: float) -> float:
    return min(max(backoff * 2, FIRST_BACKOFF_S), MAX_BACKOFF_S)


def spell(status: int) -> str:
    """As ``subprocess`` has it, in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
