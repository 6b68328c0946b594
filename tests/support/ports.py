"""Ports for what tests start, from which servers may be stopped and come back on the same ones.

They lie below those that the system gives to connections, are not handed out twice, and each process of a
parallel run has a share of its own: who is stopped for a moment finds its port free again.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack

LOOPBACK, LOOPBACK6 = "127.0.0.1", "::1"
OF_TESTS = range(10_000, 20_000)
OF_NODES = range(20_000, 32_000)  # ``quickstart --ports``


def free_port(*ips: str) -> int:
    """Free for TCP and UDP on each of these addresses (127.0.0.1 when none is given), a moment ago.

    Raises OSError: this machine has no such address.
    """
    return next(port for port in _ports if _is_free(port, ips or (LOOPBACK,)))


def free_ports(count: int, *ips: str) -> list[int]:
    return [free_port(*ips) for _ in range(count)]


def node_ports() -> str:
    """From where nodes of this process take theirs: ``FROM-TO``."""
    share = _share(OF_NODES)
    return f"{share[0]}-{share[-1]}"


def _share(ports: range) -> range:
    """Of the process ``gw1`` of 2, say, the second half."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = len(ports) // count
    return ports[number * size : (number + 1) * size]


def _in_turn() -> Iterator[int]:
    share = _share(OF_TESTS)
    first = random.randrange(len(share))  # other runs on this machine begin elsewhere
    return itertools.cycle([*share[first:], *share[:first]])


def _is_free(port: int, ips: tuple[str, ...]) -> bool:
    with ExitStack() as held:
        for ip in ips:
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                probe = held.enter_context(socket.socket(family, kind))
                try:
                    probe.bind((ip, port))
                except OSError as error:
                    if error.errno == errno.EADDRNOTAVAIL:  # nor has it with any other port
                        raise
                    return False
    return True


_ports = _in_turn()
