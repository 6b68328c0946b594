"""Whatever arrives is applied or rejected, never anything else, and leaves a state that still converges."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import PacketRejected, Reason
from cluster.facts import Kind, NoticeKind
from cluster.state.codec import Delta, Element, Item, Lane, Range, Vector, decode, encode, pages

from .network import Network, address_of


def sample_traffic() -> list[bytes]:
    """Every kind of message at least once."""
    raws: list[bytes] = []
    net = Network(40, seed=5, loss=0.3)
    net.tap = lambda source, to, raw: raws.append(raw)
    for number in range(40):
        net[number].state.put(Kind.BLOCK, b"%d" % number, b"x", 60.0, net[number].at)
        net[number].state.put(Kind.CONNECTIONS, b"%d" % number, b"x", 60.0, net[number].at)
    net[0].state.tell(NoticeKind.MAILBOX, b"m", net[0].at)
    net.run(3.0)
    raws += [net[0].state.push_pull_part(net[0].at)]
    by_type: dict[int, list[bytes]] = {}
    for raw in raws:
        by_type.setdefault(raw[1], []).append(raw)
    assert set(by_type) == {1, 2, 3, 4, 5}
    return [raw for found in by_type.values() for raw in found[:6]]


SAMPLES = sample_traffic()


def accepts(net: Network, raw: bytes) -> bool:
    node = net[0]
    try:
        node.state.receive(raw, address_of("n0001"), node.at)
    except PacketRejected:
        return False
    node.state.broadcasts(1300, 3, "n0001")
    node.state.digest()
    return True


def test_cut_short_and_altered_messages_are_applied_or_rejected() -> None:
    net, rng = Network(3, pings=False), random.Random(7)
    applied = rejected = 0
    for raw in SAMPLES:
        for _ in range(150):
            altered = bytearray(raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.3 else raw)
            for _ in range(rng.randrange(4)):
                if altered:
                    altered[rng.randrange(len(altered))] = rng.randrange(256)
            if accepts(net, bytes(altered)):
                applied += 1
            else:
                rejected += 1
    assert applied > 100
    assert rejected > 100
    net.run(5.0)
    node = net[1]
    node.state.put(Kind.BLOCK, b"after all that", b"x", 60.0, node.at)
    net.run(5.0)
    assert net[0].seen(Kind.BLOCK)["n0001", b"after all that"] == b"x"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([1, 2, 3, 4, 5, 6]))
def test_noise_is_applied_or_rejected(raw: bytes, number: int) -> None:
    accepts(Network(2, pings=False), bytes((0x53, number)) + raw)


numbers = st.sampled_from([0, 1, 2, 7, 2**31, 2**62, 2**63, 2**64 - 1])
items = st.builds(
    Item,
    st.integers(0, 255),
    numbers,
    st.binary(max_size=3),
    st.none() | st.just(b"v"),
    numbers,
    numbers,
    numbers,
)
ranges = st.builds(
    Range, st.sampled_from(["n0000", "n0001", "x"]), numbers, numbers, numbers, st.lists(items, max_size=3)
)
bodies = st.builds(
    Delta, st.sampled_from(["n0001", "x"]), numbers, numbers, st.integers(0, 9), st.lists(ranges, max_size=3)
) | st.builds(
    Vector,
    st.sampled_from(["n0001", "x"]),
    numbers,
    numbers,
    numbers,
    st.lists(
        st.builds(
            Element,
            st.sampled_from(["n0000", "n0001", "x"]),
            numbers,
            numbers,
            st.lists(st.tuples(numbers, numbers), max_size=3),
        ),
        max_size=3,
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(bodies, max_size=5))
def test_well_formed_nonsense_is_applied_or_rejected(found: list[Delta | Vector]) -> None:
    net = Network(3, pings=False)
    for body in found:
        accepts(net, encode(body))
    net.now += 1.0
    net[0].state.tick(net[0].at)
    net[0].state.put(Kind.BLOCK, b"k", b"v", 60.0, net[0].at)
    net.run(1.0)
    assert net[1].seen(Kind.BLOCK)["n0000", b"k"] == b"v"


def delta(**changes: object) -> bytes:
    item = Item(1, 2, b"k", b"v", 1, 1000, 0)
    part: dict[str, object] = {"owner": "n0001", "epoch": 1, "after": 1, "upto": 2, "items": [item]} | changes
    return encode(Delta("n0001", 1, 0, Lane.FULL, [Range(**part)]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x53", Reason.UNKNOWN_TYPE),
        (b"\x53\x63\x90", Reason.UNKNOWN_TYPE),
        (b"\x53\x01", Reason.MALFORMED),
        (b"\x53\x01\x93\xa1a\x01\x02", Reason.MALFORMED),
        (delta(after=2), Reason.MALFORMED),
        (delta(upto=1), Reason.MALFORMED),
        (delta(after=5, upto=1, items=[]), Reason.MALFORMED),
        (delta(owner=""), Reason.MALFORMED),
        (delta(epoch=2**63), Reason.MALFORMED),
        (delta(items=[Item(1, 2, b"k" * 129, b"v", 1, 1, 0)]), Reason.MALFORMED),
        (delta(items=[Item(1, 2, b"k", b"v" * 1001, 1, 1, 0)]), Reason.MALFORMED),
        (delta(items=[Item(256, 2, b"k", b"v", 1, 1, 0)]), Reason.MALFORMED),
    ],
)
def test_what_is_wrong_has_a_reason(raw: bytes, reason: Reason) -> None:
    with pytest.raises(PacketRejected) as caught:
        decode(raw)
    assert caught.value.reason is reason


def test_a_message_in_our_own_name_is_forged() -> None:
    net = Network(2)
    with pytest.raises(PacketRejected) as caught:
        net[0].state.receive(encode(Delta("n0000", 1, 0, 0, [])), address_of("n0001"), net[0].at)
    assert caught.value.reason is Reason.FORGED


def test_only_an_opening_may_come_with_a_push_pull() -> None:
    net = Network(2)
    with pytest.raises(PacketRejected):
        net[0].state.merge_part(delta(), net[0].at)


def test_more_fields_of_a_newer_version_are_skipped() -> None:
    raw = b"\x53\x01" + msgspec.msgpack.encode(["n0001", 1, 0, 2, [], "further", {"more": 1}])
    assert decode(raw) == Delta("n0001", 1, 0, 2, [])


def test_kinds_of_a_newer_version_are_passed_on_and_not_told() -> None:
    net = Network(3)
    net[2].is_up = False
    part = Range("n0001", net[1].epoch, 0, 1, [Item(99, 1, b"k", b"v", 1, 60_000, 0)])
    raw = encode(Delta("n0001", net[1].epoch, 0, Lane.GOSSIP, [part]))
    net[0].state.receive(raw, address_of("n0001"), net[0].at)
    assert not net[0].heard
    [passed_on] = net[0].state.broadcasts(1300, 3, "n0002")
    body = decode(passed_on)
    assert isinstance(body, Delta)
    assert body.ranges[0].items[0].kind == 99


def test_pages_hold_what_they_say() -> None:
    net = Network(1)
    node, rng = net[0], random.Random(3)
    for number in range(500):
        node.state.put(Kind.BLOCK, b"%d" % number, bytes(rng.randrange(1000)), 60.0, node.at)
    own = node.state._store.own
    found = pages(own, 0, 500, 1200)
    assert [page[1] for page in found] == [0, *(page[2] for page in found[:-1])]
    assert found[-1][2] == 500
    assert [record.seq for page in found for record in page[3]] == list(range(1, 501))
    for page in found:
        assert len(node.state._mailer.delta((page,), Lane.FULL, node.at)) <= 1300
