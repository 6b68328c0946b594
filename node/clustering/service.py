"""A node's part in its cluster: what it shares, what it hears, what is known of the others.

One object for everything that rides on gossip, on the loop of the control process. Mail never waits for any
of it: writes go into a queue, and a cluster that is away leaves each node with what it knows itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cluster.awareness import SLOW_SCORE
from cluster.effects import (
    Change,
    Effect,
    FactChanged,
    Joined,
    KeysChanged,
    MemberChanged,
    NameConflict,
    NoticeHeard,
    QueryAsked,
    UserEvent,
)
from cluster.facts import Kind, NoticeKind
from cluster.thread import GossipUnavailable
from node.presentation import node_version
from node.ratelimit import Delta, Failures
from node.units import parse_address

from . import drift
from .about import DRAINING, LOAD_EVERY_S, SERVING, Abouts, Load
from .blocks import BlockBridge
from .counts import RECONCILE_S, ConnectionCounts
from .directory import SessionDirectory
from .failures import FLUSH_S, FailureBridge
from .keyfile import key_name
from .kicks import Filters, Kicks
from .lately import Lately
from .leading import Leading
from .memberlog import MemberLog
from .notices import MailboxNotices
from .roster import Roster

if TYPE_CHECKING:
    from node.config import Config
    from node.feed import HostFeed
    from node.loginguard import Guards
    from node.sessions import Sessions
    from node.status import ListenerStatus

    from .gossip import Gossip
    from .life import KeyKeeper

log = logging.getLogger("sora.cluster")

REFRESH_S: Final = 3600.0
LEAVE_WITHIN_S: Final = 5.0
JOINS_REMEMBERED: Final = 256
FEW_MEMBERS: Final = 100  # up to so many, all are looked at after each change; else after some together
TOGETHER_S: Final = 0.25
CONFLICT_LASTS_S: Final = 180.0  # it is heard of once a minute while both nodes are there

Answer = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What of the node takes part. ``peers_changed`` and ``check_full``: for doors in other processes."""

    guards: Guards
    sessions: Sessions
    feed: HostFeed
    listeners: Callable[[], Awaitable[list[ListenerStatus]]]
    kick: Callable[[Filters, float], int]
    peers_changed: Callable[[tuple[str, ...]], None] = lambda _peers: None
    check_full: Callable[[str, str], None] = lambda _server, _ip: None


@dataclass(frozen=True, slots=True)
class JoinOutcome:
    at: float  # seconds of the epoch
    error: str


