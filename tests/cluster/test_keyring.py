from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cluster.errors import PacketRejected, Reason
from cluster.keyring import OVERHEAD, KeyRing, fingerprint

OLD, NEW, SHORT = b"o" * 32, b"n" * 32, b"s" * 16
NONCE = bytes(range(12))


def reason_of(ring: KeyRing, sealed: bytes, aad: bytes = b"") -> Reason:
    with pytest.raises(PacketRejected) as caught:
        ring.open(sealed, aad)
    return caught.value.reason


def version_0(plain: bytes, key: bytes, *, padding: bytes | None = None) -> bytes:
    size = 16 - len(plain) % 16
    return b"\0" + NONCE + AESGCM(key).encrypt(NONCE, plain + (padding or bytes((size,)) * size), None)


@pytest.mark.parametrize("key", [SHORT, b"m" * 24, OLD])
@pytest.mark.parametrize("plain", [b"", b"x", b"x" * 16, b"x" * 1400])
def test_seal_and_open(key: bytes, plain: bytes) -> None:
    sealed = KeyRing([key]).seal(plain, NONCE, b"label")
    assert len(sealed) == len(plain) + OVERHEAD
    assert sealed[0] == 1
    assert KeyRing([NEW, key]).open(sealed, b"label") == plain
    assert reason_of(KeyRing([key]), sealed, b"other") is Reason.KEY
    assert reason_of(KeyRing([NEW]), sealed, b"label") is Reason.KEY


@pytest.mark.parametrize("plain", [b"", b"x" * 15, b"x" * 16, b"x" * 17])
def test_version_0_is_taken(plain: bytes) -> None:
    assert KeyRing([OLD]).open(version_0(plain, OLD), b"") == plain


@pytest.mark.parametrize("padding", [b"\0", b"\x11" * 8, b"\1\2\3\4\5\6\7\7", b"\x08" * 7])
def test_version_0_with_wrong_padding(padding: bytes) -> None:
    assert reason_of(KeyRing([OLD]), version_0(b"x" * 8, OLD, padding=padding)) is Reason.MALFORMED


def test_every_bit_but_the_version_is_authenticated() -> None:
    ring = KeyRing([OLD])
    sealed = ring.seal(b"text", NONCE, b"")
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        expected = {0: Reason.MALFORMED}.get(bit, Reason.VERSION if bit < 8 else Reason.KEY)
        assert reason_of(ring, bytes(flipped)) is expected, bit


def test_truncated_and_unknown_version() -> None:
    ring = KeyRing([OLD])
    sealed = ring.seal(b"", NONCE, b"")
    assert reason_of(ring, sealed[:-1]) is Reason.TRUNCATED
    assert reason_of(ring, b"") is Reason.TRUNCATED
    assert reason_of(ring, b"\2" + sealed[1:]) is Reason.VERSION


def test_rotation_is_idempotent() -> None:
    ring = KeyRing([OLD])
    for _ in range(2):
        ring.install(NEW)
        assert ring.keys == (OLD, NEW)
    for _ in range(2):
        ring.use(NEW)
        assert (ring.primary, ring.keys) == (NEW, (NEW, OLD))
    assert KeyRing([NEW]).open(ring.seal(b"text", NONCE, b""), b"") == b"text"
    for _ in range(2):
        ring.remove(OLD)
        assert ring.keys == (NEW,)
    assert reason_of(ring, KeyRing([OLD]).seal(b"text", NONCE, b"")) is Reason.KEY


def test_what_a_ring_refuses() -> None:
    ring = KeyRing([OLD, NEW])
    with pytest.raises(ValueError, match="primary"):
        ring.remove(OLD)
    with pytest.raises(ValueError, match="not in the ring"):
        ring.use(SHORT)
    with pytest.raises(ValueError, match="not 5"):
        ring.install(b"short")
    with pytest.raises(ValueError, match="not 5"):
        ring.replace([NEW, b"short"])
    with pytest.raises(ValueError, match="at least one"):
        ring.replace([])
    assert ring.keys == (OLD, NEW)
    with pytest.raises(ValueError, match="at least one"):
        KeyRing([])


def test_keys_are_not_shown() -> None:
    ring = KeyRing([OLD, NEW])
    assert repr(ring) == f"KeyRing({fingerprint(OLD)}, {fingerprint(NEW)})"
    assert len({fingerprint(OLD), fingerprint(NEW)}) == 2
    assert repr(OLD)[2:-1] not in repr(ring)
