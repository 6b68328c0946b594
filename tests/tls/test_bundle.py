"""Chains that must not be served, one fault each."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support.issued import NOW, Key, authority, key_pem, leaf, pem
from tls.bundle import covers, parse_bundle, verify_bundle
from tls.errors import CertificateUnusable

NAMES = ("mail.example.test", "imap.example.test")


@pytest.fixture(scope="module")
def key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def test_a_good_chain(key: Key) -> None:
    root = authority("root", "root")[0]
    for chain in ((authority()[0],), (authority()[0], root), ()):
        bundle = verify_bundle(pem(leaf(NAMES, key), *chain), key_pem(key), NAMES, "it")
        assert bundle.names == NAMES
        assert bundle.refusal(NOW) is None


def test_a_certificate_that_is_not_signed_by_the_next(key: Key) -> None:
    certificate, intermediate, root = leaf(NAMES, key), authority()[0], authority("root", "root")[0]
    for chain, number in (
        ((certificate, root), 1),
        ((certificate, root, intermediate), 1),
        ((certificate, intermediate, intermediate), 2),
        ((certificate, intermediate, certificate), 2),
    ):
        with pytest.raises(CertificateUnusable, match=f"certificate {number} of the chain"):
            verify_bundle(pem(*chain), key_pem(key), NAMES, "it")
        assert parse_bundle(pem(*chain), key_pem(key), "a file of the operator")


def test_an_issuer_of_the_same_name_and_another_key(key: Key) -> None:
    authority.cache_clear()
    certificate = leaf(NAMES, key)
    authority.cache_clear()
    impostor = authority()[0]
    with pytest.raises(CertificateUnusable, match="not signed by"):
        verify_bundle(pem(certificate, impostor), key_pem(key), NAMES, "it")


def test_the_key_of_another_certificate(key: Key) -> None:
    other = key_pem(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(CertificateUnusable, match="does not belong"):
        verify_bundle(pem(leaf(NAMES, key)), other, NAMES, "it")


def test_the_leaf_comes_first(key: Key) -> None:
    with pytest.raises(CertificateUnusable, match="does not belong"):
        verify_bundle(pem(authority()[0], leaf(NAMES, key)), key_pem(key), NAMES, "it")


def test_names_that_are_missing_are_told(key: Key) -> None:
    chain = pem(leaf(NAMES, key))
    with pytest.raises(CertificateUnusable, match=r"is not for pop\.example\.test, x\.test"):
        verify_bundle(chain, key_pem(key), (*NAMES, "pop.example.test", "x.test"), "it")


def test_the_common_name_is_no_name(key: Key) -> None:
    chain = pem(leaf(NAMES, key, has_alternative_names=False))
    assert parse_bundle(chain, key_pem(key), "it").names == NAMES[:1]
    with pytest.raises(CertificateUnusable, match="is not for mail"):
        verify_bundle(chain, key_pem(key), NAMES[:1], "it")


@pytest.mark.parametrize(
    ("pattern", "name", "good"),
    [
        ("mail.example.test", "mail.example.test", True),
        ("MAIL.example.test", "mail.Example.test", True),
        ("*.example.test", "mail.example.test", True),
        ("*.Example.test", "mail.example.test", True),
        ("*.example.test", "*.example.test", True),
        ("*.example.test", "example.test", False),
        ("*.example.test", "a.mail.example.test", False),
        ("*.example.test", ".example.test", False),
        ("mail.example.test", "*.example.test", False),
        ("*.*.test", "mail.example.test", False),
        ("m*.example.test", "mail.example.test", False),
        ("*.test", "example.test", False),  # nobody may be the whole of a top level domain
        ("*.*.example.test", "*.a.example.test", False),
        ("example.test", "", False),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_what_a_name_is_covered_by(pattern: str, name: str, *, good: bool) -> None:
    assert covers([pattern], name) is good


def test_keys_that_clients_do_not_take() -> None:
    for key in (
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
        ed25519.Ed25519PrivateKey.generate(),
    ):
        with pytest.raises(CertificateUnusable, match="neither P-256 nor"):
            verify_bundle(pem(leaf(NAMES, key)), key_pem(key), NAMES, "it")  # type: ignore[arg-type]
    for good in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        verify_bundle(pem(leaf(NAMES, good)), key_pem(good), NAMES, "it")


def test_what_cannot_be_read(key: Key) -> None:
    chain, private = pem(leaf(NAMES, key)), key_pem(key)
    body = chain.splitlines(keepends=True)
    altered = b"".join([*body[:3], b"AAAA" + body[3][4:], *body[4:]])
    for bad in (b"", b"x", chain[:-100], private, altered, chain.replace(b"CERTIFICATE", b"CERT")):
        with pytest.raises(CertificateUnusable):
            verify_bundle(bad, private, NAMES, "it")
    for bad in (b"", b"x", private[:-60], chain):
        with pytest.raises(CertificateUnusable, match="key cannot be read"):
            verify_bundle(chain, bad, NAMES, "it")


def test_dates_are_judged_to_the_second(key: Key) -> None:
    bundle = parse_bundle(pem(leaf(NAMES, key, not_before=NOW)), key_pem(key), "it")
    assert bundle.refusal(NOW) is None
    early = bundle.refusal(NOW - timedelta(seconds=1)) or ""
    assert "not valid before" in early
    assert "clock" in early, "what an operator can do"
    assert bundle.refusal(bundle.not_after - timedelta(seconds=1)) is None
    assert "expired" in (bundle.refusal(bundle.not_after) or "")
