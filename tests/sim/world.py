"""The virtual clock, and all nodes on it: a heap of what happens when.

Everything random comes from the seed, each node's engine has a generator of its own, and simultaneous things
happen in the order in which they were planned. So a seed is a run: ``trace`` is a sum over every delivery and
every effect that was told, and equal for equal seeds.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterable

from cluster.address import Address
from cluster.api import ClusterEngine, Settings
from cluster.effects import Effect, MemberChanged, OpenStream, Rejected, SendDatagram
from cluster.leader import Leadership
from cluster.profile import SORA, Profile

from .network import Network
from .node import NEVER, SimNode

MakeEngine = Callable[[Settings, random.Random], ClusterEngine]

KEY = bytes(range(32))
PORT = 7946
LATE_S = 0.05
DATAGRAMS_PER_TURN = 64
HEADERS_BYTES = 28  # IP and UDP: what an observer of the wire counts


def host(index: int) -> str:
    return f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"


class World:
    """``keeps_effects`` False: at large sizes, where nobody reads the history."""

    def __init__(
        self,
        seed: int,
        make_engine: MakeEngine,
        *,
        profile: Profile = SORA,
        keeps_effects: bool = True,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.network = Network(random.Random(self.rng.random()))
        self.now = 0.0
        self.nodes: dict[str, SimNode] = {}
        self.trace = 0
        self.delivered = 0
        self.steps = 0
        self._make_engine = make_engine
        self._profile = profile
        self._keeps_effects = keeps_effects
        self._by_address: dict[Address, SimNode] = {}
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._planned = 0
        self._streams: dict[int, tuple[SimNode, int, int]] = {}  # stream: who asked, life, ticket
        self._stream_count = 0
        self._hosts = 0
        self.rejected: Counter[str] = Counter()

    # --- time ---

    def plan(self, at: float, what: Callable[..., None], *arguments: object) -> None:
        self._planned += 1
        heapq.heappush(self._heap, (at, self._planned, what, arguments))

    def after(self, delay_s: float, what: Callable[..., None], *arguments: object) -> None:
        self.plan(self.now + delay_s, what, *arguments)

    def run_until(self, end: float) -> None:
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            at, _, what, arguments = pop(heap)
            self.now = at
            self.steps += 1
            what(*arguments)
        self.now = end

    def run(self, seconds: float) -> None:
        self.run_until(self.now + seconds)

    def run_while(
        self, condition: Callable[[], bool], *, at_most_s: float, step_s: float = 0.1
    ) -> float | None:
        """How long it held, to ``step_s``; None when it held to the end."""
        begin = self.now
        while self.now < begin + at_most_s:
            if not condition():
                return self.now - begin
            self.run(step_s)
        return None if condition() else self.now - begin

    # --- nodes ---

    def add(self, name: str, *, peers: Iterable[Address] = (), skew_s: float = 0.0) -> SimNode:
        """A node that starts now, at an address of its own."""
        node = self._node(name, self._fresh_address(), tuple(peers), skew_s, life=0)
        self.nodes[node.name] = node
        self._begin(node)
        return node

    def add_twin(self, name: str) -> SimNode:
        """Another node of the same name; it is in ``nodes`` as ``name + "'"``."""
        node = self._node(name, self._fresh_address(), self._peers_for(name), 0.0, life=0)
        self.nodes[name + "'"] = node
        self._begin(node)
        return node

    def _fresh_address(self) -> Address:
        self._hosts += 1
        return Address(host(self._hosts), PORT)

    def _node(
        self, name: str, address: Address, peers: tuple[Address, ...], skew_s: float, life: int
    ) -> SimNode:
        offset_s = self.rng.uniform(1_000.0, 2_000.0)
        settings = Settings(
            name=name,
            advertise=address,
            keys=(KEY,),
            tags={"sora": "1", "version": "1.0"},
            profile=self._profile,
            epoch=int((self.now + 1_795_000_000) * 1000) + life,
        )
        engine = self._make_engine(settings, random.Random(self.rng.random()))
        leadership = Leadership(name, self.now + offset_s, waits_for_peer=bool(peers))
        return SimNode(name, address, engine, leadership, offset_s, skew_s, life, peers=peers)

    def _begin(self, node: SimNode) -> None:
        self._by_address[node.address] = node
        node.engine.start(node.instant(self.now))
        self.set_peers(node, node.peers)

    def set_peers(self, node: SimNode, peers: Iterable[Address]) -> None:
        node.peers = tuple(peers)
        node.engine.set_peers(node.peers, node.instant(self.now))
        self._after_entry(node)

    def _peers_for(self, name: str) -> tuple[Address, ...]:
        return tuple(each.address for each in self.live() if each.name != name)[:3]

    def kill(self, name: str) -> None:
        """SIGKILL: not a word to anyone."""
        node = self.nodes[name]
        node.is_running = False
        node.wake_at = NEVER
        if self._by_address.get(node.address) is node:
            del self._by_address[node.address]

    def restart(self, name: str, *, moves: bool = False) -> SimNode:
        """With an empty memory; ``moves``: at another address. One of its peers lives: nobody would look for
        a node that left and comes back when all it was configured with are gone."""
        old = self.nodes[name]
        if old.is_running:
            self.kill(name)
        address = self._fresh_address() if moves else old.address
        peers = tuple(dict.fromkeys((*old.peers, *self._peers_for(old.name))))
        node = self._node(old.name, address, peers, old.skew_s, old.life + 1)
        self.nodes[name] = node
        self._begin(node)
        return node

    def leave(self, name: str) -> None:
        """And its end, when it could say so."""
        node = self.nodes[name]
        node.engine.leave(node.instant(self.now))
        self._after_entry(node)
        self._end_when_left(node, node.life, self.now + 10.0)

    def _end_when_left(self, node: SimNode, life: int, deadline: float) -> None:
        if node.life != life or not node.is_running:
            return
        if node.engine.has_left or self.now >= deadline:
            self.after(0.5, self._end, node, life)
        else:
            self.after(0.1, self._end_when_left, node, life, deadline)

    def _end(self, node: SimNode, life: int) -> None:
        if node.is_running and node.life == life:
            self.kill(next(key for key, each in self.nodes.items() if each is node))

    def pause(self, name: str) -> None:
        """SIGSTOP: the kernel goes on accepting for it."""
        self.nodes[name].is_paused = True

    def resume(self, name: str) -> None:
        """As the endpoint meets it: it notes how late it is, then reads, then its timer."""
        node = self.nodes[name]
        node.is_paused = False
        if not node.is_running:
            return
        self._note_delay(node)
        self._drain_inbox(node)
        requests, node.requests = node.requests, []
        for data, source, stream in requests:
            self._serve(node, data, source, stream)
        replies, node.replies = node.replies, []
        for ticket, reply in replies:
            self._settle(node, node.life, ticket, reply)
        self._wake(node, node.life, node.wake_at)

    def _note_delay(self, node: SimNode) -> None:
        if self.now - node.wake_at >= LATE_S:
            node.engine.loop_was_late(self.now - node.wake_at, node.instant(self.now))
            self._after_entry(node)

    def _drain_inbox(self, node: SimNode) -> None:
        """A turn's worth at once, the rest after the timer had its turn."""
        turn, node.inbox = node.inbox[:DATAGRAMS_PER_TURN], node.inbox[DATAGRAMS_PER_TURN:]
        for data, source in turn:
            node.inbox_bytes -= len(data)
            node.engine.receive_datagram(data, source, node.instant(self.now))
            self._after_entry(node)
        if node.inbox:
            self.after(0.001, self._drain_rest, node, node.life)

    def _drain_rest(self, node: SimNode, life: int) -> None:
        if node.is_running and not node.is_paused and node.life == life:
            self._drain_inbox(node)

    def step_clock(self, name: str, by_s: float) -> None:
        """Somebody sets the wall clock; the monotonic one does not notice."""
        self.nodes[name].skew_s += by_s

    def do(self, name: str, command: Callable[[SimNode], object]) -> object:
        """Something with the engine of a node, as its owner does it."""
        node = self.nodes[name]
        result = command(node)
        self._after_entry(node)
        return result

    def live(self) -> list[SimNode]:
        return [each for each in self.nodes.values() if each.is_running]

    # --- in and out of an engine ---

    def _wake(self, node: SimNode, life: int, at: float) -> None:
        if node.wake_at != at or node.life != life or not node.is_running or node.is_paused:
            return
        node.wake_at = NEVER
        node.engine.tick(node.instant(self.now))
        self._after_entry(node)

    def _after_entry(self, node: SimNode) -> None:
        for effect in node.engine.effects():
            if type(effect) is SendDatagram:
                self._send(node, effect)
            elif type(effect) is OpenStream:
                self._open(node, effect)
            else:
                self._tell(node, effect)
        due = node.engine.next_deadline() - node.offset_s
        if due < node.wake_at:
            node.wake_at = due = max(due, self.now)
            self.plan(due, self._wake, node, node.life, due)

    def _tell(self, node: SimNode, effect: Effect) -> None:
        node.listener(effect)
        if isinstance(effect, Rejected):
            self.rejected[effect.reason.value] += 1
        if self._keeps_effects:
            self.trace = zlib.crc32(repr((self.now, node.name, effect)).encode(), self.trace)
            node.heard.note(self.now, effect)
            if isinstance(effect, MemberChanged):
                node.leader(self.now)
        else:
            node.sent[type(effect).__name__] += 1

    def _send(self, node: SimNode, effect: SendDatagram) -> None:
        size = len(effect.data) + HEADERS_BYTES
        node.sent["packets"] += 1
        node.sent["bytes"] += size
        for at in self.network.deliveries(node.address.ip, effect.to.ip, size, self.now):
            self.plan(at, self._deliver, effect.to, effect.data, node.address)

    def _deliver(self, to: Address, data: bytes, source: Address) -> None:
        node = self._by_address.get(to)
        if node is None:
            return
        if node.is_paused or node.inbox:
            node.keep(data, source)
            return
        self.delivered += 1
        self.trace = zlib.crc32(data, self.trace)
        node.engine.receive_datagram(data, source, node.instant(self.now))
        self._after_entry(node)

    # --- streams ---

    def _open(self, node: SimNode, effect: OpenStream) -> None:
        node.sent["streams"] += 1
        node.sent["stream_bytes"] += len(effect.data)
        node.tickets.add(effect.ticket)
        self._stream_count += 1
        stream = self._stream_count
        if effect.wants_reply:
            self._streams[stream] = (node, node.life, effect.ticket)
        self.after(effect.timeout_s, self._give_up, node, node.life, effect.ticket, stream)
        delay = self.network.stream_delay(
            node.address.ip, effect.to.ip, len(effect.data), self.now, connects=True
        )
        if delay is None:
            return
        self.after(delay, self._arrive, effect, node, node.life, stream)
        if not effect.wants_reply:
            self.after(delay, self._settle, node, node.life, effect.ticket, b"")

    def _arrive(self, effect: OpenStream, asker: SimNode, life: int, stream: int) -> None:
        node = self._by_address.get(effect.to)
        if (asker.address.ip, effect.to.ip) in self.network.cut:
            return
        if node is None:  # the machine is there, and refuses
            self._streams.pop(stream, None)
            self._settle(asker, life, effect.ticket, None)
        elif node.is_paused:
            node.requests.append((effect.data, asker.address, stream))
        else:
            self._serve(node, effect.data, asker.address, stream)

    def _serve(self, node: SimNode, data: bytes, source: Address, stream: int) -> None:
        self.trace = zlib.crc32(data, self.trace)
        reply = node.engine.receive_stream(data, source, node.instant(self.now))
        self._after_entry(node)
        asked = self._streams.pop(stream, None)
        if asked is None:
            return
        asker, life, ticket = asked
        delay = self.network.stream_delay(
            node.address.ip, source.ip, len(reply or b""), self.now, connects=False
        )
        if delay is not None:
            node.sent["stream_bytes"] += len(reply or b"")
            self.after(delay, self._settle, asker, life, ticket, reply)

    def _give_up(self, node: SimNode, life: int, ticket: int, stream: int) -> None:
        self._streams.pop(stream, None)
        self._settle(node, life, ticket, None)

    def _settle(self, node: SimNode, life: int, ticket: int, reply: bytes | None) -> None:
        if node.life != life or not node.is_running or ticket not in node.tickets:
            return
        if node.is_paused:
            node.replies.append((ticket, reply))
            return
        node.tickets.discard(ticket)
        if reply:
            self.trace = zlib.crc32(reply, self.trace)
        node.engine.receive_stream_reply(ticket, reply, node.instant(self.now))
        self._after_entry(node)
