"""What happens to a connection between accept and the first line of its session.

PROXY header (from trusted networks, where the server expects one), a look at the TLS client's first message,
the certificate for the name in it, then TLS. Nothing here is guessed: a server that expects PROXY headers
takes no connection without one, as waiting for a header that may come would hold back the greeting of every
client that sends none.

Whatever goes wrong ends here: the connection is closed without a word, and counted by its cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from protocols import haproxy
from protocols.driver import LineConnection
from protocols.errors import PeerGone
from protocols.ports import Peer
from tls import clienthello
from tls.ja4 import ja4
from tls.unserved import Unserved

from .peek import PeerLeft, peek
from .refusal import Refusal
from .units import Network

if TYPE_CHECKING:
    from tls.sources import CertificateSource

    from .config.server import Server

# The asyncio protocol that takes the connection over.
Entrant = LineConnection | Refusal

log = logging.getLogger("sora.frontdoor")

Certificates = Callable[[], "CertificateSource | None"]

# A fatal alert in a record of its own (RFC 8446 §6, RFC 6066 §3).
UNRECOGNIZED_NAME: Final = bytes((21, 3, 3, 0, 2, 2, 112))
# The operator should know: a client did nothing strange.
_OUR_FAULT: Final = frozenset(
    {Unserved.NONE, Unserved.EXPIRED, Unserved.UNUSABLE, Unserved.NOT_IN_TIME, Unserved.CROWDED}
)

HELLO_WITHIN_S: Final = 10.0
HANDSHAKE_WITHIN_S: Final = 10.0
TLS_SHUTDOWN_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """``trusted`` None: no PROXY headers are expected."""

    trusted: tuple[Network, ...] | None = None
    proxy_within_s: float = 5.0
    hello_within_s: float = HELLO_WITHIN_S
    looks_at_hellos: bool = True


def door_settings(server: Server, trusted_networks: tuple[Network, ...]) -> DoorSettings:
    """``trusted_networks`` are those of the whole node, for servers that name none of their own."""
    proxy = server.proxy_protocol
    if not proxy.enabled:
        return DoorSettings()
    trusted = trusted_networks if proxy.trusted_proxies is None else proxy.trusted_proxies
    return DoorSettings(trusted, proxy.timeout_s)


@dataclass(slots=True)
class DoorCounts:
    """Totals since start. ``rejected`` has a small, fixed set of causes."""

    wakeups: int = 0  # of connections that wait for a header or a hello
    rejected: Counter[str] = field(default_factory=Counter)


class Rejected(Exception):
    """The connection is closed; ``cause`` is one word for the counter."""

    def __init__(self, cause: str, detail: str = "", level: int = logging.DEBUG) -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.level = level


class FrontDoor:
    """The way in of one server.

    ``implicit_tls`` gives the certificates for TLS from the first byte, ``starttls`` those for later; None:
    there is no such thing. ``admit`` is asked as soon as the address of a client is known, and may answer
    with another entrant (a refusal).
    """

    def __init__(
        self,
        name: str,
        settings: DoorSettings,
        implicit_tls: Certificates = lambda: None,
        starttls: Certificates = lambda: None,
        admit: Callable[[Entrant], Awaitable[Entrant]] | None = None,
    ) -> None:
        self.counts = DoorCounts()
        self._name = name
        self.settings = settings  # may be replaced, for new connections
        self._implicit_tls = implicit_tls
        self._starttls = starttls
        self._admit = admit
        self._waiting: set[asyncio.Task[None]] = set()

    async def enter(self, sock: socket.socket, address: Any, entrant: Entrant) -> None:
        """Lead the connection to ``entrant``, or close it. Returns when its transport is up."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        is_ours = True
        try:
            source = self._implicit_tls()
            entrant.peer = await self._peer(sock, address)
            if self._admit is not None:
                entrant = await self._admit(entrant)
            context = None if source is None else await self._greeted(sock, entrant, source)
            if context is None:
                self._waiting.discard(task)
            is_ours = False
            await self._connect(sock, entrant, context)
        except Rejected as error:
            self._note(error, address[0], "connection closed: %s")
        finally:
            self._waiting.discard(task)
            if is_ours:
                sock.close()

    def end_waiting(self) -> None:
        """Close what waits for a header, a hello or a handshake.

        A connection that is being handed to its session is let through: uvloop, cancelled in that moment,
        would close the socket without telling the session.
        """
        for task in self._waiting:
            task.cancel()

    async def look(self, entrant: Entrant, transport: asyncio.Transport) -> ssl.SSLContext | None:
        """STARTTLS: who the client is, from its hello, and the context for it. Raises PeerGone when it sends
        none, or there is none."""
        source = self._starttls()
        if source is None:
            return None
        # a loop lets nobody but the transport watch the transport's own descriptor
        sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        try:
            return await self._greeted(sock, entrant, source)
        except Rejected as error:
            self._note(error, entrant.peer.ip, "STARTTLS failed: %s")
            raise PeerGone from error
        finally:
            sock.close()

    async def _peer(self, sock: socket.socket, address: Any) -> Peer:
        try:
            local = sock.getsockname()
        except OSError as error:
            raise Rejected("left") from error
        peer = Peer(_plain(address[0]), address[1], _plain(local[0]), local[1])
        if self.settings.trusted is None:
            return peer
        return await self._proxied(sock, peer, self.settings.trusted)

    async def _connect(self, sock: socket.socket, entrant: Entrant, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        limits: dict[str, Any] = {}
        if context is not None:
            limits = {
                "ssl": context,
                "ssl_handshake_timeout": HANDSHAKE_WITHIN_S,
                "ssl_shutdown_timeout": TLS_SHUTDOWN_WITHIN_S,
            }
        try:
            await loop.connect_accepted_socket(lambda: entrant, sock, **limits)
        except (OSError, ssl.SSLError) as error:
            cause = "handshake" if context is not None else "left"
            raise Rejected(cause, str(error) or type(error).__name__) from error

    # --- PROXY ---

    async def _proxied(self, sock: socket.socket, peer: Peer, trusted: tuple[Network, ...]) -> Peer:
        if not _is_in(peer.ip, trusted):
            raise Rejected("proxy_untrusted", "only load balancers may connect here")
        try:
            async with asyncio.timeout(self.settings.proxy_within_s):
                header = await peek(sock, haproxy.parse, self._count_wakeup)
        except TimeoutError as error:
            why = "no PROXY header came; is the load balancer set up to send one?"
            raise Rejected("proxy_missing", why, logging.WARNING) from error
        except haproxy.ProxyHeaderError as error:
            raise Rejected("proxy_malformed", str(error), logging.WARNING) from error
        except PeerLeft as error:
            raise Rejected("left", "before a PROXY header") from error
        sock.recv(header.size)
        return _told(peer, header)

    # --- TLS ---

    async def _greeted(
        self, sock: socket.socket, entrant: Entrant, source: CertificateSource
    ) -> ssl.SSLContext:
        """The context for a client that begins a handshake. Raises Rejected."""
        name = await self._hello(sock, entrant) if self.settings.looks_at_hellos else ""
        choice = await source.obtain(name)
        if isinstance(choice, ssl.SSLContext):
            return choice
        if choice is Unserved.UNKNOWN_NAME:
            _alert(sock, UNRECOGNIZED_NAME)
        level = logging.WARNING if choice in _OUR_FAULT else logging.DEBUG
        raise Rejected(choice.value, name, level)

    async def _hello(self, sock: socket.socket, entrant: Entrant) -> str:
        """The server name of this handshake; empty: none."""
        try:
            async with asyncio.timeout(self.settings.hello_within_s):
                found: bytes | clienthello.Refused
                found = await peek(sock, clienthello.scan, self._count_wakeup)
        except TimeoutError as error:
            raise Rejected("hello_timeout") from error
        except PeerLeft as error:
            raise Rejected("left", "before a TLS hello") from error
        if isinstance(found, clienthello.Refused):
            raise Rejected(found.value)
        hello = clienthello.parse(found)
        if hello is None:  # OpenSSL may think otherwise, and has an alert for it when it does not
            return ""
        if hello.is_sni_bad:
            raise Rejected("sni")
        # what our own proxy saw is the client; what we see then is the proxy
        peer = entrant.peer
        entrant.peer = replace(peer, ja4=peer.ja4 or ja4(hello), sni=peer.sni or hello.sni)
        return hello.sni

    def _note(self, error: Rejected, ip: str, text: str) -> None:
        self.counts.rejected[error.cause] += 1
        log.log(error.level, text, error, extra={"fields": {"ip": ip, "server": self._name}})

    def _count_wakeup(self) -> None:
        self.counts.wakeups += 1


def _alert(sock: socket.socket, alert: bytes) -> None:
    """Said before closing, if the client still takes it. What it sent is read first: a connection that is
    closed with bytes unread is reset, and the alert with it."""
    with contextlib.suppress(OSError):
        sock.recv(clienthello.MAX_HELLO)
        sock.send(alert)


def _told(peer: Peer, header: haproxy.Header) -> Peer:
    """The peer as the balancer describes it."""
    if header.source is None or header.destination is None:
        return peer
    return Peer(
        _plain(header.source.ip),
        header.source.port,
        _plain(header.destination.ip),
        header.destination.port,
        via_ip=peer.ip,
        ja4=header.ja4,
        sni=header.authority,
        proxy_session=header.session_id,
    )


def _plain(ip: str) -> str:
    """IPv4 in the clothes of IPv6 counts, and is logged, as IPv4."""
    if ip.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(ip).ipv4_mapped
        return str(mapped) if mapped is not None else ip
    return ip


# Load balancers are few, and connect again and again.
_address = lru_cache(maxsize=1024)(ipaddress.ip_address)


def is_trusted(peer: Peer, networks: tuple[Network, ...]) -> bool:
    """Whether it may say who its clients are; never who comes by a Unix socket, which has no address."""
    return bool(peer.ip) and _is_in(peer.ip, networks)


def _is_in(ip: str, networks: tuple[Network, ...]) -> bool:
    address = _address(ip.partition("%")[0])
    return any(address in network for network in networks)
