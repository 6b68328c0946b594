"""Whatever happens in whatever order: once the network is whole and quiet, all nodes know the same, and that
is what was written last; nothing is counted twice, nothing that was removed comes back."""

from __future__ import annotations

import random

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cluster.effects import Change
from cluster.facts import RULES, Kind

from .network import Network, Node

NODES = 4
KINDS = (Kind.BLOCK, Kind.FAILURES, Kind.CONNECTIONS)
LONG_S, SHORT_S = 3_600.0, 4.0

node_numbers = st.integers(0, NODES - 1)
keys = st.sampled_from([b"a", b"b", b"c"])
steps = st.one_of(
    st.tuples(st.just("put"), node_numbers, st.sampled_from(KINDS), keys, st.integers(0, 3), st.booleans()),
    st.tuples(st.just("remove"), node_numbers, st.sampled_from(KINDS), keys),
    st.tuples(st.just("run"), st.floats(0.0001, 3.0)),
    st.tuples(st.just("cut"), node_numbers),
    st.tuples(st.just("heal")),
    st.tuples(st.just("restart"), node_numbers),
    st.tuples(st.just("fail"), node_numbers, node_numbers),
    st.tuples(st.just("return"), node_numbers, node_numbers),
    st.tuples(st.just("burst"), node_numbers, st.integers(20, 120)),
)


class World:
    """A network, and what its nodes should know: the last write of each life for each key."""

    def __init__(self, seed: int, loss: float) -> None:
        self.net = Network(
            NODES, seed=seed, loss=loss, duplication=0.1, latency_s=(0.0002, 0.02 if seed % 2 else 0.4)
        )
        self.written: dict[tuple[Kind, str, bytes], tuple[bytes, bool]] = {}
        self.lasting: dict[tuple[Kind, str, bytes], set[bytes]] = {}  # all of this life
        self.earlier: dict[tuple[Kind, str, bytes], set[bytes]] = {}  # and of earlier ones

    def do(self, step: tuple) -> None:  # type: ignore[type-arg]
        getattr(self, step[0])(*step[1:])

    def put(self, number: int, kind: Kind, key: bytes, value: int, is_long: bool) -> None:
        node = self.net[number]
        raw = b"%d of life %d" % (value, node.lives)
        self.end_earlier(node, kind, key)
        assert node.state.put(kind, key, raw, LONG_S if is_long else SHORT_S, node.at)
        self.written[kind, node.own_name, key] = (raw, is_long)
        if RULES[kind].is_lasting and is_long:
            self.lasting.setdefault((kind, node.own_name, key), set()).add(raw)

    def burst(self, number: int, count: int) -> None:
        for index in range(count):
            node = self.net[number]
            node.state.put(Kind.BLOCK, b"burst%d" % index, b"x", LONG_S, node.at)
            self.written[Kind.BLOCK, node.own_name, b"burst%d" % index] = (b"x", True)
            self.lasting[Kind.BLOCK, node.own_name, b"burst%d" % index] = {b"x"}

    def remove(self, number: int, kind: Kind, key: bytes) -> None:
        node = self.net[number]
        self.end_earlier(node, kind, key)
        node.state.remove(kind, key, node.at)
        self.written.pop((kind, node.own_name, key), None)

    def end_earlier(self, node: Node, kind: Kind, key: bytes) -> None:
        """What a node wrote in an earlier life is over when it knows of that and writes to the key again."""
        place = (kind, node.own_name, key)
        value = node.seen(kind).get((node.own_name, key), b"")
        if value in self.earlier.get(place, ()):
            self.earlier[place].remove(value)
            self.lasting.setdefault(place, set()).add(value)  # if this life ends before that is heard
        node.facts.pop((kind, node.own_name, key), None)  # who writes over it is not told

    def run(self, seconds: float) -> None:
        self.net.run(seconds)

    def cut(self, number: int) -> None:
        self.net.sides[self.net[number].own_name] = number + 1

    def heal(self) -> None:
        self.net.sides.clear()

    def restart(self, number: int) -> None:
        node = self.net[number]
        node.live()
        for place in [place for place in self.written if place[1] == node.own_name]:
            del self.written[place]
        for place in [place for place in self.lasting if place[1] == node.own_name]:
            # Even one that was overwritten or removed: nobody may have heard of that before the life ended.
            self.earlier.setdefault(place, set()).update(self.lasting.pop(place))

    def fail(self, number: int, other: int) -> None:
        if number != other:
            self.net[number].member(self.net[other].own_name, Change.FAILED)

    def return_(self, number: int, other: int) -> None:
        if number != other:
            node = self.net[other]
            self.net[number].member(node.own_name, Change.JOINED, epoch=node.epoch)

    def settle(self) -> None:
        self.heal()
        self.net.loss = 0.0
        for number in range(NODES):
            for other in range(NODES):
                self.return_(number, other)
        self.net.run(SHORT_S + 40.0)

    # --- what must be true ---

    def check(self) -> None:
        nodes = list(self.net.nodes.values())
        assert not self.net.rejected
        assert self.net.are_equal()
        for kind in KINDS:
            seen = [node.seen(kind) for node in nodes]
            assert all(other == seen[0] for other in seen)
            self.check_values(kind, seen[0])
        for node in nodes:
            self.check_told(node)

    def check_values(self, kind: Kind, seen: dict[tuple[str, bytes], bytes]) -> None:
        expected = {
            (owner, key): value
            for (of, owner, key), (value, is_long) in self.written.items()
            if of is kind and is_long
        }
        for (owner, key), value in seen.items():
            if (owner, key) not in expected:
                assert value in self.earlier.get((kind, owner, key), ()), (kind, owner, key)
        assert expected.items() <= seen.items()

    def check_told(self, node: Node) -> None:
        """The outside holds, from what it was told, what ``entries`` says of others."""
        entries = {(kind, *place): value for kind in KINDS for place, value in node.seen(kind).items()}
        others = {place: value for place, value in entries.items() if place[1] != node.own_name}
        assert {p: v for p, v in node.facts.items() if p[1] != node.own_name} == others
        assert {p: v for p, v in node.facts.items() if p[1] == node.own_name}.items() <= entries.items()


@settings(max_examples=80, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(steps, max_size=40), st.integers(0, 9), st.sampled_from([0.0, 0.1, 0.5]))
def test_all_nodes_end_with_what_was_written_last(
    script: list[tuple],  # type: ignore[type-arg]
    seed: int,
    loss: float,
) -> None:
    world = World(seed, loss)
    for step in script:
        world.do(("return_", *step[1:]) if step[0] == "return" else step)
    world.settle()
    world.check()


def test_long_runs_from_seeds() -> None:
    for seed in range(6):
        rng = random.Random(seed)
        world = World(seed, 0.2)
        for _ in range(300):
            number = rng.randrange(NODES)
            kind, key = rng.choice(KINDS), rng.choice([b"a", b"b", b"c"])
            match rng.randrange(14):
                case 0:
                    world.cut(number)
                case 1:
                    world.heal()
                case 2:
                    world.restart(number)
                case 3:
                    world.fail(number, rng.randrange(NODES))
                case 4:
                    world.return_(number, rng.randrange(NODES))
                case 5 | 6:
                    world.remove(number, kind, key)
                case 7 | 8 | 9:
                    world.run(rng.random())
                case _:
                    world.put(number, kind, key, rng.randrange(4), rng.random() < 0.7)
        world.settle()
        world.check()
