"""Which of the chains that a CA offers is taken. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.x509.oid import NameOID


def top_issuer(chain_pem: bytes) -> str:
    """The common name of the root that a chain leads to. Raises ValueError when it is no chain."""
    certificates = x509.load_pem_x509_certificates(chain_pem)
    names = certificates[-1].issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def choose_chain(chains: Iterable[bytes], preferred: str) -> bytes | None:
    """The first that leads to the root of this common name; the iterable is read no further than that."""
    return next((chain for chain in chains if top_issuer(chain) == preferred), None)
