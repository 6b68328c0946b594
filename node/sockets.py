"""The listening sockets of a node: bound at its start, while it may still be root, and its own from then on.

Theory: a socket that is bound and does not listen refuses connections like a closed port and needs no
privilege to listen. So sockets are bound first of all, listen once there is somebody to serve them, and are
told to stop listening by a drain, which can be taken back. Those that a service manager handed over listen
all the time, as it holds them too.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .activation import Handed
from .core import PROTOCOLS

if TYPE_CHECKING:
    from .certificates import Certificates
    from .config import Config, Server
    from .units import Address

log = logging.getLogger("sora.listeners")

# Of which server types the sockets are bound here. To add one: its word, and `Sockets.of` where it starts.
BOUND_TYPES: Final = frozenset({*PROTOCOLS, "metrics"})
CHALLENGES: Final = "challenges"  # FileDescriptorName= of a socket for HTTP-01
_CURES: Final = {
    errno.EADDRINUSE: " (another program has it; it may hand /.well-known/acme-challenge/ on to us)",
    errno.EACCES: " (start the node as root with user set, or give it CAP_NET_BIND_SERVICE)",
}
NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class ListenFailed(Exception):
    """The address cannot be bound; the message names the server and the cure."""


def bind(address: Address) -> list[socket.socket]:
    """Bound sockets that do not listen yet: one for each family when the host is empty or a name. Blocks
    while a name is resolved. Raises OSError."""
    infos = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    opened: list[socket.socket] = []
    refusal: OSError | None = None
    for family, _, _, _, name in dict.fromkeys(infos):
        try:
            opened.append(_bind_one(family, name))
        except OSError as error:
            refusal = error
            if error.errno not in NO_SUCH_FAMILY:
                break
    else:
        if opened:
            return opened
    for sock in opened:
        sock.close()
    raise refusal or OSError(errno.EADDRNOTAVAIL, "no such address")


def _bind_one(family: int, name: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
        if name[1]:
            return sock
        # a port that the kernel chose is lost when the socket stops listening, one that was asked for is not
        host, _, *scope = name
        asked = _bind_one(family, (host, sock.getsockname()[1], *scope))
    except OSError:
        sock.close()
        raise
    sock.close()
    return asked


def shown_address(sock: socket.socket) -> str:
    """Host and port that were really bound."""
    host, port, *_ = sock.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_failed(server: Server, error: OSError) -> ListenFailed:
    return ListenFailed(
        f"server {server.name}: cannot listen on {server.addr}: {error.strerror or error}"
        " (is another program on that port, or does the port need root?)"
    )


class ServerSockets:
    """Where one server listens."""

    def __init__(self, server: Server, sockets: Sequence[socket.socket], *, is_handed: bool = False) -> None:
        self.server = server
        self.sockets = list(sockets)
        self.is_handed = is_handed

    @property
    def address(self) -> str:
        return shown_address(self.sockets[0])

    def open(self) -> None:
        """Listen. Raises ListenFailed."""
        if self.is_handed:
            return
        try:
            for sock in self.sockets:
                sock.listen(self.server.listen_backlog)
        except OSError as error:
            self.shut()
            raise bind_failed(self.server, error) from error

    def shut(self) -> None:
        """Refuse connections as a closed port does; the address stays ours. One that was handed over goes on
        listening. Idempotent."""
        if self.is_handed:
            return
        for sock in self.sockets:
            if sock.fileno() >= 0 and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


class ChallengePort:
    """Where HTTP-01 challenges are answered: port 80, which others may have. Without it the node serves, and
    other nodes answer. ``trouble``: why it cannot, in words for the operator."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.sockets: list[socket.socket] = []
        self.trouble = ""

    def bind(self, handed: list[Handed]) -> list[Handed]:
        """Never raises. Those of ``handed`` that are not for it are left over."""
        own = [each for each in handed if each.name == CHALLENGES or _is_at(each.sock, self.address)]
        self.sockets = [each.sock for each in own if each.sock is not None]
        if self.sockets:
            return [each for each in handed if each not in own]
        try:
            self.sockets = bind(self.address)
        except OSError as error:
            self.fail(error)
        return handed

    def fail(self, error: OSError) -> None:
        """The sockets cannot be used."""
        self.close()
        self.trouble = (
            f"HTTP-01 challenges cannot be answered here, as port {self.address.port} is not ours:"
            f" {self.address}: {error.strerror or error}{_CURES.get(error.errno or 0, '')}"
        )
        log.warning("%s; the other nodes have to", self.trouble)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets = []


