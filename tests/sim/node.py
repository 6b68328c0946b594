"""One simulated process: an engine, its clocks, and what an endpoint does around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.address import Address
from cluster.api import ClusterEngine
from cluster.effects import Change, Effect, FactChanged, MemberChanged
from cluster.instant import Instant
from cluster.leader import Leadership

EPOCH_S = 1_795_000_000.0
RECEIVE_BUFFER_BYTES = 2 * 1024 * 1024
NEVER = float("inf")


@dataclass
class Heard:
    """What the owner of a node was told."""

    effects: list[tuple[float, Effect]] = field(default_factory=list)
    changes: Counter[tuple[Change, str]] = field(default_factory=Counter)
    facts: dict[tuple[int, str, bytes], bytes] = field(default_factory=dict)

    def note(self, at: float, effect: Effect) -> None:
        self.effects.append((at, effect))
        if isinstance(effect, MemberChanged):
            self.changes[effect.change, effect.member.name] += 1
        elif isinstance(effect, FactChanged):
            key = (effect.kind, effect.origin, effect.key)
            if effect.value is None:
                self.facts.pop(key, None)
            else:
                self.facts[key] = effect.value

    def first(self, change: Change, name: str, since: float = 0.0) -> float | None:
        """When it was told for the first time."""
        for at, effect in self.effects:
            if (
                at >= since
                and isinstance(effect, MemberChanged)
                and effect.change is change
                and effect.member.name == name
            ):
                return at
        return None


@dataclass
class SimNode:
    """``skew_s`` is the error of its wall clock, ``offset_s`` where its monotonic clock began.

    ``life`` counts restarts, so that what was meant for an earlier life does not reach a later one.
    """

    name: str
    address: Address
    engine: ClusterEngine
    leadership: Leadership
    offset_s: float
    skew_s: float = 0.0
    life: int = 0
    is_running: bool = True
    is_paused: bool = False
    wake_at: float = NEVER  # by the world's clock
    inbox: list[tuple[bytes, Address]] = field(default_factory=list)
    inbox_bytes: int = 0
    requests: list[tuple[bytes, Address, int]] = field(default_factory=list)  # the last: the stream
    replies: list[tuple[int, bytes | None]] = field(default_factory=list)
    tickets: set[int] = field(default_factory=set)  # streams of ours that are open
    peers: tuple[Address, ...] = ()
    heard: Heard = field(default_factory=Heard)
    sent: Counter[str] = field(default_factory=Counter)
    wall_noise: Callable[[], float] = lambda: 0.0  # at each reading
    listener: Callable[[Effect], None] = lambda _effect: None  # an owner in the simulation

    def instant(self, world_now: float) -> Instant:
        return Instant(world_now + self.offset_s, EPOCH_S + world_now + self.skew_s + self.wall_noise())

    def leader(self, world_now: float) -> str | None:
        """Who leads in its view."""
        self.leadership.look(self.engine.members(), world_now + self.offset_s)
        return self.leadership.leader

    def keep(self, data: bytes, source: Address) -> None:
        """While it is stopped the kernel keeps what fits."""
        if self.inbox_bytes + len(data) <= RECEIVE_BUFFER_BYTES:
            self.inbox.append((data, source))
            self.inbox_bytes += len(data)
