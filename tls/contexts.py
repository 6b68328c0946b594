"""Server contexts; and certificates from files, swapped when the files change.

A swap is a new context, which the next handshake uses; open connections stay as they are. (Loading a new pair
into a live context is no alternative: OpenSSL keeps one slot for each key type, and an old RSA certificate
would survive beside a new ECDSA one; a pair that does not match would even end all handshakes.)

What is served is what was read: the key is kept in memory, and goes to other processes of the node, which
may not be allowed to read it any more.

A pair that does not match, is expired or not yet valid never replaces a working one. At start an expired
pair is served all the same, with a critical log line: refusing would lock every customer out. Who prefers
that says so (``serve_expired``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .bundle import Bundle, parse_bundle
from .errors import CertificateUnusable
from .unserved import Unserved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

log = logging.getLogger("sora.tls")

# Reading a pair between the two renames of a renewal is normal; the next look sees both.
Stamp = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Material:
    """A pair as it was read from its files; ``stamp`` is what they looked like then. A secret."""

    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    stamp: Stamp = ()


class FileCertificate:
    """One chain file and one key file, watched; a ``CertificateSource`` that shows them for every name.
    Not thread-safe; lives on the loop."""

    def __init__(
        self,
        cert_file: Path,
        key_file: Path,
        *,
        now: Callable[[], datetime],
        known: Material | None = None,
        serve_expired: bool = True,
    ) -> None:
        """Loads the pair, or takes what another process has read. Raises CertificateUnusable when there is
        nothing that could be served."""
        self.cert_file = cert_file
        self.key_file = key_file
        self._now = now
        self.serve_expired = serve_expired  # may be replaced
        self.material = known or self._read(self._look())
        self._stamp = self.material.stamp
        self._early_until: datetime | None = None  # what the files have now becomes valid then
        self.bundle, self.context = self._load(self.material)
        refusal = self.bundle.refusal(now())
        if refusal:
            outcome = "it is served because there is no other" if self.can_serve else "TLS is refused"
            log.critical("certificate %s is %s; %s", cert_file, refusal, outcome)

    @property
    def can_serve(self) -> bool:
        return self.serve_expired or not self.bundle.is_expired(self._now())

    def choose(self, _name: str) -> ssl.SSLContext | Unserved:
        return self.context if self.can_serve else Unserved.EXPIRED

    async def obtain(self, name: str) -> ssl.SSLContext | Unserved:
        return self.choose(name)

    def refresh(self) -> bool:
        """Swap the pair in when its files changed; whether that happened. Never raises for bad files."""
        stamp = self._look()
        is_due = self._early_until is not None and self._now() >= self._early_until
        if not stamp or (stamp == self._stamp and not is_due):
            return False
        self._early_until = None
        try:
            return self._take(self._read(stamp))
        except (CertificateUnusable, OSError) as error:
            log.error("the changed certificate is not taken, the old one stays: %s", error)
            self._stamp = stamp
            return False

    def adopt(self, material: Material) -> bool:
        """Swap in what another process has read; whether it is another pair. Raises CertificateUnusable."""
        return material != self.material and self._take(material)

    def _take(self, material: Material) -> bool:
        bundle, context = self._load(material)
        refusal = bundle.refusal(self._now())
        if refusal:
            if bundle.is_early(self._now()):
                self._early_until = bundle.not_before
            raise CertificateUnusable(f"{self.cert_file}: {refusal}")
        self.material, self._stamp = material, material.stamp
        if bundle.fingerprint == self.bundle.fingerprint:
            return False
        self.bundle, self.context = bundle, context
        log.info("certificate swapped: %s, valid until %s", self.cert_file, bundle.not_after)
        return True

    def _look(self) -> Stamp:
        try:
            stats = [os.stat(path) for path in (self.cert_file, self.key_file)]
        except OSError:
            return ()
        return tuple((s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino) for s in stats)  # rights, too

    def _read(self, stamp: Stamp) -> Material:
        try:
            material = Material(self.cert_file.read_bytes(), self.key_file.read_bytes(), stamp)
            is_exposed = bool(self.key_file.stat().st_mode & stat.S_IROTH)
        except OSError as error:
            raise CertificateUnusable(f"{error.filename}: {error.strerror}") from error
        if is_exposed:
            log.warning("everybody on this machine can read the key %s: chmod o-r it", self.key_file)
        return material

    def _load(self, material: Material) -> tuple[Bundle, ssl.SSLContext]:
        bundle = parse_bundle(material.chain, material.key, str(self.cert_file))
        try:
            return bundle, server_context([material])
        except ssl.SSLError as error:
            raise CertificateUnusable(f"{self.cert_file}: {error}") from error


def server_context(materials: Iterable[Material]) -> ssl.SSLContext:
    """With these pairs, at most one of each type of key. Takes about 1 ms, touches no disk. Raises
    ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
    # Tickets would be good on this process alone, under a key that never changes; mail connections last.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    for material in materials:
        with _as_file(material.chain) as chain, _as_file(material.key) as key:
            context.load_cert_chain(chain, key)
    return context


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A name to read it by, in memory: Python's ssl takes certificates from files only."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"
