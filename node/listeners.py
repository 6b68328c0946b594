"""Listening sockets of the protocol servers."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from protocols.driver import LineConnection
from tls.contexts import server_context

from .acceptor import Acceptor
from .frontdoor import DoorSettings, Entrant, FrontDoor, Rejected
from .refusal import Refusal
from .sessions import EVERYBODY, Leave
from .sockets import bind, bind_failed, shown_address

if TYPE_CHECKING:
    from protocols.connections import LiveConnections
    from protocols.ports import Admission, Peer, SessionFactory
    from tls.sources import CertificateSource

    from .config.server import Server

log = logging.getLogger("sora.listeners")

# Refusing costs a handshake where TLS comes first; a flood beyond this is closed without a word.
REFUSALS_AT_ONCE: Final = 100
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: a balancer sees at once that it has to go elsewhere


# Asked with a client's address, or ``sessions.EVERYBODY``: what to call when it is gone; None: there are as
# many connections as may be.
Arrive = Callable[[str], Awaitable[Leave | None]]


@cache
def _stand_in() -> ssl.SSLContext:
    """What STARTTLS is offered with when nobody is shown a certificate but who names the right server: the
    door puts another in its place, or ends the connection."""
    return server_context(())


async def not_counted(_ip: str) -> Leave:
    return lambda: None


def _both(one: Leave, other: Leave) -> None:
    one()
    other()


class Listener:
    """One server's sockets; every connection gets a session of ``factory``.

    A connection has a task from accept until its transport is up, and none afterwards.
    """

    def __init__(
        self,
        server: Server,
        factory: SessionFactory,
        live: LiveConnections,
        certificate: CertificateSource | None,
        door: DoorSettings | None = None,
        *,
        arrive: Arrive = not_counted,
        admission: Admission | None = None,
    ) -> None:
        self.server = server
        self.factory = factory  # may be replaced, for new connections
        self.live = live
        self.certificate = certificate  # may be replaced, as ``server``, for new connections
        self.door = FrontDoor(
            server.name, door or DoorSettings(), self._implicit_tls, self._starttls, self._admit
        )
        self._arrive = arrive
        self._admission = admission
        self._acceptor: Acceptor | None = None
        self._is_closed = False
        self._address = ""
        self._entering: set[asyncio.Task[None]] = set()
        self._refusing = 0
        self._turns_away = False
        self.refused = 0  # connections beyond max_connections
        self.refused_by_address = 0  # beyond max_connections_per_ip
        self.refused_as_blocked = 0  # by auth_rate_limit or an operator

    @property
    def is_implicit_tls(self) -> bool:
        return self.server.tls and not self.server.tls_use_starttls

    def starttls_context(self) -> ssl.SSLContext | None:
        """The context for STARTTLS now, of who asks for no name; None when TLS is on already, or there is no
        certificate for anybody."""
        source = self._starttls()
        if source is None or not source.can_serve:
            return None
        context = source.choose("")
        return context if isinstance(context, ssl.SSLContext) else _stand_in()

    def _implicit_tls(self) -> CertificateSource | None:
        return self.certificate if self.is_implicit_tls else None

    def _starttls(self) -> CertificateSource | None:
        return None if self.is_implicit_tls else self.certificate

    async def open(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """On ``sockets``, which this object owns from then on, or new ones on the server's address. Raises
        ListenFailed."""
        self._acceptor = Acceptor(list(sockets or self._listening()), self._arrived)
        self._address = shown_address(self._acceptor.sockets[0])

    def _listening(self) -> list[socket.socket]:
        try:
            bound = bind(self.server.addr)
            for sock in bound:
                sock.listen(self.server.listen_backlog)
        except OSError as error:
            raise bind_failed(self.server, error) from error
        return bound

    @property
    def address(self) -> str:
        """Host and port that were really bound."""
        return self._address

    def yield_to_others(self, *, is_ahead: bool) -> None:
        """Whether this process has more than its share of the connections on shared sockets."""
        if self._acceptor is not None:
            self._acceptor.yields = is_ahead

    async def close(self) -> None:
        """Stop accepting, and end what has not become a session yet; sessions stay."""
        self._is_closed = True
        if self._acceptor is not None:
            self._acceptor.close()
        await self.end_entering()

    def stop_accepting(self, *, turns_away: bool = False) -> None:
        """The sockets are kept. ``turns_away``: they go on listening, as somebody else has them too, so who
        connects is cut off at once. Idempotent."""
        self._is_closed, self._turns_away = True, turns_away
        if self._acceptor is not None and not turns_away:
            self._acceptor.pause()

    def resume_accepting(self) -> None:
        self._is_closed = self._turns_away = False
        if self._acceptor is not None:
            self._acceptor.resume()

    async def end_entering(self) -> None:
        """Of what has been accepted and is no session yet."""
        await asyncio.sleep(0)  # a task that is cancelled before its first step would not close its socket
        self.door.end_waiting()
        if self._entering:
            await asyncio.wait(self._entering)

    def _arrived(self, sock: socket.socket, address: Any) -> None:
        if self._turns_away:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            return
        connection = LineConnection(
            self.factory, self.live, tls_context=self.starttls_context, before_tls=self.door.look
        )
        self.live.entering.add(connection)
        self._start(self._enter(sock, address, connection))

    async def _enter(self, sock: socket.socket, address: Any, connection: LineConnection) -> None:
        try:
            leave = await self._arrive(EVERYBODY)
            if leave is None:
                self.live.entering.discard(connection)
                await self._refuse(sock, address)
                return
            connection.leave = leave
            if self._is_closed:
                sock.close()
                return
            await self.door.enter(sock, address, connection)
        finally:
            if connection in self.live.entering:  # it never became a session, which would leave by itself
                self.live.entering.discard(connection)
                connection.leave()

    async def _admit(self, entrant: Entrant) -> Entrant:
        if not isinstance(entrant, LineConnection):
            return entrant
        if self._admission is not None and self._admission.refuses(entrant.peer):
            self.refused_as_blocked += 1
            return self._turned_away(entrant.peer)
        leave = await self._arrive(entrant.peer.ip)
        if leave is not None:
            entrant.leave = partial(_both, entrant.leave, leave)
            return entrant
        self.refused_by_address += 1
        self._log_refused("max_connections_per_ip", self.refused_by_address, entrant.peer.ip)
        return self._refusal(entrant.peer)

    def _turned_away(self, peer: Peer) -> Refusal:
        """A blocked client gets the words of a full server, it need not know more; where they would cost a
        handshake, it gets none."""
        if self._implicit_tls() is not None:
            raise Rejected("blocked")
        return self._refusal(peer)

    def _refusal(self, peer: Peer) -> Refusal:
        refusal = Refusal(self.server.type)
        refusal.peer = peer
        return refusal

    def _log_refused(self, limit: str, count: int, ip: str) -> None:
        """``ip`` is of the last one; before its PROXY header has been read, that of the balancer."""
        if count.bit_count() == 1:  # the 1st, 2nd, 4th, 8th: a flood must not fill the log
            told = {"fields": {"ip": ip, "server": self.server.name}}
            log.warning("%s: %s reached, %d refused so far", self.server.name, limit, count, extra=told)

    async def _refuse(self, sock: socket.socket, address: Any) -> None:
        self.refused += 1
        self._log_refused("max_connections", self.refused, address[0])
        if self._refusing >= REFUSALS_AT_ONCE:
            sock.close()
            return
        self._refusing += 1
        try:
            await self.door.enter(sock, address, Refusal(self.server.type))
        finally:
            self._refusing -= 1

    def _start(self, entering: Any) -> None:
        task = asyncio.ensure_future(entering)
        self._entering.add(task)
        task.add_done_callback(self._entered)

    def _entered(self, task: asyncio.Task[None]) -> None:
        self._entering.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: unexpected %s", self.server.name, type(error).__name__, exc_info=error)
