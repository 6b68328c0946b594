"""A seeded mix of everything that can be done to a world."""

from __future__ import annotations

import random
from collections.abc import Callable

from cluster.facts import Kind

from .node import SimNode
from .world import World

STEPS = 30
MOST = 12  # nodes


def disturb(world: World) -> None:
    """Ends with a whole network, everybody awake, and no more nodes than ``MOST``; the dead stay dead."""
    rng = world.rng
    for _ in range(STEPS):
        rng.choice(_DEEDS)(world, rng)
        world.run(rng.uniform(0.0, 6.0))
    world.network.heal()
    for name, node in list(world.nodes.items()):
        if node.is_paused:
            world.resume(name)
    while len(world.live()) < 2:
        _return(world, rng)
    world.run(12.0)  # those who leave are gone


def _awake(world: World) -> list[SimNode]:
    return [each for each in world.live() if not each.is_paused and not each.engine.has_left]


def _kill(world: World, rng: random.Random) -> None:
    if len(world.live()) > 2:
        world.kill(rng.choice(world.live()).name)


def _leave(world: World, rng: random.Random) -> None:
    if len(_awake(world)) > 2:
        world.leave(rng.choice(_awake(world)).name)


def _return(world: World, rng: random.Random) -> None:
    gone = sorted(name for name, each in world.nodes.items() if not each.is_running)
    if gone:
        world.restart(rng.choice(gone), moves=rng.random() < 0.2)


def _appear(world: World, rng: random.Random) -> None:
    if len(world.nodes) < MOST and _awake(world):
        peers = [each.address for each in _awake(world)[:3]]
        world.add(f"new{len(world.nodes)}", peers=peers, skew_s=rng.uniform(-5.0, 5.0))


def _pause(world: World, rng: random.Random) -> None:
    if _awake(world):
        name = rng.choice(_awake(world)).name
        world.pause(name)
        world.after(rng.uniform(0.1, 20.0), _resume, world, name)


def _resume(world: World, name: str) -> None:
    if world.nodes[name].is_paused:
        world.resume(name)


def _partition(world: World, rng: random.Random) -> None:
    ips = [each.address.ip for each in world.nodes.values()]
    rng.shuffle(ips)
    at = rng.randrange(1, len(ips))
    if rng.random() < 0.5:
        world.network.partition(ips[:at], ips[at:])
    else:
        world.network.cut_one_way(ips[:at], ips[at:])


def _mend(world: World, rng: random.Random) -> None:
    world.network.cut.clear()


def _weather(world: World, rng: random.Random) -> None:
    network = world.network
    network.loss = rng.choice((0.0, 0.05, 0.3))
    network.duplication = rng.choice((0.0, 0.1))
    network.reordering = rng.choice((0.0, 0.3))


def _narrow(world: World, rng: random.Random) -> None:
    ip = rng.choice(world.live()).address.ip
    world.network.bytes_per_s[ip] = rng.choice((4_000.0, 20_000.0))


def _step_clock(world: World, rng: random.Random) -> None:
    world.step_clock(rng.choice(world.live()).name, rng.choice((-3_600.0, -1.0, 1.0, 3_600.0)))


def _write(world: World, rng: random.Random) -> None:
    for node in _awake(world):
        at = node.instant(world.now)
        for _ in range(rng.randrange(1, 30)):
            kind = rng.choice((Kind.BLOCK, Kind.FAILURES, Kind.CONNECTIONS, Kind.SESSIONS, Kind.AFFINITY))
            node.engine.put(kind, b"key%d" % rng.randrange(40), b"%d" % rng.randrange(9), 3_600.0, at)
        node.engine.remove(Kind.CONNECTIONS, b"key%d" % rng.randrange(40), at)
        world.do(node.name, lambda _: None)


_DEEDS: tuple[Callable[[World, random.Random], None], ...] = (
    _kill,
    _leave,
    _return,
    _return,
    _appear,
    _pause,
    _partition,
    _mend,
    _mend,
    _weather,
    _narrow,
    _step_clock,
    _write,
    _write,
    _write,
)
