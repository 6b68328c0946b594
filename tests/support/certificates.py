"""A self-signed certificate for localhost, made for one test run."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from tls.selfsigned import self_signed

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def localhost_contexts(folder: Path) -> Contexts:
    """Server and client contexts of a self-signed certificate for localhost."""
    certificate, key = self_signed(["localhost"], datetime.datetime.now(datetime.UTC))
    path = folder / "both.pem"
    path.write_bytes(certificate + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=certificate.decode())
