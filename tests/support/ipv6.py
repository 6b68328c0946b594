"""Whether this machine has an IPv6 loopback: containers often have none."""

from __future__ import annotations

import functools
import socket

import pytest

from .ports import LOOPBACK, LOOPBACK6


@functools.cache
def has_ipv6() -> bool:
    """Whether ``::1`` can be bound."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((LOOPBACK6, 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(
    not has_ipv6(), reason=f"{LOOPBACK6} cannot be bound: this machine has no IPv6"
)
LOOPBACKS = (LOOPBACK, pytest.param(LOOPBACK6, marks=needs_ipv6))
