"""Whatever somebody with the key sends to an engine, it goes on and stays sane.

    python -m tests.cluster.fuzz --seconds 60

One seed is one engine that takes a thousand damaged packets and streams. What fails is printed with the
command that repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Iterator

from cluster import codec, framing, streams
from cluster.address import Address
from cluster.delegate import part_of
from cluster.effects import OpenStream, SendDatagram
from cluster.engine import Engine
from cluster.facts import Kind, NoticeKind
from cluster.keyring import KeyRing
from cluster.serf import codec as serf_codec
from cluster.serf.keyqueries import KEY_QUERIES, encode_key_request
from cluster.serf.messages import Query, QueryFlag, QueryResponse, Relay

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


def rare() -> Iterator[bytes]:
    """Messages of Serf that were not recorded: relays, and queries that change or ask for something."""
    asker = Address("10.0.0.2", 7946)
    answer = serf_codec.encode(QueryResponse(3, 9, "b", is_ack=True))
    yield part_of(serf_codec.encode(Relay(asker, "b", answer)))
    key = encode_key_request(b"n" * 32)
    names = ("_serf_ping", "_serf_conflict", *KEY_QUERIES)
    for number, name in enumerate(names):
        payload = key if name in KEY_QUERIES else b"b"
        query = Query(5 + number, number, asker, "b", (), QueryFlag.ACK, 2, 5.0, name, payload)
        yield part_of(serf_codec.encode(query))


def plain_packets() -> list[bytes]:
    agents = [framing.open_datagram(v.raw, RING, b"") for _, v in recorded() if v.kind == "datagram"]
    by_types = {tuple(raw[:2] for raw in framing.unwrap(plain).messages): plain for plain in ours()}
    return agents + sorted(by_types.values()) + list(rare())


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
MESSAGES = [raw for plain in PLAIN for raw in framing.unwrap(plain).messages]


def mutated(plain: bytes, rng: random.Random) -> bytes:
    """One of: bits turned, bytes set, cut, doubled, a piece of another packet put in, numbers blown up."""
    raw = bytearray(plain)
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(len(raw))] = rng.choice(EDGES)
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

    @property
    def ring(self) -> KeyRing:
        """Of now: whoever has the key can change it."""
        return KeyRing(self.engine.keys)

    def datagram(self, plain: bytes) -> None:
        self.raw_datagram(framing.seal(plain, self.ring, self.nonce(), b""))

    def raw_datagram(self, data: bytes) -> None:
        before = self.engine.figures()["packets_received"]
        self.engine.receive_datagram(data, SOURCE, self.company.at)
        assert self.engine.figures()["packets_received"] == before + 1
        self.settle()

    def stream(self, plain: bytes) -> None:
        """As request, and as the reply to a push/pull of ours."""
        frame = streams.encode_reply(plain, self.ring, self.nonce())
        reply = self.engine.receive_stream(frame, SOURCE, self.company.at)
        assert reply is None or streams.decode_reply(reply, self.ring) is not None
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
        ring = self.ring
        for effect in effects:
            if isinstance(effect, SendDatagram):
                assert len(effect.data) <= 65_507
                found = framing.unwrap(framing.open_datagram(effect.data, ring, b""))
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
        late = make_engine("late", 50, key=engine.keys[0])
        company = Company(late)
        company.now = self.company.now
        late.join([engine.settings.advertise], company.at)
        (request,) = [effect for effect in late.effects() if isinstance(effect, OpenStream)]
        reply = engine.receive_stream(request.data, late.settings.advertise, company.at)
        late.receive_stream_reply(request.ticket, reply, company.at)
        assert "a" in {member.name for member in late.members()}


def run(seed: int, steps: int = 1_000) -> None:
    """Raises whatever is wrong."""
    rng = random.Random(seed)
    subject = Subject()
    for _ in range(steps):
        choice = rng.randrange(10)
        if choice < 3:
            subject.datagram(mutated(rng.choice(PLAIN), rng))
        elif choice < 7:
            subject.datagram(mutated(rng.choice(MESSAGES), rng))
        elif choice < 8:
            subject.datagram(framing.compound([mutated(rng.choice(MESSAGES), rng), rng.choice(MESSAGES)]))
        elif choice < 9:
            subject.stream(mutated(rng.choice(STREAMS), rng))
        else:
            subject.company.now += 3.0 * rng.random()
            subject.settle()
    subject.is_sane()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="only this one")
    wanted = parser.parse_args()
    if wanted.seed is not None:
        run(wanted.seed)
        return 0
    end = time.monotonic() + wanted.seconds
    seed = failed = 0
    while time.monotonic() < end:
        seed += 1
        try:
            run(seed)
        except Exception:
            failed += 1
            traceback.print_exc()
            sys.stderr.write(f"repeat with: python -m tests.cluster.fuzz --seed {seed}\n")
    sys.stdout.write(f"{seed} seeds, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
