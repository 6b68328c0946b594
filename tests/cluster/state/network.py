"""Several ``SharedState`` on a virtual clock: what membership and the engine do for them, without those.

Gossip ticks, pings whose acks carry digests, streams, loss, duplication, reordering, partitions, from a seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from cluster.address import Address
from cluster.api import Settings
from cluster.effects import Change, Effect, FactChanged, MemberView
from cluster.errors import PacketRejected
from cluster.instant import Instant
from cluster.messages import VSN, State
from cluster.state import Capacity, SharedState

EPOCH_MS = 1_800_000_000_000
KEY = bytes(32)
ROOM = 1_350


def address_of(name: str) -> Address:
    number = int(name[1:])
    return Address(f"10.0.{number >> 8}.{number & 255}", 7946)


class Node:
    """A ``delegate.Outlet`` and a ``delegate.Members``; the state in it may be replaced by a new life."""

    def __init__(self, net: Network, name: str) -> None:
        self.net = net
        self.own_name = name
        self.address = address_of(name)
        self.views: dict[str, MemberView] = {}
        self.facts: dict[tuple[int, str, bytes], bytes] = {}
        self.heard: list[Effect] = []
        self.skew = 0.0
        self.lives = 0
        self.is_up = True
        self.state: SharedState
        self.live()

    def live(self, *, epoch: int | None = None) -> None:
        self.lives += 1
        self.epoch = EPOCH_MS + int(self.net.now * 1000) + self.lives if epoch is None else epoch
        settings = Settings(self.own_name, self.address, (KEY,), epoch=self.epoch)
        rng = random.Random(f"{self.net.seed} {self.own_name} {self.lives}")
        self.state = SharedState(settings, self, rng, capacity=self.net.capacity)
        self.state.attach(self)
        self.facts.clear()

    @property
    def at(self) -> Instant:
        return Instant(self.net.now, self.net.now + EPOCH_MS / 1000 + self.skew)

    def seen(self, kind: int) -> dict[tuple[str, bytes], bytes]:
        return {(e.origin, e.key): e.value for e in self.state.entries(kind, self.at)}  # type: ignore[arg-type]

    # --- Outlet ---

    def emit(self, effect: Effect) -> None:
        self.heard.append(effect)
        if isinstance(effect, FactChanged):
            key = (effect.kind, effect.origin, effect.key)
            if effect.value is None:
                assert key in self.facts, f"{effect} ends what was never told"
                del self.facts[key]
            else:
                self.facts[key] = effect.value
            self.net.fact_heard(self.own_name, effect)

    def send(self, to: Address, parts: Sequence[bytes], *, node: str = "", piggyback: bool = True) -> None:
        for part in parts:
            assert part[0] == 8
            assert len(part) <= 1_400
            self.net.datagram(self.own_name, self.net.names[to], part[1:])

    def open_stream(self, to: Address, message: bytes, *, wants_reply: bool) -> int:
        assert message[0] == 8
        assert not wants_reply
        self.net.stream(self.own_name, self.net.names[to], message[1:])
        return 1

    # --- Members ---

    def get(self, name: str) -> MemberView | None:
        return self.views.get(name)

    def by_address(self, address: Address) -> MemberView | None:
        return self.views.get(self.net.names[address])

    def alive(self) -> list[MemberView]:
        return [v for v in self.views.values() if v.state is State.ALIVE and v.name != self.own_name]

    def __iter__(self) -> Iterator[MemberView]:
        return iter(self.views.values())

    is_slow = False

    @property
    def count(self) -> int:
        return len(self.views) + 1

    # --- what membership says ---

    def member(self, name: str, change: Change, *, epoch: int | None = None, tag: str = "sora") -> None:
        state = {Change.FAILED: State.DEAD, Change.LEFT: State.LEFT, Change.REAPED: State.DEAD}
        tags = {tag: "1"} | ({} if epoch is None else {"epoch": str(epoch)})
        now = self.net.now
        view = MemberView(name, address_of(name), state.get(change, State.ALIVE), 1, tags, VSN, now, now)
        self.views[name] = view
        if change is Change.REAPED:
            del self.views[name]
        self.state.member_changed(change, view, self.at)


class Network:
    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        loss: float = 0.0,
        duplication: float = 0.0,
        latency_s: tuple[float, float] = (0.0002, 0.0006),
        knows_all: bool = True,
        shares_views: bool = False,
        pings: bool = True,
        capacity: Capacity | None = None,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 100.0
        self.loss = loss
        self.duplication = duplication
        self.latency_s = latency_s
        self.pings = pings
        self.capacity = capacity
        self.sent = 0
        self.sent_bytes = 0
        self.streams: list[tuple[float, str, int]] = []
        self.stream_delay_s = 0.0
        self.rejected: list[PacketRejected] = []
        self.sides: dict[str, int] = defaultdict(int)  # of a partition
        self.on_fact: Callable[[str, FactChanged], None] | None = None
        self.tap: Callable[[str, str, bytes], None] | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        names = [f"n{number:04}" for number in range(count)]
        self.names = {address_of(name): name for name in names}
        self.nodes = {name: Node(self, name) for name in names}
        if shares_views:
            self._share_views()
        elif knows_all:
            self.introduce(names)
        for name in names:
            self._after(self.rng.random() * 0.1, partial(self._gossip, name))
            if pings:
                self._after(self.rng.random() * 0.8, partial(self._ping, name))

    def __getitem__(self, number: int) -> Node:
        return self.nodes[f"n{number:04}"]

    def _share_views(self) -> None:
        """All know all, from one table: for networks so large that a table for each is too much."""
        now = self.now
        views = {
            name: MemberView(name, address_of(name), State.ALIVE, 1, {"sora": "1"}, VSN, now, now)
            for name in self.nodes
        }
        for node in self.nodes.values():
            node.views = views
            node.state.attach(node)

    def introduce(self, names: Iterable[str]) -> None:
        names = list(names)
        for name in names:
            for other in names:
                if other != name:
                    self.nodes[name].member(other, Change.JOINED, epoch=self.nodes[other].epoch)

    # --- traffic ---

    def datagram(self, source: str, to: str, raw: bytes) -> None:
        self.sent += 1
        self.sent_bytes += len(raw)
        if self.tap:
            self.tap(source, to, raw)
        copies = 2 if self.rng.random() < self.duplication else 1
        for _ in range(copies):
            if self.rng.random() >= self.loss:
                self._after(self.rng.uniform(*self.latency_s), lambda: self._deliver(source, to, raw))

    def stream(self, source: str, to: str, raw: bytes) -> None:
        self.sent_bytes += len(raw)
        self.streams.append((self.now, source, len(raw)))
        delay = self.stream_delay_s or 3 * self.rng.uniform(*self.latency_s)
        self._after(delay, lambda: self._deliver(source, to, raw))

    def push_pull(self, number: int, other: int) -> None:
        one, two = self[number], self[other]
        ours, theirs = one.state.push_pull_part(one.at), two.state.push_pull_part(two.at)
        two.state.merge_part(ours, two.at)
        one.state.merge_part(theirs, one.at)

    def _deliver(self, source: str, to: str, raw: bytes) -> None:
        node = self.nodes[to]
        if self.sides[source] == self.sides[to] and node.is_up:
            try:
                node.state.receive(raw, address_of(source), node.at)
            except PacketRejected as rejected:
                self.rejected.append(rejected)
            self._wake(to)

    def _gossip(self, name: str) -> None:
        node = self.nodes[name]
        self._after(0.1, lambda: self._gossip(name))
        if node.is_up:
            for to in self._some(node, 3):
                for raw in node.state.broadcasts(ROOM, 3, to):
                    self.datagram(name, to, raw)

    def _ping(self, name: str) -> None:
        node = self.nodes[name]
        self._after(0.8, lambda: self._ping(name))
        for to in self._some(node, 1) if node.is_up else ():
            if self.rng.random() >= self.loss:
                self._after(0.0005, partial(self._pinged, name, to))

    def _some(self, node: Node, count: int) -> list[str]:
        if len(node.views) < 20:
            others = [view.name for view in node.alive()]
            return self.rng.sample(others, min(count, len(others)))
        names = [f"n{self.rng.randrange(len(self.nodes)):04}" for _ in range(count)]
        return [name for name in names if name in node.views and name != node.own_name]

    def _pinged(self, name: str, to: str) -> None:
        node = self.nodes[to]
        if node.is_up and self.sides[name] == self.sides[to] and self.rng.random() >= self.loss:
            digest = node.state.digest()
            self._after(0.0005, lambda: self._acked(name, to, digest))

    def _acked(self, name: str, to: str, digest: bytes) -> None:
        node = self.nodes[name]
        if node.is_up:
            node.state.heard_digest(to, digest, node.at)
            self._wake(name)

    def fact_heard(self, name: str, fact: FactChanged) -> None:
        if self.on_fact:
            self.on_fact(name, fact)

    # --- time ---

    def _after(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._serial), what))

    def _wake(self, name: str) -> None:
        """Tick a node when it wants to be."""
        node = self.nodes[name]
        deadline = node.state.next_deadline()
        if deadline <= self.now:
            node.state.tick(node.at)
            deadline = node.state.next_deadline()
        if deadline < self.now + 3600.0:
            life = node.lives
            self._after(max(deadline - self.now, 0.0001), lambda: self._due(name, life))

    def _due(self, name: str, life: int) -> None:
        node = self.nodes[name]
        if node.is_up and node.lives == life and node.state.next_deadline() <= self.now:
            node.state.tick(node.at)
            self._wake(name)

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> bool:
        """Whether ``until`` came true; without it, at the end."""
        end = self.now + seconds
        for name in self.nodes:
            self._wake(name)
        while self._queue and self._queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self._queue)
            what()
            if until is not None and until():
                return True
        self.now = end
        return until is None

    def are_equal(self) -> bool:
        return len({node.state.digest() for node in self.nodes.values() if node.is_up}) == 1
