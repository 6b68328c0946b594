from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import codec
from cluster.address import Address
from cluster.errors import PacketRejected, Reason
from cluster.messages import (
    Ack,
    Alive,
    Dead,
    ErrorReply,
    IndirectPing,
    Message,
    Nack,
    NodeRecord,
    Ping,
    PushPull,
    State,
    Suspect,
    User,
)

U32 = 2**32 - 1


def raw_of(kind: int, fields: Any, **more: Any) -> bytes:
    return bytes((kind,)) + msgpack.packb(fields, use_bin_type=False, **more)


def reason_of(raw: bytes) -> Reason:
    with pytest.raises(PacketRejected) as caught:
        codec.decode(raw)
    return caught.value.reason


# --- round trips ---

names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=30)
addresses = st.builds(
    Address,
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None)).map(str),
    st.integers(1, 65535),
)
u32 = st.integers(0, U32)
metas = st.binary(max_size=512)
vsns = st.one_of(st.just(b""), st.binary(min_size=6, max_size=6))
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, u32, names),
    st.builds(Ping, u32, names, addresses, names),
    st.builds(IndirectPing, u32, addresses, names, st.booleans()),
    st.builds(IndirectPing, u32, addresses, names, st.booleans(), addresses, names),
    st.builds(Ack, u32, st.binary(max_size=300)),
    st.builds(Nack, u32),
    st.builds(ErrorReply, names),
    st.builds(Suspect, u32, names, names),
    st.builds(Dead, u32, names, names),
    st.builds(Alive, u32, names, addresses, metas, vsns),
    st.builds(User, st.binary(min_size=1, max_size=2000)),
)
records = st.builds(NodeRecord, names, addresses, metas, u32, st.sampled_from(State), vsns)
push_pulls = st.builds(
    PushPull, st.lists(records, max_size=4).map(tuple), st.binary(max_size=500), st.booleans()
)


@given(messages)
@settings(max_examples=200)
def test_round_trip(message: Message) -> None:
    assert codec.decode(codec.encode(message)) == message


@given(push_pulls)
@settings(max_examples=100)
def test_round_trip_of_push_pull(message: PushPull) -> None:
    assert codec.decode_push_pull(codec.encode(message)) == message


@given(st.binary(min_size=1, max_size=500))
@settings(max_examples=50)
def test_round_trip_of_user_stream(raw: bytes) -> None:
    assert codec.decode_user_stream(codec.encode_user_stream(raw)) == User(raw)


@given(messages, st.data())
@settings(max_examples=200)
def test_damaged_message_is_a_message_or_refused(message: Message, data: st.DataObject) -> None:
    raw = bytearray(codec.encode(message))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=3)):
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        found = codec.decode(bytes(raw[:cut]))
    except PacketRejected:
        return
    assert codec.decode(codec.encode(found)) == found


def test_a_ping_may_name_its_sender_without_an_address() -> None:
    ping = Ping(7, "node-1", source_node="node-2")
    assert codec.decode(codec.encode(ping)) == ping


# --- the dialect ---


def test_only_the_old_raw_family_is_written() -> None:
    """A name of 40 bytes would be str 8, a meta of 200 bytes bin 8 in the newer MessagePack."""
    raw = codec.encode(Alive(1, "n" * 40, Address("10.0.0.1", 7946), b"\xff" * 200))
    assert b"\xda\x00\x28" + b"n" * 40 in raw
    assert b"\xda\x00\xc8" + b"\xff" * 200 in raw
    assert b"\xd9" not in raw.replace(b"\xff", b"")


def test_no_payload_is_nil() -> None:
    assert codec.encode(Ack(7)) == b"\x02\x82\xa5SeqNo\x07\xa7Payload\xc0"


ALIVE = {
    "Incarnation": 1,
    "Node": "a",
    "Addr": b"\x0a\0\0\1",
    "Port": 7946,
    "Meta": b"",
    "Vsn": b"\1\5\2\2\5\5",
}
ALIVE_MESSAGE = Alive(1, "a", Address("10.0.0.1", 7946))


@pytest.mark.parametrize(
    "raw",
    [
        raw_of(4, dict(reversed(ALIVE.items()))),
        raw_of(4, ALIVE | {"Meta": None}),
        raw_of(4, ALIVE | {"Addr": [10, 0, 0, 1], "Vsn": [1, 5, 2, 2, 5, 5]}),
        raw_of(4, ALIVE | {"Addr": bytes(10) + b"\xff\xff\x0a\0\0\1"}),  # IPv4-mapped
        raw_of(4, ALIVE | {"Later": {"a": [1, {"b": None}], 5: 2.5}, "": True}),
        b"\x04" + msgpack.packb(ALIVE, use_bin_type=True),  # bin 8
        raw_of(4, ALIVE).replace(b"\xcd\x1f\x0a", b"\xd1\x1f\x0a"),  # Port as int 16
    ],
)
def test_what_is_tolerated(raw: bytes) -> None:
    assert codec.decode(raw) == ALIVE_MESSAGE


