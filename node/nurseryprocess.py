"""The process that workers come from, ``python -m node.nurseryprocess``; started by ``nursery`` only.

It imports everything a worker needs and then waits, without threads or an event loop, so that nothing is
half-way when it forks. Requests come over its standard input; when that ends, so does it. It collects no
garbage, and what it has imported is exempt from later collections: those pages stay shared with its children.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket

from .memory import keep_large_buffers_apart
from .nursery import MAX_NAME_BYTES, Born, Ended, Failed, Packet, encode
from .processtitle import set_title


class NurseryProcess:
    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._children: dict[int, int] = {}  # process ids, by a descriptor of each
        self._poll = select.poll()
        self._poll.register(orders, select.POLLIN)

    def run(self) -> tuple[str, socket.socket] | None:
        """Returns in every child, with its name and its end of the link; and here, when it is over."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._children:
                    self._bury(descriptor)
                    continue
                name, links = self._receive()
                if not name:
                    return None
                if not links:
                    self._say(Failed("no descriptor is left for its link"))
                    continue
                with socket.socket(fileno=links[0]) as link:
                    if self._bear():
                        return name, socket.socket(fileno=link.detach())

    def _receive(self) -> tuple[str, list[int]]:
        try:
            name, links, _, _ = socket.recv_fds(self._orders, MAX_NAME_BYTES, 1)
        except ConnectionResetError:  # who left did not hear all we had to say
            return "", []
        return name.decode(), links

    def _bear(self) -> bool:
        """Whether this is the child."""
        try:
            pid = os.fork()
        except OSError as error:
            self._say(Failed(str(error)))
            return False
        if pid == 0:
            self._orders.close()
            for descriptor in self._children:
                os.close(descriptor)
            return True
        try:
            descriptor = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._say(Failed(str(error)))
            return False
        self._children[descriptor] = pid
        self._poll.register(descriptor, select.POLLIN)
        self._say(Born(pid), descriptor)
        return False

    def _bury(self, descriptor: int) -> None:
        pid = self._children.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._say(Ended(pid, os.waitstatus_to_exitcode(status)))

    def _say(self, packet: Packet, *descriptors: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next look sees that it is over
            socket.send_fds(self._orders, [encode(packet)], descriptors)


def standard_input() -> socket.socket:
    """What came as that; from now on it has nothing."""
    found = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return found


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the control process says when
    set_title("sora-node: nursery")
    keep_large_buffers_apart()
    gc.disable()
    from . import workerprocess

    with contextlib.suppress(ImportError):  # asyncio's own loop will do
        importlib.import_module("uvloop")
    gc.freeze()
    born = NurseryProcess(standard_input()).run()
    if born is None:
        return
    name, link = born
    gc.enable()
    os.setpgid(0, 0)
    set_title(f"sora-node: {name}")
    workerprocess.main(link)


if __name__ == "__main__":
    main()
