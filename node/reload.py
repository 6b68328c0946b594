"""Reading the configuration again while the node runs.

All or nothing: a file with an error, or a certificate or log file that cannot be used, changes nothing. Of a
good file those settings come into force that ``RELOADABLE`` names; the others that differ from what the node
runs with are named, at every reload, until a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from .config import AuthRateLimit, Config, Loaded, Problem, Relay, RelayQueue, Server
from .config.merge import merge
from .config.option import every_row, rows
from .control import Arguments, Handler
from .core import PROTOCOLS
from .notify import Notifier

log = logging.getLogger("sora.node")

_FIXED_SIZES: Final = {"max_ip_username_entries", "max_ip_entries", "max_username_entries"}
_AT_START: Final = _FIXED_SIZES | {"cleanup_interval"}

# Settings of a server that its sessions begin with and keep: only where there are sessions.
_OF_SESSIONS: Final = (
    "command_timeout",
    "auth_idle_timeout",
    "absolute_session_timeout",
    "min_bytes_per_minute",
    "insecure_auth",
    "append_limit",
    "max_message_size",
    "max_script_size",
    "max_scripts",
    "supported_extensions",
    "limits.session_memory_limit",
    "limits.max_redirect_hops",
    "limits.redirect_rate_limit",
    "limits.redirect_rate_limit_window",
    "limits.vacation_rate_limit",
    "limits.vacation_rate_limit_window",
    "limits.notify_rate_limit",
    "limits.notify_rate_limit_window",
    "client_filters",
    "disabled_caps",
    "additional_caps",
    "id_name",
    "id_version",
    "id_vendor",
    "id_support_url",
    *(
        key
        for key, _ in every_row(Server)
        if key.startswith(tuple(f"timeouts.{each}_command_timeouts." for each in PROTOCOLS))
    ),
)
_FOR_SESSIONS: Final = {f"servers[].{key}": "new connections" for key in _OF_SESSIONS} | {
    "servers[].limits.search_rate_limit_per_min": "the next search; what was counted stays",
    "servers[].limits.search_rate_limit_window": "the next search; what was counted stays",
}

_RENEWAL: Final = (
    "domains",
    "key_types",
    "profile",
    "renew_before",
    "sync_interval",
    "ari",
    "certificate",
)

_RELAY_LIMITS: Final = ("max_messages", "max_size", "min_free_disk")

# What takes effect without a restart, and for whom.
RELOADABLE: Final[Mapping[str, str]] = {
    "logging.output": "the next line",
    "logging.format": "the next line",
    "logging.level": "the next line",
    "trusted_networks": "new connections and logins",
    "tls.cert_file": "new connections",
    "tls.key_file": "new connections",
    **{f"tls.letsencrypt.{key}": "the next look at all certificates, which is at once" for key in _RENEWAL},
    "tls.letsencrypt.default_domain": "new connections",
    "servers[].tls_cert_file": "new connections",
    "servers[].tls_key_file": "new connections",
    "servers[].max_connections": "new connections",
    "servers[].max_connections_per_ip": "new connections",
    "servers[].max_connections_per_user": "new logins",
    "servers[].max_connections_per_user_per_ip": "new logins",
    "servers[].proxy_protocol.trusted_proxies": "new connections",
    "servers[].proxy_protocol.timeout": "new connections",
    **{
        f"servers[].auth_rate_limit.{row.key}": "new logins; counts and blocks stay"
        for row in rows(AuthRateLimit)
        if row.key not in _AT_START
    },
    **_FOR_SESSIONS,
    "memory_limit": "the next command that needs a large buffer",
    "cleanup.grace_period": "the next clean-up",
    "cleanup.wake_interval": "after the next clean-up",
    "cleanup.max_age_restriction": "the next clean-up",
    **{f"relay.{row.key}": "the next attempt" for row in rows(Relay) if row.key != "type"},
    **{f"relay_queue.{row.key}": "the next attempt" for row in rows(RelayQueue) if row.key != "path"},
    **{f"relay_queue.{key}": "the next message, in each process" for key in _RELAY_LIMITS},
    "cluster.peers": "the next attempt to join them",
    "cluster.secret_key": "packets from now on",
    "cluster.secret_keys_old": "packets from now on",
    "cluster.rate_limit_sync.enabled": "blocks and failures from now on",
    "cluster.rate_limit_sync.sync_blocks": "blocks from now on",
    "cluster.rate_limit_sync.sync_failure_counts": "failures from now on",
}


def takes_effect(key: str, server_type: str) -> bool:
    """Whether a reload is enough for a canonical key, in a server of this type."""
    return key in RELOADABLE and (key not in _FOR_SESSIONS or server_type in PROTOCOLS)


class ReloadRefused(Exception):
    """The configuration cannot be put in force; the message says why, and nothing has changed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``applied`` and ``needs_restart`` are keys; ``problems`` also has warnings of a file that was taken."""

    ok: bool
    applied: list[str]
    needs_restart: list[str]
    problems: list[dict[str, Any]]


class Reloader:
    """``read`` reads the file, in a thread. ``put_in_force`` answers what failed in a part of the node, or
    raises ReloadRefused, having changed nothing."""

    def __init__(
        self,
        config: Config,
        read: Callable[[], Loaded],
        put_in_force: Callable[[Config], Awaitable[list[str]]],
        notifier: Notifier,
    ) -> None:
        self._running = config
        self._read = read
        self._put_in_force = put_in_force
        self._notifier = notifier
        self._turn = asyncio.Lock()
        self._requested: set[asyncio.Task[Outcome]] = set()

    def table(self) -> dict[str, Handler]:
        return {"reload": self._command}

    def request(self) -> None:
        """For a signal handler. Signals that come while one waits its turn are one."""
        if len(self._requested) < 2:
            task = asyncio.create_task(self.reload())
            self._requested.add(task)
            task.add_done_callback(self._requested.discard)

    async def _command(self, _arguments: Arguments) -> object:
        return asdict(await self.reload())

    async def reload(self) -> Outcome:
        """One at a time; logs what came of it. Never raises for anything in the file."""
        async with self._turn:
            self._notifier.reloading()
            try:
                loaded = await asyncio.to_thread(self._read)
                outcome = await self._take(loaded)
            finally:
                self._notifier.ready()
        _log(outcome, loaded.source)
        return outcome

    async def _take(self, loaded: Loaded) -> Outcome:
        problems = [_plain(each) for each in loaded.problems if each.severity != "notice"]
        if loaded.config is None:
            return Outcome(False, [], [], problems)
        merged = merge(self._running, loaded.config, takes_effect)
        try:
            failed = await self._put_in_force(merged.config)
        except ReloadRefused as error:
            refusal = Problem("error", "", 0, str(error), code="unreadable")
            return Outcome(False, [], [], [*problems, _plain(refusal)])
        self._running = merged.config
        problems += [_plain(Problem("warning", "", 0, each, code="unreadable")) for each in failed]
        return Outcome(True, merged.taken, merged.left, problems)


def _plain(problem: Problem) -> dict[str, Any]:
    return asdict(problem) | {"text": str(problem)}


def _log(outcome: Outcome, source: str) -> None:
    for problem in outcome.problems:
        level = logging.ERROR if problem["severity"] == "error" else logging.WARNING
        log.log(level, "%s: %s", source, problem["text"])
    if not outcome.ok:
        log.error("%s is not taken; nothing was changed", source)
        return
    log.info("%s was read again; applied: %s", source, ", ".join(outcome.applied) or "nothing new")
    if outcome.needs_restart:
        log.warning("changed, but needs a restart: %s", ", ".join(outcome.needs_restart))
