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
from .frontdoor import door_settings
from .limits import session_limits
from .reload import ReloadRefused

if TYPE_CHECKING:
    from .background import Background
    from .config import Config, Server
    from .core import Core
    from .listeners import Listener
    from .metrics.server import MetricsServer
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
    listeners: Sequence[Listener] = ()
    metrics_servers: Sequence[MetricsServer] = ()
    background: Background | None = None


def put_in_force(config: Config, parts: Parts) -> None:
    """Raises ReloadRefused."""
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
    for listener in parts.listeners:
        _apply_to_listener(listener, servers[listener.server.name], config, parts)
    for serving in parts.metrics_servers:
        serving.server = servers[serving.server.name]
        serving.show(parts.core.certificates.of(serving.server))
    if parts.background is not None:
        parts.background.cleaner.settings = cleaner_settings(config.cleanup)


def _apply_to_listener(listener: Listener, server: Server, config: Config, parts: Parts) -> None:
    listener.server = server
    listener.certificate = parts.core.certificates.of(server)
    listener.door.settings = door_settings(server, config.trusted_networks)
