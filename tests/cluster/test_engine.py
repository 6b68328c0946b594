from __future__ import annotations

from dataclasses import replace

import pytest

from cluster import codec, framing, streams
from cluster.address import Address
from cluster.admission import MAX_INCARNATION
from cluster.dialect import pack
from cluster.effects import (
    Change,
    FactChanged,
    Joined,
    KeysChanged,
    MemberChanged,
    Rejected,
    SendDatagram,
    UserEvent,
)
from cluster.engine import Engine
from cluster.errors import Reason
from cluster.facts import Kind
from cluster.keyring import KeyRing
from cluster.messages import VSN, Ack, Alive, Dead, ErrorReply, Ping, PushPull, Suspect, User

from . import lzw
from .company import KEY, Company, make_engine, states

RING = KeyRing([KEY])
OTHER = Address("10.0.0.9", 7946)
A = Address("10.0.0.1", 7946)
NEW_KEY = b"n" * 32
FAR_PING = codec.encode(Ping(1, "a"))


class Sealer:
    """Datagrams of somebody who has the key."""

    def __init__(self, ring: KeyRing = RING, label: bytes = b"") -> None:
        self._ring, self._label, self._count = ring, label, 0

    def __call__(self, plain: bytes) -> bytes:
        self._count += 1
        return framing.seal(plain, self._ring, self._count.to_bytes(12, "big"), self._label)


def alone() -> Company:
    company = Company(make_engine("a", 1))
    company.run(0.0)
    return company


def only(company: Company) -> Engine:
    (engine,) = company.engines.values()
    return engine


def pair(**more: str) -> tuple[Company, Engine, Engine]:
    a, b = make_engine("a", 1, **more), make_engine("b", 2, **more)  # type: ignore[arg-type]
    company = Company(a, b)
    company.join()
    return company, a, b


def refused(engine: Engine, data: bytes) -> list[Reason]:
    """The reasons that were told, each of which must have been counted."""
    before = engine.figures()
    engine.effects()
    engine.receive_datagram(data, OTHER, Company(make_engine("clock", 99)).at)
    told = [effect for effect in engine.effects() if isinstance(effect, Rejected)]
    assert all(effect.source == OTHER for effect in told)
    after = engine.figures()
    for reason in Reason:
        counted = after[f"rejected_{reason.value}"] - before[f"rejected_{reason.value}"]
        assert counted == sum(effect.reason is reason for effect in told)
    assert after["packets_received"] == before["packets_received"] + 1
    assert after["packet_bytes_received"] == before["packet_bytes_received"] + len(data)
    return [effect.reason for effect in told]


# --- together ---


@pytest.mark.parametrize("label", ["", "mail"])
def test_two_find_each_other(label: str) -> None:
    company, a, b = pair(label=label)
    assert states(a) == states(b) == {"a": "alive", "b": "alive"}
    there = {member.name: member for member in a.members()}["b"]
    assert there.tags["zone"] == "z2"
    assert there.address == Address("10.0.0.2", 7946)
    assert Joined(Address("10.0.0.1", 7946), "") in company.told["b"]
    company.run(30.0)
    assert not [
        effect for effects in company.told.values() for effect in effects if isinstance(effect, Rejected)
    ]
    assert {name: member.incarnation for name, member in {m.name: m for m in b.members()}.items()} == {
        "a": 1,
        "b": 1,
    }
    assert a.figures()["members_suspect"] == 0


def test_two_find_each_other_by_ipv6() -> None:
    company, a, b = pair(network="fd00::")
    company.run(10.0)
    assert states(a) == states(b) == {"a": "alive", "b": "alive"}
    assert {member.address.ip for member in a.members()} == {"fd00::1", "fd00::2"}
    assert a.figures()["probe_acks"] > 0


def test_event_and_fact_arrive() -> None:
    company, a, b = pair()
    a.send_event("deploy", b"payload", company.at)
    a.put(Kind.BLOCK, b"192.0.2.1", b"why", 60.0, company.at)
    company.run(1.0)
    assert [e.payload for e in company.told["b"] if isinstance(e, UserEvent)] == [b"payload"]
    assert [(e.origin, e.key, e.value) for e in company.told["b"] if isinstance(e, FactChanged)] == [
        ("a", b"192.0.2.1", b"why")
    ]
    assert [entry.key for entry in b.entries(Kind.BLOCK, company.at)] == [b"192.0.2.1"]


