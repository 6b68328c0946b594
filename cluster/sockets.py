"""The two sockets of a node in its cluster: UDP and TCP on one address and port."""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

from .address import Address

RECEIVE_BUFFER_BYTES = 2 * 1024 * 1024  # ten seconds of a cluster of 1,000 while our thread waits for the CPU
BACKLOG = 128
PORT_TRIES = 16


class Sockets(NamedTuple):
    """Bound, not blocking, TCP listening. ``address`` has the port that was given where 0 was asked for;
    ``scope`` is the interface of a link-local IPv6 address, else 0."""

    udp: socket.socket
    tcp: socket.socket
    address: Address
    scope: int = 0

    def duplicate(self) -> Sockets:
        """The same sockets under descriptors of their own: what arrives between two owners waits."""
        return self._replace(udp=self.udp.dup(), tcp=self.tcp.dup())

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()

    def sockaddr(self, to: Address) -> tuple[str, int] | tuple[str, int, int, int]:
        if self.udp.family == socket.AF_INET:
            return to
        return (to.ip, to.port, 0, self.scope if to.ip.startswith("fe80:") else 0)


def bind(address: Address) -> Sockets:
    """Port 0: any that is free for both. Raises OSError. May be done before privileges are dropped."""
    tries = 1 if address.port else PORT_TRIES
    for left in reversed(range(tries)):
        try:
            return _bind(address)
        except OSError as fault:
            if not left or fault.errno != errno.EADDRINUSE:
                raise
    raise AssertionError("unreachable: the last try raises")


def _bind(address: Address) -> Sockets:
    family, _, _, _, where = socket.getaddrinfo(
        address.ip, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )[0]
    tcp = socket.socket(family, socket.SOCK_STREAM)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        for each in (tcp, udp):
            each.setblocking(False)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(where)
        port = tcp.getsockname()[1]
        udp.bind((where[0], port, *where[2:]))
        _enlarge(udp)
        tcp.listen(BACKLOG)
    except BaseException:
        tcp.close()
        udp.close()
        raise
    scope = int(where[3]) if len(where) == 4 else 0
    return Sockets(udp, tcp, Address(address.ip.partition("%")[0], port), scope)


def _enlarge(udp: socket.socket) -> None:
    """As far as we may: past the limit of the system for root only."""
    force = getattr(socket, "SO_RCVBUFFORCE", 33)  # linux/socket.h; the module names it from Python 3.13 on
    try:
        udp.setsockopt(socket.SOL_SOCKET, force, RECEIVE_BUFFER_BYTES)
    except OSError:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def heard_from(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """As the kernel says where something came from."""
    return Address(sockaddr[0].partition("%")[0], sockaddr[1])
