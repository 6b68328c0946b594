"""The configured peers of a node: names and addresses to join, looked up again and again."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

from .address import Address, unpack_ip

log = logging.getLogger("sora.cluster")

DEFAULT_PORT = 7946
MAX_ADDRESSES_OF_A_NAME = 16
LOOKUP_TIMEOUT_S = 5.0

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]


def parse_peer(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, an IPv4 or IPv6 address, ``[2001:db8::1]:7946``.

    Raises ValueError.
    """
    text = text.strip()
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an address")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    number = int(port) if port else default_port
    if not host or not 0 < number < 65536 or (":" in host and _literal(host) is None):
        raise ValueError(f"{text!r} is not an address")
    return host, number


async def look_up(host: str, family: int) -> Sequence[str]:
    """By the resolver of the system, off the loop. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM)
    return [str(each[4][0]) for each in found]


class Peers:
    """``own``: addresses that are ours, never to be joined."""

    def __init__(self, names: Iterable[str], own: Iterable[Address], lookup: Lookup = look_up) -> None:
        self._own = frozenset(own)
        self._lookup = lookup
        self._failing: set[str] = set()
        self._known: dict[tuple[str, int], list[Address]] = {}  # when it could be resolved last
        self.set_names(names)

    def set_names(self, names: Iterable[str]) -> None:
        """Raises ValueError for what is no address."""
        self._names = [parse_peer(each) for each in dict.fromkeys(names)]
        self._known = {}

    async def addresses(self) -> list[Address]:
        """All that the names mean now, in their order, once each. A name that cannot be resolved means what
        it did before, and is logged once, until it can."""
        found = await asyncio.gather(*(self._resolve(host, port) for host, port in self._names))
        return [each for each in dict.fromkeys(a for one in found for a in one) if each not in self._own]

    async def _resolve(self, host: str, port: int) -> list[Address]:
        literal = _literal(host)
        if literal is not None:
            return [Address(literal, port)]
        family = socket.AF_INET6 if any(":" in each.ip for each in self._own) else socket.AF_INET
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                ips = await self._lookup(host, family)
        except (OSError, TimeoutError, UnicodeError) as fault:
            self._note_failure(host, fault)
            return self._known.get((host, port), [])
        if host in self._failing:
            self._failing.discard(host)
            log.info("peer %s can be resolved again", host)
        canonical = [each for each in map(_literal, ips) if each is not None]
        self._known[host, port] = [Address(each, port) for each in canonical[:MAX_ADDRESSES_OF_A_NAME]]
        return self._known[host, port]

    def _note_failure(self, host: str, fault: Exception) -> None:
        if host not in self._failing:
            self._failing.add(host)
            reason = str(fault) or type(fault).__name__
            log.warning("peer %s cannot be resolved, and will be tried again: %s", host, reason)


def _literal(host: str) -> str | None:
    """The canonical spelling of an address; None when it is a name."""
    try:
        return unpack_ip(ipaddress.ip_address(host.partition("%")[0]).packed)
    except ValueError:
        return None
