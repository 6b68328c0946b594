"""Addresses that are never delayed, counted or blocked by a rule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

from node.units import Network

from .subjects import Address, parse_address

LOOPBACK_IPV4 = 127
LOOPBACK_IPV6 = 1


class Exemptions:
    """Of one server.

    ``exempt`` None: those who are trusted. An empty list is nobody, not even this machine, which otherwise
    is exempt in any case. ``peers`` are the other nodes of the cluster; they always are.
    """

    def __init__(
        self,
        exempt: Sequence[Network] | None,
        trusted: Sequence[Network] = (),
        peers: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._with_own = exempt is None or bool(exempt)
        self._source = "trusted_networks" if exempt is None else "exempt_networks"
        self._networks = [_masked(each) for each in (trusted if exempt is None else exempt)]
        self._peers = peers

    def why(self, address: Address, local_ip: str = "") -> str | None:
        """Why this client is exempt, in words; None when it is not. ``local_ip``: where it connected to."""
        for is_v6, shift, value, text in self._networks:
            if is_v6 == address.is_v6 and address.value >> shift == value:
                return f"{text} is in {self._source}"
        if self._with_own:
            if _is_loopback(address):
                return "it is a loopback address"
            if local_ip and parse_address(local_ip) == address:
                return "it is an address of this machine"
        if any(_parsed(peer) == address for peer in self._peers()):
            return "it is a node of the cluster"
        return None


_parsed = lru_cache(maxsize=1024)(parse_address)  # of peers, a thousand at most


def _is_loopback(address: Address) -> bool:
    return address.value == LOOPBACK_IPV6 if address.is_v6 else address.value >> 24 == LOOPBACK_IPV4


def _masked(network: Network) -> tuple[bool, int, int, str]:
    shift = network.max_prefixlen - network.prefixlen
    return network.version == 6, shift, int(network.network_address) >> shift, str(network)
