from __future__ import annotations

import random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import PacketRejected
from cluster.serf.coordinates import ORIGIN, Coordinate, Vivaldi, decode_coordinate, encode_coordinate


def test_wire_form_of_the_origin() -> None:
    raw = encode_coordinate(ORIGIN)
    assert raw[0] == 1
    assert msgpack.unpackb(raw[1:], raw=True) == {
        b"Adjustment": 0.0,
        b"Error": 1.5,
        b"Height": 1e-5,
        b"Vec": [0.0] * 8,
    }
    assert decode_coordinate(raw) == ORIGIN


def test_a_network_finds_its_distances() -> None:
    rng = random.Random(7)
    places = {"a": (0.0, 0.0), "b": (0.030, 0.0), "c": (0.0, 0.040), "d": (0.030, 0.040)}
    nodes = {name: Vivaldi(rng) for name in places}

    def round_trip_s(one: str, other: str) -> float:
        (x, y), (u, v) = places[one], places[other]
        return ((x - u) ** 2 + (y - v) ** 2) ** 0.5 + 0.002

    for _ in range(500):
        for name, node in nodes.items():
            other = rng.choice([n for n in nodes if n != name])
            node.hear(nodes[other].here, round_trip_s(name, other))
    pairs = [(one, other) for one in nodes for other in nodes if one < other]
    estimates = {(one, other): nodes[one].here.distance_s(nodes[other].here) for one, other in pairs}
    wrong = [abs(estimate / round_trip_s(*pair) - 1) for pair, estimate in estimates.items()]
    assert sum(wrong) / len(wrong) < 0.15
    assert max(wrong) < 0.3


@pytest.mark.parametrize("round_trip_s", [-1.0, 11.0, float("nan"), float("inf")])
def test_stalls_and_nonsense_move_nothing(round_trip_s: float) -> None:
    node = Vivaldi(random.Random(1))
    node.hear(ORIGIN, round_trip_s)
    assert node.here == ORIGIN


@pytest.mark.parametrize(
    "fields",
    [
        {"Vec": [0.0] * 7},
        {"Vec": None},
        {"Vec": [float("nan")] * 8},
        {"Vec": [1e7] * 8},
        {"Vec": ["x"] * 8},
        {"Vec": [0.0] * 8, "Height": float("inf")},
        {"Vec": [0.0] * 8, "Error": b"x"},
    ],
)
def test_nonsense_is_rejected(fields: dict[str, object]) -> None:
    with pytest.raises(PacketRejected):
        decode_coordinate(b"\x01" + msgpack.packb(fields, use_bin_type=False))


NUMBERS = st.floats(-1e6, 1e6)


@given(
    st.lists(st.tuples(st.lists(NUMBERS, min_size=8, max_size=8), NUMBERS, NUMBERS, NUMBERS), max_size=5),
    st.floats(0, 10),
)
@settings(max_examples=100, deadline=None)
def test_no_peer_can_move_us_out_of_what_may_be_sent(
    heard: list[tuple[list[float], float, float, float]], round_trip_s: float
) -> None:
    node = Vivaldi(random.Random(1))
    for vector, error, adjustment, height in heard:
        node.hear(Coordinate(tuple(vector), error, adjustment, height), round_trip_s)
        assert decode_coordinate(encode_coordinate(node.here)) == node.here
