"""What real Serf agents (Debian 12) sent, recorded by ``capture``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack

from cluster import codec, framing
from cluster.messages import User

from .capture import RING, Vector

RECORDED = Path(__file__).with_name("data") / "agents.txt"


def recorded() -> list[tuple[str, Vector]]:
    """With what is in each, as ``capture.shape`` says it."""
    rows = (line.split("\t") for line in RECORDED.read_text().splitlines())
    return [(what, Vector(kind, bytes.fromhex(raw))) for kind, what, raw in rows]


def opened(vector: Vector) -> list[bytes]:
    """The messages of a datagram, in which nothing may be refused."""
    found = framing.unwrap(framing.open_datagram(vector.raw, RING, b""))
    assert found.refusals == []
    return found.messages


def check_written_again(vector: Vector) -> None:
    """Each message of a datagram is understood, and written again with the fields it had."""
    for raw in opened(vector):
        message = codec.decode(raw)
        again = codec.encode(message)
        assert again[0] == raw[0]
        if isinstance(message, User):
            assert again == raw
        else:
            assert _plain_fields(again) == _plain_fields(raw)


def _plain_fields(raw: bytes) -> dict[bytes, Any]:
    """By MessagePack alone; what is absent, nil, empty or zero is all the same."""
    fields = msgpack.unpackb(raw[1:], raw=True)
    return {key: value for key, value in fields.items() if value not in (None, b"", 0, False)}
