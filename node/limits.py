"""Limits of one server, from its settings to what the parts that keep them are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.clock import ClockSettings

from .sessions import SessionLimits

if TYPE_CHECKING:
    from .config.server import Server


def session_limits(server: Server) -> SessionLimits:
    return SessionLimits(
        per_address=server.max_connections_per_ip,
        per_user=server.max_connections_per_user,
        per_user_and_address=server.max_connections_per_user_per_ip,
    )


def session_clock(server: Server) -> ClockSettings:
    return ClockSettings(
        session_s=server.absolute_session_timeout_s, min_bytes_per_minute=server.min_bytes_per_minute
    )
