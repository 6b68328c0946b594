"""A certificate chain with its key, judged before anybody serves it.

Pure: bytes in, facts out; the clock is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtensionOID, NameOID

from .errors import CertificateUnusable

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Bundle:
    """Facts of the leaf certificate. Times are aware UTC."""

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    fingerprint: str  # SHA-256 of the leaf, hex

    def refusal(self, now: datetime) -> str | None:
        """Why this may not replace a working certificate at ``now``, or None."""
        if now >= self.not_after:
            return f"expired on {self.not_after:%Y-%m-%d %H:%M} UTC"
        if now < self.not_before:
            return f"not valid before {self.not_before:%Y-%m-%d %H:%M} UTC"
        return None


def parse_bundle(chain_pem: bytes, key_pem: bytes, source: str) -> Bundle:
    """Read a PEM chain (leaf first) and its unencrypted key. Raises CertificateUnusable."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
    except (ValueError, IndexError) as error:
        raise CertificateUnusable(f"{source}: no PEM certificate found: {error}") from error
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
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
    try:
        extension = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except x509.ExtensionNotFound:
        return tuple(str(a.value) for a in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    assert isinstance(extension, x509.SubjectAlternativeName)
    return tuple(str(name.value) for name in extension)
