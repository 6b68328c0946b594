"""Things that happen to clusters: each a function of a world with formed nodes; then all invariants hold.

To add another: write it, add it to ``SCENARIOS``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from cluster.effects import Change, NameConflict
from cluster.facts import Kind, NoticeKind

from .clocks import wrong_clocks
from .invariants import alive_in, settle, shared, told_faults, views
from .node import SimNode
from .world import World

SETTLE_S = 90.0  # two push/pull intervals and a rejoin


@dataclass(frozen=True)
class Scenario:
    run: Callable[[World], None]
    nodes: int = 5  # when nobody says how many


def names(world: World) -> list[str]:
    return sorted(world.nodes)


def failed(world: World) -> list[tuple[str, str]]:
    """(who said so, of whom)"""
    return [
        (node.name, name)
        for node in world.live()
        for change, name in node.heard.changes
        if change is Change.FAILED
    ]


def put(world: World, name: str, key: bytes, value: bytes = b"v", *, kind: Kind = Kind.BLOCK) -> None:
    def command(node: SimNode) -> bool:
        return node.engine.put(kind, key, value, 3_600.0, node.instant(world.now))

    assert world.do(name, command), f"{name} had no room for {key!r}"


def write_some(world: World) -> None:
    """Facts of several kinds from every node."""
    for i, name in enumerate(names(world)):
        if world.nodes[name].is_running:
            put(world, name, b"203.0.113.%d" % i)
            put(world, name, b"imap/ann", b"%d" % i, kind=Kind.CONNECTIONS)
            put(world, name, b"ann", b"", kind=Kind.SESSIONS)


def idle(world: World) -> None:
    """Nothing happens, for two minutes: nobody is suspected, little is sent."""
    world.run(120.0)
    for node in world.live():
        told = [key for key in node.heard.changes if key[0] in (Change.SUSPECTED, Change.FAILED)]
        assert not told, f"{node.name} was told {told}"
    settle(world, told_faults, within_s=1.0)


def kill(world: World) -> None:
    """One dies: all others know within seconds, and its counts are gone, its blocks are not."""
    write_some(world)
    settle(world, told_faults, within_s=30.0)
    victim = names(world)[1]
    begin = world.now
    world.kill(victim)
    world.run(30.0)
    for node in world.live():
        at = node.heard.first(Change.FAILED, victim, begin)
        assert at is not None, f"{node.name} did not notice the end of {victim}"
    settle(world, told_faults, within_s=SETTLE_S)
    facts = shared(world.live()[0], world)
    assert not [f for f in facts if f[1] == victim and f[0] is Kind.CONNECTIONS]
    assert [f for f in facts if f[1] == victim and f[0] is Kind.BLOCK]
    assert {name for _, name in failed(world)} == {victim}


def leave(world: World) -> None:
    """One says good-bye: it is left for everyone, never failed."""
    victim = names(world)[1]
    world.leave(victim)
    world.run(15.0)
    for node in world.live():
        assert node.name == victim or node.heard.changes[Change.LEFT, victim] == 1, node.name
    assert not failed(world)
    settle(world, told_faults, within_s=SETTLE_S)


def restart(world: World) -> None:
    """One dies and is back at once, with an empty memory and its first incarnation."""
    write_some(world)
    settle(world, within_s=30.0)
    victim = names(world)[0]
    world.restart(victim)
    settle(world, told_faults, within_s=SETTLE_S)
    world.kill(victim)
    world.run(20.0)
    world.restart(victim)
    settle(world, told_faults, within_s=SETTLE_S)
    write_some(world)
    settle(world, told_faults, within_s=SETTLE_S)


def restart_all(world: World) -> None:
    """The power fails: all die, and are back within two seconds."""
    write_some(world)
    for name in names(world):
        world.kill(name)
    world.run(5.0)
    for name in names(world):
        world.restart(name)
        world.run(world.rng.uniform(0.0, 2.0 / len(world.nodes)))
    settle(world, told_faults, within_s=SETTLE_S)
    write_some(world)
    settle(world, told_faults, within_s=SETTLE_S)


def partition(world: World) -> None:
    """Two halves for a minute; both write, also the same block; then one cluster with one state."""
    everyone = names(world)
    half = len(everyone) // 2
    sides = [everyone[:half], everyone[half:]]
    world.network.partition(*([world.nodes[n].address.ip for n in side] for side in sides))
    world.run(60.0)
    for side in sides:
        for name in side:
            assert alive_in(world.nodes[name]) == side, f"{name} sees {alive_in(world.nodes[name])}"
    put(world, sides[0][0], b"198.51.100.7", b"one")
    put(world, sides[1][0], b"198.51.100.7", b"other")
    write_some(world)
    world.run(5.0)
    assert [world.nodes[side[-1]].leader(world.now) for side in sides] == [side[0] for side in sides]
    world.network.heal()
    settle(world, told_faults, within_s=SETTLE_S)


def asymmetric(world: World) -> None:
    """One hears nobody, though all hear it; then one is heard by nobody, though it hears all."""
    deaf, mute = names(world)[:2]
    ips = [each.address.ip for each in world.nodes.values()]
    world.network.cut_one_way(ips, [world.nodes[deaf].address.ip])
    world.run(40.0)
    write_some(world)
    world.network.heal()
    settle(world, told_faults, within_s=SETTLE_S)
    world.network.cut_one_way([world.nodes[mute].address.ip], ips)
    world.run(40.0)
    world.network.heal()
    settle(world, told_faults, within_s=SETTLE_S)


def loss(world: World) -> None:
    """One datagram in five is lost for three minutes: nobody who lives is declared failed."""
    world.network.loss = 0.2
    for _ in range(6):
        write_some(world)
        world.run(30.0)
    assert not failed(world), failed(world)
    world.network.heal()
    settle(world, told_faults, within_s=SETTLE_S)


def churn(world: World) -> None:
    """Every three seconds one dies, leaves, comes back or appears."""
    for step in range(20):
        live = [each.name for each in world.live()]
        gone = sorted(name for name, each in world.nodes.items() if not each.is_running)
        kind = world.rng.choice(("kill", "leave", "return", "new"))
        if kind == "kill" and len(live) > 3:
            world.kill(world.rng.choice(live))
        elif kind == "leave" and len(live) > 3:
            world.leave(world.rng.choice(live))
        elif kind == "return" and gone:
            world.restart(world.rng.choice(gone))
        else:
            world.add(f"new{step}", peers=[each.address for each in world.live()[:3]])
        world.run(1.0)
        write_some_alive(world)
        world.run(2.0)
    world.run(12.0)  # those who leave are gone
    settle(world, told_faults, within_s=SETTLE_S)


def write_some_alive(world: World) -> None:
    for node in world.live():
        if not node.is_paused and not node.engine.has_left:
            put(world, node.name, b"churn/%s" % node.name.encode(), b"%d" % int(world.now))


def clock_steps(world: World) -> None:
    """Wall clocks jump an hour forth and back, on one and on all: nobody is suspected, writes still win."""
    first, second = names(world)[:2]
    for name, by_s in ((first, 3_600.0), (second, -3_600.0), (first, -7_200.0)):
        world.step_clock(name, by_s)
        put(world, first, b"192.0.2.1", b"%d" % int(world.now))
        write_some(world)
        world.run(20.0)
    for name in names(world):
        world.step_clock(name, 3_600.0)
    write_some(world)
    world.run(20.0)
    settle(world, told_faults, within_s=SETTLE_S)
    assert not failed(world), failed(world)


def pause(world: World) -> None:
    """One is stopped for 30 s, and wakes in a world that has buried it; it must not bury the others."""
    victim = names(world)[0]
    write_some(world)
    world.run(10.0)
    world.pause(victim)
    world.run(30.0)
    for node in world.live():
        if node.name != victim:
            assert node.heard.changes[Change.FAILED, victim] == 1, f"{node.name} did not notice"
    world.resume(victim)
    settle(world, told_faults, within_s=SETTLE_S)
    wrong = {pair for pair in failed(world) if pair[1] != victim}
    assert not wrong, f"buried alive: {wrong}"


def late_verdict(world: World) -> None:
    """One is stopped while it suspects another, who meanwhile lives: it must not wake with a verdict."""
    judge, suspect = names(world)[:2]
    world.pause(suspect)
    held = world.run_while(
        lambda: not world.nodes[judge].heard.changes[Change.SUSPECTED, suspect], at_most_s=10.0, step_s=0.05
    )
    assert held is not None, f"{judge} does not suspect {suspect}"
    world.pause(judge)
    world.resume(suspect)
    world.network.cut_one_way((n.address.ip for n in world.live()), [world.nodes[judge].address.ip])
    world.run(20.0)  # longer than any suspicion, and no news wait to be read
    world.network.heal()
    world.resume(judge)
    settle(world, told_faults, within_s=SETTLE_S)
    assert not world.nodes[judge].heard.changes[Change.FAILED, suspect], "a verdict without a hearing"


def short_pauses(world: World) -> None:
    """All are slow in turns, two seconds each: nobody is declared failed."""
    for name in itertools.islice(itertools.cycle(names(world)), 12):
        world.pause(name)
        world.run(2.0)
        world.resume(name)
        world.run(3.0)
    assert not failed(world), failed(world)
    settle(world, told_faults, within_s=SETTLE_S)


def duplicate_id(world: World) -> None:
    """A second node with a name that is in use: it is told of, and when it is gone all is as before."""
    name = names(world)[1]
    world.add_twin(name)
    world.run(45.0)
    told = conflicts(world)
    assert told, "nobody was told of the conflict"
    lost = {node.address for node, conflict in told if conflict.is_lost}
    assert len(lost) == 1, f"one of the two gives the name up, not {lost}"
    world.kill(name + "'")
    del world.nodes[name + "'"]
    settle(world, told_faults, within_s=SETTLE_S)


def moves(world: World) -> None:
    """One comes back with another address: after its death was noticed, and at once."""
    victim = names(world)[1]
    write_some(world)
    world.kill(victim)
    world.run(20.0)
    world.restart(victim, moves=True)
    settle(world, told_faults, within_s=SETTLE_S)
    world.restart(victim, moves=True)
    settle(world, told_faults, within_s=SETTLE_S)
    assert not conflicts(world), "it was taken for another by its own past life"


def conflicts(world: World) -> list[tuple[SimNode, NameConflict]]:
    """Of whom told, and what."""
    return [(n, e) for n in world.live() for _, e in n.heard.effects if isinstance(e, NameConflict)]


def burst(world: World) -> None:
    """10,000 blocks on one node within ten seconds: every node has all of them soon after."""
    origin = names(world)[0]
    for i in range(10_000):
        put(world, origin, b"10.%d.%d.%d" % (i >> 16, i >> 8 & 255, i & 255))
        if i % 100 == 99:
            world.run(0.1)
    settle(world, told_faults, within_s=60.0)
    for node in world.live():
        count = sum(fact[0] is Kind.BLOCK for fact in shared(node, world))
        assert count == 10_000, f"{node.name} has {count} blocks"
    assert not failed(world), failed(world)


def clog(world: World) -> None:
    """One node behind a line of 8 kB/s, where things double and overtake, while all write."""
    victim = names(world)[2]
    world.network.bytes_per_s[world.nodes[victim].address.ip] = 8_000.0
    world.network.duplication = world.network.reordering = 0.2
    for _ in range(5):
        write_some(world)
        world.run(5.0)
    world.network.heal()
    settle(world, told_faults, within_s=SETTLE_S)


def events(world: World) -> None:
    """User events, queries and notices: every node hears each exactly once."""
    everyone = names(world)
    begin = world.now
    for i, name in enumerate(everyone):
        world.do(name, lambda n, i=i: n.engine.send_event("test", b"%d" % i, n.instant(world.now)))  # type: ignore[misc]
        world.do(
            name,
            lambda n, i=i: n.engine.tell(NoticeKind.MAILBOX, b"%d" % i, n.instant(world.now)),  # type: ignore[misc]
        )
        world.run(0.2)
    world.run(35.0)
    for node in world.live():
        heard = [e.payload for at, e in node.heard.effects if at >= begin and type(e).__name__ == "UserEvent"]
        assert sorted(heard) == sorted(b"%d" % i for i in range(len(everyone))), f"{node.name}: {heard}"
    settle(world, told_faults, within_s=SETTLE_S)


def chaos(world: World) -> None:
    """A minute and a half of everything, chosen by the seed."""
    from .chaos import disturb  # the only scenario with a file of its own

    disturb(world)
    settle(world, told_faults, within_s=2 * SETTLE_S)


SCENARIOS: dict[str, Scenario] = {
    "idle": Scenario(idle),
    "kill": Scenario(kill),
    "leave": Scenario(leave),
    "restart": Scenario(restart),
    "restart-all": Scenario(restart_all),
    "partition": Scenario(partition, nodes=6),
    "asymmetric": Scenario(asymmetric),
    "loss": Scenario(loss),
    "churn": Scenario(churn),
    "clock-steps": Scenario(clock_steps),
    "wrong-clocks": Scenario(wrong_clocks),
    "pause": Scenario(pause),
    "late-verdict": Scenario(late_verdict),
    "short-pauses": Scenario(short_pauses),
    "duplicate-id": Scenario(duplicate_id),
    "moves": Scenario(moves),
    "burst": Scenario(burst, nodes=3),
    "clog": Scenario(clog),
    "events": Scenario(events, nodes=8),
    "chaos": Scenario(chaos, nodes=7),
}


def faulty_members(world: World) -> dict[str, list[str]]:
    """For a report: what each node thinks."""
    return {
        node.name: [f"{n}:{v.state.name}:{v.incarnation}" for n, v in views(node).items()]
        for node in world.live()
    }