def test_alive_without_vsn_and_meta() -> None:
    fields = {key: value for key, value in ALIVE.items() if key not in {"Meta", "Vsn"}}
    assert codec.decode(raw_of(4, fields)) == Alive(1, "a", Address("10.0.0.1", 7946), vsn=b"")


def test_ping_with_half_a_source_has_none() -> None:
    assert codec.decode(raw_of(0, {"SeqNo": 1, "Node": "a", "SourceAddr": b"", "SourcePort": 5})) == Ping(
        1, "a"
    )
    assert codec.decode(raw_of(0, {"SeqNo": 1, "Node": "a", "SourceAddr": b"\x0a\0\0\1"})) == Ping(1, "a")
    assert codec.decode(raw_of(0, {"SeqNo": 1})) == Ping(1, "")


MALFORMED, OVERSIZED, TRUNCATED = Reason.MALFORMED, Reason.OVERSIZED, Reason.TRUNCATED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Incarnation": -1}, MALFORMED),
        ({"Incarnation": 2**32}, MALFORMED),
        ({"Incarnation": 2**63}, MALFORMED),
        ({"Incarnation": True}, MALFORMED),
        ({"Incarnation": 1.0}, MALFORMED),
        ({"Incarnation": None}, MALFORMED),
        ({"Incarnation": "1"}, MALFORMED),
        ({"Node": b""}, MALFORMED),
        ({"Node": b"\xff\xfe"}, MALFORMED),
        ({"Node": b"a\nb"}, MALFORMED),
        ({"Node": b"a\x1b[31m"}, MALFORMED),
        ({"Node": "‮a".encode()}, MALFORMED),  # turns the direction of text
        ({"Node": b"a" * 129}, OVERSIZED),
        ({"Node": 5}, MALFORMED),
        ({"Node": None}, MALFORMED),
        ({"Node": ["a"]}, MALFORMED),
        ({"Addr": b""}, MALFORMED),
        ({"Addr": b"\x0a\0\0"}, MALFORMED),
        ({"Addr": bytes(17)}, OVERSIZED),
        ({"Addr": [10, 0, 0, 256]}, MALFORMED),
        ({"Addr": 5}, MALFORMED),
        ({"Port": 0}, MALFORMED),
        ({"Port": 65536}, MALFORMED),
        ({"Port": -1}, MALFORMED),
        ({"Meta": bytes(513)}, OVERSIZED),
        ({"Meta": {}}, MALFORMED),
        ({"Vsn": b"\1\5\2\2\5"}, MALFORMED),
        ({"Vsn": bytes(7)}, OVERSIZED),
    ],
)
def test_field_that_is_refused(changes: dict[str, Any], reason: Reason) -> None:
    assert reason_of(raw_of(4, ALIVE | changes)) is reason


@pytest.mark.parametrize("key", ["Incarnation", "Node", "Addr", "Port"])
def test_field_that_is_missing(key: str) -> None:
    assert reason_of(raw_of(4, {name: value for name, value in ALIVE.items() if name != key})) is MALFORMED


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", TRUNCATED),
        (b"\x00", TRUNCATED),
        (b"\x08", TRUNCATED),
        (raw_of(3, {"Incarnation": 1, "Node": "a", "From": "b"})[:-1], TRUNCATED),
        (raw_of(2, {"SeqNo": 1}) + b"\0", MALFORMED),
        (raw_of(2, [1, b""]), MALFORMED),
        (b"\x02\x82\xa5SeqNo\x01\xa5SeqNo\x02", MALFORMED),  # the same key twice
        (b"\x02\x81\xa5SeqNo\xc1", MALFORMED),  # a byte that MessagePack never uses
        (b"\x02\x81\x81\xc0\xc0\xc0", MALFORMED),  # a map as key
        (b"\x02" + b"\x91" * 3000, MALFORMED),  # deeper than anything
        (b"\x02\xdd\xff\xff\xff\xff", MALFORMED),  # an array of 4 thousand million
        (b"\x02\xdf\xff\xff\xff\xff", MALFORMED),
        (raw_of(1, {"SeqNo": 1, "Target": b"\x0a\0\0\1", "Port": 1, "Node": "a", "Nack": 1}), MALFORMED),
        (raw_of(2, {"SeqNo": 1, "Payload": bytes(1025)}), OVERSIZED),
        (b"\x08" + bytes(16 * 1024 + 1), OVERSIZED),
        *((bytes((kind,)) + b"\x80", Reason.UNKNOWN_TYPE) for kind in (6, 7, 9, 10, 12, 14, 0x53, 244, 255)),
    ],
)
def test_message_that_is_none(raw: bytes, reason: Reason) -> None:
    assert reason_of(raw) is reason