def test_one_that_leaves_has_left_and_one_that_is_silent_has_failed() -> None:
    company = Company(*(make_engine(name, number) for number, name in enumerate("abc", 1)))
    company.join()
    a, b, c = company.engines.values()
    b.leave(company.at)
    company.run(3.0)
    assert b.has_left
    assert states(a)["b"] == states(c)["b"] == "left"
    company.hears = lambda sender, datagram: c not in (sender, company.engines.get(datagram.to))
    del company.engines[c.settings.advertise]
    company.run(30.0)
    assert states(a)["c"] == "dead"
    changes = [(e.change, e.member.name) for e in company.told["a"] if isinstance(e, MemberChanged)]
    assert (Change.LEFT, "b") in changes
    assert (Change.FAILED, "c") in changes
    assert (Change.FAILED, "b") not in changes


def test_leaving_says_so_before_it_goes() -> None:
    """An agent that hears of the end without the intent shows the node as failed."""
    company, a, _ = pair()
    company.sent.clear()
    a.leave(company.at)
    company.run(3.0)
    plain = [framing.open_datagram(sent.data, RING, b"") for sent in company.sent]
    messages = [raw for each in plain for raw in framing.unwrap(each).messages]
    first_intent = next(i for i, raw in enumerate(messages) if raw[:2] == b"\x08\x00")
    first_dead = next(i for i, raw in enumerate(messages) if raw[0] == 5)
    assert first_intent < first_dead
    assert codec.decode(messages[first_dead]) == Dead(1, "a", "a")


def test_leaving_alone_takes_no_time() -> None:
    company = alone()
    only(company).leave(company.at)
    company.run(0.1)
    assert only(company).has_left


def test_the_same_seed_does_the_same() -> None:
    def run(seed: int) -> list[SendDatagram]:
        company = Company(*(make_engine(name, i, seed=seed) for i, name in enumerate("abcd", 1)))
        company.join()
        company.run(10.0)
        return company.sent

    assert run(1) == run(1) != run(2)


# --- keys ---


def test_keys_change_while_packets_flow() -> None:
    company, a, b = pair()
    for keys in ((KEY, NEW_KEY), (NEW_KEY, KEY), (NEW_KEY,)):
        for engine in (a, b):
            engine.set_keys(keys, company.at)
            company.run(3.0)
    assert a.keys == b.keys == (NEW_KEY,)
    assert states(a) == states(b) == {"a": "alive", "b": "alive"}
    assert a.figures()["rejected_key"] == b.figures()["rejected_key"] == 0
    told = [effect for effect in company.told["a"] if isinstance(effect, KeysChanged)]
    assert [effect.keys for effect in told] == [(KEY, NEW_KEY), (NEW_KEY, KEY), (NEW_KEY,)]
    with pytest.raises(ValueError, match="not 5"):
        a.set_keys([b"short"], company.at)
    assert "nnnn" not in repr(told) + repr(a.settings)


def test_joining_with_another_key_says_what_is_wrong() -> None:
    a, b = make_engine("a", 1), make_engine("b", 2, key=NEW_KEY)
    company = Company(a, b)
    company.join()
    (outcome,) = [effect for effect in company.told["b"] if isinstance(effect, Joined)]
    assert outcome.error == "no answer"
    assert [e.reason for e in company.told["a"] if isinstance(e, Rejected)] == [Reason.KEY]
    assert states(a) == {"a": "alive"}


def test_answer_with_another_key_says_what_is_wrong() -> None:
    """An agent answers a request that it cannot open with an error under its own key."""
    company = alone()
    engine = only(company)
    engine.join([OTHER], company.at)
    (stream,) = engine.effects()
    reply = streams.encode_reply(codec.encode(ErrorReply("no")), KeyRing([NEW_KEY]), bytes(12))
    engine.receive_stream_reply(stream.ticket, reply, company.at)  # type: ignore[union-attr]
    assert engine.effects() == [
        Rejected(OTHER, Reason.KEY, ""),
        Joined(OTHER, "its answer was refused: key"),
    ]


