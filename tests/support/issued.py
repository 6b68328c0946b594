"""Chains as a CA issues them, made for one test: root, intermediate, leaf."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tls.ports import Generation
from tls.wanted import Wanted

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CA = "https://ca.example.test/directory"
Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@functools.cache
def authority(common_name: str = "intermediate", issuer: str = "root") -> tuple[x509.Certificate, Key]:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = key if common_name == issuer else authority(issuer, issuer)[1]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=3000))
        .not_valid_after(NOW + timedelta(days=3000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    return certificate, key


def leaf(
    names: Sequence[str],
    key: Key,
    *,
    not_before: datetime = NOW - timedelta(hours=1),
    lifetime: timedelta = timedelta(days=90),
    has_alternative_names: bool = True,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(names[0]))
        .issuer_name(name("intermediate"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + lifetime)
    )
    if has_alternative_names:
        alternative = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
        builder = builder.add_extension(alternative, critical=False)
    return builder.sign(authority()[1], hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def key_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def generation(
    fence: int,
    names: Sequence[str] = ("mail.example.test",),
    *,
    ca: str = CA,
    issued_at: datetime = NOW,
    lifetime: timedelta = timedelta(days=90),
) -> Generation:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = leaf(names, key, not_before=issued_at - timedelta(hours=1), lifetime=lifetime)
    chain = pem(certificate, authority()[0])
    wanted = Wanted(tuple(names))
    return Generation(wanted.id, fence, chain, key_pem(key), ca, issued_at, wanted.names)
