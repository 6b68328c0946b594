"""The control process's side of the ports: what workers ask and tell, answered from the node's state.

``Hub`` has the state and tells all workers what their doors must know. A ``Desk`` serves one worker and
remembers what is there on its account, so that all of it goes when the worker is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from protocols.imap.searchpace import TooManySearches
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.ports import Goodbye, Identity, Peer
from storage.model import AccountId

from .link import Answerer, Hearer, Link, LinkFault
from .loginguard import Decision, Guards
from .places import Leases
from .ratelimit import Delta, Failures, Subject, Word, encode
from .searches import Searches
from .sessions import EVERYBODY, Leave, Sessions, address_key

if TYPE_CHECKING:
    from .config import Config
    from .loginguard import LoginGuard

# A password check waits in a queue of bounded length.
DECIDE_TIMEOUT_S: Final = 60.0
_SOMEBODY: Final = Identity(AccountId(0), "", "")  # only the worker needs to know who
GIVE_BACK_WITHIN_S: Final = 1.0
DEAF_AFTER_BEATS: Final = 2  # no use to wait for
FIGURES_AT_ONCE: Final = 5_000  # sessions, some 500 KB


class RemoteConnection:
    """``ports.Registered`` of a connection in a worker; figures are as of the last ``Hub.refresh``."""

    def __init__(self, link: Link, session_id: str, peer: Peer, *, has_tls: bool) -> None:
        self._link = link
        self.session_id = session_id
        self.peer = peer
        self.has_tls = has_tls
        self.is_active = False
        self.bytes_in = 0
        self.bytes_out = 0

    def say_goodbye(self, why: Goodbye, within_s: float | None = None) -> None:
        self._link.notify("goodbye", self.session_id, why.name, within_s)


class Hub:
    """``workers``: how many there are to be. ``on_staged``: a worker has put a body into staging."""

    def __init__(self, config: Config, workers: int, on_staged: Callable[[], None] = lambda: None) -> None:
        self.check_takes_s = 0.0
        self.guards = Guards(config, check_takes_s=lambda: self.check_takes_s)
        self.guards.mirror = self._mirror
        self.guards.welcomed = self._welcomed
        self.sessions = Sessions(config.trusted_networks)
        self.searches = Searches(config)
        self.leases = Leases(self.sessions.most, workers)
        self.maildrops = LocalMaildropLock()
        self.on_staged = on_staged
        self.on_relay_queued: Callable[[str], None] = lambda _id: None
        self.on_wanted: Callable[[str], None] = lambda _name: None  # a client waits for its certificate
        self.desks: set[Desk] = set()
        self._peers: tuple[str, ...] = ()
        self._gates = {server.name: self.guards.of(server) for server in config.servers}
        self._full: dict[tuple[str, Hashable], str] = {}  # the address as one of its clients has it

    def gate(self, server: str) -> LoginGuard:
        gate = self._gates.get(server)
        if gate is None:
            raise LinkFault(f"nobody logs in to {server}")
        return gate

    async def refresh(self) -> None:
        """Bring the figures of all connections up to date."""
        for desk in tuple(self.desks):
            await desk.refresh()

    def check_full(self, server: str, ip: str) -> None:
        """Tell the doors when an address gets full, and when it no longer is."""
        key = (server, address_key(ip))
        is_full = self.sessions.is_full(server, ip)
        if is_full == (key in self._full):
            return
        if is_full:
            self._full[key] = ip
        else:
            del self._full[key]
        self._tell_all("full", server, ip, is_full)

    def tell_peers(self, peers: tuple[str, ...]) -> None:
        """Addresses of the other nodes of the cluster, which no door turns away."""
        self._peers = peers
        self._tell_all("peers", peers)

    def greet(self, desk: Desk) -> None:
        """What a new worker must know."""
        desk.link.notify("peers", self._peers)
        for (server, _), ip in self._full.items():
            desk.link.notify("full", server, ip, True)
        for word in self.guards.limiter.words(self.guards.clock()):
            desk.link.notify(*self._block_notice(word))
        self.desks.add(desk)
        self.leases.begin(desk)
        desk.link.notify("begin")
        self.balance()

    def recheck(self) -> None:
        """Limits or trusted networks have changed: which addresses are full now."""
        self.leases.settle_all()
        places = {(server, ip) for desk in self.desks for server, ip in desk.places()}
        for server, ip in places | {(server, ip) for (server, _), ip in self._full.items()}:
            self.check_full(server, ip)

    def balance(self) -> None:
        """Processes that accept from the same sockets do not share fairly by themselves: who is first once
        is always first. So whoever has more than the others is told to let them go first."""
        if not self.desks:
            return
        least = min(desk.load for desk in self.desks)
        most = least + 1 + least // 20
        for desk in self.desks:
            if desk.is_ahead != (desk.load > most):
                desk.is_ahead = not desk.is_ahead
                desk.link.notify("ahead", desk.is_ahead)

    def _mirror(self, delta: Delta) -> None:
        if isinstance(delta, Failures) or delta.user:  # the door does not look at those
            return
        self._tell_all(*self._block_notice(delta))

    def _block_notice(self, word: Word) -> tuple[Any, ...]:
        """With our clock: that of a worker has begun at another reading."""
        return ("block", encode(word), self.guards.clock(), self.guards.limiter.is_welcome(word.subject))

    def _welcomed(self, subject: Subject) -> None:
        if self.guards.limiter.is_blocked(subject, self.guards.clock()):
            self._tell_all("welcome", str(subject))

    def _tell_all(self, *notice: Any) -> None:
        for desk in self.desks:
            desk.link.notify(*notice)


class Desk:
    """Of one worker, for as long as its link lasts."""

    link: Link

    def __init__(self, hub: Hub) -> None:
        self.is_ahead = False
        self._hub = hub
        self._connections: dict[str, RemoteConnection] = {}
        self._arrivals: dict[int, tuple[str, str, tuple[Leave, Leave]]] = {}
        self._locks: dict[int, Callable[[], None]] = {}
        self.calls: dict[str, Answerer] = {
            "judge": self._judge,
            "login": self._login,
            "lock": self._lock,
            "search": self._search,
            "place": partial(hub.leases.ask, self),
        }
        self.notices: dict[str, Hearer] = {
            "arrived": self._arrived,
            "left": self._left,
            "returned": partial(hub.leases.returned, self),
            "turned_away": self._turned_away,
            "opened": self._opened,
            "closed": self._closed,
            "readdressed": self._readdressed,
            "named": hub.sessions.client_named,
            "logout": hub.sessions.logged_out,
            "unlock": self._unlock,
            "staged": lambda: hub.on_staged(),
            "relay_queued": lambda message_id: hub.on_relay_queued(message_id),
            "wanted": lambda name: hub.on_wanted(name),
        }

    def __len__(self) -> int:
        """Sessions."""
        return len(self._connections)

    @property
    def load(self) -> int:
        """Connections, from accept on."""
        return len(self._arrivals)

    def places(self) -> Iterator[tuple[str, str]]:
        """Server and address of each connection; everybody has one, too."""
        for server, ip, _ in self._arrivals.values():
            yield server, ip
            yield server, EVERYBODY

    def clear(self) -> None:
        """The worker is gone, and with it all that it had."""
        self._hub.desks.discard(self)
        self._hub.leases.end(self)
        for connection in self._connections.values():
            self._hub.sessions.closed(connection)
        self._connections.clear()
        for number in tuple(self._arrivals):
            self._left(number)
        for release in self._locks.values():
            release()
        self._locks.clear()
        self._hub.balance()

    async def refresh(self) -> None:
        for names in batched_names(self._connections):
            try:
                figures = await self.link.call("figures", names)
            except LinkFault:
                return  # the last known ones, then
            for name, has_tls, ja4, is_active, bytes_in, bytes_out in figures:
                if (connection := self._connections.get(name)) is not None:
                    connection.peer = replace(connection.peer, ja4=ja4)
                    connection.has_tls, connection.is_active = has_tls, is_active
                    connection.bytes_in, connection.bytes_out = bytes_in, bytes_out

    # --- logins ---

    async def _judge(
        self, number: int, server: str, peer: list[Any], user: str, digest: bytes, check_takes_s: float
    ) -> str:
        """What refuses the login; else nothing, and the worker has decided."""
        self._hub.check_takes_s = check_takes_s

        async def decide() -> Decision:
            is_match = await self.link.call("decide", number, timeout_s=DECIDE_TIMEOUT_S)
            return Decision(_SOMEBODY if is_match else None)

        decision = await self._hub.gate(server).judge(Peer(*peer), user, digest, decide)
        return decision.refused_by

    # --- sessions ---

    def _arrived(self, number: int, server: str, ip: str) -> None:
        count = self._hub.sessions.count_arrival
        self._arrivals[number] = (server, ip, (count(server, ip), count(server, EVERYBODY)))
        self._check_full(server, ip)
        self._hub.balance()

    def _left(self, number: int) -> None:
        arrival = self._arrivals.pop(number, None)
        if arrival is not None:
            server, ip, leave = arrival
            for each in leave:
                each()
            self._check_full(server, ip)
            self._hub.balance()

    def _check_full(self, server: str, ip: str) -> None:
        self._hub.check_full(server, ip)
        self._hub.check_full(server, EVERYBODY)

    def grant(self, server: str, ip: str, count: int) -> None:
        self.link.notify("granted", server, ip, count)

    async def give_back(self, server: str, ip: str, wanted: int) -> None:
        """Raises LinkFault."""
        if self.link.beats_missed > DEAF_AFTER_BEATS:
            raise LinkFault("the worker hangs")
        await self.link.call("give_back", server, ip, wanted, timeout_s=GIVE_BACK_WITHIN_S)

    def _turned_away(self) -> None:
        self._hub.sessions.refused += 1

    def _opened(self, session_id: str, protocol: str, server: str, peer: list[Any], has_tls: bool) -> None:
        connection = RemoteConnection(self.link, session_id, Peer(*peer), has_tls=has_tls)
        self._connections[session_id] = connection
        self._hub.sessions.opened(connection, protocol, server)

    def _closed(self, session_id: str) -> None:
        connection = self._connections.pop(session_id, None)
        if connection is not None:
            self._hub.sessions.closed(connection)

    def _readdressed(self, session_id: str, peer: list[Any]) -> None:
        connection = self._connections.get(session_id)
        if connection is not None:
            connection.peer = Peer(*peer)

    async def _login(self, session_id: str, account_id: int, address: str, primary_address: str) -> None:
        identity = Identity(AccountId(account_id), address, primary_address)
        await self._hub.sessions.logged_in(session_id, identity)

    async def _search(self, server: str, account_id: int) -> float | None:
        """Seconds until it is allowed; None: it has begun."""
        try:
            await self._hub.searches.begin(server, AccountId(account_id))
        except TooManySearches as error:
            return error.wait_s
        return None

    # --- maildrops ---

    async def _lock(self, number: int, account_id: int) -> bool:
        release = await self._hub.maildrops.acquire(AccountId(account_id))
        if release is not None:
            self._locks[number] = release
        return release is not None

    def _unlock(self, number: int) -> None:
        release = self._locks.pop(number, None)
        if release is not None:
            release()


def batched_names(connections: dict[str, RemoteConnection]) -> Iterator[list[str]]:
    names = list(connections)
    return (names[start : start + FIGURES_AT_ONCE] for start in range(0, len(names), FIGURES_AT_ONCE))
