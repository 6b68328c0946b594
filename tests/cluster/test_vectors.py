"""The codec against what real agents sent: it is read whole, and written again as the agents wrote it."""

from __future__ import annotations

import pytest

from cluster import codec, streams
from cluster.messages import VSN, MessageType, PushPull

from .capture import RING, Vector, shape
from .vectors import check_written_again, opened, recorded

VECTORS = recorded()
IDS = [f"{vector.kind}-{number}" for number, (_, vector) in enumerate(VECTORS)]


@pytest.mark.parametrize(("what", "vector"), VECTORS, ids=IDS)
def test_layers(what: str, vector: Vector) -> None:
    assert shape(vector) == what


@pytest.mark.parametrize("vector", [v for _, v in VECTORS if v.kind == "datagram"])
def test_messages_are_written_as_agents_do(vector: Vector) -> None:
    check_written_again(vector)


@pytest.mark.parametrize("vector", [v for what, v in VECTORS if what == "pushpull"])
def test_push_pull_of_an_agent(vector: Vector) -> None:
    decode = streams.decode_request if vector.kind == "request" else streams.decode_reply
    state = decode(vector.raw, RING)
    assert isinstance(state, PushPull)
    by_name = {record.node: record for record in state.nodes}
    assert {"a", "b", "c"} <= set(by_name)
    assert {record.vsn for record in state.nodes if record.node != "x"} == {VSN}
    assert by_name["b"].meta == b"\xff\x82\xa4role\xa2mx\xa4zone\xa4eu-1"
    assert state.user_state[0] == 2
    assert codec.decode_push_pull(codec.encode(state)) == state


def test_every_kind_of_message_was_recorded() -> None:
    types = {raw[0] for _, vector in VECTORS if vector.kind == "datagram" for raw in opened(vector)}
    stream_only = {MessageType.PUSH_PULL, MessageType.ERROR, MessageType.ENCRYPT}
    layers = {MessageType.COMPOUND, MessageType.COMPRESS, MessageType.CRC, MessageType.LABEL}
    assert types == set(MessageType) - stream_only - layers
    assert {layer for what, _ in VECTORS for layer in what.partition(":")[0].split("+")} >= {
        "compound",
        "compress",
        "crc",
    }
