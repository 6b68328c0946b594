"""Server contexts from certificate files, swapped when the files change.

A listener with implicit TLS keeps one outer context for its life; the outer context's SNI callback points
every new handshake at the inner context that is current then. So a swap needs no new socket, and open
connections stay as they are. (Loading a new pair into a live context is no alternative: OpenSSL keeps one
slot for each key type, and an old RSA certificate would survive beside a new ECDSA one.)

A pair that does not match, is expired or not yet valid never replaces a working one. At start an expired
pair is served all the same, with a critical log line: refusing would lock every customer out.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import TYPE_CHECKING

from .bundle import Bundle, parse_bundle
from .errors import CertificateUnusable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

log = logging.getLogger("sora.tls")

# Reading a pair between the two renames of a renewal is normal; the next look sees both.
Stamp = tuple[tuple[int, int, int], ...]


class FileCertificate:
    """One chain file and one key file, watched. Not thread-safe; lives on the loop."""

    def __init__(self, cert_file: Path, key_file: Path, *, now: Callable[[], datetime]) -> None:
        """Loads the pair. Raises CertificateUnusable when there is nothing that could be served."""
        self.cert_file = cert_file
        self.key_file = key_file
        self._now = now
        self._stamp = self._look()
        self.bundle, self.context = self._load()
        refusal = self.bundle.refusal(now())
        if refusal:
            log.critical("certificate %s is %s; it is served because there is no other", cert_file, refusal)

    def outer_context(self) -> ssl.SSLContext:
        """A context for a listener with implicit TLS that always answers with the current pair."""
        outer = self._build()
        self.answer_on(outer)
        return outer

    def answer_on(self, outer: ssl.SSLContext) -> None:
        """From now on an outer context, maybe another certificate's, answers with this one's current pair."""

        def choose(sock: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            sock.context = self.context

        outer.sni_callback = choose

    def refresh(self) -> bool:
        """Swap the pair in when its files changed; whether that happened. Never raises for bad files."""
        stamp = self._look()
        if stamp == self._stamp or not stamp:
            return False
        try:
            bundle, context = self._load()
            refusal = bundle.refusal(self._now())
            if refusal:
                raise CertificateUnusable(f"{self.cert_file}: {refusal}")
        except (CertificateUnusable, OSError) as error:
            log.error("the changed certificate is not taken, the old one stays: %s", error)
            self._stamp = stamp
            return False
        self._stamp = stamp
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
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in stats)

    def _load(self) -> tuple[Bundle, ssl.SSLContext]:
        try:
            chain, key = self.cert_file.read_bytes(), self.key_file.read_bytes()
        except OSError as error:
            raise CertificateUnusable(f"{error.filename}: {error.strerror}") from error
        bundle = parse_bundle(chain, key, str(self.cert_file))
        try:
            return bundle, self._build()
        except ssl.SSLError as error:
            raise CertificateUnusable(f"{self.cert_file}: {error}") from error

    def _build(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
        # Tickets would be good on this process alone, under a key that never changes; mail connections last.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.load_cert_chain(self.cert_file, self.key_file)
        return context
