"""``python -m tests.sim --figures``: cost, reach and speed by size; the method is in each function."""

from __future__ import annotations

import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable

from cluster import codec, streams
from cluster.address import Address
from cluster.effects import Change, FactChanged, MemberChanged, UserEvent
from cluster.engine import Engine
from cluster.facts import Kind
from cluster.keyring import KeyRing
from cluster.messages import NodeRecord, PushPull
from cluster.profile import LAN, SORA, Profile
from cluster.serf.tags import encode_tags

from .node import SimNode
from .run import ciphers, make_engine
from .world import KEY, World

SIZES = (10, 100, 1_000)
AT_REST_S = 60.0
WARM_UP_S = 16.0  # the first push/pull of each; after it they come at the interval of the size


def seeded(seed: int, nodes: int, *, profile: Profile = SORA, keeps_effects: bool = True) -> World:
    """Nodes that know each other from the beginning, as if they had joined long ago."""
    world = World(seed, make_engine, profile=profile, keeps_effects=keeps_effects)
    for i in range(nodes):
        world.add(f"n{i:04}")
    introduce(world, list(world.nodes.values()))
    world.run(WARM_UP_S)
    return world


def push_pull_bytes(world: World) -> float:
    """Sent by a node in a second: what an exchange took in the warm-up, at the interval of the size, which is
    longer than the simulated time."""
    sent = [node.sent for node in world.nodes.values()]
    engine = next(iter(world.nodes.values())).engine
    assert isinstance(engine, Engine)
    each = sum(s["stream_bytes"] for s in sent) / max(1, sum(s["streams"] for s in sent))
    return each / engine._swim._push_pulls._interval_s()


def forget_warm_up(world: World) -> None:
    for node in world.nodes.values():
        node.sent.clear()
        node.heard.effects.clear()


def introduce(world: World, nodes: Iterable[SimNode]) -> None:
    """All records in one push/pull to each, and a state of Serf that an engine made itself."""
    nodes = list(nodes)
    records = tuple(
        NodeRecord(own.name, own.address, encode_tags(own.tags), own.incarnation, own.state)
        for own in (node.engine.members()[0] for node in nodes)
    )
    ring = KeyRing([KEY])
    stranger = Address("10.255.255.254", 7946)
    probe = _request(ring, PushPull((), b"", is_join=False))
    reply = nodes[0].engine.receive_stream(probe, stranger, nodes[0].instant(world.now))
    user_state = b""
    if reply is not None:
        answered = streams.decode_reply(reply, ring)
        user_state = answered.user_state if isinstance(answered, PushPull) else b""
    request = _request(ring, PushPull(records, user_state, is_join=False))
    for node in nodes:
        node.engine.receive_stream(request, stranger, node.instant(world.now))
        node.engine.effects()
        forget_news(node, [record.node for record in records])
        world.do(node.name, lambda _: None)


def forget_news(node: SimNode, names: Iterable[str]) -> None:
    """Nobody needs to be told of members that all have known for long."""
    assert isinstance(node.engine, Engine)
    for name in names:
        node.engine._swim._queue.discard(name)


def _request(ring: KeyRing, message: PushPull) -> bytes:
    return streams.encode_request(codec.encode(message), ring, os.urandom(12))


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- cost ---------------------------------------------------------------------------------------------


def at_rest(nodes: int) -> str:
    """Bytes are those of IP and UDP, and of streams; CPU is this process, the simulation included."""
    begin = time.process_time()
    world = seeded(1, nodes, keeps_effects=False)
    made_s = time.process_time() - begin
    stream = push_pull_bytes(world)
    forget_warm_up(world)
    world.delivered = 0
    begin = time.process_time()
    world.run(AT_REST_S)
    cpu_s = time.process_time() - begin
    sent = [node.sent for node in world.nodes.values()]
    scale = 1 / nodes / AT_REST_S
    packets, size = (sum(each[what] for each in sent) * scale for what in _SENT)
    told = sum(each["MemberChanged"] for each in sent)
    micros = cpu_s / max(1, world.delivered) * 1e6
    per_log = (size + stream) / math.log10(nodes)
    return (
        f"| {nodes} | {packets:.2f} | {size:.0f} | {stream:.0f} | {per_log:.0f} | "
        f"{told} | {made_s:.1f} | {cpu_s:.1f} | {micros:.0f} |"
    )


_SENT = ("packets", "bytes")


def under_load(nodes: int) -> str:
    """A block a second and a user event every two, by nodes in turn."""
    world = seeded(1, nodes, keeps_effects=False)
    stream = push_pull_bytes(world)
    forget_warm_up(world)
    names = list(world.nodes)
    for second in range(int(AT_REST_S)):
        name = names[second % nodes]
        world.do(name, lambda n, s=second: _block(world, n, b"198.51.100.%d" % s))  # type: ignore[misc]
        if second % 2:
            world.do(name, lambda n: n.engine.send_event("figure", bytes(64), n.instant(world.now)))
        world.run(1.0)
    sent = [node.sent for node in world.nodes.values()]
    scale = 1 / nodes / AT_REST_S
    packets, size = (sum(each[what] for each in sent) * scale for what in _SENT)
    facts, events = sum(each["FactChanged"] for each in sent), sum(each["UserEvent"] for each in sent)
    reach = facts / (AT_REST_S * (nodes - 1)), events / (AT_REST_S / 2 * nodes)
    per_log = (size + stream) / math.log10(nodes)
    return (
        f"| {nodes} | {packets:.1f} | {size:.0f} | {stream:.0f} | {per_log:.0f} | "
        f"{reach[0]:.2%} | {reach[1]:.2%} |"
    )


def _block(world: World, node: SimNode, key: bytes) -> bool:
    return node.engine.put(Kind.BLOCK, key, b"until", 3_600.0, node.instant(world.now))


