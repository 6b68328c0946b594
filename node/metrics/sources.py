"""Readings from the objects that do the work, taken when somebody asks. None may wait or ask the database.

To add a source: a function that yields readings, and ``registry.add`` of it in one of the ``add_`` functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING

from node.logsinks import LOSS
from node.presentation import node_version
from protocols.relay.figures import BOUNDS
from storage.cleaner import STAGES

from .counting import Distribution
from .process import ProcessFigures
from .registry import Reading, Registry

if TYPE_CHECKING:
    from node.authn import DirectAuthenticator
    from node.background import Background
    from node.certificates import Certificates
    from node.core import Core
    from node.doors import Doors
    from node.feed import HostFeed
    from node.health import Component
    from node.listeners import Listener
    from node.loginguard import Guards
    from node.relaying import QueueOutbox
    from node.sessions import Sessions
    from node.verify import PasswordVerifier
    from node.workers import Workers
    from protocols.imap.eventqueue import EventQueue
    from protocols.imap.views import ViewRegistry
    from protocols.memory import NodeMemory
    from protocols.relay.runner import Runner
    from protocols.spamtraining.trainer import Trainer
    from storage.bodies import BodyFinder
    from storage.cleaner import Cleaner
    from storage.floor import DiskFloor
    from storage.objects.cache import BodyCache
    from storage.postgres.pool import Database
    from storage.staging import StagingBound
    from storage.uploader import Uploader

    from .counting import ProtocolInstruments
    from .store import MeteredStore

Readings = Iterator[Reading]


def add_core(registry: Registry, core: Core) -> None:
    """What every process has."""
    add = registry.add
    add(ProcessFigures())
    if (cache := core.cache) is not None:
        add(lambda: read_cache(cache))
    add(lambda: [("sora_log_lines_lost_total", (), LOSS.lines)])
    add(lambda: read_store(core.store))
    add(lambda: read_staging(core.staging_bound, core.disk_floors))
    add(lambda: read_database(core.database))
    add(lambda: read_node(core.certificates, core.feed, core.workers))


def add_background(registry: Registry, background: Background) -> None:
    registry.add(lambda: read_uploads(background.uploader, background.cleaner))


def add_node_state(registry: Registry, guards: Guards, sessions: Sessions) -> None:
    """What one process keeps for all."""
    registry.add(lambda: read_guards(guards))
    registry.add(lambda: read_sessions(sessions))


def add_doors(registry: Registry, doors: Doors) -> None:
    """What a process that serves clients has."""
    add = registry.add
    add(lambda: read_connections(doors.listeners))
    add(lambda: read_instruments(doors.instruments))
    add(lambda: read_authentication(doors.authenticator, doors.verifier))
    add(lambda: read_memory(doors.memory))
    add(lambda: read_bodies(doors.bodies, doors.views))
    if (trainer := doors.trainer) is not None:
        add(lambda: read_training(trainer))
    if (events := doors.events) is not None:
        add(lambda: read_events(events))


def add_relay(registry: Registry, runner: Runner, outbox: QueueOutbox) -> None:
    """What the process has that empties the relay queue."""
    registry.add(lambda: read_relay(runner))
    registry.add(lambda: [("sora_relay_fill_ratio", (), outbox.fill_ratio())])
    add_outbox(registry, outbox)


def add_outbox(registry: Registry, outbox: QueueOutbox | None) -> None:
    if outbox is not None:
        registry.add(
            lambda: [("sora_relay_submitted_total", (kind,), n) for kind, n in outbox.submitted.items()]
        )
        registry.add(lambda: [("sora_relay_full_total", (), outbox.refused)])


def read_relay(runner: Runner) -> Readings:
    figures = runner.figures
    yield "sora_relay_messages", ("pending",), max(0, figures.pending)
    yield "sora_relay_messages", ("processing",), runner.busy_count
    yield "sora_relay_messages", ("failed",), figures.failed
    yield "sora_relay_overdue_seconds", (), runner.overdue_s()
    for labels, count in figures.verdicts.items():
        yield "sora_relay_recipients_total", labels, count
    for result, count in figures.bounces.items():
        yield "sora_relay_bounces_total", (result,), count
    yield "sora_relay_failures_total", (), figures.relay_failures
    yield "sora_relay_bugs_total", (), figures.bugs
    yield "sora_relay_expired_total", (), figures.expired
    yield "sora_relay_breaker", (), int(runner.breaker.state(monotonic()))
    durations = Distribution(BOUNDS)
    durations.counts, durations.total = list(figures.duration_counts), figures.duration_total_s
    yield "sora_relay_duration_seconds", (), durations


def read_connections(listeners: Iterable[Listener]) -> Readings:
    for listener in listeners:
        live = listener.live
        labels = (listener.server.type, listener.server.name)
        yield "sora_connections", labels, len(live)
        yield "sora_sessions", labels, 0  # so that it is there when nobody is
        yield "sora_connections_accepted_total", labels, live.counts.accepted
        refused = {
            "max_connections": listener.refused,
            "max_connections_per_ip": listener.refused_by_address,
            **listener.door.counts.rejected,
            "blocked": listener.refused_as_blocked,  # also before the door
        }
        for reason, count in refused.items():
            yield "sora_connections_refused_total", (*labels, reason), count
        for reason in ("stalled", "expired", "too_slow"):
            yield "sora_connections_cut_total", (*labels, reason), getattr(live.counts, reason)
        yield "sora_session_bugs_total", labels, live.counts.bugs
        yield "sora_early_bytes_dropped_total", labels, live.counts.early_bytes_dropped
        yield "sora_transferred_bytes_total", (*labels, "in"), live.bytes_in
        yield "sora_transferred_bytes_total", (*labels, "out"), live.bytes_out


def read_sessions(sessions: Sessions) -> Readings:
    for entry in sessions:
        if entry.user is not None:
            yield "sora_sessions", (entry.protocol, entry.server), 1
    yield "sora_limit_refusals_total", (), sessions.refused


def read_memory(memory: NodeMemory) -> Readings:
    yield "sora_session_memory_bytes", (), memory.used_bytes
    yield "sora_session_memory_refusals_total", (), memory.refused
    yield "sora_session_memory_peak_bytes", (), memory.peak_bytes
    if memory.total_bytes is not None:
        yield "sora_session_memory_limit_bytes", (), memory.total_bytes


def read_instruments(instruments: Mapping[str, ProtocolInstruments]) -> Readings:
    for protocol, counted in instruments.items():
        for (name, status), count in counted.commands.items():
            yield "sora_commands_total", (protocol, name.decode(), status.decode().lower()), count
        for name, durations in counted.durations.items():
            yield "sora_command_duration_seconds", (protocol, name.decode()), durations
        for result, count in counted.deliveries.items():
            yield "sora_deliveries_total", (result,), count
        yield "sora_message_size_bytes", (protocol,), counted.sizes


def read_authentication(authenticator: DirectAuthenticator, verifier: PasswordVerifier) -> Readings:
    for (protocol, result), count in authenticator.attempts.items():
        yield "sora_authentications_total", (protocol, result), count
    for outcome, count in verifier.outcomes.items():
        yield "sora_password_verifications_total", (outcome,), count
    yield "sora_password_verifications_waiting", (), verifier.waiting


def read_guards(guards: Guards) -> Readings:
    sizes = guards.limiter.sizes
    yield "sora_login_blocks", (), guards.limiter.count_blocks(guards.clock())
    for kind in ("pairs", "addresses", "users"):
        yield "sora_login_records", (kind,), sizes[kind]
    yield "sora_logins_delayed", (), len(guards.room)
    yield "sora_logins_turned_away_total", (), guards.room.turned_away


def read_bodies(bodies: BodyFinder, views: ViewRegistry) -> Readings:
    counters = bodies.counters
    yield "sora_bodies_opened_total", ("memory",), counters.memory_hits
    yield "sora_bodies_opened_total", ("cache",), counters.cache_hits
    yield "sora_bodies_opened_total", ("staging",), counters.staging_reads
    yield "sora_bodies_opened_total", ("store",), counters.store_reads
    yield "sora_bodies_failed_total", ("unavailable",), counters.unavailable
    yield "sora_bodies_failed_total", ("corrupt",), counters.corrupt
    yield "sora_bodies_relocated_total", (), counters.relocated
    yield "sora_mailbox_views", (), views.open_mailboxes


def read_training(trainer: Trainer) -> Readings:
    for labels, count in trainer.results.items():
        yield "sora_spam_training_total", labels, count
    yield "sora_spam_training_waiting", (), len(trainer)
    yield "sora_spam_training_breaker", (), int(trainer.breaker.state(monotonic()))


def read_events(events: EventQueue) -> Readings:
    for result in ("ran", "failed", "missing", "unavailable", "dropped", "bug"):
        yield "sora_imapsieve_messages_total", (result,), events.results[result]
    yield "sora_imapsieve_waiting", (), events.waiting


def read_cache(cache: BodyCache) -> Readings:
    counters = cache.counters
    yield "sora_cache_operations_total", ("hit",), counters.hits
    yield "sora_cache_operations_total", ("miss",), counters.misses
    yield "sora_cache_changes_total", ("added",), counters.added
    yield "sora_cache_changes_total", ("evicted",), counters.evicted
    yield "sora_cache_changes_total", ("dropped",), counters.dropped
    yield "sora_cache_errors_total", (), counters.errors
    yield "sora_cache_used_bytes", (), cache.used_bytes
    yield "sora_cache_capacity_bytes", (), cache.capacity_bytes


def read_store(store: MeteredStore) -> Readings:
    for (operation, result), count in store.results.items():
        yield "sora_object_store_operations_total", (operation, result), count
    for operation, durations in store.durations.items():
        yield "sora_object_store_duration_seconds", (operation,), durations


def read_uploads(uploader: Uploader, cleaner: Cleaner) -> Readings:
    counters, cleaned = uploader.counters, cleaner.counters
    yield "sora_uploads_total", (), counters.uploaded
    yield "sora_upload_bytes_total", (), counters.bytes
    yield "sora_upload_failures_total", (), counters.transient_failures
    yield "sora_uploads_stuck_total", (), counters.stuck
    yield "sora_uploads_adopted_total", (), counters.adopted
    yield "sora_uploads_paused", (), uploader.is_paused
    for kind in STAGES:
        yield "sora_cleaner_removed_total", (kind,), getattr(cleaned, kind)
        yield "sora_cleaner_seconds_total", (kind,), cleaner.seconds[kind]
    yield "sora_cleaner_rounds_total", ("whole",), cleaned.rounds - cleaned.out_of_time
    yield "sora_cleaner_rounds_total", ("cut",), cleaned.out_of_time
    yield "sora_cleaner_failures_total", (), cleaned.failures


def read_staging(bound: StagingBound, floors: Iterable[DiskFloor]) -> Readings:
    yield "sora_staging_refused_total", ("limit",), bound.refused
    yield "sora_staging_refused_total", ("disk",), sum(floor.refused for floor in floors)


def read_database(database: Database) -> Readings:
    for kind, count in database.stats.items():
        yield "sora_database_round_trips_total", (kind,), count
    for server in database.servers():
        labels = (server.role, server.name)
        idle = server.open_connections - server.busy_connections
        yield "sora_database_connections", (*labels, "busy"), server.busy_connections
        yield "sora_database_connections", (*labels, "idle"), idle
        yield "sora_database_connections_limit", labels, server.max_connections
        if server.role == "replica":
            yield "sora_database_replica_reachable", (server.name,), server.is_reachable
            yield "sora_database_replica_lag_seconds", (server.name,), server.lag_s


def read_node(certificates: Certificates, feed: HostFeed, workers: Workers) -> Readings:
    yield "sora_build_info", (node_version(),), 1
    for certificate in certificates:
        expiry = certificate.not_after.timestamp()
        yield "sora_certificate_expiry_timestamp_seconds", (certificate.label,), expiry
    yield "sora_feed_dropped_total", (), feed.dropped
    for name, count in workers.failures.items():
        yield "sora_worker_failures_total", (name,), count


def read_components(components: Iterable[Component], now: float, wall_s: float) -> Readings:
    """``now`` is monotonic, ``wall_s`` the Unix time of the same moment."""
    for component in components:
        if component.checked is not None:
            labels = (component.name,)
            yield "sora_component_state", labels, component.finding.state
            yield "sora_component_checked_timestamp_seconds", labels, wall_s - (now - component.checked)
