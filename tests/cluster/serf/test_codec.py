"""Bytes as agents have them; golden vectors by hand from the field table."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.address import Address
from cluster.errors import PacketRejected, Reason
from cluster.serf.codec import decode, decode_push_pull, encode
from cluster.serf.messages import (
    Happening,
    JoinIntent,
    LeaveIntent,
    PushPullState,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
)

QUERY = Query(
    ltime=7,
    number=0xDEADBEEF,
    asker=Address("10.0.0.1", 7946),
    source_node="n1",
    filters=(b"\x00\x91\xa2n2",),
    flags=1,
    relay_factor=2,
    timeout_s=2.0,
    name="uptime",
    payload=b"\x00\xff",
)

GOLDEN: list[tuple[SerfMessage, bytes]] = [
    (LeaveIntent(5, "a", prune=True), b"\x00\x83\xa5LTime\x05\xa4Node\xa1a\xa5Prune\xc3"),
    (JoinIntent(300, "a"), b"\x01\x82\xa5LTime\xcd\x01\x2c\xa4Node\xa1a"),
    (
        Happening(1, "deploy", b"\x00\x01", may_coalesce=True),
        b"\x03\x84\xa2CC\xc3\xa5LTime\x01\xa4Name\xa6deploy\xa7Payload\xa2\x00\x01",
    ),
    (
        QueryResponse(7, 9, "n2", is_ack=True),
        b"\x05\x85\xa5Flags\x01\xa4From\xa2n2\xa2ID\x09\xa5LTime\x07\xa7Payload\xa0",
    ),
    (
        Relay(Address("10.0.0.1", 80), "n1", b"\x05xyz"),
        b"\x09\x82\xa8DestAddr\x83\xa2IP\xa4\x0a\x00\x00\x01\xa4PortP\xa4Zone\xa0\xa8DestName\xa2n1\x05xyz",
    ),
    (
        QUERY,
        b"\x04\x8b\xa4Addr\xa4\x0a\x00\x00\x01\xa7Filters\x91\xa5\x00\x91\xa2n2\xa5Flags\x01"
        b"\xa2ID\xce\xde\xad\xbe\xef\xa5LTime\x07\xa4Name\xa6uptime\xa7Payload\xa2\x00\xff\xa4Port\xcd\x1f\x0a"
        b"\xabRelayFactor\x02\xaaSourceNode\xa2n1\xa7Timeout\xce\x77\x35\x94\x00",
    ),
]


@pytest.mark.parametrize(("message", "raw"), GOLDEN)
def test_bytes_of_each_message(message: SerfMessage, raw: bytes) -> None:
    assert encode(message) == raw
    assert decode(raw) == message


def test_nil_stands_for_empty_bytes_and_lists() -> None:
    body = {"LTime": 1, "ID": 2, "Addr": bytes(4), "Port": 1, "Filters": None, "Payload": None, "Name": "x"}
    found = decode(b"\x04" + msgpack.packb(body, use_bin_type=False))
    assert isinstance(found, Query)
    assert (found.filters, found.payload, found.source_node, found.timeout_s) == ((), b"", "", 0.0)


def test_newer_string_forms_are_read() -> None:
    raw = b"\x03" + msgpack.packb({"LTime": 1, "Name": "n" * 40, "Payload": b"p", "CC": False, "New": [1]})
    assert decode(raw) == Happening(1, "n" * 40, b"p")


def test_signed_numbers_of_newer_agents_are_read() -> None:
    raw = (
        b"\x04\x84\xa5LTime\xd1\x00\x07\xa2ID\xd2\x00\x00\x00\x09\xa4Addr\xa4\x0a\x00\x00\x01\xa7Timeout\xd3"
    )
    found = decode(raw + (2_000_000_000).to_bytes(8))
    assert isinstance(found, Query)
    assert (found.ltime, found.number, found.timeout_s) == (7, 9, 2.0)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (b"\x01", Reason.TRUNCATED),
        (b"\x01\x82\xa5LTime", Reason.TRUNCATED),
        (b"\x02\x80", Reason.UNKNOWN_TYPE),
        (b"\x06\xc0", Reason.UNKNOWN_TYPE),
        (b"\xfe\x80", Reason.UNKNOWN_TYPE),
        (b"\x01\xc0", Reason.MALFORMED),
        (b"\x01\x81\xa5LTime\x05", Reason.MALFORMED),
        (b"\x01\x82\xa5LTime\xff\xa4Node\xa1a", Reason.MALFORMED),
        (b"\x01\x82\xa5LTime\xa1x\xa4Node\xa1a", Reason.MALFORMED),
        (b"\x01\x82\xa5LTime\x05\xa4Node\xa1\xff", Reason.MALFORMED),
        (b"\x00\x83\xa5LTime\x05\xa4Node\xa1a\xa5Prune\x01", Reason.MALFORMED),
        (b"\x03" + bytes(9300), Reason.OVERSIZED),
        (b"\x04\x82\xa4Addr\xa3abc\xa2ID\x01", Reason.MALFORMED),
        (b"\x04\x82\xa4Addr\xa4abcd\xa7Filters\x91\x05", Reason.MALFORMED),
        (b"\x09\x80", Reason.MALFORMED),
    ],
)
def test_damaged_messages_are_rejected(raw: bytes, reason: Reason) -> None:
    with pytest.raises(PacketRejected) as caught:
        decode(raw)
    assert caught.value.reason is reason


@given(st.binary(max_size=80), st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_message_or_rejected(body: bytes, kind: int) -> None:
    try:
        message = decode(bytes((kind,)) + body)
    except PacketRejected:
        return
    assert decode(encode(message)) == message


# --- push/pull ---


def test_push_pull_has_a_short_list_of_events_and_our_own_key() -> None:
    state = PushPullState(4, {"a": 3}, ("b",), 9, (Happening(8, "e", b"p"),), 2, b"\x01\x02")
    raw = encode(state)
    assert raw[0] == 2
    fields = msgpack.unpackb(raw[1:], raw=True)
    assert fields == {
        b"EventLTime": 9,
        b"Events": [{b"LTime": 8, b"Events": [{b"Name": b"e", b"Payload": b"p"}]}],
        b"LTime": 4,
        b"LeftMembers": [b"b"],
        b"QueryLTime": 2,
        b"StatusLTimes": {b"a": 3},
        b"Sora": b"\x01\x02",
    }
    assert decode_push_pull(raw) == state


def test_push_pull_of_an_agent_has_512_slots_mostly_nil_and_maybe_more_behind_it() -> None:
    slots: list[object] = [None] * 512
    slots[8] = {"LTime": 8, "Events": [{"Name": "e", "Payload": None}, {"Name": "f", "Payload": b"x"}]}
    body = {
        "LTime": 1,
        "StatusLTimes": None,
        "LeftMembers": None,
        "EventLTime": 9,
        "Events": slots,
        "QueryLTime": 1,
    }
    found = decode_push_pull(b"\x02" + msgpack.packb(body, use_bin_type=False) + b"trailing")
    assert found.events == (Happening(8, "e", b""), Happening(8, "f", b"x"))
    assert found.sora == b""


@given(st.binary(max_size=120))
@settings(max_examples=200, deadline=None)
def test_any_state_is_read_or_rejected(body: bytes) -> None:
    try:
        state = decode_push_pull(b"\x02" + body)
    except PacketRejected:
        return
    assert decode_push_pull(encode(state)).statuses == state.statuses
