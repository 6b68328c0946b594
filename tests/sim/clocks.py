"""Blocks on nodes whose wall clocks are wrong at every reading: who blocks what until when is true for all.

Each node has the real limiter and the real bridge of a node above its engine. Words are written only by nodes
that have heard of the word before on the same key, so it is known what must hold, whatever any clock says:

* a block that nobody lifted holds on its own node until its time is over, by its timer, and no longer;
* a block that was lifted holds nowhere once its end was heard of;
* in the end all nodes refuse the same, until the same moment.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cluster.effects import Effect, FactChanged
from cluster.facts import Kind
from node.clustering.blocks import BlockBridge
from node.config import AuthRateLimit, Config, Server
from node.config.services import Cluster
from node.loginguard import Guards
from node.ratelimit import parse_subject
from node.steadyclock import SteadyClock

from .node import EPOCH_S, SimNode
from .world import World

HOUR_S: Final = 3_600.0
THREAD_S: Final = 0.004  # between the loop of the owner and that of the engine, each way
STEPS: Final = 40
KEYS: Final = 10
LASTS_S: Final = (15.0, 40.0, 90.0, HOUR_S, 30 * 86_400.0)
EARLY_S: Final = 1.0
LATE_S: Final = 2.0
HEARD_WITHIN_S: Final = 90.0  # after all is whole: two push/pulls and a rejoin
JUMPS: Final = (0.0, 0.0, -HOUR_S, HOUR_S, -0.3, 0.3, -5.0, 5.0, 400 * 86_400.0)


class Doors:
    """What of a node knows blocks, in one life of it. ``noise``: of its wall clock, at each reading."""

    def __init__(self, world: World, node: SimNode, noise: random.Random) -> None:
        self.name = node.name
        self.node = node
        self.seen: set[str] = set()  # blocks, by number
        self._world = world
        self._noise = noise
        config = Config(
            servers=(Server(name="imap", auth_rate_limit=AuthRateLimit()),),
            cluster=Cluster(node_id=node.name),
        )
        self.guards = Guards(
            config,
            check_takes_s=lambda: 0.0,
            clock=SteadyClock(self.wall, lambda: world.now + node.offset_s),
            secret=bytes(16),
        )
        self.bridge = BlockBridge(self.guards, self, is_on=True)
        self.guards.tell = self.bridge.tell  # type: ignore[assignment]
        node.wall_noise = self.noise
        node.listener = self.told

    def noise(self) -> float:
        return self._noise.choice(JUMPS)

    def wall(self) -> float:
        return EPOCH_S + self._world.now + self.node.skew_s + self.noise()

    @property
    def is_here(self) -> bool:
        return self.node.is_running and self._world.nodes[self.name] is self.node

    # --- the bridge's gossip ---

    def put(self, kind: Kind, entries: Mapping[bytes, bytes], ttl_s: float) -> None:
        some = dict(entries)

        def command() -> None:
            if self.is_here:
                for key, value in some.items():
                    self._world.do(
                        self.name,
                        lambda n, k=key, v=value: n.engine.put(kind, k, v, ttl_s, n.instant(self._world.now)),  # type: ignore[misc]
                    )

        self._world.after(THREAD_S, command)

    def remove(self, kind: Kind, keys: Iterable[bytes]) -> None:
        some = tuple(keys)

        def command() -> None:
            if self.is_here:
                for key in some:
                    self._world.do(
                        self.name,
                        lambda n, k=key: n.engine.remove(kind, k, n.instant(self._world.now)),  # type: ignore[misc]
                    )

        self._world.after(THREAD_S, command)

    def told(self, effect: Effect) -> None:
        if isinstance(effect, FactChanged) and effect.kind == Kind.BLOCK:
            self._world.after(THREAD_S, self.bridge.heard, effect)

    # --- to look at ---

    def left_s(self) -> dict[str, float]:
        """How long each block that holds here still does, by its number."""
        now = self.guards.clock()
        return {each.reason: each.until - now for each in self.guards.limiter.blocks(now)}

    def refused(self) -> dict[str, str]:
        """The number of the block of each address."""
        return {str(each.subject): each.reason for each in self.guards.limiter.blocks(self.guards.clock())}


@dataclass
class Story:
    """The last word on one address. ``ends``: by the world's clock."""

    ip: str
    number: str = ""
    ends: float = 0.0
    is_lifted: bool = False
    by: Doors | None = None
    lifted: set[str] = field(default_factory=set)  # all numbers that were


