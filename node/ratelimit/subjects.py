"""What failures are counted against: an IPv4 address, an IPv6 prefix, or a network an operator names.

A subject is one integer, so that a million of them fit: the bits of the prefix, its length, the family.
IPv4 addresses in their IPv6 spelling (``::ffff:192.0.2.1``) are IPv4 addresses: a dual-stack socket must
not give anybody a second budget.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple, NewType

Subject = NewType("Subject", int)

IPV4_BITS, IPV6_BITS = 32, 128
# Wider blocks have locked out whole countries elsewhere.
WIDEST_IPV4_PREFIX, WIDEST_IPV6_PREFIX = 16, 32
# The neighbourhood in which a user counts as familiar: providers move customers about in it.
FAMILIAR_IPV4_PREFIX, FAMILIAR_IPV6_PREFIX = 24, 48


class BadSubject(ValueError):
    """Neither an address nor a network that may be blocked; the message says why and is fit for users."""


class Address(NamedTuple):
    value: int
    is_v6: bool


def parse_address(ip: str) -> Address | None:
    """None for what is no IP address: the peer of a Unix socket has none."""
    try:
        found = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return Address(int(found), True) if mapped is None else Address(int(mapped), False)
    return Address(int(found), False)


def subject_of(address: Address, ipv6_prefix: int) -> Subject:
    """The subject that a client's failures count against."""
    if address.is_v6:
        return _subject(address, ipv6_prefix)
    return Subject(address.value << 9 | IPV4_BITS << 1)


def neighbourhood_of(address: Address) -> Subject:
    return _subject(address, FAMILIAR_IPV6_PREFIX if address.is_v6 else FAMILIAR_IPV4_PREFIX)


def covering(address: Address, kinds: Iterable[int]) -> Iterator[Subject]:
    """The subjects of these kinds (see ``kind_of``) that contain the address."""
    for kind in kinds:
        if kind & 1 == address.is_v6:
            yield _subject(address, kind >> 1)


def kind_of(subject: int) -> int:
    """Family and prefix length in one small number."""
    return subject & 0x1FF


def parse_subject(text: str, ipv6_prefix: int) -> Subject:
    """An address or network as operators write it. Raises BadSubject."""
    address = parse_address(text.strip())
    if address is not None:
        return subject_of(address, ipv6_prefix)
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise BadSubject(f"{text!r} is neither an address nor a network such as 192.0.2.0/24") from error
    is_v6 = network.version == 6
    widest = WIDEST_IPV6_PREFIX if is_v6 else WIDEST_IPV4_PREFIX
    if network.prefixlen < widest:
        raise BadSubject(f"{network} is too wide: at most /{widest}, or whole providers are locked out")
    return _subject(Address(int(network.network_address), is_v6), network.prefixlen)


def network_of(subject: Subject) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    value, prefix = subject >> 9, (subject >> 1) & 0xFF
    if subject & 1:
        return ipaddress.IPv6Network((value << IPV6_BITS - prefix, prefix))
    return ipaddress.IPv4Network((value << IPV4_BITS - prefix, prefix))


def render(subject: Subject) -> str:
    """``192.0.2.1``, ``192.0.2.0/24`` or ``2001:db8::/64``; ``parse_subject`` reads it back."""
    network = network_of(subject)
    is_host = network.version == 4 and network.prefixlen == IPV4_BITS
    return str(network.network_address if is_host else network)


def _subject(address: Address, prefix: int) -> Subject:
    bits = IPV6_BITS if address.is_v6 else IPV4_BITS
    return Subject(address.value >> bits - prefix << 9 | prefix << 1 | address.is_v6)
