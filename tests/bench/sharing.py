"""How fast and at what cost nodes share what they know: ``python -m tests.bench.sharing``.

Virtual time and network for the delays (0.2 to 0.6 ms one way, gossip every 100 ms, pings every 800 ms), real
time for the cost of the code.
"""

from __future__ import annotations

import statistics
import time
from random import Random

from cluster.effects import FactChanged
from cluster.facts import Kind
from cluster.state.codec import Delta, Item, Lane, Range, encode
from tests.cluster.state.network import Network

ROUNDS = {3: 300, 5: 200, 64: 40, 1000: 4}


def spread(nodes: int, loss: float, kind: Kind, rounds: int) -> str:
    """From a write to each other node, in milliseconds."""
    net = Network(nodes, seed=nodes, loss=loss, shares_views=True)
    rng = Random(1)
    delays: list[float] = []
    last: list[float] = []
    found: list[float] = []
    begun = 0.0

    def heard(name: str, fact: FactChanged) -> None:
        if fact.value is not None:
            found.append((net.now - begun) * 1000)

    net.on_fact = heard
    sent_bytes = 0
    for number in range(rounds):
        found.clear()
        net.run(rng.uniform(1.0, 1.3) if nodes < 1000 else 2.0)
        begun, sent_bytes = net.now, net.sent_bytes
        writer = net[rng.randrange(nodes)]
        writer.state.put(kind, b"192.0.2.%d" % number, b"reason and time", 600.0, writer.at)
        assert net.run(120.0, until=lambda: len(found) == nodes - 1), (nodes, loss, len(found))
        delays += found
        last.append(max(found))
    net.run(3.0)
    each = (net.sent_bytes - sent_bytes) / nodes
    cuts = statistics.quantiles(delays, n=100)
    last_p99 = statistics.quantiles(last, n=100)[98] if len(last) > 50 else max(last)
    return (
        f"{nodes:5} {loss:5.0%} {kind.name.lower():9} p50 {cuts[49]:7.1f}  p99 {cuts[98]:7.1f}"
        f"  last of all: median {statistics.median(last):7.1f}  p99 {last_p99:7.1f} ms"
        f"  {each:7.0f} bytes a node"
    )


def repair(entries: int) -> str:
    """A node that knows nothing meets one that knows all."""
    net = Network(2, knows_all=False)
    for number in range(entries):
        net[0].state.put(Kind.BLOCK, b"198.51.%d.%d" % divmod(number, 256), b"reason", 3600.0, net[0].at)
    net.run(1.0)
    sent, began = net.sent_bytes, net.now
    cpu = time.process_time()
    net.introduce(net.nodes)
    net.run(60.0, until=lambda: len(net[1].facts) == entries)
    cpu = time.process_time() - cpu
    net_bytes, delay_ms = net.sent_bytes - sent, (net.now - began) * 1000
    net.run(10.0)
    return (
        f"{entries} entries repaired: {net_bytes / 1000:.0f} kB, {net_bytes / entries:.0f} bytes an entry, "
        f"{delay_ms:.0f} ms after they met, {cpu * 1e6 / entries:.1f} us CPU an entry (both sides); "
        f"{(net.sent_bytes - sent - net_bytes) / 1000:.0f} kB in the 10 s after"
    )


def vectors(owners: int) -> str:
    """Two nodes that know what so many wrote differ in what one of them did."""
    net = Network(2, pings=False)
    net[0].state.put(Kind.NODE, b"version", b"1.0", 3600.0, net[0].at)
    written = [
        Range(f"node-{number:04}.example", 1, 0, 7, [Item(Kind.NODE, 7, b"version", b"1.0", 1, 3_600_000, 0)])
        for number in range(owners)
    ]
    for node in net.nodes.values():
        node.state.receive(encode(Delta("n0009", 1, 0, Lane.REPAIR, written)), node.address, node.at)
    net.run(60.0)
    further = Range("node-0001.example", 1, 7, 8, [Item(Kind.NODE, 8, b"x", b"1", 1, 3_600_000, 0)])
    net[1].state.receive(encode(Delta("n0009", 1, 0, Lane.REPAIR, [further])), net[1].address, net[1].at)
    sent, sent_bytes, cpu = net.sent, net.sent_bytes, time.process_time()
    net[0].state.heard_digest("n0001", net[1].state.digest(), net[0].at)
    assert net.run(0.1, until=net.are_equal)
    cpu = time.process_time() - cpu
    return (
        f"{owners:5} maps, one differs: {net.sent - sent} datagrams, {net.sent_bytes - sent_bytes} bytes"
        f" in all, {cpu * 1e6:.0f} us CPU (both sides)"
    )


def burst(nodes: int, loss: float) -> str:
    """10,000 blocks made by one node in the same instant."""
    net = Network(nodes, seed=nodes, loss=loss)
    for number in range(10_000):
        net[0].state.put(Kind.BLOCK, b"198.51.%d.%d" % divmod(number, 256), b"reason", 3600.0, net[0].at)
    began = net.now
    others = [net[number] for number in range(1, nodes)]
    assert net.run(60.0, until=lambda: all(len(node.facts) == 10_000 for node in others))
    return f"10,000 blocks at once, {nodes} nodes, {loss:.0%} loss: everywhere after {net.now - began:.2f} s"


def cost() -> str:
    """A delta of one entry, new to its receiver, and the same again."""
    net = Network(2, pings=False)
    raws: list[bytes] = []
    net.tap = lambda source, to, raw: raws.append(raw)
    for number in range(2_000):
        net.now += 0.02
        net[0].state.put(Kind.BLOCK, b"198.51.%d.%d" % divmod(number, 256), b"reason", 3600.0, net[0].at)
    raws = raws[:]
    at, state = net[1].at, net[1].state
    began = time.process_time()
    for raw in raws:
        state.receive(raw, net[0].address, at)
    new = time.process_time() - began
    began = time.process_time()
    for raw in raws:
        state.receive(raw, net[0].address, at)
    again = time.process_time() - began
    began = time.process_time()
    count = 0
    while state.broadcasts(1300, 3, "n0000"):
        count += 1
    take = time.process_time() - began
    return (
        f"a delta of {len(raws[-1])} bytes: {new / len(raws) * 1e6:.1f} us when new, "
        f"{again / len(raws) * 1e6:.1f} us again; a full packet of gossip {take / count * 1e6:.0f} us"
    )


def main() -> None:
    print(cost())
    for entries in (1_000, 10_000):
        print(repair(entries))
    for owners in (5, 64, 1_000):
        print(vectors(owners))
    for nodes in (3, 5, 16):
        for loss in (0.0, 0.1):
            print(burst(nodes, loss))
    for nodes, rounds in ROUNDS.items():
        for loss in (0.0, 0.02, 0.1):
            print(spread(nodes, loss, Kind.BLOCK, rounds))
        print(spread(nodes, 0.02, Kind.AFFINITY, max(rounds // 4, 4)))


if __name__ == "__main__":
    main()
