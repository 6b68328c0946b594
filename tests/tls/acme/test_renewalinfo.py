from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tls.acme.renewalinfo import DEFAULT_S, LATEST_S, SOONEST_S, certificate_id, parse_renewal

WINDOW = {"start": "2031-01-02T04:00:00Z", "end": "2031-01-03T04:00:00Z"}


def leaf(serial: int, key_identifier: bytes | None) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.test")])
    now = datetime(2031, 1, 1, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if key_identifier is not None:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier(key_identifier, None, None), critical=False
        )
    return builder.sign(key, hashes.SHA256())


def test_the_example_of_rfc_9773() -> None:
    """Its serial number begins with a set bit, so that DER puts a zero before it."""
    key_identifier = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")
    assert certificate_id(leaf(0x8765_4321, key_identifier)) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_serial_numbers_without_that_bit() -> None:
    assert certificate_id(leaf(0x7F, b"\x01")) == "AQ.fw"
    assert certificate_id(leaf(0x0100, b"\x01")) == "AQ.AQA"


def test_a_certificate_without_a_key_identifier_has_no_id() -> None:
    assert certificate_id(leaf(5, None)) is None


@pytest.mark.parametrize(
    ("asked", "taken"), [(None, DEFAULT_S), (5.0, SOONEST_S), (7200.0, 7200.0), (1e9, LATEST_S)]
)
def test_when_to_ask_again(asked: float | None, taken: float) -> None:
    renewal = parse_renewal({"suggestedWindow": WINDOW}, asked)
    assert renewal is not None
    assert renewal.ask_again_s == taken
    assert renewal.start == datetime(2031, 1, 2, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"suggestedWindow": []},
        {"suggestedWindow": {"start": WINDOW["start"]}},
        {"suggestedWindow": WINDOW | {"end": WINDOW["start"]}},
        {"suggestedWindow": {"start": WINDOW["end"], "end": WINDOW["start"]}},
        {"suggestedWindow": WINDOW | {"end": "soon"}},
        {"suggestedWindow": WINDOW | {"end": 7}},
        {"suggestedWindow": {"start": "2031-01-02T04:00:00", "end": "2031-01-03T04:00:00"}},
        {"suggestedWindow": {"start": "0001-01-01T00:00:00+23:59", "end": "0001-01-02T00:00:00+23:59"}},
        {"suggestedWindow": WINDOW | {"end": "9999-12-31T23:00:00-23:59"}},
    ],
)
def test_what_makes_no_sense_is_ignored(document: Any) -> None:
    assert parse_renewal(document, None) is None
