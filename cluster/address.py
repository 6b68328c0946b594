"""Where a node is reached: one IP address and one port, for UDP and TCP alike."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import NamedTuple

_MAPPED_PREFIX = bytes(10) + b"\xff\xff"


class Address(NamedTuple):
    """``ip`` in its canonical spelling; an IPv4-mapped IPv6 address is spelled as IPv4."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    @property
    def packed(self) -> bytes:
        """4 or 16 bytes, as on the wire."""
        return pack_ip(self.ip)


@lru_cache(maxsize=4096)
def pack_ip(ip: str) -> bytes:
    return ipaddress.ip_address(ip.partition("%")[0]).packed


@lru_cache(maxsize=4096)
def unpack_ip(packed: bytes) -> str:
    """Raises ValueError unless there are 4 or 16 bytes."""
    if len(packed) == 16 and packed.startswith(_MAPPED_PREFIX):
        packed = packed[12:]
    return str(ipaddress.ip_address(packed))