# --- speed --------------------------------------------------------------------------------------------


def spread(nodes: int, loss: float, what: str, rounds: int = 20) -> str:
    """From one node to each other, ms; the share of nodes reached within 10 s."""
    world = seeded(2, nodes)
    world.network.loss = loss
    each_ms: list[float] = []
    last_ms: list[float] = []
    missed = 0
    for i in range(rounds):
        begin = world.now
        name = world.rng.choice(list(world.nodes))
        for node in world.nodes.values():
            node.heard.effects.clear()
        if what == "block":
            world.do(name, lambda n, i=i: _block(world, n, b"round/%d" % i))  # type: ignore[misc]
        else:
            world.do(name, lambda n, i=i: n.engine.send_event("f", b"%d" % i, n.instant(world.now)))  # type: ignore[misc]
        world.run(10.0)
        kind = FactChanged if what == "block" else UserEvent
        first = [
            next(((at - begin) * 1e3 for at, e in node.heard.effects if isinstance(e, kind)), None)
            for node in world.nodes.values()
            if node.name != name
        ]
        heard = [ms for ms in first if ms is not None]
        missed += len(first) - len(heard)
        each_ms += heard
        last_ms.append(max(heard))
    reach = 1 - missed / (rounds * (nodes - 1))
    p50, p99 = percentile(each_ms, 0.5), percentile(each_ms, 0.99)
    return f"| {nodes} | {loss:.0%} | {what} | {p50:.1f} | {p99:.1f} | {max(last_ms):.1f} | {reach:.2%} |"


def death(profile: Profile, nodes: int, loss: float, rounds: int) -> list[float]:
    """Seconds from the end of a process until the last of the others says failed."""
    took = []
    for seed in range(rounds):
        world = seeded(seed, nodes, profile=profile)
        world.network.loss = loss
        world.run(random.Random(seed).uniform(0.0, 5.0))
        victim = world.rng.choice(list(world.nodes))
        begin = world.now
        world.kill(victim)
        world.run(60.0)
        heard = [node.heard.first(Change.FAILED, victim, begin) for node in world.live()]
        took.append(max(60.0 if at is None else at - begin for at in heard))
    return took


def false_alarms(profile: Profile, nodes: int, loss: float, hours: float) -> tuple[float, float]:
    """Suspicions and failures that a node is told of per hour, while everybody lives."""
    world = seeded(3, nodes, profile=profile, keeps_effects=True)
    world.network.loss = loss
    suspected = failed = 0
    for _ in range(int(hours * 60)):
        world.run(60.0)
        for node in world.nodes.values():
            for _, effect in node.heard.effects:
                if isinstance(effect, MemberChanged):
                    suspected += effect.change is Change.SUSPECTED
                    failed += effect.change is Change.FAILED
            node.heard.effects.clear()
    return suspected / nodes / hours, failed / nodes / hours


def report() -> None:
    with ciphers(real=False):
        for section in (_cost, _load, _spread, _deaths, _alarms):
            section()
            print(flush=True)


def _table(head: str, rows: Iterable[Callable[[], str]]) -> None:
    print(head)
    print("|" + "---|" * (head.count("|") - 1))
    for row in rows:
        print(row(), flush=True)


def _cost() -> None:
    print(f"At rest, a node and second, over {AT_REST_S:.0f} s:\n")
    _table(
        "| nodes | packets | bytes | stream bytes | bytes / log10 | changes | CPU s before | CPU s | us |",
        [lambda n=n: at_rest(n) for n in SIZES],  # type: ignore[misc]
    )


def _load() -> None:
    print("With a block a second and an event every two seconds in the cluster:\n")
    _table(
        "| nodes | packets | bytes | stream bytes | bytes / log10 | blocks reach | events reach |",
        [lambda n=n: under_load(n) for n in SIZES],  # type: ignore[misc]
    )


def _spread() -> None:
    print("From one node to the others, ms:\n")
    _table(
        "| nodes | loss | what | p50 | p99 | last | reached in 10 s |",
        [
            lambda n=n, loss=loss, what=what: spread(n, loss, what, 20 if n < 1_000 else 5)  # type: ignore[misc]
            for what in ("block", "event")
            for n in SIZES
            for loss in (0.0, 0.1)
        ],
    )


def _deaths() -> None:
    print("From a kill to failed on all others, s:\n")

    def row(nodes: int, name: str, profile: Profile, loss: float) -> str:
        took = death(profile, nodes, loss, 100 if nodes < 100 else 10)
        return (
            f"| {nodes} | {name} | {loss:.0%} | {statistics.mean(took):.2f} | {min(took):.2f} | "
            f"{percentile(took, 0.99):.2f} |"
        )

    _table(
        "| nodes | profile | loss | mean | min | p99 |",
        [
            lambda n=n, p=p, loss=loss: row(n, p[0], p[1], loss)  # type: ignore[misc]
            for n in (5, 100)
            for p in (("SORA", SORA), ("LAN", LAN))
            for loss in (0.0, 0.2)
        ],
    )


def _alarms() -> None:
    print("False alarms with one datagram in five lost, told to a node in an hour:\n")

    def row(nodes: int, name: str, profile: Profile) -> str:
        suspected, failed = false_alarms(profile, nodes, 0.2, 2.0 if nodes < 50 else 0.5)
        return f"| {nodes} | {name} | {suspected:.1f} | {failed:.2f} |"

    _table(
        "| nodes | profile | suspected | failed |",
        [
            lambda n=n, p=p: row(n, p[0], p[1])  # type: ignore[misc]
            for n in (5, 50)
            for p in (("SORA", SORA), ("LAN", LAN))
        ],
    )
