"""A certificate chain with its key, judged before anybody serves it.

Pure: bytes in, facts out; the clock is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from .errors import CertificateUnusable

if TYPE_CHECKING:
    from collections.abc import Sequence

RSA_BITS_MIN = 2048


@dataclass(frozen=True, slots=True)
class Bundle:
    """Facts of the leaf certificate. Times are aware UTC."""

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    fingerprint: str  # SHA-256 of the leaf, hex

    def refusal(self, now: datetime) -> str | None:
        """Why this may not replace a working certificate at ``now``, or None."""
        if self.is_expired(now):
            return f"expired on {self.not_after:%Y-%m-%d %H:%M} UTC"
        if self.is_early(now):
            begins = f"{self.not_before:%Y-%m-%d %H:%M:%S}"
            return f"not valid before {begins} UTC; if that has passed, set this node's clock by NTP"
        return None

    def is_expired(self, now: datetime) -> bool:
        return now >= self.not_after

    def is_early(self, now: datetime) -> bool:
        """Not yet valid: the clock of who issued it is ahead, or ours behind."""
        return now < self.not_before


def parse_bundle(chain_pem: bytes, key_pem: bytes, source: str) -> Bundle:
    """Read a PEM chain (leaf first) and its unencrypted key. Raises CertificateUnusable."""
    return _judge(_chain(chain_pem, source), key_pem, source)


def verify_bundle(chain_pem: bytes, key_pem: bytes, names: Sequence[str], source: str) -> Bundle:
    """``parse_bundle``, and more: each certificate is signed by the next, the leaf is for all of ``names``
    (folded, wildcards as such) by its alternative names, and the key is of a type that clients take.

    Says nothing about dates (``Bundle.refusal``) and trust. Raises CertificateUnusable.
    """
    chain = _chain(chain_pem, source)
    bundle = _judge(chain, key_pem, source)
    _require_order(chain, source)
    _require_usable_key(chain[0], source)
    alternative = _alternative_names(chain[0])
    missing = [name for name in names if not covers(alternative, name)]
    if missing:
        raise CertificateUnusable(f"{source}: the certificate is not for {', '.join(missing)}")
    return bundle


def covers(patterns: Sequence[str], name: str) -> bool:
    """Whether a certificate for ``patterns`` is good for ``name`` (RFC 9525 §6.3): the wildcard is the whole
    first label and stands for exactly one."""
    name = name.lower()
    folded = {pattern.lower() for pattern in patterns}
    first, _, rest = name.partition(".")
    return name in folded or (first not in ("", "*") and "." in rest and f"*.{rest}" in folded)


def _chain(chain_pem: bytes, source: str) -> list[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        for certificate in chain:  # parsed only now: either may be malformed, or what we do not know
            certificate.public_key()
            certificate.extensions  # noqa: B018
    except (ValueError, TypeError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise CertificateUnusable(f"{source}: no PEM certificate found: {error}") from error
    return chain


def _require_order(chain: Sequence[x509.Certificate], source: str) -> None:
    for number, (certificate, issuer) in enumerate(pairwise(chain), start=1):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise CertificateUnusable(
                f"{source}: certificate {number} of the chain is not signed by the one after it"
            ) from error


def _require_usable_key(leaf: x509.Certificate, source: str) -> None:
    match leaf.public_key():
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return
        case rsa.RSAPublicKey(key_size=bits) if bits >= RSA_BITS_MIN:
            return
    raise CertificateUnusable(f"{source}: the key is neither P-256 nor P-384 nor RSA of {RSA_BITS_MIN} bits")


def _judge(chain: Sequence[x509.Certificate], key_pem: bytes, source: str) -> Bundle:
    leaf = chain[0]
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateUnusable(
            f"{source}: the key cannot be read (encrypted keys are not supported)"
        ) from error
    if _spki(leaf.public_key()) != _spki(key.public_key()):
        raise CertificateUnusable(f"{source}: the key does not belong to the certificate")
    return Bundle(
        names=_names(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
    )


def _spki(public_key: object) -> bytes:
    encoded: bytes = public_key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    common = (str(a.value) for a in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    return _alternative_names(leaf) or tuple(common)


def _alternative_names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except x509.ExtensionNotFound:
        return ()
    assert isinstance(extension, x509.SubjectAlternativeName)
    return tuple(str(name.value) for name in extension)
