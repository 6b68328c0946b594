"""Any datagram and any stream is applied or refused: never an exception, never more than a bounded answer.

Whoever has the key can send anything, so most of what is tried here opens: recorded packets of real agents
and packets of our own, damaged inside of the encryption.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import codec, framing, streams
from cluster.address import Address
from cluster.dialect import pack
from cluster.effects import OpenStream, Rejected, SendDatagram
from cluster.engine import Engine
from cluster.facts import Kind, NoticeKind
from cluster.keyring import KeyRing
from cluster.messages import Alive, Dead, Ping, Suspect

from . import lzw
from .company import KEY, Company, make_engine
from .vectors import recorded

RING = KeyRing([KEY])
SOURCE = Address("10.0.0.77", 7946)
EDGES = bytes.fromhex("007f808f909fa0bfc0c1c4cacccfd3dbdddfff")  # of MessagePack's types
MOST_EFFECTS = 5_000  # of one packet


def ours() -> Iterator[bytes]:
    """What our own nodes send, opened."""
    company = Company(*(make_engine(name, number) for number, name in enumerate("abc", 1)))
    company.join()
    a, b, c = company.engines.values()
    a.send_event("deploy", b"payload", company.at)
    a.ask("uptime", b"", company.at, nodes=["b"], tags={"zone": "z.*"}, wants_ack=True)
    for number in range(40):
        a.put(Kind.BLOCK, b"key %d" % number, b"value", 60.0, company.at)
        b.put(Kind.SESSIONS, b"account %d" % number, b"", 60.0, company.at)
    b.tell(NoticeKind.MAILBOX, b"notice", company.at)
    company.run(5.0)
    c.leave(company.at)
    company.run(3.0)
    for sent in company.sent:
        yield framing.open_datagram(sent.data, RING, b"")


def plain_packets() -> list[bytes]:
    agents = [framing.open_datagram(v.raw, RING, b"") for _, v in recorded() if v.kind == "datagram"]
    by_types = {tuple(raw[:2] for raw in framing.unwrap(plain).messages): plain for plain in ours()}
    return agents + sorted(by_types.values())


def stream_plains() -> list[bytes]:
    """Requests of agents and of our own, opened."""
    company = Company(make_engine("a", 1), make_engine("b", 2))
    company.join()
    a, _ = company.engines.values()
    a.put(Kind.BLOCK, b"key", b"value", 60.0, company.at)
    a.join([SOURCE], company.at)
    raws = [vector.raw for _, vector in recorded() if vector.kind == "request"]
    raws += [effect.data for effect in a.effects() if isinstance(effect, OpenStream)]
    return [streams._open(raw, RING, b"") for raw in raws]


PLAIN = plain_packets()
STREAMS = stream_plains()


def mutated(plain: bytes, rng: random.Random) -> bytes:
    """One of: bits turned, bytes set, cut, doubled, a piece of another packet put in, numbers blown up."""
    raw = bytearray(plain)
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(len(raw))] = rng.choice(
                b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xcc\xcf\xd3\xdb\xdd\xdf\xff"
            )
    elif kind == 2:
        del raw[rng.randrange(len(raw)) :]
    elif kind == 3:
        at = rng.randrange(len(raw))
        raw[at:at] = raw[at : at + rng.randint(1, 40)]
    elif kind == 4:
        other = rng.choice(PLAIN)
        at = rng.randrange(len(raw))
        raw[at : at + rng.randint(0, 30)] = other[rng.randrange(len(other)) :][: rng.randint(1, 60)]
    else:
        at = rng.randrange(len(raw))
        raw[at : at + 1] = b"\xcf" + rng.randbytes(8)
    return bytes(raw)


class Subject:
    """An engine that has members and has to take everything, and is sane afterwards."""

    def __init__(self) -> None:
        self.company = Company(*(make_engine(name, number) for number, name in enumerate("abc", 1)))
        self.company.join()
        self.engine: Engine = next(iter(self.company.engines.values()))
        self._nonce = 0

    def nonce(self) -> bytes:
        self._nonce += 1
        return self._nonce.to_bytes(12, "little")

    def datagram(self, plain: bytes) -> None:
        self.raw_datagram(framing.seal(plain, RING, self.nonce(), b""))

    def raw_datagram(self, data: bytes) -> None:
        before = self.engine.figures()["packets_received"]
        self.engine.receive_datagram(data, SOURCE, self.company.at)
        assert self.engine.figures()["packets_received"] == before + 1
        self.settle()

    def stream(self, plain: bytes) -> None:
        """As request, and as the reply to a push/pull of ours."""
        frame = streams.encode_reply(plain, RING, self.nonce())
        reply = self.engine.receive_stream(frame, SOURCE, self.company.at)
        assert reply is None or streams.decode_reply(reply, RING) is not None
        self.engine.join([SOURCE], self.company.at)
        tickets = [effect.ticket for effect in self.engine.effects() if isinstance(effect, OpenStream)]
        for ticket in tickets:
            self.engine.receive_stream_reply(ticket, frame, self.company.at)
        self.settle()

    def settle(self) -> None:
        """A little later; what it sends is nothing that it would itself refuse."""
        self.company.now += 0.05
        self.engine.tick(self.company.at)
        effects = self.engine.effects()
        assert len(effects) <= MOST_EFFECTS
        for effect in effects:
            if isinstance(effect, SendDatagram):
                assert len(effect.data) <= 65_507
                found = framing.unwrap(framing.open_datagram(effect.data, RING, b""))
                assert found.refusals == []
                for raw in found.messages:
                    codec.decode(raw)
            elif isinstance(effect, OpenStream):
                self.engine.receive_stream_reply(effect.ticket, None, self.company.at)

    def is_sane(self) -> None:
        engine = self.engine
        own = {member.name: member for member in engine.members()}["a"]
        assert own.state.name == "ALIVE"
        assert engine.next_deadline() > 0
        assert all(value >= 0 for name, value in engine.figures().items()), engine.figures()
        late = make_engine("late", 50)
        company = Company(late)
        company.now = self.company.now
        late.join([engine.settings.advertise], company.at)
        (request,) = [effect for effect in late.effects() if isinstance(effect, OpenStream)]
        reply = engine.receive_stream(request.data, late.settings.advertise, company.at)
        late.receive_stream_reply(request.ticket, reply, company.at)
        assert "a" in {member.name for member in late.members()}


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
    messages = [raw for plain in PLAIN for raw in framing.unwrap(plain).messages]
    for _ in range(1500):
        subject.datagram(framing.compound([mutated(rng.choice(messages), rng), rng.choice(messages)]))
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
