"""Several nodes' gossip in one process: facts go at once, in order, to all that are not cut off.

Keeps the same promises as the real thing (``node.clustering.gossip.Gossip``): entries have an owner and a
time to live, nobody is told of his own, whoever comes later or was cut off is told what he missed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.address import Address
from cluster.effects import (
    Change,
    Effect,
    FactChanged,
    KeysChanged,
    MemberChanged,
    MemberView,
    NoticeHeard,
    QueryAsked,
    UserEvent,
)
from cluster.facts import RULES, Entry, Kind, NoticeKind
from cluster.messages import VSN, State

Fact = tuple[Kind, str, bytes]


@dataclass
class Held:
    value: bytes
    deadline: float
    written: float


@dataclass
class FakeCluster:
    """``clock`` is monotonic. Nodes with a different number in ``sides`` do not hear each other."""

    clock: Callable[[], float]
    nodes: dict[str, FakeGossip] = field(default_factory=dict)
    sides: dict[str, int] = field(default_factory=dict)
    keys: tuple[bytes, ...] = (bytes(32),)
    writes: int = 0
    messages: int = 0  # entries and notices that reached somebody

    def add(self, name: str, ip: str) -> FakeGossip:
        """It learns what the others have by ``catch_up``, when its listener is there."""
        gossip = FakeGossip(self, name, Address(ip, 7946), joined=self.clock())
        self.nodes[name] = gossip
        for other in self.nodes.values():
            if other is not gossip:
                other.listener(MemberChanged(Change.JOINED, gossip.view()))
        return gossip

    def kill(self, name: str) -> None:
        """Its entries end, but for the lasting ones."""
        gone = self.nodes.pop(name)
        for other in self.nodes.values():
            other.listener(MemberChanged(Change.FAILED, gone.view(State.DEAD)))
            other.forget(name)

    def cut(self, *names: str) -> None:
        self.sides = dict.fromkeys(names, 1)

    def heal(self) -> None:
        self.sides = {}
        for node in self.nodes.values():
            node.catch_up()

    def reaches(self, one: str, other: str) -> bool:
        return one != other and self.sides.get(one, 0) == self.sides.get(other, 0)

    def expire(self) -> None:
        """What is over by the clock."""
        for node in self.nodes.values():
            node.expire()


class FakeGossip:
    def __init__(self, cluster: FakeCluster, name: str, address: Address, joined: float) -> None:
        self.name = name
        self.address = address
        self.joined = joined
        self.listener: Callable[[Effect], None] = lambda _effect: None
        self.tags: dict[str, str] = {"sora": "1"}
        self.held: dict[Fact, Held] = {}
        self.has_left = False
        self.written: set[Fact] = set()  # in this life
        self._cluster = cluster
        self._answers: dict[int, tuple[str, dict[str, bytes]]] = {}
        self._tokens = 0

    # --- shared state ---

    def put(self, kind: Kind, entries: Mapping[bytes, bytes], ttl_s: float) -> None:
        now = self._cluster.clock()
        ttl_s = min(ttl_s, RULES[kind].max_ttl_s)
        for key, value in entries.items():
            fact = (kind, self.name, key)
            held = self.held.get(fact)
            if held is not None and held.value == value and held.deadline - now > ttl_s / 2:
                continue
            self._cluster.writes += 1
            self.written.add(fact)
            self.held[fact] = Held(value, now + ttl_s, now + 1e-6 * self._cluster.writes)
            for other in self._others():
                other.learn(fact, self.held[fact])

    def remove(self, kind: Kind, keys: Iterable[bytes]) -> None:
        for key in keys:
            if self.held.pop((kind, self.name, key), None) is not None:
                for other in self._others():
                    other.unlearn((kind, self.name, key))

    def tell(self, kind: NoticeKind, payload: bytes, to: Collection[str]) -> None:
        for other in self._others():
            if other.name in to:
                self._cluster.messages += 1
                other.listener(NoticeHeard(kind, self.name, payload))

    async def entries(self, kind: Kind) -> list[Entry]:
        return [
            Entry(kind, origin, key, held.value, held.written, held.deadline)
            for (of, origin, key), held in self.held.items()
            if of == kind
        ]

    def learn(self, fact: Fact, held: Held) -> None:
        known = self.held.get(fact)
        left_s = held.deadline - self._cluster.clock()
        if left_s <= 0 or (known is not None and known.written >= held.written):
            return
        self.held[fact] = Held(held.value, held.deadline, held.written)
        if fact not in self.written:
            self._cluster.messages += 1
            self.listener(FactChanged(fact[0], fact[1], fact[2], held.value, left_s, held.written))

    def unlearn(self, fact: Fact) -> None:
        held = self.held.pop(fact, None)
        if held is not None and fact[1] != self.name:
            self.listener(FactChanged(fact[0], fact[1], fact[2], None, 0.0, held.written))

    def forget(self, name: str) -> None:
        for fact in [each for each in self.held if each[1] == name and not RULES[each[0]].is_lasting]:
            self.unlearn(fact)

    def expire(self) -> None:
        now = self._cluster.clock()
        for fact in [fact for fact, held in self.held.items() if held.deadline <= now]:
            self.unlearn(fact)

    def catch_up(self) -> None:
        """What the others have, whoever wrote it."""
        for other in self._others():
            for fact, held in tuple(other.held.items()):
                self.learn(fact, held)

    def _others(self) -> list[FakeGossip]:
        nodes = self._cluster.nodes
        return [node for name, node in nodes.items() if self._cluster.reaches(self.name, name)]

    # --- membership ---

    def view(self, state: State = State.ALIVE) -> MemberView:
        return MemberView(
            self.name, self.address, state, 1, dict(self.tags), VSN, self.joined, self.joined, self.has_left
        )

    def join(self, addresses: Sequence[Address]) -> None:
        self.catch_up()

    async def set_peers(self, names: Iterable[str]) -> None:
        self.catch_up()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags = {"sora": "1", **tags}
        for node in self._cluster.nodes.values():
            node.listener(MemberChanged(Change.UPDATED, self.view()))

    async def members(self) -> list[MemberView]:
        return [node.view() for _, node in sorted(self._cluster.nodes.items())]

    async def skews(self) -> dict[str, float]:
        return {}

    async def force_leave(self, name: str, *, prune: bool) -> bool:
        return name not in self._cluster.nodes

    async def leave(self, within_s: float) -> None:
        self.has_left = True
        self._cluster.nodes.pop(self.name, None)
        for other in self._cluster.nodes.values():
            other.listener(MemberChanged(Change.LEFT, self.view(State.LEFT)))
            other.forget(self.name)

    # --- events, queries, keys ---

    def send_event(self, name: str, payload: bytes) -> None:
        for node in self._cluster.nodes.values():
            node.listener(UserEvent(1, name, payload, may_coalesce=False))

    async def ask(
        self, name: str, payload: bytes, *, timeout_s: float, nodes: Sequence[str] = ()
    ) -> dict[str, bytes]:
        answers: dict[str, bytes] = {}
        for node in self._others():
            if nodes and node.name not in nodes:
                continue
            node.answer_to(name, payload, self.name, answers, timeout_s)
        return answers

    def answer_to(
        self, name: str, payload: bytes, asker: str, answers: dict[str, bytes], timeout_s: float
    ) -> None:
        self._tokens += 1
        self._answers[self._tokens] = (asker, answers)
        deadline = self._cluster.clock() + timeout_s
        self.listener(QueryAsked(self._tokens, name, payload, asker, deadline))

    def respond(self, token: int, payload: bytes) -> None:
        _, answers = self._answers.pop(token)
        answers[self.name] = payload

    def set_keys(self, keys: Sequence[bytes]) -> None:
        self.listener(KeysChanged(tuple(keys)))

    async def figures(self) -> dict[str, int | float]:
        return {"members": len(self._cluster.nodes)}
