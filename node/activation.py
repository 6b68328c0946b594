"""Listening sockets that a service manager hands over, as sd_listen_fds(3) says."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final

FIRST_DESCRIPTOR: Final = 3
MAX_DESCRIPTORS: Final = 1024
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class Handed:
    """One descriptor. ``name`` is its FileDescriptorName; ``flaw`` says why it cannot be used, with which
    ``sock`` is None."""

    descriptor: int
    name: str
    sock: socket.socket | None
    flaw: str = ""

    def __str__(self) -> str:
        return f"descriptor {self.descriptor}" + (f" ({self.name})" if self.name else "")


def take(environment: MutableMapping[str, str]) -> list[Handed]:
    """What is meant for this process. The variables are removed: they are not for the programs it starts."""
    pid, count, names = (environment.pop(variable, "") for variable in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    number = min(int(count), MAX_DESCRIPTORS)
    named = names.split(":") if names else []
    named += [""] * (number - len(named))
    return [_take(FIRST_DESCRIPTOR + index, named[index]) for index in range(number)]


def _take(descriptor: int, name: str) -> Handed:
    try:
        os.set_inheritable(descriptor, False)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return Handed(descriptor, name, None, "it is no socket")
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        return Handed(descriptor, name, None, error.strerror or str(error))
    flaw = _flaw(sock)
    if flaw:
        sock.close()
        return Handed(descriptor, name, None, flaw)
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
    return Handed(descriptor, name, sock)


def _flaw(sock: socket.socket) -> str:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return "it is no TCP socket (ListenStream= with a port)"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it does not listen (Accept= must be no)"
    return ""
