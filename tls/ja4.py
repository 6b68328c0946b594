"""JA4, the fingerprint of a TLS client (FoxIO's specification of JA4, BSD-3-Clause; no other member of the
JA4+ family is implemented here).

``t13d1516h2_8daaf6152771_e5627efa2ab1``: transport, highest version, server name or not, counts of ciphers
and extensions, first ALPN; a hash of the sorted ciphers; a hash of the sorted extensions and the signature
algorithms. It tells programs apart, not people, and anybody can imitate it: a means against
incompatibilities, never a proof of identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from .clienthello import ALPN, SERVER_NAME, ClientHello

_VERSIONS: Final = {
    0x0304: "13",
    0x0303: "12",
    0x0302: "11",
    0x0301: "10",
    0x0300: "s3",
    0x0002: "s2",
    0xFEFF: "d1",
    0xFEFD: "d2",
    0xFEFC: "d3",
}
_EMPTY: Final = "0" * 12
_MOST: Final = 99
# RFC 8701 §2: 0x0a0a, 0x1a1a ... 0xfafa
_GREASE: Final = frozenset((high << 12) + 0x0A00 + (high << 4) + 0x0A for high in range(16))


def ja4(hello: ClientHello) -> str:
    """The fingerprint of a client that came by TCP; 36 characters."""
    offered = _without_grease(hello.supported_versions)
    return _fingerprint(
        max(offered, default=hello.version),
        tuple(_without_grease(hello.ciphers)),
        tuple(_without_grease(hello.extensions)),
        hello.alpn[:1],
        tuple(_without_grease(hello.signature_algorithms)),
    )


@lru_cache(512)  # the clients of a site are few programs, each with thousands of connections
def _fingerprint(
    version: int,
    ciphers: tuple[int, ...],
    extensions: tuple[int, ...],
    alpn: tuple[bytes, ...],
    algorithms: tuple[int, ...],
) -> str:
    hashed = sorted(each for each in extensions if each not in (SERVER_NAME, ALPN))
    head = (
        f"t{_VERSIONS.get(version, '00')}{'d' if SERVER_NAME in extensions else 'i'}"
        f"{min(len(ciphers), _MOST):02}{min(len(extensions), _MOST):02}{_alpn(alpn)}"
    )
    return f"{head}_{_hash(sorted(ciphers), ())}_{_hash(hashed, algorithms)}"


def _without_grease(values: Iterable[int]) -> list[int]:
    return [value for value in values if value not in _GREASE]


def _alpn(names: tuple[bytes, ...]) -> str:
    """First and last character of the first name; of its hexadecimal form when one of them is no letter or
    digit."""
    if not names or not names[0]:
        return "00"
    name = names[0]
    ends = name[:1] + name[-1:]
    if not ends.isalnum():  # of bytes: ASCII alone
        return name.hex()[0] + name.hex()[-1]
    return ends.decode("ascii")


def _hash(values: list[int], in_order: Iterable[int]) -> str:
    if not values:
        return _EMPTY
    parts = [",".join(f"{value:04x}" for value in each) for each in (values, in_order)]
    return hashlib.sha256("_".join(part for part in parts if part).encode()).hexdigest()[:12]
