"""One run: a scenario, a number of nodes, a seed."""

from __future__ import annotations

import itertools
import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cluster.keyring
from cluster.api import ClusterEngine, Settings
from cluster.engine import Engine

from .invariants import settle
from .scenarios import SCENARIOS
from .world import World

JOIN_SPREAD_S = 0.2


@dataclass(frozen=True)
class Outcome:
    scenario: str
    seed: int
    nodes: int
    error: str  # empty: all went well
    trace: int
    steps: int

    @property
    def command(self) -> str:
        return f"python -m tests.sim --scenario {self.scenario} --nodes {self.nodes} --seed {self.seed}"


class PretendCipher:
    """In the place of AES, for speed: same sizes, and another key or altered bytes are still refused."""

    def __init__(self, key: bytes) -> None:
        self._tag = (key * 2)[:16]

    def encrypt(self, nonce: bytes, plain: bytes, aad: bytes | None) -> bytes:
        return plain + self._tag

    def decrypt(self, nonce: bytes, sealed: bytes, aad: bytes | None) -> bytes:
        if sealed[-16:] != self._tag:
            raise cluster.keyring.InvalidTag
        return sealed[:-16]


@contextmanager
def ciphers(*, real: bool) -> Iterator[None]:
    """Of the engines that are made inside."""
    before = cluster.keyring.AESGCM
    if not real:
        cluster.keyring.AESGCM = PretendCipher  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        cluster.keyring.AESGCM = before  # type: ignore[misc]


def make_engine(settings: Settings, rng: random.Random) -> ClusterEngine:
    prefix = rng.randbytes(4)
    numbers = itertools.count()
    return Engine(settings, rng=rng, nonce=lambda: prefix + next(numbers).to_bytes(8, "big"))


def formed(seed: int, nodes: int) -> World:
    """Nodes that joined one after the other, and know each other."""
    world = World(seed, make_engine)
    first = []
    for i in range(nodes):
        node = world.add(f"n{i:03}", peers=first, skew_s=world.rng.uniform(-0.05, 0.05))
        first = [*first, node.address][:3]
        world.run(JOIN_SPREAD_S)
    for node in world.nodes.values():  # the first ones could not know the later ones
        world.set_peers(node, [each.address for each in list(world.nodes.values())[:3]])
    settle(world, within_s=60.0)
    return world


def simulate(scenario: str, seed: int, nodes: int = 0, *, real_cipher: bool = False) -> Outcome:
    """``nodes`` 0: as many as the scenario likes. Never raises for what the run shows."""
    chosen = SCENARIOS[scenario]
    nodes = nodes or chosen.nodes
    world: World | None = None
    error = ""
    with ciphers(real=real_cipher):
        try:
            world = formed(seed, nodes)
            chosen.run(world)
        except AssertionError as fault:
            error = str(fault) or traceback.format_exc()
        except Exception:
            error = traceback.format_exc()
    now = f"at {world.now:.1f} s: " if world else "before it had formed: "
    return Outcome(
        scenario,
        seed,
        nodes,
        error and now + error,
        world.trace if world else 0,
        world.steps if world else 0,
    )
