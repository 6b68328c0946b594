"""What a proxy tells of the client behind it: XCLIENT, as Postfix's XCLIENT_README has it, and the attributes
that mail proxies add (TTL, SESSION, FORWARD). Pure.

Decisions:

* With an address that is ``[UNAVAILABLE]`` or ``[TEMPUNAVAIL]`` the proxy's own stands: an empty one would be
  that of a Unix socket, which may do more.
* Attributes that a later XCLIENT does not name keep the values of an earlier one, as in Postfix.
* TTL is the number of proxies that may still come. A server that is the end of the way takes any but 0: with
  that, proxies have been handing the connection on among themselves.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from .ports import Connection, Peer, SessionRegistry
from .xtext import BadText, decode_xtext

log = logging.getLogger("sora.xclient")

MAX_VALUE_CHARS: Final = 255  # XCLIENT_README, "XCLIENT command syntax"
MAX_FORWARD_CHARS: Final = 1024
_UNKNOWN: Final = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_WORD: Final = re.compile(r"[!-~]{1,255}")
_PROTOCOLS: Final = frozenset({"SMTP", "ESMTP", "LMTP", "POP3"})

# In the order in which they are offered.
ATTRIBUTES: Final = (
    "NAME",
    "ADDR",
    "PORT",
    "PROTO",
    "HELO",
    "LOGIN",
    "DESTADDR",
    "DESTPORT",
    "TTL",
    "SESSION",
    "FORWARD",
)


class BadXclient(ValueError):
    """Not an attribute, or not a value it may have."""


def parse_xclient(argument: str) -> dict[str, str]:
    """Values by attribute, decoded and in one spelling; empty where they are said to be unknown.

    Raises BadXclient: also when there is no attribute, or one twice.
    """
    found: dict[str, str] = {}
    for word in argument.split():
        name, equals, raw = word.partition("=")
        key = name.upper()
        if not equals or key not in ATTRIBUTES or key in found:
            raise BadXclient(f"attribute {name[:20]!r}")
        found[key] = _value(key, raw)
    if not found:
        raise BadXclient("no attributes")
    return found


def _value(key: str, raw: str) -> str:
    if not 0 < len(raw) <= (MAX_FORWARD_CHARS if key == "FORWARD" else MAX_VALUE_CHARS):
        raise BadXclient(f"{key} is empty or too long")
    try:
        value = decode_xtext(raw)
    except BadText as error:
        raise BadXclient(f"{key}: {error}") from None
    if value.upper() in _UNKNOWN and key != "TTL":
        return ""
    check = _CHECKS.get(key)
    return value if check is None else check(value)


def _address(value: str) -> str:
    text = value[5:] if value[:5].upper() == "IPV6:" else value
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadXclient("no IP address") from None
    if "%" in text:
        raise BadXclient("an address with a zone")
    return str(getattr(address, "ipv4_mapped", None) or address)


def _port(value: str) -> str:
    if not (value.isascii() and value.isdecimal() and len(value) <= 5 and int(value) <= 0xFFFF):
        raise BadXclient("no port")
    return str(int(value))


def _ttl(value: str) -> str:
    if not (value.isascii() and value.isdecimal() and len(value) <= 3):
        raise BadXclient("no number of proxies")
    return str(int(value))


def _protocol(value: str) -> str:
    if value.upper() not in _PROTOCOLS:
        raise BadXclient("an unknown protocol")
    return value.upper()


def _matching(pattern: re.Pattern[str], value: str) -> str:
    if not pattern.fullmatch(value):
        raise BadXclient("not a name")
    return value


_CHECKS: Final[Mapping[str, Callable[[str], str]]] = {
    "NAME": lambda value: _matching(_NAME, value),
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _protocol,
    "HELO": lambda value: _matching(_WORD, value),
    "DESTADDR": _address,
    "DESTPORT": _port,
    "TTL": _ttl,
    "SESSION": lambda value: _matching(_WORD, value),
}


@dataclass(frozen=True, slots=True)
class Told:
    """All that was told in one connection."""

    values: Mapping[str, str] = field(default_factory=dict)

    def updated(self, values: Mapping[str, str]) -> Told:
        return Told({**self.values, **values})

    @property
    def is_looping(self) -> bool:
        return self.values.get("TTL") == "0"

    @property
    def helo(self) -> str:
        """The name that the client itself gave; empty: not told."""
        return self.values.get("HELO", "")

    @property
    def client_name(self) -> str:
        """The name of the client's address in the DNS; empty: unknown."""
        return self.values.get("NAME", "")

    def peer(self, proxy: Peer) -> Peer:
        """The client, where ``proxy`` is who is connected to us. What the proxy's own TLS handshake looked
        like says nothing about the client."""
        values = self.values
        ip = values.get("ADDR", "")
        destination = values.get("DESTADDR", "")
        return Peer(
            ip or proxy.ip,
            _number(values, "PORT") if ip else proxy.port,
            destination or proxy.local_ip,
            _number(values, "DESTPORT") or proxy.local_port,
            via_ip=proxy.ip or proxy.via_ip,
            sni=proxy.sni,
            proxy_session=values.get("SESSION", ""),
        )

    def for_log(self) -> dict[str, str]:
        """Foreign words, without those that are long and those that are told elsewhere."""
        return {f"told_{key.lower()}": value for key, value in self.values.items() if key not in _UNLOGGED}


class ToldClient:
    """One connection: who is connected, and whom it speaks for."""

    __slots__ = ("_connection", "_proxy", "_sessions", "told")

    def __init__(self, connection: Connection, sessions: SessionRegistry) -> None:
        self._connection = connection
        self._sessions = sessions
        self._proxy = connection.peer
        self.told = Told()

    def tell(self, values: Mapping[str, str]) -> bool:
        """The connection's peer is the client from now on. False: proxies go in circles, and nothing has
        changed."""
        told = self.told.updated(values)
        if told.is_looping:
            return False
        self._become(told)
        fields = {**self._connection.log_extra["fields"], "via": self._proxy.ip, **told.for_log()}
        log.info("a proxy speaks for this client", extra={"fields": fields})
        return True

    def forget(self) -> None:
        """Before a TLS handshake: what was told in the clear does not count after it (RFC 3207 §4.2)."""
        self._become(Told())

    def secured(self) -> None:
        """After a TLS handshake, of which more may be known."""
        self._proxy = self._connection.peer

    def _become(self, told: Told) -> None:
        self.told = told
        peer = told.peer(self._proxy) if told.values else self._proxy
        if peer != self._connection.peer:
            self._connection.peer = peer
            self._sessions.readdressed(self._connection.session_id, peer)


_UNLOGGED: Final = frozenset({"FORWARD", "ADDR"})


def _number(values: Mapping[str, str], key: str) -> int:
    return int(values.get(key) or 0)
