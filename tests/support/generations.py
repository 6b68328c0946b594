"""Certificates as a CA would have issued them, of any age and type of key; self-signed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tls.ports import Generation

NOW = datetime(2026, 11, 22, tzinfo=UTC)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pair(
    names: Sequence[str], *, begins: datetime, ends: datetime, key: Key | None = None
) -> tuple[bytes, bytes]:
    """PEM certificate and key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def generation(
    *names: str,
    fence: int = 1,
    wanted_id: str = "",
    begins: datetime = NOW - timedelta(days=1),
    ends: datetime = NOW + timedelta(days=89),
    key: Key | None = None,
) -> Generation:
    chain, private = pair(names, begins=begins, ends=ends, key=key)
    return Generation(wanted_id or names[0], fence, chain, private, "https://ca.test/dir", begins, names)