class Clustering:
    """``wall_clock`` gives seconds of the epoch, ``clock`` monotonic ones, ``call_later`` is the loop's."""

    def __init__(
        self,
        config: Config,
        gossip: Gossip,
        parts: Parts,
        *,
        call_later: Callable[[float, Callable[[], None]], object],
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.gossip = gossip
        self.wall_clock = wall_clock
        self.clock = clock
        self.started = clock()
        self._parts = parts
        self._call_later = call_later
        self._member_log = MemberLog()
        self._is_look_due = False
        self.skews: dict[str, float] = {}  # of clocks, as of the last beat; ahead of ours is positive
        self.roster = Roster(gossip.name, wall_clock)
        self.abouts = Abouts(gossip, wall_clock, version=node_version() or "unknown")
        self.leadership = Leading(
            gossip.name, self.roster, clock, gossip.set_tags, has_peers=bool(config.cluster.other_peers)
        )
        self._build_bridges()
        self.is_draining = False
        self.has_left = False
        self._conflict: tuple[NameConflict, float] | None = None  # and when it was heard of
        self.joins: dict[str, JoinOutcome] = {}
        self.keys: tuple[bytes, ...] = ()
        self.figures: dict[str, int | float] = {}  # of the engine, a few seconds old
        self.lately = Lately()
        self.key_keeper: KeyKeeper | None = None
        self.keys_changed: Callable[[tuple[bytes, ...]], None] = lambda _keys: None
        self.expelled: Callable[[], None] = lambda: None  # this node has lost its name to another
        self.is_able: Callable[[], bool] = lambda: True  # to do the work of a leader, by its own checks
        self.answers: dict[str, Answer] = {}
        self._listeners: dict[int, list[Callable[[FactChanged], None]]] = {}
        self._connect()

    def _build_bridges(self) -> None:
        parts, gossip, call_later = self._parts, self.gossip, self._call_later
        sync = self.config.cluster.rate_limit_sync
        self.blocks = BlockBridge(parts.guards, gossip, is_on=sync.enabled and sync.sync_blocks)
        self.failures = FailureBridge(
            parts.guards,
            gossip,
            is_on=sync.enabled and sync.sync_failure_counts,
            window_s=_longest_window_s(self.config),
        )
        self.counts = ConnectionCounts(
            parts.sessions,
            gossip,
            call_later,
            max_waiting=self.config.cluster.max_event_queue_size,
            clock=self.clock,
            everybody=self._other_nodes,
            noticed=parts.check_full,
        )
        self.directory = SessionDirectory(
            gossip,
            parts.sessions.has_listeners,
            call_later,
            clock=self.clock,
            everybody=self._other_nodes,
        )
        self.notices = MailboxNotices(
            gossip, self.directory.nodes_of, self._other_nodes, parts.feed.publish_heard, call_later
        )
        self.kicks = Kicks(gossip, parts.kick, self.clock)

    def _connect(self) -> None:
        parts = self._parts
        self.gossip.listener = self.heard
        parts.guards.tell = self._tell_guard
        parts.guards.peers = self.roster.peers
        parts.sessions.present = self.directory.changed
        parts.feed.beyond = self.notices.changed
        self.roster.peers_changed = parts.peers_changed
        for kind, listener in (
            (Kind.BLOCK, self.blocks.heard),
            (Kind.FAILURES, self.failures.heard),
            (Kind.CONNECTIONS, self.counts.heard),
            (Kind.SESSIONS, self.directory.heard),
            (Kind.NODE, self.abouts.heard),
            (Kind.KICK, self.kicks.heard),
        ):
            self.listen(kind, listener)

    def listen(self, kind: Kind, listener: Callable[[FactChanged], None]) -> None:
        """Facts of this kind, of the other nodes, from now on."""
        self._listeners.setdefault(kind, []).append(listener)

    # --- life ---

    async def begin(self, keys: tuple[bytes, ...]) -> None:
        """The gossip runs: say who we are."""
        self.keys = keys
        self._describe()
        self.roster.replace(await self.gossip.members())
        await self._tell_load()
        self.leadership.review()

    async def run(self, stop: asyncio.Event) -> None:
        """A worker: what is due each second, and less often."""
        beat = 0
        while not stop.is_set():
            beat += 1
            try:
                await self._beat(beat)
            except GossipUnavailable as error:
                log.debug("gossip does not answer: %s", error)  # its end and return are logged where they are
            try:
                await asyncio.wait_for(stop.wait(), FLUSH_S)
            except TimeoutError:
                continue

    async def _beat(self, beat: int) -> None:
        """Raises GossipUnavailable."""
        self.failures.flush()
        self.counts.settle()
        self._member_log.summarize(self.clock())
        if not beat % LOAD_EVERY_S:
            self.roster.replace(await self.gossip.members())
            self.figures = await self.gossip.figures()
            self.skews = await self.gossip.skews()
            self.lately.note(self.figures, self.clock())
            is_late = self.figures.get("awareness", 0) >= SLOW_SCORE
            self.leadership.feels(is_slow=is_late or not self.is_able())
            await self._tell_load()
        self.leadership.review()
        if not beat % RECONCILE_S:
            self.counts.reconcile()
            self.directory.refresh()
        if not beat % REFRESH_S:
            self._refresh()

    def _refresh(self) -> None:
        self.blocks.refresh()
        self.abouts.tell()

    def restore(self) -> None:
        """The gossip was started anew and has forgotten what we told it."""
        self.gossip.join([each.address for each in self.roster.alive if each.name != self.gossip.name])
        self.leadership.retell()
        self.blocks.retell()
        self.counts.retell()
        self.directory.retell()
        self._refresh()

    async def reload(self, config: Config) -> list[str]:
        """What takes effect without a restart; what failed."""
        self.config = config
        sync = config.cluster.rate_limit_sync
        begun = [
            kind
            for kind, bridge, is_on in (
                (Kind.BLOCK, self.blocks, sync.enabled and sync.sync_blocks),
                (Kind.FAILURES, self.failures, sync.enabled and sync.sync_failure_counts),
            )
            if bridge.turn(is_on=is_on)
        ]
        self.counts.reconcile()
        self._describe()
        if self.key_keeper is not None and (keys := self.key_keeper.reload(config)) is not None:
            self.gossip.set_keys(keys)
        peers = config.cluster.other_peers
        try:
            for kind in begun:
                await self._hear_again(kind)
            await self.gossip.set_peers([str(parse_address(peer, config.cluster.port)) for peer in peers])
        except GossipUnavailable as error:
            return [f"cluster: {error}"]
        return []

    async def _hear_again(self, kind: Kind) -> None:
        """What the others told while nobody listened. Raises GossipUnavailable."""
        for entry in await self.gossip.entries(kind):
            if entry.origin != self.gossip.name:
                left_s = entry.deadline - self.clock()
                fact = FactChanged(kind, entry.origin, entry.key, entry.value, left_s, entry.written)
                self.heard(fact)

    async def hand_over(self) -> None:
        """This node serves nobody new and leads nothing any more. Idempotent."""
        if not self.is_draining:
            self.is_draining = True
            self.leadership.resign()
            await self._tell_load()

    async def resume(self) -> None:
        """A drain was taken back. Idempotent."""
        if self.is_draining and not self.has_left:
            self.is_draining = False
            self.leadership.resume()
            await self._tell_load()

    async def leave(self) -> None:
        """The others know that we go. Idempotent."""
        if not self.has_left:
            self.has_left = True
            self.leadership.resign()
            await self.gossip.leave(LEAVE_WITHIN_S)

    def _describe(self) -> None:
        if self.keys:
            own = self.abouts.own
            own.config_key = drift.fingerprint(self.keys[0])
            own.sections = drift.section_hashes(self.config, self.keys[0])
        self.abouts.tell()

    async def _tell_load(self) -> None:
        connections: dict[str, int] = {}
        for each in await self._parts.listeners():
            connections[each.type] = connections.get(each.type, 0) + each.connections
        sessions: dict[str, int] = {}
        for entry in self._parts.sessions:
            if entry.user is not None:
                sessions[entry.protocol] = sessions.get(entry.protocol, 0) + 1
        guards = self._parts.guards
        state = DRAINING if self.is_draining else SERVING
        self.abouts.tell_load(Load(state, connections, sessions, guards.limiter.count_blocks(guards.clock())))

    def _tell_guard(self, delta: Delta) -> None:
        if isinstance(delta, Failures):
            self.failures.tell(delta)
        else:
            self.blocks.tell(delta)

    # --- what is heard ---

    def heard(self, effect: Effect) -> None:
        match effect:
            case FactChanged():
                for listener in self._listeners.get(effect.kind, ()):
                    listener(effect)
            case NoticeHeard(kind=NoticeKind.MAILBOX):
                self.notices.heard(effect.payload)
            case NoticeHeard(kind=NoticeKind.CONNECTIONS):
                self.counts.heard_at_once(effect.origin, effect.payload)
            case NoticeHeard(kind=NoticeKind.SESSIONS):
                self.directory.heard_at_once(effect.origin, effect.payload)
            case MemberChanged():
                self._member_changed(effect)
            case NameConflict():
                self._conflicted(effect)
            case KeysChanged(keys):
                self._rekeyed(keys)
            case Joined(address, error):
                self._joined(str(address), error)
            case UserEvent(name=name):
                self.roster.note("event", "", name)
            case QueryAsked():
                self._asked(effect)

    def _member_changed(self, changed: MemberChanged) -> None:
        self.roster.changed(changed)
        name = changed.member.name
        if changed.change in (Change.FAILED, Change.LEFT, Change.REAPED):
            self.counts.forget(name)
        if changed.change in (Change.LEFT, Change.REAPED):
            self.abouts.forget(name)
        self._member_log.note(changed, self.clock())
        if len(self.roster) <= FEW_MEMBERS:
            self._look()
        elif not self._is_look_due:
            self._is_look_due = True
            self._call_later(TOGETHER_S, self._look)

    def _look(self) -> None:
        """At all members: what follows from them. O(n log n): thousands that come at once are one look."""
        self._is_look_due = False
        self.roster.look()
        self.leadership.review()

    def _conflicted(self, conflict: NameConflict) -> None:
        self._conflict = (conflict, self.clock())
        self.roster.note("conflict", conflict.name, str(conflict.other))
        log.error(
            "two nodes are called %s, at %s and %s: give each its own cluster.node_id",
            *(conflict.name, conflict.address, conflict.other),
        )
        if conflict.is_lost and not self.has_left:
            log.critical(
                "most nodes know the other one by our name: this node stops its gossip, mail goes on"
            )
            self.has_left = True  # without a word: it would be taken for the other's
            self.leadership.resign()
            self.expelled()

    def _rekeyed(self, keys: tuple[bytes, ...]) -> None:
        self.keys = keys
        names = [key_name(key) for key in keys]
        self.roster.note("keys", self.gossip.name, " ".join(names))
        log.warning("the keys of the cluster were changed; in use is %s, known are %s", names[0], names)
        self.keys_changed(keys)
        self._describe()

    def _joined(self, address: str, error: str) -> None:
        if len(self.joins) >= JOINS_REMEMBERED and address not in self.joins:
            self.joins.pop(next(iter(self.joins)))
        known = self.joins.get(address)
        self.joins[address] = JoinOutcome(self.wall_clock(), error)
        if known is None or known.error != error:  # once, not at every attempt
            log.log(logging.WARNING if error else logging.INFO, "joining %s: %s", address, error or "done")

    def _other_nodes(self) -> Collection[str]:
        """Of Sora, that are there; asked often."""
        return self.roster.others

    def _asked(self, query: QueryAsked) -> None:
        answer = self.answers.get(query.name)
        payload = answer(query.payload) if answer is not None else None
        if payload is not None:
            self.gossip.respond(query.token, payload)

    # --- to look at ---

    def drifting(self) -> Mapping[str, list[str]]:
        """Sections that differ from ours, by node; of those that can be compared."""
        own = self.abouts.own
        found = {}
        for member in self.roster.alive:
            about = self.abouts.of(member.name)
            if about is not None and about.config_key == own.config_key:
                differing = drift.differing(own.sections, about.sections)
                if differing:
                    found[member.name] = differing
        return found

    @property
    def conflict(self) -> NameConflict | None:
        """Two nodes with one name, as long as it is heard of; for good when this one lost its own."""
        if self._conflict is None:
            return None
        conflict, heard = self._conflict
        return conflict if conflict.is_lost or self.clock() - heard < CONFLICT_LASTS_S else None

    @property
    def has_joined(self) -> bool:
        """Some other node has answered."""
        return any(not outcome.error for outcome in self.joins.values())

    @property
    def unreadable(self) -> int:
        """Facts of others that this version cannot read."""
        parts = (
            *(self.blocks, self.failures, self.counts, self.directory, self.notices, self.kicks),
            self.abouts,
        )
        return sum(part.unreadable for part in parts)

    @property
    def dropped(self) -> int:
        """What was not told for want of room."""
        return self.failures.dropped + self.counts.dropped + self.notices.dropped


def _longest_window_s(config: Config) -> float:
    return max((each.auth_rate_limit.ip_window_duration_s for each in config.servers), default=1800.0)
