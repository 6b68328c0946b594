"""A few ``Swim`` objects and the packets between them, on a clock of their own.

Every message passes through the codec; there is no encryption, no compound framing. For the whole engine on
a simulated network see ``tests/sim``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from cluster import codec
from cluster.address import Address
from cluster.api import Settings
from cluster.effects import Change, Effect, MemberView
from cluster.errors import PacketRejected
from cluster.instant import Instant
from cluster.messages import Message, MessageType, NodeRecord, State
from cluster.profile import SORA, Profile
from cluster.serf.tags import encode_tags
from cluster.swim import Swim

KEY = bytes(32)
IP_UDP_BYTES = 28
SEAL_BYTES = 29
ROOM = 1300


def instant(now: float) -> Instant:
    return Instant(now, now + 1_700_000_000.0)


def address(number: int) -> Address:
    return Address(f"10.0.{number // 250}.{number % 250 + 1}", 7946)


def name(number: int) -> str:
    return f"n{number:03d}"


def decode(raw: bytes) -> Message:
    return codec.decode_push_pull(raw) if raw[0] == MessageType.PUSH_PULL else codec.decode(raw)


@dataclass
class FakeDelegate:
    """Remembers what it is told."""

    tags: dict[str, str] = field(default_factory=dict)
    changes: list[tuple[float, Change, str, int]] = field(default_factory=list)
    conflicts: list[tuple[str, Address, Address]] = field(default_factory=list)
    user: list[bytes] = field(default_factory=list)
    pings: list[tuple[str, float, bytes]] = field(default_factory=list)
    refuses: PacketRejected | None = None
    state: bytes = b""
    merged: list[bytes] = field(default_factory=list)
    has_news: bool = False
    ack: bytes = bytes(132)  # as long as a coordinate

    def meta(self) -> bytes:
        return encode_tags(self.tags)

    def receive_user(self, raw: bytes, source: Address, at: Instant, *, is_stream: bool) -> None:
        self.user.append(raw)

    def broadcasts(self, room: int, overhead: int, to: str) -> list[bytes]:
        return []

    def has_broadcasts(self) -> bool:
        return self.has_news

    def local_state(self, at: Instant, *, is_join: bool) -> bytes:
        return self.state

    def merge_state(self, raw: bytes, source: Address, at: Instant, *, is_join: bool) -> None:
        self.merged.append(raw)

    def ack_payload(self, source_node: str, at: Instant) -> bytes:
        return self.ack

    def ping_done(self, node: str, round_trip_s: float, payload: bytes, at: Instant) -> None:
        self.pings.append((node, round_trip_s, payload))

    def accepts(self, nodes: Sequence[NodeRecord]) -> None:
        if self.refuses is not None:
            raise self.refuses

    def changed(self, change: Change, member: MemberView, at: Instant) -> None:
        self.changes.append((at.now, change, member.name, member.incarnation))

    def conflict(self, name: str, address: Address, other: Address, at: Instant) -> None:
        self.conflicts.append((name, address, other))


@dataclass
class Outbox:
    """What one ``Swim`` sends, for tests that play the network themselves."""

    sent: list[tuple[Address, list[Message]]] = field(default_factory=list)
    rounds: list[Address] = field(default_factory=list)  # of gossip
    streams: list[tuple[int, Address, Message]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def send(self, to: Address, parts: Sequence[bytes], *, node: str = "", piggyback: bool = True) -> None:
        if parts:
            self.sent.append((to, [codec.decode(raw) for raw in parts]))
        else:
            self.rounds.append(to)

    def open_stream(self, to: Address, message: bytes, *, wants_reply: bool) -> int:
        self.streams.append((len(self.streams) + 1, to, decode(message)))
        return len(self.streams)

    def take(self) -> list[tuple[Address, list[Message]]]:
        sent, self.sent = self.sent, []
        return sent

    def messages(self, kind: type) -> list[Message]:
        return [message for _, messages in self.sent for message in messages if type(message) is kind]


def lone(
    profile: Profile = SORA, *, seed: int = 1, accepts_loopback: bool = False
) -> tuple[Swim, Outbox, FakeDelegate]:
    """A started ``Swim`` named n000 by itself, its announcement already forgotten."""
    outbox, delegate = Outbox(), FakeDelegate()
    settings = Settings(
        name=name(0),
        advertise=address(0),
        keys=(KEY,),
        profile=profile,
        accepts_loopback=accepts_loopback,
    )
    swim = Swim(settings, outbox, delegate, random.Random(seed))
    swim.start(instant(0.0))
    while swim.broadcasts(ROOM, 2):
        pass
    delegate.changes.clear()
    return swim, outbox, delegate


class SwimNode:
    """One process. ``Outlet`` of its Swim."""

    def __init__(self, net: SwimNet, name: str, address: Address, seed: int, profile: Profile) -> None:
        self.net = net
        self.name = name
        self.address = address
        self.delegate = FakeDelegate()
        settings = Settings(name=name, advertise=address, keys=(KEY,), profile=profile)
        self.swim = Swim(settings, self, self.delegate, random.Random(seed))
        self.is_up = True
        self.paused_until = 0.0
        self.held: list[Callable[[], None]] = []  # what came while it was paused
        self.wake = math.inf
        self.packets = 0
        self.octets = 0
        self.effects: list[Effect] = []
        self.rejected: list[PacketRejected] = []

    # --- Outlet ---

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def send(self, to: Address, parts: Sequence[bytes], *, node: str = "", piggyback: bool = True) -> None:
        room = ROOM - sum(len(part) + 2 for part in parts)
        whole = [*parts, *(self.swim.broadcasts(room, 2) if piggyback else [])]
        if whole:
            self.packets += 1
            self.octets += sum(len(part) + 2 for part in whole) + SEAL_BYTES + IP_UDP_BYTES
            self.net.carry(self, to, whole)

    def open_stream(self, to: Address, message: bytes, *, wants_reply: bool) -> int:
        return self.net.connect(self, to, message)

    # --- the process ---

    @property
    def is_paused(self) -> bool:
        return self.net.now < self.paused_until

    def run(self, action: Callable[[], None]) -> None:
        """``action`` now, or when it runs again."""
        if not self.is_up:
            return
        if self.is_paused:
            self.held.append(action)
            return
        try:
            action()
        except PacketRejected as e:
            self.rejected.append(e)
        self.net.arm(self)

    def views(self) -> dict[str, tuple[State, int]]:
        return {view.name: (view.state, view.incarnation) for view in self.swim}


class SwimNet:
    """Loss is of datagrams, and slows down streams as TCP's timeouts do."""

    def __init__(
        self,
        count: int,
        *,
        seed: int = 1,
        profile: Profile = SORA,
        loss: float = 0.0,
        latency_s: float = 0.0005,
        has_streams: bool = True,
    ) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.seed = seed
        self.profile = profile
        self.loss = loss
        self.latency_s = latency_s
        self.has_streams = has_streams
        self.is_cut: Callable[[Address, Address], bool] = lambda source, to: False
        self.nodes: dict[str, SwimNode] = {}
        self._at: dict[Address, SwimNode] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._tickets = 0
        for number in range(count):
            self.add(number)

    def add(
        self, number: int, *, at: Address | None = None, profile: Profile | None = None, key: str = ""
    ) -> SwimNode:
        """A process, started. ``key``: under which it is found, when its name is taken."""
        where = at or address(number)
        seed = self.rng.getrandbits(32)
        node = SwimNode(self, name(number), where, seed, profile or self.profile)
        self.nodes[key or node.name] = self._at[where] = node
        node.run(lambda: node.swim.start(instant(self.now)))
        return node

    def join_all(self) -> None:
        """Everyone joins the first, and all know all."""
        first, *others = self.nodes.values()
        for node in others:
            self.join(node, [first.address])
        self.run_for(3.0)

    def join(self, node: SwimNode, addresses: Iterable[Address]) -> None:
        node.run(lambda: node.swim.join(addresses, instant(self.now)))

    def kill(self, node: SwimNode) -> None:
        node.is_up = False
        node.wake = math.inf

    def pause(self, node: SwimNode, seconds: float) -> None:
        """As SIGSTOP does: what comes is kept for it."""
        node.paused_until = self.now + seconds
        self.call_at(node.paused_until, lambda: self._resume(node))

    def _resume(self, node: SwimNode) -> None:
        held, node.held = node.held, []
        node.run(lambda: node.swim.tick(instant(self.now)))
        for action in held:
            node.run(action)

    # --- time ---

    def call_at(self, when: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heappush(self._queue, (when, self._serial, action))

    def arm(self, node: SwimNode) -> None:
        deadline = max(self.now, node.swim.next_deadline())
        if deadline < node.wake:
            node.wake = deadline
            self.call_at(deadline, lambda: self._tick(node, deadline))

    def _tick(self, node: SwimNode, deadline: float) -> None:
        if node.wake == deadline:
            node.wake = math.inf
            if not node.is_paused:
                node.run(lambda: node.swim.tick(instant(self.now)))

    def run_for(self, seconds: float) -> None:
        self.run_until(self.now + seconds)

    def run_until(self, end: float, is_over: Callable[[], bool] | None = None) -> bool:
        """Whether ``is_over`` came true."""
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heappop(self._queue)
            action()
            if is_over is not None and is_over():
                return True
        self.now = end
        return False

    # --- packets ---

    def _is_lost(self) -> bool:
        return self.rng.random() < self.loss

    def _way_s(self) -> float:
        return self.latency_s * (0.5 + self.rng.random())

    def carry(self, sender: SwimNode, to: Address, parts: Sequence[bytes]) -> None:
        if self._is_lost() or self.is_cut(sender.address, to):
            return
        source = sender.address
        self.call_at(self.now + self._way_s(), lambda: self._deliver(source, to, parts))

    def _deliver(self, source: Address, to: Address, parts: Sequence[bytes]) -> None:
        node = self._at.get(to)
        for raw in parts if node is not None else ():
            assert node is not None
            node.run(lambda raw=raw: node.swim.receive(codec.decode(raw), source, instant(self.now)))

    def _stream_delay_s(self) -> float:
        """Of a handshake (lost: again after 1 s, then 2 s) and one packet each way (200 ms, then 400 ms)."""
        delay = 4 * self._way_s()
        for timeout_s in (1.0, 1.0, 0.2, 0.2):
            while self._is_lost():
                delay += timeout_s
                timeout_s *= 2
        return delay

    def connect(self, opener: SwimNode, to: Address, raw: bytes) -> int:
        self._tickets += 1
        ticket = self._tickets
        target = self._at.get(to)
        is_cut = self.is_cut(opener.address, to) or self.is_cut(to, opener.address)
        delay = self._stream_delay_s()
        timeout_s = self.profile.stream_timeout_s
        if is_cut or not self.has_streams or target is None or delay > timeout_s:
            self.call_at(self.now + timeout_s, lambda: self._reply(opener, ticket, None))
        elif not target.is_up:
            self.call_at(self.now + delay, lambda: self._reply(opener, ticket, None))
        else:
            self.call_at(
                self.now + delay, lambda: target.run(lambda: self._serve(opener, target, ticket, raw))
            )
        return ticket

    def _serve(self, opener: SwimNode, target: SwimNode, ticket: int, raw: bytes) -> None:
        message = decode(raw)
        at = instant(self.now)
        reply: Message | None = None
        try:
            if raw[0] == MessageType.PUSH_PULL:
                reply = target.swim.receive_push_pull(message, opener.address, at)  # type: ignore[arg-type]
            else:
                reply = target.swim.receive_ping_stream(message, at)  # type: ignore[arg-type]
        finally:
            encoded = None if reply is None else codec.encode(reply)
            self._reply(opener, ticket, encoded)

    def _reply(self, opener: SwimNode, ticket: int, raw: bytes | None) -> None:
        reply = None if raw is None else decode(raw)
        opener.run(lambda: opener.swim.stream_reply(ticket, reply, instant(self.now)))  # type: ignore[arg-type]

    # --- to look at ---

    def up(self) -> list[SwimNode]:
        return [node for node in self.nodes.values() if node.is_up]

    def all_see(self, number: int, *states: State) -> bool:
        """Whether every other process that runs holds it so."""
        wanted = name(number)
        others = [node for node in self.up() if node.name != wanted]
        return all((view := node.swim.get(wanted)) is not None and view.state in states for node in others)

    def all_alive(self) -> bool:
        names = {node.name for node in self.up()}
        return all(
            all((view := node.swim.get(other)) is not None and view.state is State.ALIVE for other in names)
            for node in self.up()
        )

    def changes(self, change: Change) -> list[tuple[float, str, str]]:
        """When, who says so, of whom."""
        return [
            (when, node.name, whom)
            for node in self.nodes.values()
            for when, what, whom, _ in node.delegate.changes
            if what is change
        ]
