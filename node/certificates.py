"""Which certificate each server shows, from the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tls.contexts import FileCertificate

if TYPE_CHECKING:
    from .config.model import Config
    from .config.server import Server

REFRESH_S = 5.0  # how soon changed files are noticed


class Certificates:
    """One FileCertificate for each pair of files, whatever number of servers show it."""

    def __init__(self, config: Config) -> None:
        self._global = (config.tls.cert_file, config.tls.key_file) if config.tls.enabled else ("", "")
        self._pairs: dict[tuple[str, str], FileCertificate] = {}

    def of(self, server: Server) -> FileCertificate | None:
        """The server's own pair, else the global one, else None. Raises CertificateUnusable."""
        own = (server.tls_cert_file, server.tls_key_file)
        pair = own if all(own) else self._global
        if not all(pair):
            return None
        if pair not in self._pairs:
            self._pairs[pair] = FileCertificate(Path(pair[0]), Path(pair[1]), now=lambda: datetime.now(UTC))
        return self._pairs[pair]

    def __iter__(self) -> Iterator[FileCertificate]:
        return iter(self._pairs.values())

    def refresh(self) -> None:
        """Swap in what changed on disk."""
        for certificate in self._pairs.values():
            certificate.refresh()