def test_text_of_an_error_is_made_harmless() -> None:
    assert codec.decode(raw_of(13, {"Error": b"no\xff\n\x1b[2Jgood"})) == ErrorReply(
        "no\ufffd\ufffd\ufffd[2Jgood"
    )


# --- streams ---

RECORD = {"Name": "a", "Addr": b"\x0a\0\0\1", "Port": 7946, "Meta": None, "Incarnation": 1, "State": 0}


def push_pull_raw(header: dict[str, Any], *records: dict[str, Any], rest: bytes = b"") -> bytes:
    packed = (msgpack.packb(each, use_bin_type=False) for each in records)
    return raw_of(6, header) + b"".join(packed) + rest


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x06", TRUNCATED),
        (push_pull_raw({"Nodes": 2, "UserStateLen": 0, "Join": False}, RECORD), TRUNCATED),
        (push_pull_raw({"Nodes": 0, "UserStateLen": 4, "Join": False}, rest=b"abc"), TRUNCATED),
        (push_pull_raw({"Nodes": 0, "UserStateLen": 2, "Join": False}, rest=b"abc"), MALFORMED),
        (push_pull_raw({"Nodes": -1, "UserStateLen": 0, "Join": False}), MALFORMED),
        (push_pull_raw({"Nodes": 1 << 20, "UserStateLen": 0, "Join": False}), OVERSIZED),
        (push_pull_raw({"Nodes": 90_000, "UserStateLen": 0, "Join": False}), TRUNCATED),
        (push_pull_raw({"Nodes": 0, "UserStateLen": 21 << 20, "Join": False}), OVERSIZED),
        (push_pull_raw({"Nodes": 0, "UserStateLen": 0, "Join": 1}), MALFORMED),
        (push_pull_raw({"Nodes": 1, "UserStateLen": 0}, RECORD | {"State": 4}), MALFORMED),
        (push_pull_raw({"Nodes": 1, "UserStateLen": 0}, RECORD | {"Name": ""}), MALFORMED),
        (push_pull_raw({"Nodes": 1, "UserStateLen": 0}, RECORD | {"Meta": bytes(600)}), OVERSIZED),
    ],
)
def test_push_pull_that_is_refused(raw: bytes, reason: Reason) -> None:
    with pytest.raises(PacketRejected) as caught:
        codec.decode_push_pull(raw)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (raw_of(8, {"UserMsgLen": 3}) + b"ab", TRUNCATED),
        (raw_of(8, {"UserMsgLen": 1}) + b"ab", MALFORMED),
        (raw_of(8, {"UserMsgLen": 0}), TRUNCATED),
        (raw_of(8, {"UserMsgLen": 3 << 20}), OVERSIZED),
        (raw_of(8, {"UserMsgLen": -3}), MALFORMED),
        (b"\x08\xc0", MALFORMED),
    ],
)
def test_user_stream_that_is_refused(raw: bytes, reason: Reason) -> None:
    with pytest.raises(PacketRejected) as caught:
        codec.decode_user_stream(raw)
    assert caught.value.reason is reason


def test_record_after_a_damaged_one_is_not_read() -> None:
    raw = push_pull_raw({"Nodes": 2, "UserStateLen": 0}, RECORD, RECORD)
    assert len(codec.decode_push_pull(raw).nodes) == 2
    for end in range(len(raw) - 1, 40, -1):
        with pytest.raises(PacketRejected) as caught:
            codec.decode_push_pull(raw[:end])
        assert caught.value.reason is TRUNCATED
    with pytest.raises(PacketRejected) as caught:
        codec.decode_push_pull(raw.replace(b"\xa4Name", b"\xc1Name", 1))
    assert caught.value.reason is MALFORMED


def test_damaged_statement_is_refused_each_time() -> None:
    """Only what was decoded is remembered."""
    for _ in range(2):
        assert reason_of(raw_of(4, ALIVE | {"Port": 0})) is MALFORMED
        assert codec.decode(raw_of(4, ALIVE)) == ALIVE_MESSAGE
