"""What is believed of what a node says of itself, before anything is done with it.

Who holds the key is trusted to speak for others, but not to bring in what breaks the rest: addresses that are
nobody's, versions that make every later join fail, incarnations that leave no room above them.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from .errors import PacketRejected, Reason
from .messages import MAX_META_BYTES, VSN, Alive

MAX_MEMBERS: Final = 10_000
MAX_NAME_BYTES: Final = 255
# Half of what fits into the field: a node has to jump above any accusation against it. There is no limit on
# one jump, since whoever believed a smaller number could never be told the greater one.
MAX_INCARNATION: Final = 2**31

_PROTOCOLS: Final = (range(VSN[0], VSN[1] + 1), range(VSN[3], VSN[4] + 1))
_SPOKEN: Final = (VSN[2], VSN[5])


@lru_cache(maxsize=4096)
def is_reachable(ip: str) -> bool:
    """Whether ``ip`` can be a node's at all."""
    found = ipaddress.ip_address(ip)
    return not (found.is_unspecified or found.is_multicast or str(found) == "255.255.255.255")


@lru_cache(maxsize=4096)
def is_loopback(ip: str) -> bool:
    return ipaddress.ip_address(ip).is_loopback


@lru_cache(maxsize=64)
def is_compatible(vsn: bytes) -> bool:
    """Whether a node that says ``vsn`` understands us, speaks what we understand, and does not narrow what
    the whole cluster has in common.

    An agent refuses a push/pull when any node's current version is outside what *all* nodes understand, so
    one wrong record would keep everyone from joining.
    """
    if len(vsn) != len(VSN):
        return False
    for ours, spoken, (lowest, highest, current) in zip(_PROTOCOLS, _SPOKEN, (vsn[:3], vsn[3:]), strict=True):
        if not (lowest <= current <= highest and lowest <= spoken <= highest and current in ours):
            return False
    return vsn[0] > 0


def is_name(name: str) -> bool:
    """Printable text: it goes into logs, metrics and tables."""
    return 0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES and name.isprintable()


def admit(message: Alive, *, accepts_loopback: bool) -> None:
    """Raises PacketRejected: FORGED, VERSION, OVERSIZED or MALFORMED."""
    if not is_name(message.node):
        raise PacketRejected(Reason.FORGED, "a name that is no name")
    ip, port = message.address
    if not port or not is_reachable(ip) or (is_loopback(ip) and not accepts_loopback):
        raise PacketRejected(Reason.FORGED, f"{message.node} cannot be at {message.address}")
    if not 0 < message.incarnation <= MAX_INCARNATION:
        raise PacketRejected(Reason.FORGED, f"incarnation {message.incarnation}")
    if len(message.meta) > MAX_META_BYTES:
        raise PacketRejected(Reason.OVERSIZED, f"{len(message.meta)} bytes of tags")
    if not is_compatible(message.vsn):
        raise PacketRejected(Reason.VERSION, f"{message.node} speaks {message.vsn.hex(' ')}")
