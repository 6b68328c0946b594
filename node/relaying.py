"""The outgoing side of a node: the outbox of every process, and the runner of the one that empties the
queue."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from protocols.errors import AuthenticationUnavailable
from protocols.lmtp.recipients import RecipientDirectory
from protocols.ports import Identity, MailKind, Peer, Services
from protocols.relay.breaker import Breaker, BreakerState
from protocols.relay.http import HttpTransport
from protocols.relay.runner import Runner, RunnerSettings
from protocols.relay.smtp import SmtpSettings, SmtpTransport, tls_context
from protocols.settings import follow_settings
from storage.dsn import NO_REQUEST, DsnRequest
from storage.errors import StagingFull
from storage.relayadopt import interrupted
from storage.relayqueue import RelayQueue, SpoolTaken
from storage.relayroom import RelayLimits
from storage.relayspool import RelaySpool

from .controlrelay import RelayCommands, without_relay
from .health import OK, Finding, State, worst
from .metrics.sources import add_relay
from .relaybounces import LocalBouncer
from .reload import ReloadRefused
from .sending import sender_rewriting
from .units import format_duration, parse_address

if TYPE_CHECKING:
    from protocols.relay.transport import Transport
    from storage.model import AccountId

    from .config import Config
    from .control import Handler
    from .core import Core
    from .monitoring import Monitoring

SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT = 25, 587, 465
OVERDUE_DEGRADED_S: Final = 900.0
NEARLY_FULL: Final = 0.9


class RelayUnusable(Exception):
    """The relay cannot be set up as configured; the message says why."""


class QueueOutbox:
    """``protocols.ports.Outbox``. ``queued`` tells whoever empties the queue of a new message, on the
    loop."""

    def __init__(self, spool: RelaySpool, queued: Callable[[str], None]) -> None:
        self._spool = spool
        self._queued = queued
        self.submitted: Counter[str] = Counter()
        self.refused = 0  # as there was no room

    def fill_ratio(self) -> float:
        """Of the limit that is nearest, by the last count; 1.0 is full."""
        return self._spool.room.fill_ratio()

    def obey(self, config: Config) -> None:
        """Other limits, from the next message on."""
        self._spool.room.limits = relay_limits(config)

    async def submit(
        self,
        envelope_from: str,
        recipients: Sequence[str],
        message: bytes | Sequence[bytes],
        *,
        kind: MailKind,
        account: AccountId | None,
        key: bytes = b"",
        dsn: DsnRequest = NO_REQUEST,
        held_s: float = 0.0,
    ) -> str:
        try:
            message_id = await asyncio.to_thread(
                self._spool.submit,
                envelope_from,
                recipients,
                message,
                kind=kind.value,
                account=account,
                key=key,
                dsn=dsn,
                held_s=held_s,
            )
        except StagingFull:
            self.refused += 1
            raise
        self.submitted[kind.value] += 1
        if not held_s:
            self._queued(message_id)
        return message_id

    async def release(self, name: str) -> None:
        if await asyncio.to_thread(self._spool.let_go, name):
            self._queued(name)

    async def withdraw(self, name: str) -> None:
        await asyncio.to_thread(self._spool.withdraw, name)


def worker_outbox(config: Config, queued: Callable[[str], None]) -> QueueOutbox | None:
    """Of a process that only puts mail in; None without a relay."""
    if not config.relay.type:
        return None
    spool = RelaySpool(Path(config.relay_queue.path), time.time, limits=relay_limits(config))
    return QueueOutbox(spool, queued)


class RelayPart:
    """Of the process that empties the queue. Without a relay it does nothing."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.is_configured = bool(config.relay.type)
        self._runner: Runner | None = None
        self.outbox: QueueOutbox | None = None
        if self.is_configured:
            owner = config.hostname or socket.gethostname()
            path, limits = Path(config.relay_queue.path), relay_limits(config)
            self.queue = RelayQueue(path, time.time, owner=owner, limits=limits)
            self.outbox = QueueOutbox(self.queue, self.queued)

    async def open(self, exit_stack: AsyncExitStack) -> None:
        """Take the queue over. Raises RelayUnusable, StorageError."""
        if not self.is_configured:
            return
        try:
            self._transport = transport_of(self._config)
            await asyncio.to_thread(self.queue.open)
        except SpoolTaken as error:
            raise RelayUnusable(str(error)) from error
        exit_stack.callback(self.queue.close)

    def start(self, core: Core) -> None:
        """Begin to empty it."""
        if self.outbox is None:
            return
        hostname = _hostname(self._config)
        directory = RecipientDirectory(core.accounts, clock=time.monotonic)
        follow_settings(core.feed, directory)
        srs = sender_rewriting(self._config.sieve)
        bouncer = LocalBouncer(_services(core), directory.look_up, self.outbox, hostname, srs=srs)
        self.runner = self._runner = Runner(
            self.queue,
            self._transport,
            _breaker(self._config),
            bouncer,
            core.send_log,
            runner_settings(self._config, hostname),
            clock=time.time,
            monotonic=time.monotonic,
        )
        core.workers.start("relay", self.runner.run)

    def prepare(self, config: Config) -> Callable[[], None]:
        """What puts another configuration in force: attempts from then on go by it, and a relay that was left
        alone is tried at once. Raises ReloadRefused."""
        if self._runner is None:
            return lambda: None
        try:
            transport = transport_of(config)
        except RelayUnusable as error:
            raise ReloadRefused(str(error)) from error

        def swap() -> None:
            self._config = config
            self.runner.replace(transport, _breaker(config), runner_settings(config, _hostname(config)))

        return swap

    def queued(self, message_id: str) -> None:
        """A process has queued a message."""
        if self._runner is not None:
            self._runner.offer(time.time(), message_id)

    # --- what it tells ---

    def monitor(self, monitoring: Monitoring) -> None:
        if self.outbox is None:
            return
        add_relay(monitoring.registry, self.runner, self.outbox)
        monitoring.checker.add("relay", self._check)

    def commands(self) -> dict[str, Handler]:
        if not self.is_configured:
            return without_relay()
        return RelayCommands(self.queue, self.runner).table()

    async def _check(self) -> Finding:
        room = self.queue.room
        await asyncio.to_thread(room.count)
        finding = judge_relay(self.runner, await asyncio.to_thread(interrupted, self.queue))
        return worst([finding, judge_room(room.fill_ratio())])


