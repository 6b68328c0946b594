"""Transcripts: what a client sends, what it gets, whole and byte by byte."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.rpc.machine import BODIES, MAX_REQUEST_BYTES, ClientError, Request, Session

HANDSHAKE = [{"Command": "handshake", "Seq": 0}, {"Version": 1}]
MEMBERS = [{"Command": "members", "Seq": 1}]
AUTH = {"Command": "auth", "Seq": 1}
EVENT = [{"Command": "event", "Seq": 2}, {"Name": "e", "Payload": b"\xff", "Coalesce": True}]


def packed(values: list[Any], *, is_old: bool = False) -> bytes:
    return b"".join(msgpack.packb(value, use_bin_type=not is_old) for value in values)


def auth(key: str, seq: int = 1) -> list[Any]:
    return [{"Command": "auth", "Seq": seq}, {"AuthKey": key}]


def talk(
    values: list[Any], auth_key: str = "", step: int = 0, *, is_old: bool = False
) -> tuple[list[Request], list[Any]]:
    """Requests let through, and everything that is answered."""
    session, raw = Session(auth_key), packed(values, is_old=is_old)
    requests: list[Request] = []
    for at in range(0, len(raw), step or len(raw)):
        requests += session.receive_data(raw[at : at + (step or len(raw))])
    unpacker = msgpack.Unpacker()
    unpacker.feed(session.data_to_send())
    return requests, list(unpacker)


def ok(seq: int) -> dict[str, Any]:
    return {"Seq": seq, "Error": ""}


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("is_old", [False, True])
def test_requests_come_whole_however_they_are_cut(step: int, is_old: bool) -> None:
    requests, replies = talk(HANDSHAKE + MEMBERS + EVENT, step=step, is_old=is_old)
    assert requests == [
        Request(1, "members", {}),
        Request(2, "event", {b"Name": b"e", b"Payload": b"\xff", b"Coalesce": True}),
    ]
    assert replies == [ok(0)]


@pytest.mark.parametrize(
    ("values", "key", "errors"),
    [
        (MEMBERS, "", ["Handshake required"]),
        (EVENT, "", ["Handshake required"]),
        ([{"Command": "handshake", "Seq": 3}, {"Version": 2}], "", ["Unsupported IPC version"]),
        ([{"Command": "handshake", "Seq": 3}, {}], "", ["Unsupported IPC version"]),
        (HANDSHAKE + HANDSHAKE, "", ["", "Handshake already performed"]),
        ([*HANDSHAKE, {"Command": "fly", "Seq": 4}], "", ["", "Unsupported command"]),
        ([{"Command": "fly", "Seq": 4}], "", ["Handshake required"]),
        (HANDSHAKE + EVENT + MEMBERS, "key", ["", "Authentication required", "Authentication required"]),
        (HANDSHAKE + auth("nope"), "key", ["", "Invalid authentication token"]),
        (HANDSHAKE + auth("key"), "key", ["", ""]),
        (auth("key"), "key", ["Handshake required"]),
        (HANDSHAKE + auth("any"), "", ["", ""]),
        ([*HANDSHAKE, {"Command": "auth", "Seq": 1}, {}], "key", ["", "Invalid authentication token"]),
        (
            [*HANDSHAKE, {"Command": "auth", "Seq": 1}, {"AuthKey": 5}],
            "key",
            ["", "Invalid authentication token"],
        ),
    ],
)
def test_what_is_answered_without_the_agent(values: list[Any], key: str, errors: list[str]) -> None:
    requests, replies = talk(values, key)
    assert requests == []
    assert [reply["Error"] for reply in replies] == errors


def test_after_authentication_commands_get_through() -> None:
    requests, _ = talk(HANDSHAKE + auth("nope") + auth("key", 2) + [{"Command": "stats", "Seq": 3}], "key")
    assert requests == [Request(3, "stats", {})]


def test_three_wrong_keys_close() -> None:
    session = Session("key")
    session.receive_data(packed(HANDSHAKE + auth("a") + auth("b")))
    assert not session.is_closing
    assert session.receive_data(packed(auth("c") + auth("key") + MEMBERS)) == []
    assert session.is_closing


def test_unknown_command_closes_since_a_body_may_follow() -> None:
    session = Session()
    session.receive_data(packed([*HANDSHAKE, {"Command": "fly", "Seq": 4}, *MEMBERS]))
    assert session.is_closing


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc1",
        b"\x05",
        b"GET / HTTP/1.0\r\n",
        packed([[1, 2]]),
        packed([{"Command": "members", "Seq": -1}]),
        packed([{"Command": "members", "Seq": "x"}]),
        packed([*HANDSHAKE, {"Command": "event", "Seq": 1}, [5]]),
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 2000,
    ],
)
def test_nonsense_closes(raw: bytes) -> None:
    with pytest.raises(ClientError):
        Session().receive_data(raw)


def test_requests_are_bounded() -> None:
    session = Session()
    session.receive_data(packed(HANDSHAKE))
    start = packed([{"Command": "event", "Seq": 1}]) + b"\x81\xa7Payload\xc6" + (60_000).to_bytes(4)
    assert session.receive_data(start + bytes(59_000)) == []
    with pytest.raises(ClientError, match=str(MAX_REQUEST_BYTES)):
        for _ in range(5):
            session.receive_data(packed([{"Command": "event", "Seq": 1}])[:-1] + bytes(20_000))


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_request_or_close(raw: bytes) -> None:
    session = Session()
    session.receive_data(packed(HANDSHAKE))
    try:
        requests = session.receive_data(raw)
    except ClientError:
        return
    assert all(request.command in BODIES for request in requests)
