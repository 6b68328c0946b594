"""Listening sockets of the protocol servers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from protocols.driver import LineConnection

from .refusal import Refusal

if TYPE_CHECKING:
    import ssl

    from protocols.connections import LiveConnections
    from protocols.ports import SessionFactory
    from tls.contexts import FileCertificate

    from .config.server import Server

log = logging.getLogger("sora.listeners")

HANDSHAKE_WITHIN_S = 30.0


class ListenFailed(Exception):
    """The address cannot be bound; the message names the server and the cure."""


class Listener:
    """One server's socket; every connection gets a session of ``factory``."""

    def __init__(
        self,
        server: Server,
        factory: SessionFactory,
        live: LiveConnections,
        certificate: FileCertificate | None,
    ) -> None:
        self.server = server
        self._factory = factory
        self.live = live
        self._certificate = certificate
        self._asyncio_server: asyncio.Server | None = None
        self.refused = 0  # connections beyond max_connections

    @property
    def is_implicit_tls(self) -> bool:
        return self.server.tls and not self.server.tls_use_starttls

    def starttls_context(self) -> ssl.SSLContext | None:
        """The context for STARTTLS now; None when there is no certificate or TLS is on already."""
        if self.is_implicit_tls or self._certificate is None:
            return None
        return self._certificate.context

    async def open(self) -> None:
        """Raises ListenFailed."""
        address = self.server.addr
        context = None
        if self.is_implicit_tls and self._certificate is not None:
            context = self._certificate.outer_context()
        try:
            self._asyncio_server = await asyncio.get_running_loop().create_server(
                self._connection,
                address.host or None,
                address.port,
                backlog=self.server.listen_backlog,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_WITHIN_S if context else None,
            )
        except OSError as error:
            raise ListenFailed(
                f"server {self.server.name}: cannot listen on {address}: {error.strerror or error}"
                " (is another program on that port, or does the port need root?)"
            ) from error
        log.info("%s listens on %s%s", self.server.name, self.address, " (TLS)" if context else "")

    @property
    def address(self) -> str:
        """Host and port that were really bound."""
        assert self._asyncio_server is not None
        host, port, *_ = self._asyncio_server.sockets[0].getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Stop accepting; open connections stay."""
        if self._asyncio_server is not None:
            self._asyncio_server.close()

    def _connection(self) -> asyncio.Protocol:
        most = self.server.max_connections
        if most and len(self.live) >= most:
            self.refused += 1
            if self.refused.bit_count() == 1:  # the 1st, 2nd, 4th, 8th: a flood must not fill the log
                log.warning("%s: max_connections reached, %d refused so far", self.server.name, self.refused)
            return Refusal(self.server.type)
        return LineConnection(self._factory, self.live, tls_context=self.starttls_context)
