"""Names of servers, as clients ask for them (RFC 6066 §3) and certificates have them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable

WILDCARD = "*."


def folded(name: str) -> str:
    """Lower case, without the dot of the root."""
    return name.lower().removesuffix(".")


def above(name: str) -> str:
    """The name without its first label, under which a wildcard for it is found; empty: there is none."""
    label, _, rest = name.partition(".")
    return rest if label else ""


def matching(patterns: Container[str], name: str) -> str:
    """Which of the folded ``patterns``, names or wildcards of one label, a folded name falls under; empty:
    none."""
    if name in patterns:
        return name
    parent = above(name)
    return WILDCARD + parent if parent and WILDCARD + parent in patterns else ""


def host_names(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a certificate that a client can ask for, folded; no addresses (RFC 6066 §3)."""
    return tuple(dict.fromkeys(folded(name) for name in names if not _is_address(name)))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
