"""``[servers.metrics]``: /metrics for Prometheus, /healthz for supervisors, /readyz for load balancers.

* ``/healthz``: 200 while the loop answers at all; says nothing else, asks nothing.
* ``/readyz``: 200 or 503 and, with the key (or where none is set), the state of every component.
* ``path`` (/metrics): the figures; needs the key.

HTTP is aiohttp's, without its router: three paths, no arguments, no bodies.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from node.frontdoor import HANDSHAKE_WITHIN_S
from node.httpserver import HttpServer
from node.refusal import Refusal
from node.sockets import bind_failed, shown_address
from tls.sources import answer_on, outer_context

if TYPE_CHECKING:
    import socket
    import ssl

    from node.config.server import Server
    from tls.sources import CertificateSource


# Who connects asks at once; what has not after this time is no scraper.
FIRST_REQUEST_WITHIN_S = 10.0
SWEEP_EVERY_S = 5.0
# A page of figures takes milliseconds: more at a time than this is not monitoring.
MAX_CONNECTIONS = 256

Render = Callable[[str], Awaitable["tuple[bytes, str]"]]  # the Accept header; the page and its content type
Report = Callable[[], Awaitable[dict[str, Any]]]


class MetricsServer:
    """One server of type metrics."""

    def __init__(
        self, server: Server, render: Render, report: Report, certificate: CertificateSource | None
    ) -> None:
        self.server = server
        self.refused = 0
        self._render = render
        self._report = report
        self._certificate = certificate
        self._tls: ssl.SSLContext | None = None
        self._key = server.api_key.reveal().encode() if server.api_key else b""
        self._listening: list[asyncio.Server] = []
        self._address = ""
        self._silent: dict[web.RequestHandler, float] = {}  # asked nothing yet; connected when
        self._http: HttpServer

    def show(self, certificate: CertificateSource | None) -> None:
        """To new connections, where TLS is on."""
        if self._tls is not None and certificate is not None:
            answer_on(self._tls, certificate)

    async def open(self, sockets: Sequence[socket.socket]) -> None:
        """Raises ListenFailed."""
        self._http = HttpServer(self._answer, keepalive_timeout=self.server.command_timeout_s)
        if self.server.tls and self._certificate is not None:
            self._tls = outer_context(self._certificate)
        self._address = shown_address(sockets[0])
        for sock in sockets:
            self._listening.append(await self._listen(sock))

    async def _listen(self, sock: socket.socket) -> asyncio.Server:
        try:
            return await asyncio.get_running_loop().create_server(
                self._connection,
                sock=sock,
                backlog=self.server.listen_backlog,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_WITHIN_S if self._tls else None,
            )
        except OSError as error:
            raise bind_failed(self.server, error) from error

    @property
    def address(self) -> str:
        """Host and port that were really bound."""
        return self._address

    @property
    def open_connections(self) -> int:
        return len(self._http.connections)

    async def close(self) -> None:
        """Stop accepting and let go of all connections."""
        for each in self._listening:
            each.close()
        if self._listening:
            await self._http.shutdown(1.0)

    async def sweep(self, stop: asyncio.Event) -> None:
        """A worker: ends connections on which nobody asked anything."""
        while not stop.is_set():
            now = asyncio.get_running_loop().time()
            late = [each for each, since in self._silent.items() if now - since >= FIRST_REQUEST_WITHIN_S]
            for connection in late:
                connection.force_close()  # harmless when it is gone, or never came through its handshake
                del self._silent[connection]
            try:
                await asyncio.wait_for(stop.wait(), SWEEP_EVERY_S)
            except TimeoutError:
                continue

    def _connection(self) -> asyncio.BaseProtocol:
        if self.open_connections >= (self.server.max_connections or MAX_CONNECTIONS):
            self.refused += 1
            return Refusal(self.server.type)
        connection = self._http()
        self._silent[connection] = asyncio.get_running_loop().time()
        return connection

    # --- requests ---

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._silent.pop(request.protocol, None)
        if not self._is_allowed_host(request.remote or ""):
            return _text(403, "Not from this address")
        if self._has_too_many(request.remote or ""):
            return _text(429, "Too many connections from this address", {"Connection": "close"})
        if request.method not in ("GET", "HEAD"):
            return _text(405, "Only GET", {"Allow": "GET, HEAD"})
        if request.path == "/healthz":
            return _text(200, "ok")
        if request.path == "/readyz":
            return await self._ready(request)
        if request.path != self.server.path:
            return _text(404, "Not here")
        if not self._has_key(request):
            return _text(401, "The key is missing or wrong", {"WWW-Authenticate": 'Bearer realm="sora"'})
        page, content_type = await self._render(request.headers.get("Accept", ""))
        return web.Response(body=page, headers={"Content-Type": content_type, **_HEADERS})

    async def _ready(self, request: web.BaseRequest) -> web.Response:
        """Load balancers carry no key, so the answer is for all and the details are not."""
        report = await self._report()
        status = 503 if report["status"] == "down" else 200
        shown = report if self._has_key(request) else {"status": report["status"]}
        return web.Response(
            status=status, text=json.dumps(shown), content_type="application/json", headers=_HEADERS
        )

    def _has_too_many(self, remote: str) -> bool:
        most = self.server.max_connections_per_ip
        if not most:
            return False
        same = [each for each in self._http.connections if _peer_ip(each.transport) == remote]
        return len(same) > most

    def _has_key(self, request: web.BaseRequest) -> bool:
        if not self._key:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        sent = given.strip().encode("utf-8", "surrogateescape")
        return scheme.lower() == "bearer" and hmac.compare_digest(sent, self._key)

    def _is_allowed_host(self, remote: str) -> bool:
        if not self.server.allowed_hosts:
            return True
        try:
            address = ipaddress.ip_address(remote.partition("%")[0])
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self.server.allowed_hosts)


def _peer_ip(transport: asyncio.BaseTransport | None) -> str:
    name = transport.get_extra_info("peername") if transport is not None else None
    return str(name[0]) if name else ""


_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _text(status: int, words: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{words}\n", headers=_HEADERS | (headers or {}))
