"""PLAIN and LOGIN: what is taken and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import PeerError
from protocols.sasl import (
    MAX_RESPONSE_BYTES,
    Challenge,
    Login,
    PasswordLogin,
    Plain,
    decode_initial,
    decode_response,
)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"\0ann\0secret", PasswordLogin("ann", b"secret")),
        (b"ann\0ann\0secret", PasswordLogin("ann", b"secret")),
        ("\0änn\0pässwort".encode(), PasswordLogin("änn", "pässwort".encode())),
        (b"\0ann\0\xff\xfe", PasswordLogin("ann", b"\xff\xfe")),
    ],
)
def test_plain_takes(response: bytes, expected: PasswordLogin) -> None:
    assert Plain().step(response) == expected


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"ann",
        b"ann\0secret",
        b"\0ann\0",
        b"\0\0secret",
        b"bob\0ann\0secret",
        b"\0ann\0a\0b",
        b"\0\xff\0x",
    ],
)
def test_plain_refuses(response: bytes) -> None:
    with pytest.raises(PeerError):
        Plain().step(response)


def test_challenges() -> None:
    assert Plain().step(None) == Challenge(b"")
    login = Login()
    assert login.step(None) == Challenge(b"Username:")
    assert login.step(b"ann") == Challenge(b"Password:")
    assert login.step(b"secret") == PasswordLogin("ann", b"secret")


@pytest.mark.parametrize(
    "line", [b"*", b"a", b"YW5u*", b"YW5u\r", b" YW5u", b"YQ", b"A" * (MAX_RESPONSE_BYTES + 4)]
)
def test_only_strict_base64(line: bytes) -> None:
    with pytest.raises(PeerError):
        decode_response(line)


def test_initial_response() -> None:
    assert decode_initial(b"=") == b""
    assert decode_initial(b"YW5u") == b"ann"


def test_password_is_not_shown() -> None:
    assert "secret" not in repr(Plain().step(b"\0ann\0secret"))


@given(st.binary(max_size=60))
def test_any_bytes_give_an_answer_or_a_complaint(data: bytes) -> None:
    for exchange in (Plain(), Login()):
        try:
            answer = exchange.step(decode_response(data))
        except PeerError:
            continue
        assert isinstance(answer, Challenge | PasswordLogin)
