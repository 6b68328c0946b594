"""A configuration that was read again, put in force on the parts of one process.

What may fail comes first, so that a failure changes nothing. Sessions stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tls.errors import CertificateUnusable

from . import logs
from .background import cleaner_settings
from .limits import session_limits
from .reload import ReloadRefused

if TYPE_CHECKING:
    from .background import Background
    from .config import Config
    from .core import Core
    from .doors import Doors
    from .metrics.server import MetricsServer
    from .relaying import QueueOutbox
    from .searches import Searches
    from .sessions import SessionLimits
    from .units import Network


class Guarding(Protocol):
    def reload(self, config: Config) -> None: ...


class Counting(Protocol):
    def limit(self, server: str, limits: SessionLimits) -> None: ...

    def trust(self, networks: Sequence[Network]) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What this process has of a node."""

    core: Core
    guards: Guarding
    sessions: Counting
    doors: Doors | None = None
    metrics_servers: Sequence[MetricsServer] = ()
    background: Background | None = None
    outbox: QueueOutbox | None = None
    searches: Searches | None = None


def put_in_force(config: Config, parts: Parts) -> list[str]:
    """What the operator has to know all the same. Raises ReloadRefused."""
    try:
        swap_certificates = parts.core.certificates.prepare(config)
        if config.logging != parts.core.config.logging:
            logging = config.logging
            logs.configure(output=logging.output, style=logging.format, level=logging.level)
    except (CertificateUnusable, OSError) as error:
        raise ReloadRefused(str(error)) from error
    swap_certificates()
    parts.core.config = config
    parts.guards.reload(config)
    parts.sessions.trust(config.trusted_networks)
    servers = {server.name: server for server in config.servers}
    for server in config.servers:
        parts.sessions.limit(server.name, session_limits(server))
    if parts.doors is not None:
        parts.doors.obey(config)
    for serving in parts.metrics_servers:
        serving.server = servers[serving.server.name]
        serving.show(parts.core.certificates.of(serving.server))
    if parts.outbox is not None:
        parts.outbox.obey(config)
    if parts.searches is not None:
        parts.searches.obey(config)
    if parts.background is not None:
        parts.background.cleaner.settings = cleaner_settings(config.cleanup)
    return parts.core.certificates.troubles()
