"""Who is connected to this node, and how many may be: the registry of one process.

Theory: everything is a set of what is there now; a count is the length of a set. Nothing is ever added to or
taken from a number, so nothing can drift, and removing twice does no harm.

Two lives are registered. An *arrival* lasts from accept until the socket is gone, TLS handshake included; it
is what ``max_connections`` and ``max_connections_per_ip`` count. A *session* lasts as long as the driver's
connection; once it has logged in it is what the limits per user count. Addresses of trusted networks are in
no count but that of ``max_connections``: webmail and proxies come from there.

A limit is checked at one place and at one moment each, in one step with the registration, so connections
that come at the same time cannot pass it together.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from protocols.errors import TooManySessions

from .units import Network

if TYPE_CHECKING:
    from protocols.ports import Identity, Peer, Registered
    from storage.model import AccountId

log = logging.getLogger("sora.sessions")

# Stands for all addresses together: what arrives from it is what ``max_connections`` counts.
EVERYBODY: Final = "*"
Leave = Callable[[], None]  # harmless when called twice

LISTENING: Final = "imap"  # whose sessions hear of changes of mailboxes
MAX_TOLD_CHARS = 200  # of what a client says of itself
# Addresses as spelled: each is asked for some ten times for one connection, and parsing it costs 7 us.
REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Of one server; 0 is no limit."""

    total: int = 0
    per_address: int = 0
    per_user: int = 0
    per_user_and_address: int = 0


@dataclass(slots=True, eq=False)
class Entry:
    """One session. What changes by the second is read from ``connection``."""

    connection: Registered
    protocol: str
    server: str
    since: float  # seconds of the epoch, for people
    opened: float  # monotonic
    user: Identity | None = None
    client_name: str = ""
    client_version: str = ""
    keys: list[Hashable] = field(default_factory=list)  # of the sets it is in


class SetIndex:
    """Members by key; a key without members takes no memory."""

    def __init__(self) -> None:
        self._sets: dict[Hashable, set[object]] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._sets)

    def count(self, key: Hashable) -> int:
        return len(self._sets.get(key, ()))

    def add(self, key: Hashable, member: object) -> None:
        self._sets.setdefault(key, set()).add(member)

    def discard(self, key: Hashable, member: object) -> None:
        members = self._sets.get(key)
        if members is not None:
            members.discard(member)
            if not members:
                del self._sets[key]


