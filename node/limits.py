"""Limits of one server, from its settings to what the parts that keep them are told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from protocols.clock import ClockSettings
from protocols.imap.searchpace import SearchRate
from protocols.memory import NodeMemory

from .sessions import SessionLimits

if TYPE_CHECKING:
    from .config import Config
    from .config.server import Server


def session_limits(server: Server) -> SessionLimits:
    return SessionLimits(
        total=server.max_connections,
        per_address=server.max_connections_per_ip,
        per_user=server.max_connections_per_user,
        per_user_and_address=server.max_connections_per_user_per_ip,
    )


def command_limits(server: Server) -> dict[str, float]:
    """Seconds by the command's name."""
    timeouts = server.timeouts
    if server.type == "imap":
        imap = timeouts.imap_command_timeouts
        return {
            "SEARCH": imap.search_s,
            "SORT": imap.sort_s,
            "THREAD": imap.thread_s,
            "ESEARCH": imap.multi_search_s,
            "FETCH": imap.fetch_s,
            "COPY": imap.copy_s,
            "MOVE": imap.move_s,
            "STORE": imap.store_s,
        }
    if server.type == "pop3":
        pop3 = timeouts.pop3_command_timeouts
        return {
            "STAT": pop3.stat_s,
            "LIST": pop3.list_s,
            "UIDL": pop3.uidl_s,
            "DELE": pop3.dele_s,
            "RETR": pop3.retr_s,
            "TOP": pop3.top_s,
            "QUIT": pop3.quit_s,
        }
    if server.type == "managesieve":
        sieve = timeouts.managesieve_command_timeouts
        return {
            "LISTSCRIPTS": sieve.listscripts_s,
            "GETSCRIPT": sieve.getscript_s,
            "PUTSCRIPT": sieve.putscript_s,
            "CHECKSCRIPT": sieve.checkscript_s,
            "SETACTIVE": sieve.setactive_s,
            "DELETESCRIPT": sieve.deletescript_s,
            "RENAMESCRIPT": sieve.renamescript_s,
            "HAVESPACE": sieve.havespace_s,
        }
    lmtp = timeouts.lmtp_command_timeouts
    return {"RCPT": lmtp.rcpt_s, "DATA": lmtp.data_s}


def search_rate(server: Server) -> SearchRate | None:
    limits = server.limits
    if not limits.search_rate_limit_per_min:
        return None
    return SearchRate(limits.search_rate_limit_per_min, limits.search_rate_limit_window_s)


def node_memory(config: Config, *, processes: int = 1) -> NodeMemory:
    """Of one of so many that serve clients: what the configuration says, or its share of a quarter of the
    machine's memory."""
    if config.memory_limit_bytes:
        return NodeMemory(config.memory_limit_bytes)
    return NodeMemory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4 // processes)


def session_clock(server: Server) -> ClockSettings:
    return ClockSettings(
        session_s=server.absolute_session_timeout_s, min_bytes_per_minute=server.min_bytes_per_minute
    )
