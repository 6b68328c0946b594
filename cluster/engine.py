"""One node of a cluster as a machine: packets, time and commands in, effects out (``api.ClusterEngine``).

Only the seams are here: a packet is opened (``framing``, ``streams``, ``codec``) and given to the part that
it is for; what the parts send goes out by way of ``Outbox``. Membership is ``swim``, tags, events and queries
are ``serf``, what nodes share is ``state``.

Invariant: whatever arrives is applied or refused. A refusal is counted by its reason and told as an effect;
nothing that another node sends makes a method here raise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from . import codec, framing, streams
from .address import Address
from .api import Settings
from .effects import Effect, KeysChanged, MemberView, Rejected
from .errors import PacketRejected, Reason
from .facts import Entry, Kind, NoticeKind
from .instant import Instant
from .keyring import NONCE_BYTES, KeyRing
from .messages import Ack, ErrorReply, Ping, PushPull, User
from .outbox import Outbox
from .replays import ReplayWindow
from .serf.coordinates import Coordinate
from .serf.delegate import Serf
from .state import SharedState
from .swim import Swim

if TYPE_CHECKING:
    import random


class Engine:
    """``rng`` decides whom to probe and to tell, nothing secret. ``nonce``: 12 bytes from the system's source
    of randomness, never the same twice; packets with a nonce that was seen are refused as replays."""

    def __init__(self, settings: Settings, rng: random.Random, nonce: Callable[[], bytes]) -> None:
        """Raises ValueError for keys, tags or a label of the wrong size."""
        self.settings = settings
        self._label = framing.checked_label(settings.label)
        self._ring = KeyRing(settings.keys)
        self._outbox = Outbox(settings, self._ring, nonce)
        self._state = SharedState(settings, self._outbox, rng)
        self._serf = Serf(settings, self._outbox, rng, self._state, ring=self._ring)
        self._swim = Swim(settings, self._outbox, self._serf, rng)
        self._outbox.attach(self._swim.broadcasts, self._serf.broadcasts)
        self._serf.attach(self._swim)
        self._state.attach(self._swim)
        self._replays = ReplayWindow()
        self._nonce_start = len(framing.label_header(self._label)) + 1
        self._rejected: Counter[Reason] = Counter()
        self._packets = self._packet_bytes = self._messages = self._requests = 0
        self._is_leaving = False

    # --- what comes in ---

    def start(self, at: Instant) -> None:
        self._swim.start(at)

    def receive_datagram(self, data: bytes, source: Address, at: Instant) -> None:
        self._packets += 1
        self._packet_bytes += len(data)
        try:
            messages, refusals = framing.unwrap(self._opened(data))
        except PacketRejected as refusal:
            self._reject(refusal, source)
            return
        for each in refusals:
            self._reject(each, source)
        for raw in messages:
            self._messages += 1
            try:
                self._apply(raw, source, at)
            except PacketRejected as refusal:
                self._reject(refusal, source)
        self._go_on_leaving(at)

    def _opened(self, data: bytes) -> bytes:
        plain = framing.open_datagram(data, self._ring, self._label)
        start = self._nonce_start
        if not self._replays.is_new(data[start : start + NONCE_BYTES]):
            raise PacketRejected(Reason.REPLAYED)
        return plain

    def _apply(self, raw: bytes, source: Address, at: Instant) -> None:
        message = codec.decode(raw)
        if isinstance(message, User):
            self._serf.receive_user(message.raw, source, at, is_stream=False)
        elif isinstance(message, ErrorReply):
            raise PacketRejected(Reason.UNKNOWN_TYPE, "an error outside of a stream")
        else:
            self._swim.receive(message, source, at)

    def _reject(self, refusal: PacketRejected, source: Address) -> None:
        self._rejected[refusal.reason] += 1
        self._outbox.emit(Rejected(source, refusal.reason, refusal.detail))

    # --- streams ---

    def receive_stream(self, data: bytes, source: Address, at: Instant) -> bytes | None:
        """What does not open is not answered; what opens and is refused is told why."""
        self._requests += 1
        try:
            request = streams.decode_request(data, self._ring, self.settings.label)
        except PacketRejected as refusal:
            self._reject(refusal, source)
            return None
        try:
            reply = self._answer(request, source, at)
        except PacketRejected as refusal:
            self._reject(refusal, source)
            return self._outbox.reply(codec.encode(ErrorReply(str(refusal))))
        self._go_on_leaving(at)
        return None if reply is None else self._outbox.reply(codec.encode(reply))

    def _answer(self, request: streams.Request, source: Address, at: Instant) -> PushPull | Ack | None:
        if isinstance(request, PushPull):
            return self._swim.receive_push_pull(request, source, at)
        if isinstance(request, Ping):
            return self._swim.receive_ping_stream(request, at)
        self._serf.receive_user(request.raw, source, at, is_stream=True)
        return None

    def receive_stream_reply(self, ticket: int, data: bytes | None, at: Instant) -> None:
        reply, error = self._reply(ticket, data)
        self._swim.stream_reply(ticket, reply, at, error)
        if isinstance(reply, PushPull) and reply.is_join:
            self._serf.join_intent(at)
        self._go_on_leaving(at)

    def _reply(self, ticket: int, data: bytes | None) -> tuple[PushPull | Ack | None, str]:
        """What came, or why nothing did."""
        to = self._outbox.settle(ticket)
        if not data or to is None:
            return None, "no answer"
        try:
            reply = streams.decode_reply(data, self._ring, self.settings.label)
        except PacketRejected as refusal:
            self._reject(refusal, to)
            return None, f"its answer was refused: {refusal}"
        if isinstance(reply, ErrorReply):
            return None, f"it says: {reply.text}"
        return reply, ""

    # --- time ---

    def tick(self, at: Instant) -> None:
        self._swim.tick(at)
        self._serf.tick(at)
        self._state.tick(at)
        self._go_on_leaving(at)

    def next_deadline(self) -> float:
        return min(self._swim.next_deadline(), self._serf.next_deadline(), self._state.next_deadline())

    def effects(self) -> list[Effect]:
        return self._outbox.take()

    def loop_was_late(self, late_s: float, at: Instant) -> None:
        self._swim.loop_was_late(late_s, at)

    # --- commands ---

    def join(self, addresses: Iterable[Address], at: Instant) -> None:
        self._swim.join(addresses, at)

    def set_peers(self, addresses: Iterable[Address], at: Instant) -> None:
        self._swim.set_peers(addresses, at)

    def leave(self, at: Instant) -> None:
        """Serf's word comes first: who goes without it has failed, for an agent."""
        if not self._is_leaving:
            self._is_leaving = True
            self._serf.leave(at)
            self._go_on_leaving(at)

    def _go_on_leaving(self, at: Instant) -> None:
        if self._is_leaving and self._serf.has_announced_leave:
            self._swim.leave(at)

    @property
    def has_left(self) -> bool:
        return self._swim.has_left

    def force_leave(self, name: str, at: Instant, *, prune: bool = False) -> bool:
        return self._serf.force_leave(name, at, prune=prune)

    def set_tags(self, tags: Mapping[str, str], at: Instant) -> None:
        self._serf.set_tags(tags, at)

    def send_event(self, name: str, payload: bytes, at: Instant, *, may_coalesce: bool = False) -> None:
        self._serf.send_event(name, payload, at, may_coalesce=may_coalesce)

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
        return self._serf.ask(
            name, payload, at, timeout_s=timeout_s, nodes=nodes, tags=tags, wants_ack=wants_ack
        )

    def respond(self, token: int, payload: bytes, at: Instant) -> None:
        """Raises LookupError when the query is over, ValueError when ``payload`` is too long."""
        self._serf.respond(token, payload, at)

    def set_keys(self, keys: Sequence[bytes], at: Instant) -> None:
        """Raises ValueError for no key, or one of the wrong size."""
        before = self._ring.keys
        self._ring.replace(keys)
        if self._ring.keys != before:
            self._outbox.emit(KeysChanged(self._ring.keys))

    # --- shared state ---

    def put(self, kind: Kind, key: bytes, value: bytes, ttl_s: float, at: Instant) -> bool:
        return self._state.put(kind, key, value, ttl_s, at)

    def remove(self, kind: Kind, key: bytes, at: Instant) -> None:
        self._state.remove(kind, key, at)

    def tell(
        self, kind: NoticeKind, payload: bytes, at: Instant, *, to: Collection[str] | None = None
    ) -> None:
        self._state.tell(kind, payload, at, to=to)

    def entries(self, kind: Kind, at: Instant) -> list[Entry]:
        return self._state.entries(kind, at)

    # --- to look at ---

    def members(self) -> list[MemberView]:
        return self._serf.members()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The first is the primary one."""
        return self._ring.keys

    def coordinate(self, name: str) -> Coordinate | None:
        """See ``Serf.coordinate``."""
        return self._serf.coordinate(name)

    def skews(self) -> dict[str, float]:
        return self._state.skews()

    def figures(self) -> dict[str, int | float]:
        return {
            "packets_received": self._packets,
            "packet_bytes_received": self._packet_bytes,
            "packets_sent": self._outbox.datagrams,
            "packet_bytes_sent": self._outbox.datagram_bytes,
            "messages_received": self._messages,
            "messages_sent": self._outbox.messages,
            "requests_received": self._requests,
            "requests_sent": self._outbox.streams,
            **{f"rejected_{reason.value}": self._rejected[reason] for reason in Reason},
            **self._swim.figures(),
            **self._serf.figures(),
            **self._state.figures(),
        }