class Sessions:
    """``ports.SessionRegistry`` for a node of one process.

    For a cluster: ``elsewhere`` answers how many the other nodes have of a key, ``changed`` is told of keys
    whose number here has changed, and ``present`` of accounts that got their first IMAP session or lost
    their last. A key is (server, "address", address), (server, "user", account) or (server, "user",
    account, address), see ``address_key``.
    """

    def __init__(
        self,
        trusted: Sequence[Network] = (),
        *,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trusted = tuple(trusted)
        self._wall_clock = wall_clock
        self._clock = clock
        self._limits: dict[str, SessionLimits] = {}
        self._entries: dict[str, Entry] = {}  # by session id
        self._index = SetIndex()
        self._listening = SetIndex()  # IMAP sessions by account, limits or not
        self.refused = 0  # connections and logins, by a limit
        self.elsewhere: Callable[[Hashable], int] = lambda _key: 0
        self.changed: Callable[[Hashable], None] = _nobody_asks
        self.present: Callable[[AccountId], None] = _nobody_asks

    def limit(self, server: str, limits: SessionLimits) -> None:
        """From now on; what is there already stays."""
        self._limits[server] = limits

    def trust(self, networks: Sequence[Network]) -> None:
        """From now on these are in no count; what is counted already stays so."""
        self._trusted = tuple(networks)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    @property
    def is_empty(self) -> bool:
        """Nothing is registered and nothing is counted."""
        return not self._entries and not len(self._index) and not len(self._listening)

    # --- for the other nodes ---

    def count(self, key: Hashable) -> int:
        """Here."""
        return self._index.count(key)

    def counted(self) -> Iterator[Hashable]:
        return iter(self._index)

    def limit_of(self, key: Hashable) -> int:
        """What the members of this key are limited to; 0 is no limit."""
        match key:
            case (str(), "address", str()):
                return 0  # everybody, or no IP address: of this node alone
            case (str(server), "address", _):
                return self._limits.get(server, _UNLIMITED).per_address
            case (str(server), "user", _):
                return self._limits.get(server, _UNLIMITED).per_user
            case (str(server), "user", _, _):
                return self._limits.get(server, _UNLIMITED).per_user_and_address
        return 0

    def has_listeners(self, account_id: int) -> bool:
        """IMAP sessions of this account."""
        return bool(self._listening.count(account_id))

    def _everywhere(self, key: Hashable) -> int:
        return self._index.count(key) + self.elsewhere(key)

    def _add(self, key: Hashable, member: object) -> None:
        self._index.add(key, member)
        self.changed(key)

    def _discard(self, key: Hashable, member: object) -> None:
        self._index.discard(key, member)
        self.changed(key)

    # --- arrivals ---

    async def arrive(self, server: str, ip: str) -> Leave | None:
        """As ``shared.Registry``; waits for nothing."""
        if self.is_full(server, ip):
            self.refused += 1
            return None
        return self.count_arrival(server, ip)

    def most(self, server: str, ip: str) -> int:
        """Sockets that the address may have; 0 is no limit."""
        limits = self._limits.get(server, _UNLIMITED)
        if ip == EVERYBODY:
            return limits.total
        return 0 if not limits.per_address or self._is_trusted(ip) else limits.per_address

    def arrived(self, server: str, ip: str) -> int:
        """Sockets that the address has."""
        return self._index.count((server, "address", address_key(ip)))

    def is_full(self, server: str, ip: str) -> bool:
        """It has as many as it may."""
        most = self.most(server, ip)
        return bool(most) and self._everywhere((server, "address", address_key(ip))) >= most

    def count_arrival(self, server: str, ip: str) -> Leave:
        """Of a socket that was let in; what to call when it is gone."""
        if self._is_trusted(ip):
            return _nothing
        key, arrival = (server, "address", address_key(ip)), object()
        self._add(key, arrival)
        return lambda: self._discard(key, arrival)

    # --- sessions (``ports.SessionRegistry``) ---

    def opened(self, connection: Registered, protocol: str, server: str) -> None:
        self._entries[connection.session_id] = Entry(
            connection, protocol, server, self._wall_clock(), self._clock()
        )

    def closed(self, connection: Registered) -> None:
        entry = self._entries.pop(connection.session_id, None)
        if entry is not None:
            self._forget_user(entry)

    def readdressed(self, session_id: str, peer: Peer) -> None:
        """The address is read from the connection when it is needed."""

    async def logged_in(self, session_id: str, identity: Identity) -> None:
        entry = self._entries.get(session_id)
        if entry is None:
            return  # gone while its password was checked
        ip = entry.connection.peer.ip
        if not self._is_trusted(ip):
            self._count_login(entry, identity, ip)
        entry.user = identity
        if entry.protocol == LISTENING:
            self._listening.add(identity.account_id, entry)
            self.present(identity.account_id)

    def _count_login(self, entry: Entry, identity: Identity, ip: str) -> None:
        limits = self._limits.get(entry.server, _UNLIMITED)
        user = (entry.server, "user", identity.account_id)
        both = (*user, address_key(ip))
        for key, most, where in (
            (user, limits.per_user, ""),
            (both, limits.per_user_and_address, " from your address"),
        ):
            if most and self._everywhere(key) >= most:
                self.refused += 1
                fields = {"user": identity.address, "ip": ip, "server": entry.server}
                log.info("login refused: %d connections%s", most, where, extra={"fields": fields})
                raise TooManySessions(f"Too many connections{where}: {most} are allowed, close some first")
        for key in (user, both):
            self._add(key, entry)
            entry.keys.append(key)

    def logged_out(self, session_id: str) -> None:
        entry = self._entries.get(session_id)
        if entry is not None:
            self._forget_user(entry)

    def _forget_user(self, entry: Entry) -> None:
        for key in entry.keys:
            self._discard(key, entry)
        entry.keys.clear()
        user, entry.user = entry.user, None
        if user is not None and entry.protocol == LISTENING:
            self._listening.discard(user.account_id, entry)
            self.present(user.account_id)

    def client_named(self, session_id: str, name: str, version: str) -> None:
        entry = self._entries.get(session_id)
        if entry is not None:
            entry.client_name = name[:MAX_TOLD_CHARS]
            entry.client_version = version[:MAX_TOLD_CHARS]

    def _is_trusted(self, ip: str) -> bool:
        address = _parse(ip)
        if address is None:
            return not ip  # a Unix socket
        return any(address.version == network.version and address in network for network in self._trusted)


_UNLIMITED = SessionLimits()


def _nothing() -> None:
    """Leave of what was not counted."""


def _nobody_asks(_key: object) -> None:
    """There are no other nodes."""


@lru_cache(maxsize=REMEMBERED)
def _parse(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=REMEMBERED)
def address_key(ip: str) -> Hashable:
    """What counts as one address: IPv4 as it is, IPv6 by its /64, which is what one customer has."""
    address = _parse(ip)
    if isinstance(address, ipaddress.IPv6Address):
        return int(address) >> 64, 64
    return ip if address is None else int(address)
