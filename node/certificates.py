"""Which certificate each server shows, from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tls.contexts import FileCertificate, Material
from tls.errors import CertificateUnusable

from .privileges import cure, may_read, who_we_are

if TYPE_CHECKING:
    from .config.model import Config
    from .config.server import Server

log = logging.getLogger("sora.tls")

Pair = tuple[str, str]  # files of the chain and of the key
Materials = Mapping[Pair, Material]
REFRESH_S = 5.0  # how soon changed files are noticed


class Certificates:
    """One FileCertificate for each pair of files, whatever number of servers show it.

    ``known``: what another process has read of them. That one may have been root then, and is the one that
    says what cannot be read any more.
    """

    def __init__(self, config: Config, known: Materials | None = None) -> None:
        self._global = _global_pair(config)
        self._known = known
        self._pairs: dict[Pair, FileCertificate] = {}
        self._servers: set[str] = set()  # that have asked
        self._hidden: set[Path] = set()  # files that may not be read now

    def of(self, server: Server) -> FileCertificate | None:
        """The server's own pair, else the global one, else None. Raises CertificateUnusable."""
        self._servers.add(server.name)
        pair = _pair_of(server, self._global)
        if not all(pair):
            return None
        if pair not in self._pairs:
            self._pairs[pair] = self._open(pair)
        return self._pairs[pair]

    def prepare(self, config: Config) -> Callable[[], None]:
        """Load what a configuration that was read again names; the answer puts it in force, after which
        ``of`` answers anew. Raises CertificateUnusable, having changed nothing; also for an expired pair."""
        shared = _global_pair(config)
        asking = (server for server in config.servers if server.name in self._servers)
        wanted = {_pair_of(server, shared) for server in asking}
        pairs = {pair: self._pairs.get(pair) or self._valid(pair) for pair in sorted(wanted) if all(pair)}
        return lambda: self._take(shared, pairs)

    def learn(self, known: Materials) -> None:
        """What another process has read meanwhile, also for ``prepare``. Raises CertificateUnusable."""
        self._known = known
        for pair, material in known.items():
            if pair in self._pairs:
                self._pairs[pair].adopt(material)

    def materials(self) -> Materials:
        """For other processes of this node only: the keys are in it."""
        return {pair: certificate.material for pair, certificate in self._pairs.items()}

    def __iter__(self) -> Iterator[FileCertificate]:
        return iter(self._pairs.values())

    def refresh(self) -> None:
        """Swap in what changed on disk, and say once what cannot be read any more."""
        for certificate in self._pairs.values():
            certificate.refresh()
        if self._known is None:
            self._note_hidden()

    def troubles(self) -> list[str]:
        """Files that this process may not read: what is shown stays as it is, whatever is put there."""
        return [_trouble(path) for path in sorted(self._files()) if not may_read(path)]

    def _files(self) -> set[Path]:
        return {path for each in self._pairs.values() for path in (each.cert_file, each.key_file)}

    def _note_hidden(self) -> None:
        files = self._files()
        hidden = {path for path in files if not may_read(path)}
        for path in sorted(hidden - self._hidden):
            log.warning("%s", _trouble(path))
        for path in sorted(files & (self._hidden - hidden)):
            log.info("%s can be read again", path)
        self._hidden = hidden

    def _take(self, shared: Pair, pairs: dict[Pair, FileCertificate]) -> None:
        self._global, self._pairs = shared, pairs
        self.refresh()

    def _open(self, pair: Pair) -> FileCertificate:
        known = None if self._known is None else self._known.get(pair)
        paths = [Path(name) for name in pair]
        try:
            return FileCertificate(*paths, now=lambda: datetime.now(UTC), known=known)
        except CertificateUnusable as error:
            cures = [cure(path) for path in paths if not may_read(path)]
            raise CertificateUnusable("; ".join([str(error), *cures])) from error

    def _valid(self, pair: Pair) -> FileCertificate:
        certificate = self._open(pair)
        refusal = certificate.bundle.refusal(datetime.now(UTC))
        if refusal:
            raise CertificateUnusable(f"{pair[0]}: {refusal}")
        return certificate


def _trouble(path: Path) -> str:
    return (
        f"{path} may not be read by {who_we_are()}: the certificate in memory stays, and a renewed one needs"
        f" a restart; or {cure(path)}"
    )


def _global_pair(config: Config) -> Pair:
    return (config.tls.cert_file, config.tls.key_file) if config.tls.enabled else ("", "")


def _pair_of(server: Server, shared: Pair) -> Pair:
    own = (server.tls_cert_file, server.tls_key_file)
    return own if all(own) else shared