def judge_room(fill_ratio: float) -> Finding:
    if fill_ratio < NEARLY_FULL:
        return OK
    return Finding(State.DEGRADED, f"the relay queue is {fill_ratio:.0%} full; mail for it is put off")


def judge_relay(runner: Runner, unfinished: int) -> Finding:
    """Mail waits safely whatever happens here, so this is never worse than degraded."""
    figures = runner.figures
    findings = [OK]
    if figures.trouble:
        findings.append(Finding(State.DEGRADED, f"the queue cannot be worked on: {figures.trouble}"))
    if runner.breaker.state(time.monotonic()) is not BreakerState.CLOSED:
        findings.append(
            Finding(State.DEGRADED, f"{figures.pending} messages wait for the relay: {figures.last_failure}")
        )
    overdue_s = runner.overdue_s()
    if overdue_s > OVERDUE_DEGRADED_S:
        age = format_duration(float(int(overdue_s)))
        findings.append(
            Finding(State.DEGRADED, f"{figures.pending} messages wait, one has been due for {age}")
        )
    if unfinished:
        findings.append(
            Finding(State.DEGRADED, f"an adoption was not finished: {unfinished} messages wait, adopt again")
        )
    return worst(findings)


def relay_limits(config: Config) -> RelayLimits:
    options = config.relay_queue
    return RelayLimits(options.max_messages, options.max_size_bytes, options.min_free_disk_bytes)


def _hostname(config: Config) -> str:
    return config.hostname or socket.getfqdn()


def _breaker(config: Config) -> Breaker:
    options = config.relay_queue
    return Breaker(
        options.circuit_breaker_threshold,
        options.circuit_breaker_timeout_s,
        options.circuit_breaker_max_requests,
    )


def runner_settings(config: Config, hostname: str) -> RunnerSettings:
    options = config.relay_queue
    return RunnerSettings(
        hostname=hostname,
        interval_s=options.worker_interval_s,
        batch_size=options.batch_size,
        concurrency=options.concurrency,
        max_attempts=options.max_attempts if options.enabled else 1,
        backoff_s=options.retry_backoff_s,
        failed_retention_s=options.failed_retention_s,
        cleanup_interval_s=options.cleanup_interval_s,
    )


def transport_of(config: Config) -> Transport:
    """Raises RelayUnusable."""
    relay = config.relay
    if relay.type == "http":
        remote = urlsplit(relay.http_url).hostname or relay.http_url
        return HttpTransport(relay.http_url, relay.auth_token.reveal(), remote)
    context = None
    if relay.smtp_tls:
        try:
            context = tls_context(
                verify=relay.smtp_tls_verify,
                ca_file=relay.smtp_tls_ca_file,
                cert_file=relay.smtp_tls_cert_file,
                key_file=relay.smtp_tls_key_file,
            )
        except OSError as error:
            raise RelayUnusable(f"certificate files of [relay]: {error}") from error
    port = SMTP_PORT
    if context is not None:
        port = SUBMISSION_PORT if relay.smtp_use_starttls else SUBMISSIONS_PORT
    address = parse_address(relay.smtp_host, port)
    settings = SmtpSettings(
        host=address.host,
        port=address.port,
        helo=relay.smtp_helo_host or config.hostname or socket.getfqdn(),
        tls_context=context,
        use_starttls=relay.smtp_use_starttls,
        username=relay.smtp_username,
        password=relay.smtp_password.reveal(),
    )
    return SmtpTransport(settings)


class _NobodyLogsIn:
    async def authenticate(
        self, protocol: str, peer: Peer, username: str, password: bytes, session_id: str = ""
    ) -> Identity:
        raise AuthenticationUnavailable("nobody logs in here")


def _services(core: Core) -> Services:
    """For deliveries of the node itself."""
    return Services(core.mail, core.accounts, core.bodies, core.intake, core.feed, _NobodyLogsIn())
