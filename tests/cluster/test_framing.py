from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import codec, framing
from cluster.errors import PacketRejected, Reason
from cluster.keyring import KeyRing
from cluster.messages import Nack, Ping, Suspect

from . import lzw

RING = KeyRing([b"k" * 32])
NONCE = bytes(12)
PING = codec.encode(Ping(1, "a"))
NACK = codec.encode(Nack(1))


def crc(raw: bytes) -> bytes:
    return b"\x0c" + zlib.crc32(raw).to_bytes(4, "big") + raw


def nested(depth: int) -> bytes:
    raw = NACK
    for _ in range(depth):
        raw = framing.compound([PING, raw])
    return raw


def reason_of(data: bytes, label: bytes = b"") -> Reason:
    with pytest.raises(PacketRejected) as caught:
        framing.open_datagram(data, RING, label)
    return caught.value.reason


def refused(plain: bytes) -> Reason:
    with pytest.raises(PacketRejected) as caught:
        framing.unwrap(plain)
    return caught.value.reason


def refusals(plain: bytes) -> tuple[list[bytes], list[Reason]]:
    found = framing.unwrap(plain)
    return found.messages, [each.reason for each in found.refusals]


@given(
    st.lists(
        st.binary(min_size=1, max_size=20).filter(lambda raw: raw[0] not in {7, 9, 10, 12, 244}),
        min_size=1,
        max_size=255,
    )
)
@settings(max_examples=50)
def test_compound_round_trip(parts: list[bytes]) -> None:
    for plain in (
        framing.compound(parts),
        crc(framing.compound(parts)),
        lzw.message(framing.compound(parts)),
    ):
        assert framing.unwrap(plain) == (parts, [])


def test_all_layers_at_once() -> None:
    assert framing.unwrap(crc(lzw.message(nested(3)))) == ([PING, PING, PING, NACK], [])


@pytest.mark.parametrize("label", [b"", b"mail", b"x" * 255])
def test_datagram_with_label(label: bytes) -> None:
    sealed = framing.seal(PING, RING, NONCE, label)
    assert framing.open_datagram(sealed, RING, label) == PING
    for other in {b"", b"mail", b"mai", b"mailx", b"x" * 255} - {label}:
        assert reason_of(sealed, other) is Reason.LABEL
    assert framing.room_for_parts(1400, label) == 1400 - len(framing.seal(b"", RING, NONCE, label)) - 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (b"\xf4", Reason.LABEL),
        (b"\xf4\x04mail", Reason.LABEL),
        (b"\x01" + bytes(20), Reason.TRUNCATED),
        (b"\x01" + bytes(60), Reason.KEY),
        (b"\x00" + bytes(60), Reason.KEY),
        (b"\x55" + bytes(60), Reason.VERSION),
        (bytes(65_508), Reason.OVERSIZED),
        (PING, Reason.PLAINTEXT),
        (NACK, Reason.PLAINTEXT),
        (codec.encode(Suspect(1, "a", "b")), Reason.PLAINTEXT),
        (framing.compound([PING, NACK]), Reason.PLAINTEXT),
        (crc(PING), Reason.PLAINTEXT),
        (lzw.message(PING), Reason.PLAINTEXT),
        (framing.seal(PING, KeyRing([b"j" * 32]), NONCE, b""), Reason.KEY),
        (framing.seal(PING, RING, NONCE, b"")[:-1], Reason.KEY),
    ],
)
def test_datagram_that_is_refused(data: bytes, reason: Reason) -> None:
    assert reason_of(data) is reason


def test_checksum() -> None:
    assert framing.unwrap(crc(PING)) == ([PING], [])
    assert refused(crc(PING)[:-1]) is Reason.CHECKSUM
    assert refused(b"\x0c\0\0\0\0") is Reason.TRUNCATED
    assert refused(b"") is Reason.TRUNCATED


def test_bomb() -> None:
    assert refused(lzw.message(bytes(100_000))) is Reason.OVERSIZED


def test_whole_parts_before_a_missing_one_count() -> None:
    whole = framing.compound([PING, NACK, PING])
    assert refusals(whole[:-1]) == ([PING, NACK], [Reason.TRUNCATED])
    assert refusals(b"\x07\x03\x00") == ([], [Reason.TRUNCATED])
    assert refusals(b"\x07") == ([], [Reason.TRUNCATED])
    assert refusals(b"\x07\x00") == ([], [Reason.TRUNCATED])
    assert refusals(b"\x07\x02\x00\x00\x00\x01" + b"\x20") == ([b"\x20"], [Reason.TRUNCATED])


def test_nesting() -> None:
    assert refusals(nested(3)) == ([PING, PING, PING, NACK], [])
    assert refusals(nested(4)) == ([PING, PING, PING], [Reason.NESTING])


@pytest.mark.parametrize("inner", [crc(PING), lzw.message(PING), b"\x0a\0\0\0\0", b"\xf4\x01a"])
def test_layer_at_the_wrong_place(inner: bytes) -> None:
    assert refusals(framing.compound([NACK, inner])) == ([NACK], [Reason.NESTING])
    assert refusals(lzw.message(inner)) == ([], [Reason.NESTING])


def test_more_messages_than_make_sense() -> None:
    part = framing.compound([b"\x20"] * 255)
    messages, reasons = refusals(framing.compound([part] * 5))
    assert (len(messages), set(reasons)) == (1024, {Reason.OVERSIZED})


def test_label_has_a_limit() -> None:
    assert framing.checked_label("x" * 255) == b"x" * 255
    with pytest.raises(ValueError, match="256"):
        framing.checked_label("x" * 256)
