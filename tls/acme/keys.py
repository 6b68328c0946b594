"""Private keys of certificates, and requests for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..wanted import KeyType

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

MAKERS: Mapping[KeyType, Callable[[], PrivateKey]] = {
    KeyType.P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyType.P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyType.RSA2048: lambda: rsa.generate_private_key(65537, 2048),
    KeyType.RSA4096: lambda: rsa.generate_private_key(65537, 4096),
}


def make_request(key_type: KeyType, names: Sequence[str]) -> tuple[bytes, bytes]:
    """PEM key and PEM request for DNS names, without a subject: a common name could hold 64 octets only.

    A key of RSA takes seconds of CPU.
    """
    key = MAKERS[key_type]()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, request.public_bytes(serialization.Encoding.PEM)


def request_der(csr_pem: bytes) -> bytes:
    return x509.load_pem_x509_csr(csr_pem).public_bytes(serialization.Encoding.DER)
