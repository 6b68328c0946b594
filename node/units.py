"""Durations, sizes, addresses and networks as people write them; nothing else in Sora reads a ``"5m"``.

Every ``parse_*`` raises ``UnitError`` with a sentence for people. ``format_duration`` and ``format_size``
are exact: parsing what they return gives the same number back.
"""

from __future__ import annotations

import ipaddress
import math
import re
from fractions import Fraction
from typing import NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# In the order people write them, longest first; format_duration emits only what these can spell.
DURATION_UNITS = {
    "w": Fraction(604800),
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}
# Mail software has counted kb as 1024 since RFC 1870 limits were first written down, so both spellings agree.
SIZE_UNITS = {"tb": 1 << 40, "gb": 1 << 30, "mb": 1 << 20, "kb": 1 << 10, "b": 1}
# Far beyond any sensible setting and well within what timedelta and PostgreSQL intervals hold.
MAX_DURATION_S = 100 * 366 * 86400
MAX_SIZE_BYTES = (1 << 63) - 1

_AMOUNT = r"([0-9]{1,19}(?:\.[0-9]{1,9})?)"
_DURATION_PART = re.compile(_AMOUNT + r"(ms|[wdhms])")
_DURATION = re.compile(rf"(?:{_AMOUNT}(?:ms|[wdhms]))+")
_SIZE = re.compile(_AMOUNT + r"\s*([kmgt])?(?:i?b)?")
_NUMBER = re.compile(_AMOUNT)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")


class UnitError(ValueError):
    """The text is not in the expected form; ``suggestion`` may say what was probably meant."""

    def __init__(self, message: str, suggestion: str = "") -> None:
        super().__init__(message)
        self.suggestion = suggestion


class Address(NamedTuple):
    """Where to listen or connect. An empty host is every address of the machine; a host that starts
    with ``/`` is the directory or path of a Unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_duration(text: str | float) -> float:
    """Seconds from ``"5m"``, ``"14d"``, ``"1h30m"``, ``"250ms"`` or a plain number of seconds."""
    if isinstance(text, str):
        seconds = _duration_text(text.strip().lower())
    elif isinstance(text, bool) or not isinstance(text, int | float) or not math.isfinite(text):
        raise UnitError('expected a duration such as "5m" or "14d"')
    else:
        seconds = Fraction(text)
    if not 0 <= seconds <= MAX_DURATION_S:
        raise UnitError("a duration lies between 0 and 100 years")
    return float(seconds)


def _duration_text(text: str) -> Fraction:
    if _DURATION.fullmatch(text):
        parts = _DURATION_PART.findall(text)
        return sum((Fraction(amount) * DURATION_UNITS[unit] for amount, unit in parts), Fraction(0))
    if text == "0":
        return Fraction(0)
    if _NUMBER.fullmatch(text):
        raise UnitError("a duration needs a unit", f'write "{text}s", "{text}m", "{text}h" or "{text}d"')
    raise UnitError(
        "not a duration", 'write a number with a unit: "30s", "5m", "720h", "14d" or a sum such as "1h30m"'
    )


def parse_size(text: str | int) -> int:
    """Bytes from ``"10gb"``, ``"50mb"``, ``"16kb"`` or a plain number; 1kb is 1,024 bytes."""
    if isinstance(text, str):
        match = _SIZE.fullmatch(text.strip().lower())
        if match is None:
            raise UnitError("not a size", 'write a number with a unit: "64kb", "50mb", "10gb"')
        size = Fraction(match[1]) * SIZE_UNITS[f"{match[2] or ''}b"]
    elif isinstance(text, bool) or not isinstance(text, int):
        raise UnitError('expected a size such as "50mb" or "10gb"')
    else:
        size = Fraction(text)
    if size.denominator != 1:
        raise UnitError("a size is a whole number of bytes")
    if not 0 <= size <= MAX_SIZE_BYTES:
        raise UnitError("a size lies between 0 and 8 million terabytes")
    return int(size)


def parse_address(text: str, default_port: int | None = None) -> Address:
    """``":143"``, ``"10.0.0.1:143"``, ``"[::1]:143"``, ``"host"`` or ``"/run/socket"``.

    Without ``default_port`` the port has to be written.
    """
    text = text.strip()
    if text.startswith("/"):
        return Address(text, default_port or 0)
    host, port = _split_address(text)
    if not port and default_port is None:
        raise UnitError("the port is missing", f'write "{text}:143", or ":143" for every address')
    return Address(_host(host), _port(port) if port else default_port or 0)


def _split_address(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")) or rest == ":":
            raise UnitError("not an address", 'write an IPv6 address as "[::1]:143"')
        return str(_ip(host, ipaddress.IPv6Address)), rest[1:]
    if text.count(":") > 1:
        bare = str(_ip(text, ipaddress.IPv6Address))
        return bare, ""
    host, colon, port = text.partition(":")
    if (colon and not port) or not text:
        raise UnitError("not an address", 'write ":143" or "10.0.0.1:143"')
    if text.isascii() and text.isdigit():
        raise UnitError("not an address", f'write ":{text}" to listen on port {text} of every address')
    return host, port


def _ip(text: str, kind: type[ipaddress.IPv6Address]) -> ipaddress.IPv6Address:
    try:
        return kind(text)
    except ValueError:
        raise UnitError("not an IPv6 address", 'write "[::1]:143"') from None


def _host(host: str) -> str:
    if not host or ":" in host or _HOST.fullmatch(host):
        return host
    if host == "*":
        raise UnitError("not a host name or address", 'leave the host empty to listen everywhere: ":143"')
    raise UnitError("not a host name or address")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise UnitError("a port is a number from 0 to 65535")
    return int(text)


def parse_network(text: str) -> Network:
    """``"10.0.0.0/8"``, ``"fd00::/8"`` or one address; bits beyond the prefix are an error."""
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise UnitError("not an address or network", _network_hint(text.strip())) from error


def _network_hint(text: str) -> str:
    try:
        return f'did you mean "{ipaddress.ip_network(text, strict=False)}"?'
    except ValueError:
        return 'write "10.0.0.0/8", "fd00::/8" or a single address'


def format_duration(seconds: float) -> str:
    """The shortest exact spelling of whole milliseconds: ``"1h30m"``, ``"14d"``, ``"250ms"``, ``"0s"``."""
    rest = round(seconds * 1000)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        amount, rest = divmod(rest, int(DURATION_UNITS[unit] * 1000))
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"


def format_size(size_bytes: int) -> str:
    """The largest unit that is exact: ``"10gb"``, ``"1536kb"``, ``"1001b"``."""
    for unit, factor in SIZE_UNITS.items():
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return "0b"
