"""Which certificate each server shows, from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tls.contexts import FileCertificate
from tls.errors import CertificateUnusable

if TYPE_CHECKING:
    from .config.model import Config
    from .config.server import Server

Pair = tuple[str, str]  # files of the chain and of the key
REFRESH_S = 5.0  # how soon changed files are noticed


class Certificates:
    """One FileCertificate for each pair of files, whatever number of servers show it."""

    def __init__(self, config: Config) -> None:
        self._global = _global_pair(config)
        self._pairs: dict[Pair, FileCertificate] = {}
        self._servers: set[str] = set()  # that have asked

    def of(self, server: Server) -> FileCertificate | None:
        """The server's own pair, else the global one, else None. Raises CertificateUnusable."""
        self._servers.add(server.name)
        pair = _pair_of(server, self._global)
        if not all(pair):
            return None
        if pair not in self._pairs:
            self._pairs[pair] = _open(pair)
        return self._pairs[pair]

    def prepare(self, config: Config) -> Callable[[], None]:
        """Load what a configuration that was read again names; the answer puts it in force, after which
        ``of`` answers anew. Raises CertificateUnusable, having changed nothing; also for an expired pair."""
        shared = _global_pair(config)
        asking = (server for server in config.servers if server.name in self._servers)
        wanted = {_pair_of(server, shared) for server in asking}
        pairs = {pair: self._pairs.get(pair) or _valid(pair) for pair in sorted(wanted) if all(pair)}
        return lambda: self._take(shared, pairs)

    def __iter__(self) -> Iterator[FileCertificate]:
        return iter(self._pairs.values())

    def refresh(self) -> None:
        """Swap in what changed on disk."""
        for certificate in self._pairs.values():
            certificate.refresh()

    def _take(self, shared: Pair, pairs: dict[Pair, FileCertificate]) -> None:
        self._global, self._pairs = shared, pairs
        self.refresh()


def _global_pair(config: Config) -> Pair:
    return (config.tls.cert_file, config.tls.key_file) if config.tls.enabled else ("", "")


def _pair_of(server: Server, shared: Pair) -> Pair:
    own = (server.tls_cert_file, server.tls_key_file)
    return own if all(own) else shared


def _open(pair: Pair) -> FileCertificate:
    return FileCertificate(Path(pair[0]), Path(pair[1]), now=lambda: datetime.now(UTC))


def _valid(pair: Pair) -> FileCertificate:
    certificate = _open(pair)
    refusal = certificate.bundle.refusal(datetime.now(UTC))
    if refusal:
        raise CertificateUnusable(f"{pair[0]}: {refusal}")
    return certificate
