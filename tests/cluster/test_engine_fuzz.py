"""Any datagram and any stream is applied or refused: never an exception, never more than a bounded answer.

Whoever has the key can send anything, so most of what is tried here opens: recorded packets of real agents
and packets of our own, damaged inside of the encryption.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import codec, framing
from cluster.address import Address
from cluster.dialect import pack
from cluster.effects import Rejected
from cluster.messages import Alive, Dead, Ping, Suspect

from . import lzw
from .fuzz import MESSAGES, PLAIN, RING, SOURCE, STREAMS, Subject, mutated, run


@pytest.mark.parametrize("seed", range(4))
def test_damaged_packets_of_those_who_have_the_key(seed: int) -> None:
    rng = random.Random(seed)
    subject = Subject()
    for _ in range(1500):
        plain = mutated(rng.choice(PLAIN), rng)
        subject.datagram(plain)
    subject.is_sane()


@pytest.mark.parametrize("seed", range(2))
def test_damaged_messages_in_intact_packets(seed: int) -> None:
    """Each message by itself, so that the damage is deeper than the layers."""
    rng = random.Random(seed)
    subject = Subject()
    for _ in range(1500):
        subject.datagram(framing.compound([mutated(rng.choice(MESSAGES), rng), rng.choice(MESSAGES)]))
    subject.is_sane()


@pytest.mark.parametrize("seed", range(2))
def test_damaged_streams_of_those_who_have_the_key(seed: int) -> None:
    rng = random.Random(seed)
    subject = Subject()
    for _ in range(300):
        subject.stream(mutated(rng.choice(STREAMS), rng))
    subject.is_sane()


def test_everything_undamaged_but_out_of_place() -> None:
    subject = Subject()
    for plain in (*PLAIN, *reversed(PLAIN), *PLAIN):
        subject.datagram(plain)
        subject.datagram(lzw.message(plain))
        subject.datagram(framing.compound([framing.compound([plain, plain]), plain]))
    for plain in STREAMS:
        subject.stream(plain)
        subject.stream(lzw.message(plain))
    subject.is_sane()


@pytest.mark.parametrize("seed", range(1, 5))
def test_everything_together(seed: int) -> None:
    """More of it: ``python -m tests.cluster.fuzz``."""
    run(seed)


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_bytes_of_anybody(data: bytes) -> None:
    engine = SHARED.engine
    engine.receive_datagram(data, SOURCE, SHARED.company.at)
    assert any(isinstance(effect, Rejected) for effect in engine.effects())
    assert engine.receive_stream(data, SOURCE, SHARED.company.at) is None


@given(st.sampled_from(PLAIN), st.data())
@settings(max_examples=150)
def test_sealed_packets_that_were_altered_on_the_way(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(framing.seal(plain, RING, SHARED.nonce(), b""))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    SHARED.engine.receive_datagram(bytes(sealed), SOURCE, SHARED.company.at)
    assert any(isinstance(effect, Rejected) for effect in SHARED.engine.effects())


SHARED = Subject()

fields = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.binary(max_size=40)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.binary(max_size=8), st.integers(0, 9)), inner, max_size=5),
    ),
    max_leaves=12,
)
NAMES = [
    *(
        "SeqNo",
        "Node",
        "SourceAddr",
        "SourcePort",
        "SourceNode",
        "Target",
        "Port",
        "Nack",
        "Payload",
        "Error",
    ),
    *("Incarnation", "From", "Addr", "Meta", "Vsn", "Algo", "Buf"),
    *(
        "LTime",
        "Prune",
        "Name",
        "CC",
        "ID",
        "Filters",
        "Flags",
        "RelayFactor",
        "Timeout",
        "DestAddr",
        "DestName",
    ),
]


@given(st.integers(0, 20), st.integers(0, 12), st.dictionaries(st.sampled_from(NAMES), fields, max_size=8))
@settings(max_examples=200)
def test_any_fields_in_any_message(kind: int, inner: int, content: dict[str, object]) -> None:
    SHARED.datagram(bytes((kind,)) + pack(content))
    SHARED.datagram(bytes((8, inner)) + pack(content))


def test_forged_names_and_numbers() -> None:
    """Statements about everybody by everybody, with every incarnation."""
    rng = random.Random(5)
    subject = Subject()
    names = ["a", "b", "c", "new", "n" * 128]
    for _ in range(1500):
        incarnation = rng.choice((0, 1, 2, 3, 1000, 2**31, 2**32 - 1))
        name, accuser = rng.choice(names), rng.choice(names)
        address = Address(f"10.0.{rng.randrange(2)}.{rng.randrange(1, 5)}", rng.choice((7946, 1)))
        message = rng.choice(
            (
                Alive(incarnation, name, address, rng.choice((b"", b"\xff\x80", b"\xff\xc1", b"role"))),
                Suspect(incarnation, name, accuser),
                Dead(incarnation, name, accuser),
                Ping(rng.randrange(2**32), name, address, accuser),
            )
        )
        subject.datagram(codec.encode(message))
    subject.is_sane()
