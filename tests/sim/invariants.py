"""What must hold when the network is whole and everything had time to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cluster.effects import MemberView
from cluster.facts import Kind
from cluster.messages import State

from .node import SimNode
from .world import World


def views(node: SimNode) -> dict[str, MemberView]:
    return {each.name: each for each in node.engine.members()}


def alive_in(node: SimNode) -> list[str]:
    return sorted(name for name, each in views(node).items() if each.state is State.ALIVE)


def shared(node: SimNode, world: World) -> set[tuple[Kind, str, bytes, bytes]]:
    """Everything it knows of the shared state."""
    at = node.instant(world.now)
    return {(e.kind, e.origin, e.key, e.value) for kind in Kind for e in node.engine.entries(kind, at)}


def membership_faults(world: World) -> list[str]:
    """Every live node sees exactly the live ones alive, at their addresses."""
    live = {each.name: each.address for each in world.live() if not each.engine.has_left}
    faults = []
    for node in world.live():
        if node.engine.has_left:
            continue
        seen = views(node)
        for name, address in live.items():
            view = seen.get(name)
            if view is None or view.state is not State.ALIVE:
                faults.append(f"{node.name} has {name} as {view.state.name if view else 'unknown'}")
            elif view.address != address:
                faults.append(f"{node.name} has {name} at {view.address}, it is at {address}")
        ghosts = [n for n, v in seen.items() if n not in live and v.state in (State.ALIVE, State.SUSPECT)]
        faults += [f"{node.name} has {name} as alive, and it is gone" for name in ghosts]
    return faults


def state_faults(world: World) -> list[str]:
    """All live nodes know the same facts."""
    nodes = [each for each in world.live() if not each.engine.has_left]
    if not nodes:
        return []
    first = shared(nodes[0], world)
    faults = []
    for node in nodes[1:]:
        facts = shared(node, world)
        if facts != first:
            faults.append(
                f"{node.name} lacks {len(first - facts)} facts that {nodes[0].name} has, "
                f"and has {len(facts - first)} that it lacks: {sorted(first ^ facts)[:3]}"
            )
    return faults


def leader_faults(world: World) -> list[str]:
    """All live nodes have the same leader, and it lives."""
    nodes = [each for each in world.live() if not each.engine.has_left]
    opinions = {each.name: each.leader(world.now) for each in nodes}
    if len(set(opinions.values())) == 1 and (not nodes or next(iter(opinions.values())) in opinions):
        return []
    return [f"leaders: {opinions}"]


def told_faults(world: World) -> list[str]:
    """What owners were told adds up to what their engines say."""
    faults = []
    for node in world.live():
        if node.engine.has_left:
            continue
        facts = {(int(k), o, key): v for k, o, key, v in shared(node, world) if o != node.name}
        told = {k: v for k, v in node.heard.facts.items() if k[1] != node.name}  # but for its former lives
        if facts != told:
            lacking = sorted(facts.items() - told.items())[:3]
            extra = sorted(told.items() - facts.items())[:3]
            faults.append(f"the owner of {node.name} was not told of {lacking}, or of the end of {extra}")
    return faults


def faults(world: World, *more: Callable[[World], Iterable[str]]) -> list[str]:
    found: list[str] = []
    for check in (membership_faults, state_faults, leader_faults, *more):
        found += check(world)
    return found


def settle(world: World, *more: Callable[[World], Iterable[str]], within_s: float) -> float:
    """Run until everything holds; seconds it took. Raises AssertionError with what does not hold."""
    took = world.run_while(lambda: bool(faults(world, *more)), at_most_s=within_s, step_s=0.5)
    if took is None:
        raise AssertionError(f"not after {within_s} s: " + "; ".join(faults(world, *more)[:6]))
    return took
