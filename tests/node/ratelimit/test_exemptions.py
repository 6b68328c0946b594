"""Who is never counted."""

from __future__ import annotations

import pytest

from node.ratelimit import parse_address
from node.ratelimit.exemptions import Exemptions
from node.units import parse_network

TEN = [parse_network("10.0.0.0/8"), parse_network("2001:db8::/32")]


@pytest.mark.parametrize(
    ("exempt", "trusted", "ip", "expected"),
    [
        (None, TEN, "10.1.2.3", "10.0.0.0/8 is in trusted_networks"),
        (None, TEN, "::ffff:10.1.2.3", "10.0.0.0/8 is in trusted_networks"),
        (None, TEN, "2001:db8:9::1", "2001:db8::/32 is in trusted_networks"),
        (TEN, [], "10.1.2.3", "10.0.0.0/8 is in exempt_networks"),
        (None, TEN, "11.1.2.3", None),
        (None, TEN, "::a01:203", None),
        ([parse_network("11.0.0.0/8")], TEN, "10.1.2.3", None),
        (None, [], "127.8.9.10", "it is a loopback address"),
        (None, [], "::1", "it is a loopback address"),
        (TEN, [], "127.0.0.1", "it is a loopback address"),
        (None, [], "192.0.2.1", "it is an address of this machine"),
        (None, [], "192.0.2.9", "it is a node of the cluster"),
        ([], TEN, "127.0.0.1", None),
        ([], TEN, "10.1.2.3", None),
        ([], TEN, "192.0.2.1", None),
        ([], TEN, "192.0.2.9", "it is a node of the cluster"),
    ],
)
def test_exemptions(exempt: object, trusted: object, ip: str, expected: str | None) -> None:
    exemptions = Exemptions(exempt, trusted, lambda: ["192.0.2.9"])  # type: ignore[arg-type]
    address = parse_address(ip)
    assert address is not None
    assert exemptions.why(address, local_ip="192.0.2.1") == expected
