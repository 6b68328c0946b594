from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import codec, streams
from cluster.address import Address
from cluster.errors import PacketRejected, Reason
from cluster.keyring import KeyRing
from cluster.messages import Ack, ErrorReply, Message, Nack, NodeRecord, Ping, PushPull, State, User
from tests.cluster import lzw

RING = KeyRing([b"k" * 32])
NONCE = bytes(12)
RECORD = NodeRecord("a", Address("10.0.0.1", 7946), b"", 1, State.ALIVE)
PUSH_PULL = PushPull((RECORD, RECORD), b"state", True)


def request(message: Message, label: str = "") -> bytes:
    return streams.encode_request(codec.encode(message), RING, NONCE, label)


def reply(message: Message, label: str = "") -> bytes:
    return streams.encode_reply(codec.encode(message), RING, NONCE, label)


def frame(plain: bytes) -> bytes:
    return streams.encode_reply(plain, RING, NONCE)


def reason_of(data: bytes, *, label: str = "", is_reply: bool = False) -> Reason:
    decode = streams.decode_reply if is_reply else streams.decode_request
    with pytest.raises(PacketRejected) as caught:
        decode(data, RING, label)
    return caught.value.reason


@pytest.mark.parametrize("label", ["", "mail", "x" * 255])
@pytest.mark.parametrize("message", [Ping(1, "a"), PUSH_PULL, User(b"\x53abc")])
def test_request(message: Message, label: str) -> None:
    data = request(message, label)
    assert streams.decode_request(data, RING, label) == message
    assert streams.frame_size(data, label) == len(data)
    assert reason_of(data, label="other") is Reason.LABEL


@pytest.mark.parametrize("label", ["", "mail"])
@pytest.mark.parametrize("message", [Ack(1), PUSH_PULL, ErrorReply("no")])
def test_reply_has_no_label_in_front(message: Message, label: str) -> None:
    data = reply(message, label)
    assert data[0] == 10
    assert streams.decode_reply(data, RING, label) == message
    assert streams.frame_size(data, label) == len(data)
    assert reason_of(data, label="other", is_reply=True) is Reason.KEY


@pytest.mark.parametrize("label", ["", "mail"])
def test_size_is_known_with_the_header_and_not_before(label: str) -> None:
    data = request(PUSH_PULL, label)
    header = 5 + (2 + len(label) if label else 0)
    for end in range(len(data)):
        size = streams.frame_size(data[:end], label)
        assert size == (None if end < header else len(data)), end
    assert streams.frame_size(data + b"more", label) == len(data)
    assert (
        streams.frame_size(bytearray(data), label) == streams.frame_size(memoryview(data), label) == len(data)
    )


@pytest.mark.parametrize(
    ("start", "label", "reason"),
    [
        (b"\xf4", "", Reason.LABEL),
        (b"\xf4\x05", "mail", Reason.LABEL),
        (b"\xf4\x04male", "mail", Reason.LABEL),
        (b"\x06", "", Reason.PLAINTEXT),
        (b"\xf4\x04mail\x06", "mail", Reason.PLAINTEXT),
        (b"G", "", Reason.UNKNOWN_TYPE),
        (b"\x0a\xff\xff\xff\xff", "", Reason.OVERSIZED),
        (b"\x0a\x01\x40\x00\x01", "", Reason.OVERSIZED),
        (b"\x0a\0\0\0\x1d", "", Reason.TRUNCATED),
    ],
)
def test_start_that_is_refused(start: bytes, label: str, reason: Reason) -> None:
    with pytest.raises(PacketRejected) as caught:
        streams.frame_size(start, label)
    assert caught.value.reason is reason


def test_compressed_request_and_reply() -> None:
    assert streams.decode_request(frame(lzw.message(codec.encode(PUSH_PULL))), RING) == PUSH_PULL
    assert streams.decode_reply(frame(lzw.message(codec.encode(PUSH_PULL))), RING) == PUSH_PULL


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (request(PUSH_PULL)[:-1], Reason.TRUNCATED),
        (request(PUSH_PULL) + b"\0", Reason.MALFORMED),
        (request(PUSH_PULL)[:-1] + b"\0", Reason.KEY),
        (b"\x0a\0\0\0\x40" + request(PUSH_PULL)[5:69], Reason.KEY),  # the length is authenticated
        (frame(lzw.message(bytes(3 << 20))), Reason.OVERSIZED),
        (frame(lzw.message(lzw.message(codec.encode(PUSH_PULL)))), Reason.UNKNOWN_TYPE),
        *(
            (frame(codec.encode(message)), Reason.UNKNOWN_TYPE)
            for message in (Nack(1), Ack(1), ErrorReply("no"))
        ),
        (frame(b"\x0c"), Reason.UNKNOWN_TYPE),
        (frame(b"\x06"), Reason.TRUNCATED),
    ],
)
def test_request_that_is_refused(data: bytes, reason: Reason) -> None:
    assert reason_of(data) is reason


@pytest.mark.parametrize("message", [Ping(1, "a"), User(b"\x53"), Nack(1)])
def test_reply_that_is_none(message: Message) -> None:
    assert reason_of(frame(codec.encode(message)), is_reply=True) is Reason.UNKNOWN_TYPE


@given(st.binary(max_size=400), st.sampled_from(["", "mail"]))
@settings(max_examples=100)
def test_anything_is_decoded_or_refused(plain: bytes, label: str) -> None:
    for decode in (streams.decode_request, streams.decode_reply):
        for data in (plain, frame(plain), b"\x0a" + len(plain).to_bytes(4, "big") + plain):
            with contextlib.suppress(PacketRejected):
                assert decode(data, RING, label) is not None
