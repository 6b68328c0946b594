"""What Serf adds to membership, as the delegate of ``swim.Swim``: who left and who failed, tags, user events,
queries, coordinates; and the way that the shared state of Sora's nodes takes, which agents do not see.

Order in a packet: intents, queries, user events, then shared state. The first three are rare and short.
To add a message type: ``messages``, ``codec``, and a row in ``Serf._handlers``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from ..address import Address
from ..api import Settings
from ..broadcast import TransmitQueue
from ..delegate import Membership, Outlet, part_of
from ..effects import Change, KeysChanged, MemberChanged, MemberView, QueryAnswered, QueryAsked
from ..errors import PacketRejected, Reason
from ..instant import Instant
from ..messages import NodeRecord
from .clocks import LamportClock
from .codec import decode, decode_push_pull, encode
from .conflicts import QUERY as CONFLICT_QUERY
from .conflicts import Conflicts, encode_known
from .coordinates import COORDINATE_VERSION, Coordinate, Vivaldi, decode_coordinate, encode_coordinate
from .events import Events
from .filters import is_for
from .keyqueries import KEY_QUERIES, Ring, answer_key_query, encode_key_answer
from .messages import (
    Happening,
    JoinIntent,
    LeaveIntent,
    PushPullState,
    Query,
    QueryFlag,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfType,
)
from .queries import INTERNAL_PREFIX, Answering, Asking
from .roster import Roster, Standing, Status, Verdict
from .seen import Seen
from .tags import encode_tags, is_sora, own_tags

if TYPE_CHECKING:
    import random

_MAX_QUEUED: Final = 1024  # of each lane
_FRAME_BYTES: Final = 100  # of a datagram, at least left beside a message that is forwarded
_DIGEST_BYTES: Final = 8
_SORA: Final = bytes((SerfType.SORA,))


class SharedPart(Protocol):
    """What Serf passes through to ``state.SharedState``; the owner of both ticks it."""

    def receive(self, raw: bytes, source: Address, at: Instant) -> None: ...

    def digest(self) -> bytes: ...

    def heard_digest(self, node: str, digest: bytes, at: Instant) -> None: ...

    def push_pull_part(self, at: Instant) -> bytes: ...

    def merge_part(self, raw: bytes, at: Instant) -> None: ...

    def member_changed(self, change: Change, view: MemberView, at: Instant) -> None: ...

    def broadcasts(self, room: int, overhead: int, to: str) -> list[bytes]: ...

    def has_broadcasts(self) -> bool: ...


class Serf:
    """Implements ``delegate.Delegate``. ``attach`` comes before everything else.

    ``ring`` is changed by key queries; ``state`` None: a node without shared state, like an agent.
    """

    def __init__(
        self,
        settings: Settings,
        outlet: Outlet,
        rng: random.Random,
        state: SharedPart | None = None,
        *,
        ring: Ring,
    ) -> None:
        """Raises ValueError when the tags are too long."""
        self._settings = settings
        self._outlet = outlet
        self._state = state
        self._ring = ring
        self._members: Membership
        self._tags = own_tags(settings.tags, settings.epoch)
        self._meta = encode_tags(self._tags)
        self._clock = LamportClock()
        self._own_ltime = 0
        self._is_leaving = False
        self._has_merged = False
        self._intents, self._queries, self._events = (self._lane() for _ in range(3))
        self._roster = Roster(settings.profile)
        self._sora_names: set[str] = set()
        self._happenings = Events(outlet, lambda raw: self._forward(self._events, raw))
        self._asking = Asking(settings, rng, self._answered)
        self._answering = Answering(settings, outlet, rng, self._asking)
        self._seen_queries = Seen()
        self._conflicts = Conflicts(outlet, settings.name)
        self._vivaldi = Vivaldi(rng)
        self._coordinates: dict[str, Coordinate] = {}
        self._own_coordinate = (self._vivaldi.here, encode_coordinate(self._vivaldi.here))
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._handlers: dict[type[SerfMessage], Callable[..., None]] = {
            LeaveIntent: self._heard_leave,
            JoinIntent: self._heard_join,
            Happening: self._heard_event,
            Query: self._heard_query,
            QueryResponse: self._heard_response,
            Relay: self._heard_relay,
        }

    def attach(self, members: Membership) -> None:
        self._members = members

    def _lane(self) -> TransmitQueue:
        return TransmitQueue(lambda: self._members.retransmit_limit(), max_items=_MAX_QUEUED)

    def _forward(self, lane: TransmitQueue, raw: bytes, key: str = "") -> None:
        """What would never fit into a datagram is not kept."""
        if len(raw) + _FRAME_BYTES > self._settings.profile.udp_bytes:
            self._counts["not_forwarded"] += 1
        else:
            lane.add(raw, key)

    # --- commands ---

    @property
    def tags(self) -> dict[str, str]:
        """Of this node."""
        return dict(self._tags)

    def set_tags(self, tags: Mapping[str, str], at: Instant) -> None:
        """Instead of all others but those that every node has. Raises ValueError above 512 bytes."""
        own = own_tags(tags, self._settings.epoch, self._tags)
        meta = encode_tags(own)
        self._tags = own
        if meta != self._meta:
            self._meta = meta
            self._members.set_meta_changed(at)

    def join_intent(self, at: Instant) -> None:
        """Say that this node is there, after a join and when others think that it leaves."""
        self._own_ltime = self._clock.stamp()
        self._forward(
            self._intents, encode(JoinIntent(self._own_ltime, self._settings.name)), self._settings.name
        )

    def leave(self, at: Instant) -> None:
        """Say that this node is going, so that it counts as left. ``has_announced_leave`` comes next, then
        membership is left."""
        self._is_leaving = True
        self._own_ltime = self._clock.stamp()
        intent = LeaveIntent(self._own_ltime, self._settings.name)
        self._forward(self._intents, encode(intent), self._settings.name)

    @property
    def has_announced_leave(self) -> bool:
        """Whether the intent went out as often as it should, or there is nobody to hear it."""
        return self._is_leaving and (self._settings.name not in self._intents or not self._members.alive())

    def force_leave(self, name: str, at: Instant, *, prune: bool = False) -> bool:
        """A failed member has left; with ``prune`` it, or one that left, is forgotten. Whether there is such
        a member."""
        standing = self._roster.get(name)
        wanted = (Status.FAILED, Status.LEFT) if prune else (Status.FAILED,)
        if standing is None or standing.status not in wanted:
            return False
        intent = LeaveIntent(self._clock.stamp(), name, prune)
        self._take_leave(intent, at, encode(intent))
        return True

    def send_event(self, name: str, payload: bytes, at: Instant, *, may_coalesce: bool = False) -> None:
        """It is heard here too. Raises ValueError when it is too long."""
        self._happenings.send(name, payload, at, may_coalesce=may_coalesce)

    def ask(
        self,
        name: str,
        payload: bytes,
        at: Instant,
        *,
        timeout_s: float = 0.0,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        wants_ack: bool = False,
    ) -> int:
        """Also of this node. Raises ValueError when it is too long or too many are open."""
        timeout_s = timeout_s or self._asking.default_timeout_s(self._members.count)
        query, raw = self._asking.ask(
            name, payload, at, timeout_s, nodes=nodes, tags=tags, wants_ack=wants_ack
        )
        self._heard_query(query, raw, at)
        return query.number

    def respond(self, token: int, payload: bytes, at: Instant) -> None:
        """Raises LookupError when the query is over or answered, ValueError when ``payload`` is too long."""
        self._answering.respond(token, payload, at, self._members)

    # --- time ---

    def tick(self, at: Instant) -> None:
        self._asking.tick(at)
        for standing in self._roster.due(at):
            self._reap(standing, at)

    def next_deadline(self) -> float:
        return min(self._asking.next_deadline(), self._roster.next_deadline())

    def _reap(self, standing: Standing, at: Instant) -> None:
        name = standing.view.name
        view = self._roster.seen(standing, self._members.get(name))
        self._roster.forget(name)
        self._members.forget(name)
        self._coordinates.pop(name, None)
        self._tell(Change.REAPED, view, at)

    # --- to look at ---

    def members(self) -> list[MemberView]:
        """All that are not forgotten, by name, with what only intents tell."""
        seen = (
            self._roster.seen(standing, self._members.get(standing.view.name)) for standing in self._roster
        )
        found = {view.name: view for view in seen}
        own = self._members.get(self._settings.name)
        if own is not None:
            found[own.name] = own
        return [found[name] for name in sorted(found)]

    def status(self, name: str) -> Status | None:
        if name == self._settings.name:
            return Status.LEAVING if self._is_leaving else Status.ALIVE
        standing = self._roster.get(name)
        return standing.status if standing else None

    def coordinate(self, name: str) -> Coordinate | None:
        """For ``serf rtt``. A member of Sora sends none: it is put where our own round trip to it says."""
        if name == self._settings.name:
            return self._vivaldi.here
        known = self._coordinates.get(name)
        member = self._members.get(name)
        if known is not None or member is None or member.round_trip_s is None:
            return known
        here = self._vivaldi.here
        height = max(member.round_trip_s - here.height - here.adjustment, 0.0)
        return Coordinate(here.vector, here.error, 0.0, height)

    def figures(self) -> dict[str, int | float]:
        lanes = (self._intents, self._queries, self._events)
        return {
            **{f"serf_{name}": count for name, count in self._counts.items()},
            "serf_events": self._happenings.heard,
            "serf_events_repeated": self._happenings.repeated,
            "serf_queued": sum(map(len, lanes)),
            "serf_dropped": sum(lane.dropped for lane in lanes),
            "serf_clock": self._clock.time,
            "serf_event_clock": self._happenings.clock.time,
            "serf_query_clock": self._asking.clock.time,
        }

    # --- as a delegate: packets ---

    def meta(self) -> bytes:
        return self._meta

    def receive_user(self, raw: bytes, source: Address, at: Instant, *, is_stream: bool) -> None:
        if raw[:1] == _SORA and self._state is not None:
            self._state.receive(raw, source, at)
            return
        message = decode(raw)
        self._handlers[type(message)](message, raw, at)

    def broadcasts(self, room: int, overhead: int, to: str) -> list[bytes]:
        taken: list[bytes] = []
        for lane in (self._intents, self._queries, self._events):
            if len(lane):
                found = lane.take(room, overhead)
                room -= sum(map(len, found)) + overhead * len(found)
                taken += found
        if self._state is not None and to in self._sora_names:
            taken += self._state.broadcasts(room, overhead, to)
        return taken

    def has_broadcasts(self) -> bool:
        if self._intents or self._queries or self._events:
            return True
        return self._state is not None and bool(self._sora_names) and self._state.has_broadcasts()

    def ack_payload(self, source_node: str, at: Instant) -> bytes:
        if self._state is not None and source_node in self._sora_names:
            return _SORA + self._state.digest()
        where, encoded = self._own_coordinate
        if where is not self._vivaldi.here:
            encoded = encode_coordinate(self._vivaldi.here)
            self._own_coordinate = (self._vivaldi.here, encoded)
        return encoded

    def ping_done(self, node: str, round_trip_s: float, payload: bytes, at: Instant) -> None:
        if not payload:
            return
        if payload[0] == COORDINATE_VERSION:
            there = decode_coordinate(payload)
            self._vivaldi.hear(there, round_trip_s)
            if self._roster.get(node) is not None:
                self._coordinates[node] = there
        elif payload[0] != SerfType.SORA or len(payload) != 1 + _DIGEST_BYTES:
            raise PacketRejected(Reason.MALFORMED, "payload of an ack")
        elif self._state is not None:
            self._state.heard_digest(node, payload[1:], at)

    # --- as a delegate: push/pull ---

    def local_state(self, at: Instant, *, is_join: bool) -> bytes:
        statuses = {standing.view.name: standing.ltime for standing in self._roster}
        statuses[self._settings.name] = self._own_ltime
        state = PushPullState(
            ltime=self._clock.time,
            statuses=statuses,
            left=self._roster.left(),
            event_ltime=self._happenings.clock.time,
            events=self._happenings.recent(at),
            query_ltime=self._asking.clock.time,
            sora=self._state.push_pull_part(at) if self._state is not None else b"",
        )
        return encode(state)

    def merge_state(self, raw: bytes, source: Address, at: Instant, *, is_join: bool) -> None:
        theirs = decode_push_pull(raw)
        is_fresh = is_join and not self._has_merged and self._happenings.clock.time == 1
        self._has_merged = True
        # What they would say next has their time; the last that they said has one less.
        self._clock.witness(theirs.ltime - 1)
        self._happenings.clock.witness(theirs.event_ltime - 1)
        self._asking.clock.witness(theirs.query_ltime - 1)
        self._merge_intents(theirs, at)
        if is_fresh:
            self._happenings.skip_until(theirs.event_ltime)
        for event in theirs.events:
            self._one_of_many(self._happenings.replay, event, at)
        if theirs.sora and self._state is not None:
            self._one_of_many(self._state.merge_part, theirs.sora, at)

    def _merge_intents(self, theirs: PushPullState, at: Instant) -> None:
        """Those who left first, since what is said of the others may move our clock."""
        left = set(theirs.left)
        for name in theirs.left:
            self._one_of_many(self._take_leave, LeaveIntent(theirs.statuses.get(name, 0), name), at)
        for name, ltime in theirs.statuses.items():
            if name not in left and self._roster.is_news(name, ltime):
                self._one_of_many(self._take_join, JoinIntent(ltime, name), at)

    def _one_of_many(self, take: Callable[..., None], *given: object) -> None:
        """One part of a push/pull: what is wrong with it, or too old, does not spoil the others."""
        try:
            take(*given)
        except PacketRejected:
            self._counts["parts_rejected"] += 1

    def accepts(self, nodes: Sequence[NodeRecord]) -> None:
        """Serf has nothing against any: each record is judged by itself when it is merged."""

    # --- as a delegate: members ---

    def changed(self, change: Change, member: MemberView, at: Instant) -> None:
        if change is Change.REAPED:
            self._roster.forget(member.name)
            self._coordinates.pop(member.name, None)
            self._tell(change, member, at)
            return
        if change in (Change.FAILED, Change.LEFT):
            standing = self._roster.went(member, at, said_so=change is Change.LEFT)
            change = Change.LEFT if standing.status is Status.LEFT else Change.FAILED
        else:
            standing = self._roster.came(member)
        self._tell(change, self._roster.seen(standing, member), at)

    def _tell(self, change: Change, view: MemberView, at: Instant) -> None:
        if change in (Change.JOINED, Change.UPDATED):
            (self._sora_names.add if is_sora(view.tags) else self._sora_names.discard)(view.name)
        elif change is Change.REAPED:
            self._sora_names.discard(view.name)
        self._outlet.emit(MemberChanged(change, view))
        if self._state is not None:
            self._state.member_changed(change, view, at)

    def conflict(self, name: str, address: Address, other: Address, at: Instant) -> None:
        is_vote = self._conflicts.heard(name, address, other, at)
        if is_vote and not self._is_leaving and self._asking.has_room:
            number = self.ask(CONFLICT_QUERY, name.encode(), at)
            self._conflicts.hold(number, address, other)

    # --- intents ---

    def _heard_leave(self, intent: LeaveIntent, raw: bytes, at: Instant) -> None:
        self._take_leave(intent, at, raw)

    def _heard_join(self, intent: JoinIntent, raw: bytes, at: Instant) -> None:
        self._take_join(intent, at, raw)

    def _take_leave(self, intent: LeaveIntent, at: Instant, raw: bytes = b"") -> None:
        """``raw``: to be forwarded when it is news. Raises PacketRejected."""
        self._clock.witness(intent.ltime)
        if intent.node == self._settings.name:
            if intent.ltime > self._own_ltime and not self._is_leaving:
                self._counts["leaves_refuted"] += 1
                self.join_intent(at)
            return
        verdict = self._roster.heard_leave(intent.node, intent.ltime, at)
        if verdict is Verdict.OLD:
            return
        if raw:
            self._forward(self._intents, raw, intent.node)
        standing = self._roster.get(intent.node)
        if standing is None or standing.status is not Status.LEFT:
            return
        if verdict is Verdict.LEFT:
            self._members.force_dead(intent.node, at)
            self._tell(Change.LEFT, self._roster.seen(standing, self._members.get(intent.node)), at)
        if intent.prune:
            self._reap(standing, at)

    def _take_join(self, intent: JoinIntent, at: Instant, raw: bytes = b"") -> None:
        self._clock.witness(intent.ltime)
        if intent.node == self._settings.name:
            return
        if self._roster.heard_join(intent.node, intent.ltime, at) is not Verdict.OLD and raw:
            self._forward(self._intents, raw, intent.node)

    # --- events and queries ---

    def _heard_event(self, event: Happening, raw: bytes, at: Instant) -> None:
        self._happenings.receive(event, raw, at)

    def _heard_query(self, query: Query, raw: bytes, at: Instant) -> None:
        self._asking.clock.witness(query.ltime)
        if not self._seen_queries.is_new(query.ltime, query.number, self._asking.clock.time):
            self._counts["queries_repeated"] += 1
            return
        self._counts["queries"] += 1
        if not query.flags & QueryFlag.NO_BROADCAST:
            self._forward(self._queries, raw)
        if is_for(query.filters, self._settings.name, self._tags):
            self._process(query, at)

    def _process(self, query: Query, at: Instant) -> None:
        if query.wants_ack:
            self._answering.ack(query, self._members)
        if query.name.startswith(INTERNAL_PREFIX):
            self._answer_internal(query)
            return
        asked = self._answering.open(query, at)
        self._outlet.emit(
            QueryAsked(asked.token, query.name, query.payload, query.source_node, asked.deadline, query.ltime)
        )

    def _answer_internal(self, query: Query) -> None:
        """``_serf_ping`` is done with its ack; names that are not known are for newer members."""
        if query.name in KEY_QUERIES:
            self._answer_about_keys(query)
        elif query.name == CONFLICT_QUERY:
            name = query.payload.decode(errors="replace")
            if name != self._settings.name:
                view, status = self._members.get(name), self.status(name)
                known = encode_known(view if status else None, status or Status.FAILED)
                self._answering.answer(query, known, self._members)

    def _answer_about_keys(self, query: Query) -> None:
        before = self._ring.keys
        allowed = self._settings.allows_remote_keys
        answer = answer_key_query(query.name, query.payload, self._ring, is_allowed=allowed)
        if self._ring.keys != before:
            self._outlet.emit(KeysChanged(self._ring.keys))
        self._answering.answer(query, encode_key_answer(answer), self._members)

    def _heard_response(self, response: QueryResponse, _raw: bytes, _at: Instant) -> None:
        self._counts["responses" if self._asking.heard(response) else "responses_late"] += 1

    def _heard_relay(self, relay: Relay, _raw: bytes, _at: Instant) -> None:
        """Only responses are passed on, so that nothing can go round in circles."""
        if relay.raw[:1] != bytes((SerfType.QUERY_RESPONSE,)):
            raise PacketRejected(Reason.FORGED, "relay of something else than a response")
        self._counts["relayed"] += 1
        self._outlet.send(relay.to, [part_of(relay.raw)], node=relay.node)

    def _answered(self, answer: QueryAnswered) -> None:
        if not self._conflicts.owns(answer.query):
            self._outlet.emit(answer)
        elif answer.is_over:
            self._conflicts.is_over()
        elif answer.payload is not None:
            self._conflicts.answered(answer.payload)


_COUNTED: Final = (
    "queries",
    "queries_repeated",
    "responses",
    "responses_late",
    "relayed",
    "leaves_refuted",
    "not_forwarded",
    "parts_rejected",
)
