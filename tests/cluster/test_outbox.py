from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import codec, framing, streams
from cluster.address import Address
from cluster.api import Settings
from cluster.effects import OpenStream, SendDatagram
from cluster.keyring import KeyRing
from cluster.messages import Ack, Nack, Ping, User
from cluster.outbox import Outbox

KEY = b"k" * 32
RING = KeyRing([KEY])
TO = Address("10.0.0.2", 7946)
PING = codec.encode(Ping(1, "b"))
NACK = codec.encode(Nack(1))


class Queues:
    """What there is to piggyback; keeps what was asked for."""

    def __init__(self, membership: list[bytes] | None = None, users: list[bytes] | None = None) -> None:
        self._membership, self._users = membership or [], users or []
        self.asked: list[tuple[object, ...]] = []

    def membership(self, room: int, overhead: int) -> list[bytes]:
        self.asked.append((room, overhead))
        return self._fitting(self._membership, room, overhead)

    def users(self, room: int, overhead: int, to: str) -> list[bytes]:
        self.asked.append((room, overhead, to))
        return self._fitting(self._users, room, overhead)

    @staticmethod
    def _fitting(queue: list[bytes], room: int, overhead: int) -> list[bytes]:
        found = []
        for raw in queue:
            if len(raw) + overhead <= room:
                found.append(raw)
                room -= len(raw) + overhead
        return found


def make(queues: Queues, label: str = "") -> Outbox:
    numbers = count()
    made = Settings("a", Address("10.0.0.1", 7946), (KEY,), label=label)
    outbox = Outbox(made, RING, lambda: next(numbers).to_bytes(12, "big"))
    outbox.attach(queues.membership, queues.users)
    return outbox


def sent(outbox: Outbox, label: bytes = b"") -> list[list[bytes]]:
    """The messages of each datagram that was sent."""
    effects = outbox.take()
    assert all(isinstance(effect, SendDatagram) and effect.to == TO for effect in effects)
    opened = [framing.open_datagram(effect.data, RING, label) for effect in effects]  # type: ignore[union-attr]
    return [framing.unwrap(plain).messages for plain in opened]


def test_membership_goes_before_the_others() -> None:
    queues = Queues([NACK, NACK], [b"\x03event", b"\x53state"])
    outbox = make(queues)
    outbox.send(TO, [PING], node="b")
    assert sent(outbox) == [[PING, NACK, NACK, b"\x08\x03event", b"\x08\x53state"]]
    room = 1400 - 2 - 29 - (len(PING) + 2)
    assert queues.asked == [(room, 2), (room - 2 * (len(NACK) + 2), 3, "b")]
    assert outbox.take() == []


def test_nothing_is_added_unless_wanted() -> None:
    outbox = make(Queues([NACK], [b"\x03event"]))
    outbox.send(TO, [PING], piggyback=False)
    assert sent(outbox) == [[PING]]


def test_round_of_gossip_with_nothing_to_tell_is_no_packet() -> None:
    outbox = make(Queues())
    outbox.send(TO, [])
    assert outbox.take() == []
    told = make(Queues([], [b"\x03event"]))
    told.send(TO, [])
    assert sent(told) == [[b"\x08\x03event"]]


@given(st.lists(st.integers(1, 1600), max_size=12), st.lists(st.integers(1, 400), max_size=12), st.booleans())
@settings(max_examples=100)
def test_datagrams_keep_to_their_size_and_lose_nothing(
    sizes: list[int], gossip: list[int], labelled: bool
) -> None:
    label = "mail" if labelled else ""
    parts = [b"\x20" + bytes(size) for size in sizes]
    outbox = make(
        Queues([b"\x21" + bytes(size) for size in gossip], [b"\x22" + bytes(size) for size in gossip]), label
    )
    outbox.send(TO, parts)
    effects = outbox.take()
    opened = [framing.unwrap(framing.open_datagram(e.data, RING, label.encode())).messages for e in effects]  # type: ignore[union-attr]
    assert [each for group in opened for each in group if each[0] == 0x20] == parts
    for effect, group in zip(effects, opened, strict=True):
        assert isinstance(effect, SendDatagram)
        assert len(effect.data) <= 1400 or (len(group) == 1 and group[0][0] == 0x20)


def test_more_parts_than_a_compound_may_have() -> None:
    outbox = make(Queues())
    outbox.send(TO, [b"\x20"] * 300)
    assert [len(group) for group in sent(outbox)] == [255, 45]


@pytest.mark.parametrize("label", ["", "mail"])
def test_streams(label: str) -> None:
    outbox = make(Queues(), label)
    tickets = [
        outbox.open_stream(TO, codec.encode(Ping(1, "b")), wants_reply=True),
        outbox.open_stream(TO, codec.encode(User(b"\x53state")), wants_reply=False),
    ]
    effects = outbox.take()
    assert [effect.ticket for effect in effects if isinstance(effect, OpenStream)] == tickets
    assert [effect.wants_reply for effect in effects if isinstance(effect, OpenStream)] == [True, False]
    found = [streams.decode_request(e.data, RING, label) for e in effects if isinstance(e, OpenStream)]
    assert found == [Ping(1, "b"), User(b"\x53state")]
    assert streams.decode_reply(outbox.reply(codec.encode(Ack(1))), RING, label) == Ack(1)


def test_no_nonce_is_used_twice() -> None:
    outbox = make(Queues())
    outbox.send(TO, [PING])
    outbox.send(TO, [PING])
    outbox.open_stream(TO, PING, wants_reply=True)
    first, second, third = (effect.data for effect in outbox.take())  # type: ignore[union-attr]
    assert len({first[1:13], second[1:13], third[6:18], outbox.reply(PING)[6:18]}) == 4
