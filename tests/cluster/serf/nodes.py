"""Serf delegates without membership: members are told by hand, user messages carried by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cluster.address import Address
from cluster.api import Settings
from cluster.effects import Change, Effect, MemberView
from cluster.errors import PacketRejected
from cluster.instant import Instant
from cluster.keyring import KeyRing
from cluster.messages import VSN, State
from cluster.profile import Profile
from cluster.serf import Serf, decode_tags

KEY = bytes(range(32))
E = TypeVar("E", bound=Effect)


def at(now: float) -> Instant:
    return Instant(now, 1_700_000_000.0 + now)


def address_of(number: int) -> Address:
    return Address(f"10.0.0.{number}", 7946)


@dataclass
class FakeMembers:
    """The table of one node."""

    own_name: str
    rows: dict[str, MemberView] = field(default_factory=dict)
    meta_changes: int = 0
    forgotten: list[str] = field(default_factory=list)
    is_slow: bool = False

    def get(self, name: str) -> MemberView | None:
        return self.rows.get(name)

    def by_address(self, address: Address) -> MemberView | None:
        return next((row for row in self.rows.values() if row.address == address), None)

    def alive(self) -> Sequence[MemberView]:
        live = (State.ALIVE, State.SUSPECT)
        return [self.rows[n] for n in sorted(self.rows) if n != self.own_name and self.rows[n].state in live]

    def __iter__(self) -> Iterator[MemberView]:
        return iter([self.rows[name] for name in sorted(self.rows)])

    @property
    def count(self) -> int:
        return len(self.rows)

    def set_meta_changed(self, at: Instant) -> None:
        self.meta_changes += 1

    def retransmit_limit(self) -> int:
        return 2

    def force_dead(self, name: str, at: Instant) -> None:
        self.rows[name] = replace(self.rows[name], state=State.LEFT)

    def forget(self, name: str) -> None:
        self.forgotten.append(name)
        self.rows.pop(name, None)


@dataclass
class FakeState:
    """Stands in for the shared state; records what Serf passes through."""

    received: list[bytes] = field(default_factory=list)
    digests: list[tuple[str, bytes]] = field(default_factory=list)
    merged: list[bytes] = field(default_factory=list)
    changes: list[tuple[Change, str]] = field(default_factory=list)
    pending: list[bytes] = field(default_factory=list)
    part: bytes = b"part"

    def receive(self, raw: bytes, source: Address, at: Instant) -> None:
        self.received.append(raw)

    def digest(self) -> bytes:
        return b"8 bytes!"

    def heard_digest(self, node: str, digest: bytes, at: Instant) -> None:
        self.digests.append((node, digest))

    def push_pull_part(self, at: Instant) -> bytes:
        return self.part

    def merge_part(self, raw: bytes, at: Instant) -> None:
        self.merged.append(raw)

    def member_changed(self, change: Change, view: MemberView, at: Instant) -> None:
        self.changes.append((change, view.name))

    def broadcasts(self, room: int, overhead: int, to: str) -> list[bytes]:
        found, self.pending = self.pending, []
        return found

    def has_broadcasts(self) -> bool:
        return bool(self.pending)


class Node:
    """One Serf, its fake surroundings, and what it emitted and sent."""

    def __init__(
        self,
        number: int,
        *,
        profile: Profile | None = None,
        state: FakeState | None = None,
        tags: dict[str, str] | None = None,
        allows_remote_keys: bool = True,
    ) -> None:
        self.name = f"n{number}"
        self.address = address_of(number)
        settings = Settings(
            name=self.name,
            advertise=self.address,
            keys=(KEY,),
            tags=tags or {},
            profile=profile or Profile(),
            allows_remote_keys=allows_remote_keys,
        )
        self.emitted: list[Effect] = []
        self.sent: list[tuple[Address, bytes]] = []
        self.ring = KeyRing((KEY,))
        self.members = FakeMembers(self.name)
        self.serf = Serf(settings, self, random.Random(number), state, ring=self.ring)
        self.serf.attach(self.members)
        self.meet(self)
        self.emitted.clear()

    # --- Outlet ---

    def emit(self, effect: Effect) -> None:
        self.emitted.append(effect)

    def send(self, to: Address, parts: Sequence[bytes], *, node: str = "", piggyback: bool = True) -> None:
        self.sent += [(to, part) for part in parts]

    def open_stream(self, to: Address, message: bytes, *, wants_reply: bool) -> int:
        raise AssertionError("Serf opens no streams")

    # --- for tests ---

    def view(self, *, state: State = State.ALIVE) -> MemberView:
        tags = decode_tags(self.serf.meta())
        return MemberView(self.name, self.address, state, 1, tags, VSN, 0.0, 0.0)

    def meet(self, other: Node, now: float = 0.0) -> None:
        self.members.rows[other.name] = other.view()
        self.serf.changed(Change.JOINED, other.view(), at(now))

    def lose(self, other: Node, now: float, *, change: Change = Change.FAILED) -> None:
        state = State.LEFT if change is Change.LEFT else State.DEAD
        self.members.rows[other.name] = other.view(state=state)
        self.serf.changed(change, other.view(state=state), at(now))

    def told(self, kind: type[E]) -> list[E]:
        """What was emitted of this kind since the last call; the rest stays."""
        found = [effect for effect in self.emitted if isinstance(effect, kind)]
        self.emitted = [effect for effect in self.emitted if not isinstance(effect, kind)]
        return found

    def hear(self, raw: bytes, now: float = 0.0) -> None:
        self.serf.receive_user(raw, address_of(99), at(now), is_stream=False)


def network(count: int) -> list[Node]:
    nodes = [Node(number) for number in range(1, count + 1)]
    for node in nodes:
        for other in nodes:
            if other is not node:
                node.meet(other)
    for node in nodes:
        node.emitted.clear()
    return nodes


def carry(nodes: list[Node], now: float = 0.0) -> int:
    """Everything queued or sent to whom it is for, until all is quiet; how many messages that were."""
    by_address = {node.address: node for node in nodes}
    count = 0
    while True:
        letters = [(to, part[1:]) for node in nodes for to, part in node.sent]
        for node in nodes:
            node.sent.clear()
            for raw in node.serf.broadcasts(1200, 3, ""):
                letters += [(other.address, raw) for other in nodes if other is not node]
        if not letters:
            return count
        for to, raw in letters:
            count += 1
            if to in by_address:
                by_address[to].hear(raw, now)


def rejected(node: Node, raw: bytes) -> str:
    """The reason why it was."""
    try:
        node.hear(raw)
    except PacketRejected as refusal:
        return refusal.reason.value
    return ""