def test_answer_that_is_an_error_is_passed_on() -> None:
    company = alone()
    engine = only(company)
    engine.join([OTHER], company.at)
    (stream,) = engine.effects()
    reply = streams.encode_reply(codec.encode(ErrorReply("no room")), RING, bytes(12))
    engine.receive_stream_reply(stream.ticket, reply, company.at)  # type: ignore[union-attr]
    assert engine.effects() == [Joined(OTHER, "it says: no room")]


def test_reply_to_nothing_is_ignored() -> None:
    company = alone()
    only(company).receive_stream_reply(77, b"\x0a", company.at)
    assert only(company).effects() == []


# --- what is dropped ---


def whole(plain: bytes) -> bytes:
    return Sealer()(plain)


ALIVE = Alive(1, "x", OTHER)


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (b"", [Reason.TRUNCATED]),
        (FAR_PING, [Reason.PLAINTEXT]),
        (Sealer(KeyRing([NEW_KEY]))(FAR_PING), [Reason.KEY]),
        (Sealer(label=b"mail")(FAR_PING), [Reason.LABEL]),
        (bytes(70_000), [Reason.OVERSIZED]),
        (whole(b"")[:-1], [Reason.TRUNCATED]),
        (whole(b""), [Reason.TRUNCATED]),
        (whole(b"\x0c\0\0\0\0" + FAR_PING), [Reason.CHECKSUM]),
        (whole(lzw.message(bytes(100_000))), [Reason.OVERSIZED]),
        (whole(lzw.message(FAR_PING, algorithm=3)), [Reason.COMPRESSION]),
        (whole(b"\x63" + FAR_PING), [Reason.UNKNOWN_TYPE]),
        (whole(codec.encode(ErrorReply("no"))), [Reason.UNKNOWN_TYPE]),
        (whole(codec.encode(PushPull((), b"", False))), [Reason.UNKNOWN_TYPE]),
        (whole(b"\x02\xc0"), [Reason.MALFORMED]),
        (whole(codec.encode(User(b"\x77abc"))), [Reason.UNKNOWN_TYPE]),
        (whole(codec.encode(User(b"\x53"))), [Reason.UNKNOWN_TYPE]),
        (whole(codec.encode(replace(ALIVE, vsn=bytes(6)))), [Reason.VERSION]),
        (whole(codec.encode(replace(ALIVE, address=Address("127.0.0.1", 1)))), [Reason.FORGED]),
        (whole(codec.encode(replace(ALIVE, incarnation=2**32 - 1))), [Reason.FORGED]),
        (
            whole(framing.compound([FAR_PING, b"\x63", FAR_PING, b"\x02"])),
            [Reason.UNKNOWN_TYPE, Reason.TRUNCATED],
        ),
    ],
)
def test_refused_and_counted(data: bytes, reasons: list[Reason]) -> None:
    engine = only(alone())
    members = engine.members()
    assert refused(engine, data) == reasons
    assert engine.members() == members


def test_the_good_parts_of_a_packet_count() -> None:
    company = alone()
    engine = only(company)
    truncated = framing.compound([codec.encode(ALIVE), FAR_PING, FAR_PING])[:-1]
    engine.receive_datagram(whole(truncated), OTHER, company.at)
    effects = engine.effects()
    assert [effect.reason for effect in effects if isinstance(effect, Rejected)] == [Reason.TRUNCATED]
    assert states(engine) == {"a": "alive", "x": "alive"}
    acks = [effect for effect in effects if isinstance(effect, SendDatagram)]
    messages = framing.unwrap(framing.open_datagram(acks[0].data, RING, b"")).messages
    assert isinstance(codec.decode(messages[0]), Ack)


def test_replay() -> None:
    engine = only(alone())
    data = whole(FAR_PING)
    assert refused(engine, data) == []
    assert refused(engine, data) == [Reason.REPLAYED]
    forged = bytearray(data)
    forged[-1] ^= 1
    assert refused(engine, bytes(forged)) == [Reason.KEY]


def test_packet_of_somebody_without_the_key_cannot_fill_the_window() -> None:
    """He sees a packet, and sends rubbish with its nonce before it arrives."""
    engine = only(alone())
    data = whole(FAR_PING)
    assert refused(engine, data[:13] + bytes(len(data) - 13)) == [Reason.KEY]
    assert refused(engine, data) == []


