"""What the sessions of a worker need from the node, asked of the control process over the link.

Each class is the other implementation of a port: ``LinkSessions`` of ``shared.Registry``, ``LinkGate`` of
``shared.Gate``, ``LinkMaildropLock`` of ``ports.MaildropLock``. What must be decided at once and without
waiting, at the door, is decided here, from what the control process has told of blocks and full addresses.
A control process that does not answer refuses for now, and never lets in.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Hashable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from protocols.errors import AuthenticationUnavailable, TooManySessions
from protocols.imap.searchpace import TooManySearches
from protocols.ports import Goodbye, Identity, Peer, Registered
from storage.model import AccountId

from .link import Link, LinkFault
from .loginguard import LOGIN_TYPES, Decide, Decision, capacity_of, rules_of
from .places import Budgets, share
from .ratelimit import Limiter, Subject, decode, parse_address
from .ratelimit.exemptions import Exemptions
from .sessions import EVERYBODY, Leave, SessionLimits, Sessions, address_key
from .steadyclock import SteadyClock

if TYPE_CHECKING:
    from .config import Config, Server
    from .units import Network

# Delays before a password check are at most minutes; the control process keeps them.
JUDGE_TIMEOUT_S: Final = 600.0
NAMES_CUT_AT: Final = 320
PLACE_TIMEOUT_S: Final = 3.0


def wire_peer(peer: Peer) -> tuple[str, int, str, int, str, str, str, str]:
    """The fields of ``Peer`` in their order."""
    own = (peer.ip, peer.port, peer.local_ip, peer.local_port)
    return (*own, peer.via_ip, peer.ja4, peer.sni, peer.proxy_session)


class LinkSessions:
    """Arrivals are counted here and told. What may be let in without asking is in ``budgets``."""

    def __init__(self, link: Link, config: Config, workers: int) -> None:
        self._link = link
        self._workers = workers
        self._own = Sessions(config.trusted_networks)  # arrivals of this process
        self.budgets = Budgets(
            lambda server, ip: share(self._own.most(server, ip), workers),
            self._own.arrived,
            self._ask_places,
            lambda server, ip, count: link.notify("returned", server, ip, count),
        )
        self._connections: dict[str, Registered] = {}
        self._full: set[tuple[str, Hashable]] = set()
        self._numbers = itertools.count(1)

    def limit(self, server: str, limits: SessionLimits) -> None:
        self._own.limit(server, limits)
        self.budgets.settle_all(server)

    def trust(self, networks: Sequence[Network]) -> None:
        self._own.trust(networks)

    async def arrive(self, server: str, ip: str) -> Leave | None:
        if (server, address_key(ip)) not in self._full:
            if self._has_room(server, ip):
                return self._count(server, ip)
            try:
                if await self.budgets.claim(server, ip):
                    return self._count(server, ip)
            finally:
                self.budgets.settle(server, ip)
        self._link.notify("turned_away")
        return None

    def _has_room(self, server: str, ip: str) -> bool:
        return not self._own.most(server, ip) or self.budgets.has_room(server, ip)

    async def _ask_places(self, server: str, ip: str, count: int) -> bool:
        try:
            return bool(await self._link.call("place", server, ip, count, timeout_s=PLACE_TIMEOUT_S))
        except LinkFault:
            return False

    def _count(self, server: str, ip: str) -> Leave:
        leave_here = self._own.count_arrival(server, ip)
        number = 0 if ip == EVERYBODY else next(self._numbers)  # everybody is told by who it is, once
        if number:
            self._link.notify("arrived", number, server, ip)

        def leave() -> None:
            leave_here()
            if number:
                self._link.notify("left", number)
            self.budgets.settle(server, ip)

        return leave

    def opened(self, connection: Registered, protocol: str, server: str) -> None:
        self._connections[connection.session_id] = connection
        self._link.notify(
            *("opened", connection.session_id, protocol, server, wire_peer(connection.peer)),
            connection.has_tls,
        )

    def closed(self, connection: Registered) -> None:
        if self._connections.pop(connection.session_id, None) is not None:
            self._link.notify("closed", connection.session_id)

    def readdressed(self, session_id: str, peer: Peer) -> None:
        self._link.notify("readdressed", session_id, wire_peer(peer))

    async def logged_in(self, session_id: str, identity: Identity) -> None:
        names = (identity.address, identity.primary_address)
        try:
            await self._link.call("login", session_id, identity.account_id, *names)
        except LinkFault as error:
            raise TooManySessions("Logins cannot be counted now, try again later") from error

    def logged_out(self, session_id: str) -> None:
        self._link.notify("logout", session_id)

    def client_named(self, session_id: str, name: str, version: str) -> None:
        self._link.notify("named", session_id, name[:NAMES_CUT_AT], version[:NAMES_CUT_AT])

    # --- what the control process says ---

    async def give_back(self, server: str, ip: str, wanted: int) -> None:
        self.budgets.give_back(server, ip, wanted)

    def set_full(self, server: str, ip: str, is_full: bool) -> None:
        change = self._full.add if is_full else self._full.discard
        change((server, address_key(ip)))

    def say_goodbye(self, session_id: str, why: str, within_s: float | None) -> None:
        connection = self._connections.get(session_id)
        if connection is not None:
            connection.say_goodbye(Goodbye[why], within_s)

    def figures(self, session_ids: list[str]) -> list[tuple[str, bool, str, bool, int, int]]:
        """Session, whether it has TLS, its JA4 (which come late with STARTTLS), whether it is active, bytes
        in and out; of those that are still there."""
        known = ((name, self._connections.get(name)) for name in session_ids)
        return [
            (name, each.has_tls, each.peer.ja4, each.is_active, each.bytes_in, each.bytes_out)
            for name, each in known
            if each is not None
        ]


class LinkGates:
    """The gates of all servers of a worker. ``key`` is the same in all workers of a node."""

    def __init__(self, link: Link, config: Config, key: bytes, check_takes_s: Callable[[], float]) -> None:
        self.link = link
        self.key = key
        self.check_takes_s = check_takes_s
        self.peers: tuple[str, ...] = ()  # addresses of the other nodes of the cluster
        self._config = config
        self._gates: dict[str, LinkGate] = {}
        # holds blocks only, as the control process tells them
        self.limiter = Limiter(secret=key[:16], node="", capacity=capacity_of(config.servers))
        self.clock = SteadyClock()
        self._numbers = itertools.count(1)
        self._deciding: dict[int, Callable[[], Awaitable[bool]]] = {}

    def of(self, server: Server) -> LinkGate | None:
        if server.type not in LOGIN_TYPES:
            return None
        gate = self._gates[server.name] = LinkGate(self, server, self._config)
        return gate

    def reload(self, config: Config) -> None:
        self._config = config
        for server in config.servers:
            if (gate := self._gates.get(server.name)) is not None:
                gate.obey(server, config)

    def expect(self, decided: Callable[[], Awaitable[bool]]) -> int:
        """The number under which ``decide`` is asked for it."""
        number = next(self._numbers)
        self._deciding[number] = decided
        return number

    def forget(self, number: int) -> None:
        del self._deciding[number]

    # --- what the control process says ---

    async def decide(self, number: int) -> bool:
        """Raises AuthenticationUnavailable."""
        decided = self._deciding.get(number)
        if decided is None:
            raise AuthenticationUnavailable("the client is gone")
        return await decided()

    def set_peers(self, peers: list[str]) -> None:
        self.peers = tuple(peers)

    def absorb(self, delta: list[object], said: float, is_welcome: bool) -> None:
        """A block, or its end; ``said`` is the clock of the control process."""
        now = self.clock()
        told = decode(delta).moved(now - said)
        self.limiter.absorb(told, now)
        if is_welcome:
            self.limiter.welcome(told.subject, now)

    def welcome(self, subject: str) -> None:
        """Somebody logged in from a blocked address: it is not turned away at the door any more."""
        self.limiter.welcome(Subject(int(subject)), self.clock())


class LinkGate:
    def __init__(self, gates: LinkGates, server: Server, config: Config) -> None:
        self._gates = gates
        self._name = server.name
        self.obey(server, config)

    def obey(self, server: Server, config: Config) -> None:
        self._rules = rules_of(server.auth_rate_limit)
        exempt = server.auth_rate_limit.exempt_networks
        self._exemptions = Exemptions(exempt, config.trusted_networks, lambda: self._gates.peers)

    def refuses(self, peer: Peer) -> bool:
        address = parse_address(peer.ip)
        if address is None or self._exemptions.why(address, peer.local_ip) is not None:
            return False
        return self._gates.limiter.refuses(self._rules, address, self._gates.clock()) is not None

    async def judge(self, peer: Peer, user: str, password: bytes, decide: Decide) -> Decision:
        """The rules are kept by the control process, which calls back for the decision when they allow it."""
        gates, found = self._gates, Decision(None)

        async def decided() -> bool:
            nonlocal found
            found = await decide()
            return found.identity is not None

        digest = blake2b(password, digest_size=16, key=gates.key).digest()
        number = gates.expect(decided)
        told = (number, self._name, wire_peer(peer), user, digest, gates.check_takes_s())
        try:
            refused_by = await gates.link.call("judge", *told, timeout_s=JUDGE_TIMEOUT_S)
        except LinkFault as error:
            raise AuthenticationUnavailable(f"the control process: {error}") from error
        finally:
            gates.forget(number)
        return Decision(None, refused_by) if refused_by else found


class LinkSearches:
    """The other implementation of ``Searches.begin``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def begin(self, server: str, account: AccountId) -> None:
        try:
            wait_s: Any = await self._link.call("search", server, account)
        except LinkFault as error:
            raise TooManySearches(1.0) from error
        if wait_s is not None:
            raise TooManySearches(wait_s)


class LinkMaildropLock:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._numbers = itertools.count(1)

    async def acquire(self, account_id: AccountId) -> Callable[[], None] | None:
        number = next(self._numbers)
        is_held = False
        try:
            is_held = bool(await self._link.call("lock", number, account_id))
        except LinkFault:
            return None  # as if another session had it: the client tries again
        finally:
            if not is_held:
                self._link.notify("unlock", number)  # the answer may have been on its way
        return (lambda: self._link.notify("unlock", number)) if is_held else None