def challenge_port(config: Config) -> ChallengePort | None:
    """None: no challenge comes by HTTP."""
    tls = config.tls
    if not (tls.enabled and tls.provider == "letsencrypt") or tls.letsencrypt.dns.provider:
        return None
    return ChallengePort(tls.letsencrypt.challenge_listen)


class Sockets:
    """Of all servers of a configuration; ``handed`` is what a service manager passed."""

    def __init__(self, config: Config, handed: Iterable[Handed] = ()) -> None:
        self._wanted = [server for server in config.servers if server.start and server.type in BOUND_TYPES]
        self._handed = list(handed)
        self.challenges = challenge_port(config)
        self._places: dict[str, ServerSockets] = {}
        self._is_bound = False

    def bind(self) -> None:
        """Idempotent. Raises ListenFailed, holding nothing."""
        if self._is_bound:
            return
        left = self._take_handed()
        try:
            for server in self._wanted:
                if server.name not in self._places:
                    self._places[server.name] = _bound(server)
        except ListenFailed:
            self.close()
            raise
        self._is_bound = True
        if self.challenges is not None:
            left = self.challenges.bind(left)
        for each in left:
            _complain(each)

    def of(self, server: Server) -> ServerSockets:
        """Of a server of the configuration, after ``bind``."""
        return self._places[server.name]

    def listen(self, servers: Iterable[Server], certificates: Certificates) -> dict[str, list[socket.socket]]:
        """Let sockets listen; they stay this object's. Raises ListenFailed, CertificateUnusable."""
        for server in servers:
            certificate = certificates.of(server)
            place = self.of(server)
            place.open()
            has_tls = certificate is not None and server.tls and not server.tls_use_starttls
            remarks = ["TLS"] * has_tls + ["handed over by the service manager"] * place.is_handed
            log.info(
                "%s listens on %s%s", server.name, place.address, f" ({', '.join(remarks)})" * bool(remarks)
            )
        return {server.name: self.of(server).sockets for server in servers}

    def shut(self, servers: Iterable[Server]) -> None:
        """Refuse connections, as ``ServerSockets.shut``."""
        for server in servers:
            self.of(server).shut()

    def reopen(self, servers: Iterable[Server]) -> None:
        """All of them, or none. Raises ListenFailed."""
        group = list(servers)
        try:
            for server in group:
                self.of(server).open()
        except ListenFailed:
            self.shut(group)
            raise

    def handed_names(self) -> list[str]:
        """Servers whose sockets somebody else holds, too."""
        return [name for name, place in self._places.items() if place.is_handed]

    def close(self) -> None:
        """Idempotent."""
        for place in self._places.values():
            place.close()
        if self.challenges is not None:
            self.challenges.close()

    def _take_handed(self) -> list[Handed]:
        """Those that nobody wants are left over. A server's name comes before its address."""
        usable = [each for each in self._handed if each.sock is not None]
        found: dict[str, list[Handed]] = {}
        for server in self._wanted:
            found[server.name] = [each for each in usable if each.name == server.name]
        taken = {id(each) for group in found.values() for each in group}
        for server in self._wanted:
            if not found[server.name]:
                same = [e for e in usable if id(e) not in taken and _is_at(e.sock, server.addr)]
                found[server.name] = same
                taken |= {id(each) for each in same}
        for server in self._wanted:
            sockets = [each.sock for each in found[server.name] if each.sock is not None]
            if sockets:
                self._places[server.name] = ServerSockets(server, sockets, is_handed=True)
        return [each for each in self._handed if id(each) not in taken]


def _bound(server: Server) -> ServerSockets:
    try:
        return ServerSockets(server, bind(server.addr))
    except OSError as error:
        raise bind_failed(server, error) from error


def _is_at(sock: socket.socket | None, address: Address) -> bool:
    """Whether a socket listens where a server would."""
    if sock is None:
        return False
    host, port, *_ = sock.getsockname()
    if port != address.port:
        return False
    bound = ipaddress.ip_address(host.partition("%")[0])
    if not address.host:
        return bound.is_unspecified
    try:
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(bound == ipaddress.ip_address(str(name[0]).partition("%")[0]) for *_, name in infos)


def _complain(handed: Handed) -> None:
    """A client that connects there would wait for ever: loud, but no reason to serve nobody."""
    if handed.sock is None:
        log.error("%s was handed over and cannot be used: %s", handed, handed.flaw)
        return
    log.error(
        "%s was handed over, listens on %s, and no server wants it: give it the name of a server with"
        " FileDescriptorName=, set addr of a server to its address, or take it out of the .socket unit",
        handed,
        shown_address(handed.sock),
    )
    handed.sock.close()
