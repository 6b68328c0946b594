"""A certification authority of one test: files for servers and clients, and faults they may have."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
_USES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True)
class Pair:
    """Two PEM files, readable by everybody (test keys)."""

    certificate: Path
    key: Path
    fingerprint: str  # SHA-256, as Postfix writes it


@dataclass
class Authority:
    directory: Path
    name: str = "test authority"
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @functools.cached_property
    def file(self) -> Path:
        """Its certificate, for who trusts it."""
        path = self.directory / f"{self.name.replace(' ', '-')}.pem"
        path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        path.chmod(0o644)
        return path

    def issue(self, name: str, *, days: int = 30) -> Pair:
        """For a host name or an address; with ``days`` below 0 it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            self._builder(name, key, now - 60 * DAY, now + days * DAY)
            .add_extension(x509.SubjectAlternativeName([_general(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(_USES), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return self._write(f"{name}{days}", certificate, key)

    @functools.cached_property
    def _certificate(self) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            self._builder(self.name, self._key, now - 90 * DAY, now + 90 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(
        self, name: str, key: ec.EllipticCurvePrivateKey, begins: datetime.datetime, ends: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_common_name(name))
            .issuer_name(_common_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )

    def _write(self, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        paths = self.directory / f"{stem}.crt", self.directory / f"{stem}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        for path in paths:
            path.chmod(0o644)
        return Pair(*paths, certificate.fingerprint(hashes.SHA256()).hex(":").upper())


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
