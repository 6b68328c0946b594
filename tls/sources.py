"""Where a handshake gets its certificate: the contract that listeners see.

``FileCertificate`` (one pair of files) and ``serving.View`` (a table of names) keep it.
"""

from __future__ import annotations

import ssl
from typing import Protocol

from .contexts import server_context
from .unserved import Awaited, Unserved


class CertificateSource(Protocol):
    """What one listener shows."""

    @property
    def can_serve(self) -> bool:
        """Whether there is any certificate now, for whatever name."""
        ...

    def choose(self, name: str) -> ssl.SSLContext | Awaited | Unserved:
        """For the server name that a client asks for; empty: it asks for none. Never raises."""
        ...

    async def obtain(self, name: str) -> ssl.SSLContext | Unserved:
        """As ``choose``, but waits a bounded time for a certificate that is configured and not there."""
        ...


def outer_context(source: CertificateSource) -> ssl.SSLContext:
    """A context for a server that takes one for its life (asyncio's do): it has no certificate of its own,
    and points each handshake at the one that ``source`` chooses then."""
    outer = server_context(())
    answer_on(outer, source)
    return outer


def answer_on(outer: ssl.SSLContext, source: CertificateSource) -> None:
    """From now on the outer context answers with what this source chooses."""

    def choose(sock: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        choice = source.choose(name or "")
        if not isinstance(choice, ssl.SSLContext):
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        sock.context = choice
        return None

    outer.sni_callback = choose
