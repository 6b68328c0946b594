"""Which certificate each server shows, from the configuration, files and what was issued."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tls.contexts import FileCertificate, Material
from tls.domains import fold
from tls.errors import CertificateUnusable
from tls.ports import Generation
from tls.serving import Policy, Served

from .config.acmerules import wanted_of
from .privileges import cure, may_read, who_we_are

if TYPE_CHECKING:
    from tls.sources import CertificateSource

    from .config.model import Config
    from .config.server import Server

log = logging.getLogger("sora.tls")

Pair = tuple[str, str]  # files of the chain and of the key
Materials = Mapping[Pair, Material]
REFRESH_S = 1.0  # how soon changed files are noticed


@dataclass(frozen=True, slots=True)
class Shown:
    """One certificate that is served. ``label``: no other of this process has it. ``fingerprint``: SHA-256 of
    the leaf, hex; ``fence`` 0: from files."""

    label: str
    names: tuple[str, ...]
    fingerprint: str
    not_after: datetime
    fence: int = 0
    wanted_id: str = ""


class Certificates:
    """Of one process: a FileCertificate for each pair of files, whatever number of servers show it, and the
    table of those that were issued.

    ``known``: what another process has read of files. That one may have been root then, is the one that
    watches them, and says what cannot be read any more. ``changed`` is called when something else is served
    than before.
    """

    def __init__(self, config: Config, known: Materials | None = None) -> None:
        self._global = _global_pair(config)
        self._known = known
        self._serve_expired = config.tls.serve_expired
        self._has_table = has_table(config)
        self._pairs: dict[Pair, FileCertificate] = {}
        self._servers: set[str] = set()  # that have asked
        self._hidden: set[Path] = set()  # files that may not be read now
        self.served = Served(serving_policy(config), now=_now)
        self.changed: Callable[[], None] = lambda: None

    def of(self, server: Server) -> CertificateSource | None:
        """The server's own pair, else the global one, else the table, else None. Raises
        CertificateUnusable."""
        self._servers.add(server.name)
        pair = _pair_of(server, self._global)
        if not all(pair):
            return self.served.view(server.tls_default_domain) if self._has_table else None
        if pair not in self._pairs:
            self._pairs[pair] = self._open(pair)
        return self._pairs[pair]

    def offer(self, generations: Iterable[Generation]) -> dict[str, str]:
        """As ``Served.offer``, and other processes are told."""
        before = self.served.table
        refused = self.served.offer(generations)
        if self.served.table is not before:
            self.changed()
        return refused

    def retain(self, wanted_ids: Iterable[str]) -> None:
        """As ``Served.retain``, and other processes are told."""
        before = self.served.table
        self.served.retain(wanted_ids)
        if self.served.table is not before:
            self.changed()

    def prepare(self, config: Config) -> Callable[[], None]:
        """Load what a configuration that was read again names; the answer puts it in force, after which
        ``of`` answers anew. Raises CertificateUnusable, having changed nothing; also for an expired pair."""
        asking = (server for server in config.servers if server.name in self._servers)
        wanted = {_pair_of(server, _global_pair(config)) for server in asking}
        pairs = {pair: self._pairs.get(pair) or self._valid(pair) for pair in sorted(wanted) if all(pair)}
        return lambda: self._take(config, pairs)

    def learn(self, known: Materials) -> None:
        """What another process has read meanwhile, also for ``prepare``. Raises CertificateUnusable."""
        self._known = known
        for pair, material in known.items():
            if pair in self._pairs:
                self._pairs[pair].adopt(material)

    def materials(self) -> Materials:
        """For other processes of this node only: the keys are in it."""
        return {pair: certificate.material for pair, certificate in self._pairs.items()}

    def __iter__(self) -> Iterator[Shown]:
        """What is served now."""
        for file in self._pairs.values():
            bundle = file.bundle
            yield Shown(str(file.cert_file), bundle.names, bundle.fingerprint, bundle.not_after)
        taken: set[str] = set()
        for held in self.served.held():
            bundle, generation = held.bundle, held.generation
            fence, wanted_id = generation.fence, generation.wanted_id
            label = f"{bundle.names[0] if bundle.names else wanted_id} ({held.kind})"
            if label in taken:
                label = f"{label} {wanted_id}"
            taken.add(label)
            yield Shown(label, bundle.names, bundle.fingerprint, bundle.not_after, fence, wanted_id)

    def refresh(self) -> None:
        """Swap in what changed on disk or has come into force, and say once what cannot be read any more."""
        has_changed = self.served.refresh()
        if self._known is None:
            for certificate in self._pairs.values():
                has_changed |= certificate.refresh()
            self._note_hidden()
        if has_changed:
            self.changed()

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

    def _take(self, config: Config, pairs: dict[Pair, FileCertificate]) -> None:
        self._global, self._pairs = _global_pair(config), pairs
        self._serve_expired, self._has_table = config.tls.serve_expired, has_table(config)
        for certificate in pairs.values():
            certificate.serve_expired = config.tls.serve_expired
        self.served.policy = serving_policy(config)
        self.refresh()
        self.changed()

    def _open(self, pair: Pair) -> FileCertificate:
        known = None if self._known is None else self._known.get(pair)
        paths = [Path(name) for name in pair]
        try:
            return FileCertificate(*paths, now=_now, known=known, serve_expired=self._serve_expired)
        except CertificateUnusable as error:
            cures = [cure(path) for path in paths if not may_read(path)]
            raise CertificateUnusable("; ".join([str(error), *cures])) from error

    def _valid(self, pair: Pair) -> FileCertificate:
        certificate = self._open(pair)
        refusal = certificate.bundle.refusal(_now())
        if refusal:
            raise CertificateUnusable(f"{pair[0]}: {refusal}")
        return certificate


def has_table(config: Config) -> bool:
    """Whether certificates are issued, not read from files."""
    return config.tls.enabled and config.tls.provider == "letsencrypt"


def serving_policy(config: Config) -> Policy:
    tls = config.tls
    names = issued_names(config)
    acme = tls.letsencrypt
    listed = [*acme.domains, *(name for each in acme.certificate for name in each.domains)]
    default = fold(acme.default_domain or listed[0]) if names else ""
    return Policy(names, default, tls.unknown_names == "refuse", tls.serve_expired)


def issued_names(config: Config) -> frozenset[str]:
    """For which certificates are issued, folded."""
    if not has_table(config):
        return frozenset()
    wanted, _ = wanted_of(config.tls.letsencrypt)
    return frozenset(name for each in wanted for name in each.names)


def _now() -> datetime:
    return datetime.now(UTC)


def _trouble(path: Path) -> str:
    return (
        f"{path} may not be read by {who_we_are()}: the certificate in memory stays, and a renewed one needs"
        f" a restart; or {cure(path)}"
    )


def _global_pair(config: Config) -> Pair:
    tls = config.tls
    return (tls.cert_file, tls.key_file) if tls.enabled and tls.provider == "file" else ("", "")


def _pair_of(server: Server, shared: Pair) -> Pair:
    own = (server.tls_cert_file, server.tls_key_file)
    return own if all(own) else shared