def test_forged_suspicion_is_refuted() -> None:
    company, a, b = pair()
    forged = whole(codec.encode(Suspect(1, "a", "b")))
    a.receive_datagram(forged, OTHER, company.at)
    company.run(2.0)
    assert {member.name: member.incarnation for member in b.members()} == {"a": 2, "b": 1}
    assert states(b) == {"a": "alive", "b": "alive"}


# --- streams ---


def request(plain: bytes, ring: KeyRing = RING) -> bytes:
    return streams.encode_request(plain, ring, bytes(12))


def test_stream_that_does_not_open_is_not_answered() -> None:
    company = alone()
    engine = only(company)
    for data in (b"", b"\x06", request(FAR_PING, KeyRing([NEW_KEY])), request(FAR_PING)[:-1]):
        assert engine.receive_stream(data, OTHER, company.at) is None
    assert [effect.reason for effect in engine.effects() if isinstance(effect, Rejected)] == [
        Reason.TRUNCATED,
        Reason.PLAINTEXT,
        Reason.KEY,
        Reason.TRUNCATED,
    ]
    assert engine.figures()["requests_received"] == 4


def test_stream_that_opens_and_is_refused_is_told_why() -> None:
    company = alone()
    engine = only(company)
    reply = engine.receive_stream(request(codec.encode(Ping(1, "somebody else"))), OTHER, company.at)
    assert reply is not None
    answer = streams.decode_reply(reply, RING)
    assert isinstance(answer, ErrorReply)
    assert "somebody else" in answer.text
    assert [type(effect) for effect in engine.effects()] == [Rejected]


def test_ping_and_user_message_on_streams() -> None:
    company = alone()
    engine = only(company)
    reply = engine.receive_stream(request(FAR_PING), OTHER, company.at)
    assert reply is not None
    assert streams.decode_reply(reply, RING) == Ack(1)
    event = codec.encode(User(b"\x03" + pack({"LTime": 1, "Name": "deploy", "Payload": b"x", "CC": True})))
    assert engine.receive_stream(request(event), OTHER, company.at) is None
    assert [effect.name for effect in engine.effects() if isinstance(effect, UserEvent)] == ["deploy"]


# --- settings ---


@pytest.mark.parametrize("wrong", [{"keys": ()}, {"keys": (b"short",)}, {"label": "x" * 256}])
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    good = make_engine("a", 1).settings
    with pytest.raises(ValueError):
        Engine(replace(good, **wrong), None, bytes)  # type: ignore[arg-type]


def test_one_driven_to_the_highest_incarnation_lives_and_can_die() -> None:
    """By somebody with the key. It must neither be put out of the cluster nor become immortal."""
    company, a, b = pair()
    seal = Sealer()
    for incarnation in (MAX_INCARNATION - 1, MAX_INCARNATION, MAX_INCARNATION + 1, 2**32 - 1):
        for statement in (
            Suspect(incarnation, "a", "b"),
            Dead(incarnation, "a", "b"),
            Alive(incarnation, "a", A),
        ):
            for engine in (a, b):
                engine.receive_datagram(seal(codec.encode(statement)), OTHER, company.at)
            company.run(1.0)
    assert {member.name: member.incarnation for member in b.members()}["a"] == MAX_INCARNATION
    assert states(a) == states(b) == {"a": "alive", "b": "alive"}
    del company.engines[A]
    company.run(30.0)
    assert states(b)["a"] == "dead"


def test_of_names_that_somebody_makes_up_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the key says of ever new nodes that they came and died: what is kept of them is bounded."""
    monkeypatch.setattr("cluster.members.MAX_MEMBERS", 8)
    company = Company(make_engine("a", 1), make_engine("b", 2))
    company.join()
    victim, seal = company.engines[A], Sealer()
    for number in range(100):
        name = f"made-up-{number}"
        for said in (Alive(1, name, OTHER, b"", VSN), Dead(1, name, "b")):
            victim.receive_datagram(seal(codec.encode(said)), OTHER, company.at)
    told = [each for each in victim.effects() if isinstance(each, MemberChanged)]
    assert len(victim.members()) == 8
    assert {view.name for view in victim.members()} >= {"a", "b", "made-up-99"}
    assert [each.member.name for each in told if each.change is Change.REAPED] == [
        f"made-up-{number}" for number in range(94)
    ]
