"""How many connections the other nodes have, for limits that hold over all of them.

Theory: each node owns cells: a server and an address or account, and how many of it there are here now.
Values are absolute, so nothing can drift, and a node that dies takes its cells with it. Only what a limit
is set on is told.

Entries wait for company before they are gossiped, up to a second. Near a limit that is too long, so counts
of keys that are half full are told to all at once, too (notices). What a notice said counts for
``FRESH_S``; then the entry has come.

Error bound: a change is told within ``FLUSH_S`` and its way through the network; until then the other nodes
count without it. So at most (nodes - 1) times what one node lets in within that time can be too much;
nothing is ever refused that would have been allowed, but for a node that died within the last seconds.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.facts import Kind, NoticeKind

from .wire import Unreadable, is_key, pack, unpack

if TYPE_CHECKING:
    from cluster.effects import FactChanged
    from node.sessions import Sessions

    from .gossip import Gossip

log = logging.getLogger("sora.cluster")

FLUSH_S = 0.02
FRESH_S = 3.0
MAX_FRESH = 20_000  # counts by notice
NOTICE_BYTES = 1000
RECONCILE_S = 30.0
TTL_S = 3600.0

Key = tuple[Any, ...]


class Told(NamedTuple):
    """What the others know of a key. ``at``: monotonic."""

    raw: bytes
    number: int
    at: float


class ConnectionCounts:
    """``max_waiting``: changes of one server between two flushes; what is over is told by ``reconcile``.
    ``call_later``: as of the loop. ``clock`` is monotonic. ``everybody``: names of the other nodes.
    ``noticed``: server and address whose count elsewhere has changed."""

    def __init__(
        self,
        sessions: Sessions,
        gossip: Gossip,
        call_later: Callable[[float, Callable[[], None]], object],
        *,
        max_waiting: int,
        clock: Callable[[], float],
        everybody: Callable[[], Collection[str]],
        noticed: Callable[[str, str], None] = lambda _server, _ip: None,
    ) -> None:
        self._sessions = sessions
        self._gossip = gossip
        self._call_later = call_later
        self._max_waiting = max_waiting
        self._clock = clock
        self._everybody = everybody
        self._noticed = noticed
        self._waiting: dict[str, set[Key]] = {}  # by server
        self._is_due = False
        self._told: dict[Key, Told] = {}
        self._others: dict[Key, dict[str, int]] = {}
        # by notice: count, and until when it counts, by node
        self._fresh: OrderedDict[Key, dict[str, tuple[int, float]]] = OrderedDict()
        self.dropped = 0
        self.unreadable = 0
        sessions.changed = self.changed
        sessions.elsewhere = self.elsewhere

    # --- ours ---

    def changed(self, key: Hashable) -> None:
        """The number of members of this key is another now; for ``Sessions``."""
        if not isinstance(key, tuple) or not (self._sessions.limit_of(key) or key in self._told):
            return
        waiting = self._waiting.setdefault(key[0], set())
        if len(waiting) >= self._max_waiting and key not in waiting:
            self.dropped += 1
            return
        waiting.add(key)
        if not self._is_due:
            self._is_due = True
            self._call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        self._is_due = False
        waiting, self._waiting = self._waiting, {}
        keys = {key for keys in waiting.values() for key in keys}
        self._tell(keys)
        self._tell_at_once([key for key in keys if self._is_tight(key)])

    def _is_tight(self, key: Key) -> bool:
        limit = self._sessions.limit_of(key)
        return bool(limit) and 2 * (self._sessions.count(key) + self.elsewhere(key)) >= limit

    def _tell_at_once(self, keys: list[Key]) -> None:
        nodes = self._everybody()
        if not keys or not nodes:
            return
        some: list[object] = []
        for key in keys:
            some.append([key, self._sessions.count(key)])
            if len(pack(some)) > NOTICE_BYTES and len(some) > 1:
                self._gossip.tell(NoticeKind.CONNECTIONS, pack(some[:-1]), nodes)
                some = some[-1:]
        self._gossip.tell(NoticeKind.CONNECTIONS, pack(some), nodes)

    def reconcile(self) -> None:
        """Now and then: whatever a drop or another limit has left different, and time to live. O(keys)."""
        limited = {
            key for key in self._sessions.counted() if isinstance(key, tuple) and self._sessions.limit_of(key)
        }
        now = self._clock()
        self._tell({key for key in limited | set(self._told) if not self._is_told(key, now)})

    def _is_told(self, key: Key, now: float) -> bool:
        told = self._told.get(key)
        return (
            told is not None
            and told.number == (self._sessions.count(key) if self._sessions.limit_of(key) else 0)
            and now - told.at < TTL_S / 2
        )

    def retell(self) -> None:
        """The cluster has forgotten what we told."""
        self._tell(set(self._told))

    def _tell(self, keys: set[Key]) -> None:
        puts: dict[bytes, bytes] = {}
        gone = []
        now = self._clock()
        for key in keys:
            count = self._sessions.count(key) if self._sessions.limit_of(key) else 0
            if not count:
                if (told := self._told.pop(key, None)) is not None:
                    gone.append(told.raw)
                continue
            raw = self._told[key].raw if key in self._told else pack(key)
            if not is_key(raw):
                continue  # a server with a very long name: its limits hold on each node for itself
            self._told[key] = Told(raw, count, now)
            puts[raw] = pack(count)
        if puts:
            self._gossip.put(Kind.CONNECTIONS, puts, TTL_S)
        if gone:
            self._gossip.remove(Kind.CONNECTIONS, gone)

    # --- theirs ---

    def elsewhere(self, key: Hashable) -> int:
        """On the other nodes together; for ``Sessions``."""
        if not isinstance(key, tuple):
            return 0
        known = self._others.get(key)
        fresh = self._fresh.get(key)
        if fresh is None:
            return sum(known.values()) if known else 0
        now = self._clock()
        counts = {node: count for node, (count, until) in fresh.items() if until > now}
        return sum({**(known or {}), **counts}.values())

    def heard_at_once(self, origin: str, payload: bytes) -> None:
        """A notice of another node."""
        try:
            pairs = [_read_pair(each) for each in _read_list(payload)]
        except Unreadable as error:
            self.unreadable += 1
            log.debug("counts of %s cannot be read: %s", origin, error)
            return
        until = self._clock() + FRESH_S
        for key, count in pairs:
            self._fresh.setdefault(key, {})[origin] = (count, until)
            self._fresh.move_to_end(key)
            self._notice(key)
        while len(self._fresh) > MAX_FRESH:
            self._fresh.popitem(last=False)

    def settle(self) -> None:
        """Each second: what was told by notice is over, and entries say the truth."""
        now = self._clock()
        while self._fresh:
            key, counts = next(iter(self._fresh.items()))
            if max(until for _, until in counts.values()) > now:
                return
            del self._fresh[key]
            self._notice(key)

    def forget(self, node: str) -> None:
        """It is gone. O(keys told of within seconds)."""
        for key in [key for key, counts in self._fresh.items() if node in counts]:
            counts = self._fresh[key]
            del counts[node]
            if not counts:
                del self._fresh[key]
            self._notice(key)

    def _notice(self, key: Key) -> None:
        if key[1] == "address":
            self._noticed(key[0], _address_of(key[2]))

    def heard(self, fact: FactChanged) -> None:
        try:
            key = _read_key(fact.key)
            count = 0 if fact.value is None else _read_count(fact.value)
        except Unreadable as error:
            self.unreadable += 1
            log.debug("a count of %s cannot be read: %s", fact.origin, error)
            return
        known = self._others.setdefault(key, {})
        if count:
            known[fact.origin] = count
        else:
            known.pop(fact.origin, None)
        if not known:
            del self._others[key]
        self._notice(key)


def _read_key(raw: bytes) -> Key:
    """Raises Unreadable."""
    return _as_key(unpack(raw))


def _read_list(payload: bytes) -> list[object]:
    """Raises Unreadable."""
    plain = unpack(payload)
    if not isinstance(plain, list):
        raise Unreadable("not a list")
    return plain


def _read_pair(plain: object) -> tuple[Key, int]:
    """Raises Unreadable."""
    match plain:
        case [list() as key, int(count)] if 0 <= count < 2**31:
            return _as_key(key), count
    raise Unreadable("unknown form of a count")


def _as_key(plain: object) -> Key:
    """Raises Unreadable."""
    match plain:
        case [str() as server, "address", address]:
            return (server, "address", _read_address(address))
        case [str() as server, "user", int() as account]:
            return (server, "user", account)
        case [str() as server, "user", int() as account, address]:
            return (server, "user", account, _read_address(address))
    raise Unreadable("unknown form of a key")


def _read_address(value: object) -> Hashable:
    """As ``sessions.address_key`` has it."""
    match value:
        case int() if 0 <= value < 2**32:
            return value
        case [int(high), 64] if 0 <= high < 2**64:
            return (high, 64)
    raise Unreadable("not an address")


def _address_of(key: object) -> str:
    if isinstance(key, tuple):
        return str(ipaddress.IPv6Address(key[0] << 64))
    assert isinstance(key, int)
    return str(ipaddress.IPv4Address(key))


def _read_count(raw: bytes) -> int:
    count = unpack(raw)
    if not isinstance(count, int) or not 0 <= count < 2**31:
        raise Unreadable("not a count")
    return count