class Blocks:
    """All doors of a world, and what must hold."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = random.Random(world.rng.random())
        self.doors: dict[str, Doors] = {}
        self.stories = [Story(f"203.0.113.{number}") for number in range(KEYS)]
        self._count = 0
        self.last_word = 0.0
        for node in world.live():
            self.equip(node)

    def equip(self, node: SimNode) -> None:
        self.doors[node.name] = Doors(self.world, node, random.Random(self.rng.random()))

    def live(self) -> list[Doors]:
        return [each for each in self.doors.values() if each.is_here and not each.node.is_paused]

    def run(self, seconds: float) -> None:
        """With what each node does now and then."""
        end = self.world.now + seconds
        while self.world.now < end:
            self.world.run(min(0.5, end - self.world.now))
            self.look()
            if self.rng.random() < 0.2:
                doors = self.rng.choice(self.live())
                doors.guards.limiter.sweep(doors.guards.clock())
                doors.bridge.refresh()

    def look(self) -> None:
        for doors in self.live():
            doors.seen.update(doors.left_s())
        for story in self.stories:
            self._check_own(story)

    def _check_own(self, story: Story) -> None:
        """On the node that made it, by its timer."""
        doors = story.by
        if doors is None or not doors.is_here or story.is_lifted:
            return
        holds, left = story.number in doors.left_s(), story.ends - self.world.now
        assert holds or left < EARLY_S, f"{doors.name} ends block {story.number} {left:.1f} s early"
        assert not holds or left > -LATE_S, f"{doors.name} keeps block {story.number} {-left:.1f} s too long"

    # --- words ---

    def speak(self) -> None:
        story = self.rng.choice(self.stories)
        doors = self.rng.choice(self.live())
        if not story.number or self._knows_end(doors, story):
            self._block(story, doors)
        elif not story.is_lifted and story.number in doors.left_s():
            self.rng.choice((self._block, self._lift, self._lift))(story, doors)

    def _knows_end(self, doors: Doors, story: Story) -> bool:
        """That it was lifted, or that its time is over: then it may not have heard of the other."""
        return story.number in doors.seen and story.number not in doors.left_s()

    def _block(self, story: Story, doors: Doors) -> None:
        self._count += 1
        lasts_s = self.rng.choice(LASTS_S)
        if story.number:
            story.lifted.add(story.number)
        story.number, story.ends = f"{self._count}", self.world.now + lasts_s
        story.is_lifted, story.by = False, doors
        doors.guards.add(parse_subject(story.ip, 64), lasts_s=lasts_s, reason=story.number)
        self._spoken(doors)

    def _lift(self, story: Story, doors: Doors) -> None:
        ended = doors.guards.remove(parse_subject(story.ip, 64))
        assert [each.reason for each in ended] == [story.number]
        story.is_lifted = True
        story.lifted.add(story.number)
        self._spoken(doors)

    def _spoken(self, doors: Doors) -> None:
        self.last_word = self.world.now
        doors.seen.update(doors.left_s())

    # --- disturbances ---

    def disturb(self) -> None:
        self.rng.choice((self._step, self._step, self._part, self._heal, self._restart, self._lose))()

    def _step(self) -> None:
        self.world.step_clock(self.rng.choice(self.live()).name, self.rng.choice(JUMPS))

    def _part(self) -> None:
        ips = [each.address.ip for each in self.world.live()]
        self.rng.shuffle(ips)
        at = self.rng.randrange(1, len(ips))
        self.world.network.partition(ips[:at], ips[at:])

    def _heal(self) -> None:
        self.world.network.heal()

    def _lose(self) -> None:
        self.world.network.loss = self.rng.choice((0.0, 0.1, 0.3))

    def _restart(self) -> None:
        """Only when all it said is known elsewhere: what is in one memory alone ends with it."""
        self._heal()
        self.run(30.0)
        name = self.rng.choice(self.live()).name
        self.world.step_clock(name, self.rng.choice(JUMPS))
        self.equip(self.world.restart(name))

    # --- the end ---

    def check_equal(self) -> None:
        for doors in self.live():
            left = doors.left_s()
            for story in self.stories:
                revived = sorted(story.lifted & set(left))
                assert not revived, f"{doors.name} has blocks {revived} that are over, of {story}"
                expected = 0.0 if story.is_lifted or not story.number else story.ends - self.world.now
                found = left.get(story.number, 0.0)
                if abs(expected) > LATE_S or found > LATE_S:
                    off = abs(max(expected, 0.0) - found)
                    assert off < LATE_S, f"{doors.name}: {found:.1f} s left of {story}, not {expected:.1f}"


def wrong_clocks(world: World) -> None:
    """Any reading of a wall clock is wrong, nodes part and restart: blocks hold as long as they should."""
    blocks = Blocks(world)
    for _ in range(STEPS):
        for _ in range(blocks.rng.randrange(4)):
            blocks.speak()
        if blocks.rng.random() < 0.4:
            blocks.disturb()
        blocks.run(blocks.rng.uniform(0.0, 4.0))
    world.network.heal()
    blocks.run(HEARD_WITHIN_S)
    blocks.check_equal()
