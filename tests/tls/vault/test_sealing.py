"""Sealed objects: what opens, and that nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tls.vault.sealing import NONCE_BYTES, OVERHEAD_BYTES, Kind, Label, NotUsable, Reason, Seals

LABEL = Label(Kind.CERTIFICATE, "0123456789abcdef", "fedcba9876543210", 7)
SECRET, OTHER = bytes(range(32)), b"x" * 32
NONCE = bytes(NONCE_BYTES)


def reason(seals: Seals, sealed: bytes, label: Label = LABEL) -> Reason:
    with pytest.raises(NotUsable) as failed:
        seals.open(label, sealed)
    return failed.value.reason


@given(st.binary(max_size=3000), st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES))
@settings(max_examples=50)
def test_what_was_sealed_opens(content: bytes, nonce: bytes) -> None:
    seals = Seals([SECRET])
    sealed = seals.seal(LABEL, content, nonce)
    assert seals.open(LABEL, sealed) == content
    assert content not in sealed[2 + NONCE_BYTES :] or len(content) < 4
    assert sealed[:2] == bytes((1, seals.key_id))
    assert len(sealed) == OVERHEAD_BYTES + 2 + len(LABEL.text) + len(content)


def test_the_format_does_not_change() -> None:
    """A node of the next version must read this; and nodes derive the same key for ever."""
    sealed = Seals([SECRET]).seal(LABEL, b"content", NONCE)
    assert sealed.hex() == GOLDEN
    assert Seals([SECRET]).open(LABEL, bytes.fromhex(GOLDEN)) == b"content"


GOLDEN = (
    "0163000000000000000000000000000000000000000000000000f9d264b8059d1dd279b0b8490c17a213b80219533ffc"
    "070a53b81e1c5ad712e2651ee57087d847c0324fe5474e18bd91fe8e8600f4e81ea98d7b2084a43e4368c8c1"
)


@pytest.mark.parametrize(
    "other",
    [
        Label(Kind.ORDER, LABEL.ca_id, LABEL.subject, LABEL.fence),
        Label(LABEL.kind, "0" * 16, LABEL.subject, LABEL.fence),
        Label(LABEL.kind, LABEL.ca_id, "0" * 16, LABEL.fence),
        Label(LABEL.kind, LABEL.ca_id, LABEL.subject, 8),
    ],
)
def test_an_object_copied_to_another_place_does_not_open(other: Label) -> None:
    seals = Seals([SECRET])
    assert reason(seals, seals.seal(LABEL, b"content", NONCE), other) is Reason.MISPLACED


def test_any_altered_octet_is_seen() -> None:
    seals = Seals([SECRET])
    sealed = seals.seal(LABEL, b"content", NONCE)
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        expected = {0: Reason.OTHER_VERSION, 1: Reason.OTHER_KEY}.get(position, Reason.CORRUPT)
        assert reason(seals, bytes(altered)) is expected
    for length in range(len(sealed)):
        assert reason(seals, sealed[:length]) is Reason.CORRUPT
    assert reason(seals, sealed + b"x") is Reason.CORRUPT


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_nothing_foreign_opens(foreign: bytes) -> None:
    reason(Seals([SECRET]), foreign)


def test_a_rotation_of_keys() -> None:
    old, new, both = Seals([SECRET]), Seals([OTHER]), Seals([OTHER, SECRET])
    before, after = old.seal(LABEL, b"1", NONCE), both.seal(LABEL, b"2", NONCE)
    assert [both.open(LABEL, sealed) for sealed in (before, after)] == [b"1", b"2"]
    assert new.open(LABEL, after) == b"2"
    assert both.key_id == new.key_id != old.key_id
    assert reason(new, before) is Reason.OTHER_KEY
    assert reason(old, after) is Reason.OTHER_KEY


def test_keys_whose_ids_collide() -> None:
    ours = Seals([SECRET])
    twin = next(secret for n in range(10_000) if Seals([secret := b"twin%028d" % n]).key_id == ours.key_id)
    sealed = ours.seal(LABEL, b"content", NONCE)
    assert Seals([twin, SECRET]).open(LABEL, sealed) == b"content"
    assert reason(Seals([twin]), sealed) is Reason.CORRUPT


def test_secrets_that_are_none() -> None:
    with pytest.raises(ValueError, match="at least 16 octets"):
        Seals([b"short"])
    with pytest.raises(ValueError, match="no secret"):
        Seals([])


def test_text_of_a_label_with_strange_letters_is_only_told() -> None:
    """What a holder of the key sealed under a label that is no ASCII cannot come from us."""
    seals = Seals([SECRET])
    with pytest.raises(UnicodeEncodeError):
        seals.seal(Label(Kind.CHALLENGE, "", "tökén"), b"", NONCE)
