"""Network namespaces: made, entered, removed. Needs root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/run/netns")
TUN = Path("/dev/net/tun")


def missing() -> str:
    """What this machine lacks for a lab; empty: nothing."""
    if os.geteuid() != 0:
        return "a lab needs root, for its network namespaces"
    if not TUN.exists():
        return f"a lab needs {TUN}, for its network cards"
    try:
        probe = subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True)
        subprocess.run(["ip", "-V"], check=True, capture_output=True)
    except FileNotFoundError as error:
        return f"a lab needs the program {error.filename} (apt-get install iproute2 util-linux)"
    return "" if probe.returncode == 0 else "this machine allows no network namespaces"


def make(name: str) -> None:
    subprocess.run(["ip", "netns", "add", name], check=True)


def remove(name: str) -> None:
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def entering(name: str, *command: str) -> list[str]:
    """``command`` as it is run in there; the process is the program itself."""
    return ["nsenter", f"--net={NAMESPACES / name}", *command]


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Sockets that this thread makes meanwhile are in there, and stay so."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as home, open(NAMESPACES / name, "rb") as there:
        _enter(libc, there.fileno())
        try:
            yield
        finally:
            _enter(libc, home.fileno())


def _enter(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
