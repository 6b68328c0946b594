"""The composition root of a node of several processes: core and background here, doors in the workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from .app import ensure_account, open_control
from .applying import Parts, put_in_force
from .background import Background, EmbeddedServers, apply_migrations
from .certificatelink import Courier, shown_from
from .challengepart import ChallengePart
from .clustering.part import ClusterPart
from .clustering.service import Parts as ClusterParts
from .control import Handler
from .controlblocks import block_commands
from .controlconnections import connection_commands, kick_for_others
from .core import Core
from .desk import Hub
from .doors import protocol_servers
from .drain import ready, unready
from .footing import Footing, plain_footing
from .health import OK, Finding, State
from .limits import session_limits
from .metrics.family import Kind, Snapshot, merge
from .metrics.sources import add_background, add_core, add_node_state
from .monitoring import Monitoring, open_metrics_servers
from .relaying import RelayPart
from .renewal.part import RenewalPart
from .startfaults import START_FAULTS, StartFailed
from .status import ListenerStatus, StatusCommand
from .supervisor import Orders, Supervisor, WorkerFailed, snapshot_from

if TYPE_CHECKING:
    from .certificates import Shown
    from .config import Config
    from .metrics.server import MetricsServer

log = logging.getLogger("sora.processes")

CONTROL = "control"
DEPARTED = "departed"  # what workers that are gone had counted


def worker_count(config: Config) -> int:
    """Processes that serve clients."""
    return config.workers or len(os.sched_getaffinity(0))


class ControlProcess:
    """The same to its owner as ``app.Node``."""

    def __init__(self, config: Config, workers: int, footing: Footing | None = None) -> None:
        self.config = config
        self._exit = AsyncExitStack()
        footing = footing or plain_footing(config)
        self.hub = Hub(config, workers)
        self.core = Core(config, self._exit, processes=workers + 1, certificates=footing.certificates)
        self.sockets = footing.sockets
        self.cluster = ClusterPart(config)
        self.challenges = ChallengePart(config, self.sockets)
        self.renewal = RenewalPart(config)
        self.relay = RelayPart(config)
        self.hub.on_relay_queued = self.relay.queued
        courier = Courier(self.core.certificates)
        self.core.certificates.changed = courier.changed
        # whoever gets certificates listens there, as in a node of one process
        self.hub.on_wanted = lambda name: self.core.certificates.served.demand.wanted(name)
        self.supervisor = Supervisor(self._orders, courier, self.hub, workers, self._departed)
        self.metrics_servers: list[MetricsServer] = []
        self._bound: dict[str, str] = {}  # addresses, by server
        self.commands: dict[str, Handler] = {}  # more of the control socket, for who started it
        self._last: dict[str, Snapshot] = {}  # of each worker
        self._gone: Snapshot = {}

    # --- life ---

    async def start(self) -> None:
        """Serving when it returns. Raises StartFailed."""
        try:
            await self._start()
        except (*START_FAULTS, WorkerFailed) as error:
            raise StartFailed(str(error)) from error

    async def stop(self) -> None:
        """Stop accepting, say goodbye, finish what runs, then let go of the stores. Idempotent."""
        await self._exit.aclose()

    def hurry(self) -> None:
        """Cut off running commands of a stop that is under way."""
        self.supervisor.hurry()

    async def _start(self) -> None:
        core = self.core
        self._exit.callback(self.sockets.close)
        self.sockets.bind()
        await EmbeddedServers(self.config, self._exit).start()
        await apply_migrations(core)
        await self.relay.open(self._exit)  # let go of after the workers have stopped
        await core.open()
        self.background = Background(core)
        self.hub.on_wanted = self.renewal.client_waits
        self.hub.on_staged = self.background.uploader.notify
        await self.background.start()
        self.relay.start(core)
        core.workers.start("rate limits", self.hub.guards.run)
        await self._open_cluster()
        await self.challenges.open(self._exit)
        await self.renewal.open(core, self.cluster, self.challenges, self._exit)
        await self._start_workers()
        await self._start_monitoring()
        self.cluster.start(core.workers, self._exit)
        self.renewal.start(core.workers)
        await open_control(self.config, self._commands(), self._exit)

    async def _open_cluster(self) -> None:
        parts = ClusterParts(
            guards=self.hub.guards,
            sessions=self.hub.sessions,
            feed=self.core.feed,
            listeners=self._listener_status,
            kick=kick_for_others(self.hub.sessions),
            peers_changed=self.hub.tell_peers,
            check_full=self.hub.check_full,
        )
        await self.cluster.open(parts, self._exit)

    async def _start_workers(self) -> None:
        self._exit.push_async_callback(self.supervisor.stop)
        self._exit.callback(self.sockets.close)  # ours first: nobody waits in a queue that is not served
        self._exit.callback(self.hub.guards.close)
        servers = protocol_servers(self.config)
        for server in servers:
            self.hub.sessions.limit(server.name, session_limits(server))
        self.supervisor.sockets = self.sockets.listen(servers, self.core.certificates)
        self._bound = {server.name: self.sockets.of(server).address for server in servers}
        await self.supervisor.start()

    def _orders(self) -> Orders:
        return Orders(self.config)

    async def _start_monitoring(self) -> None:
        self.monitoring = Monitoring(self.core, self._snapshots)
        registry = self.monitoring.registry
        add_core(registry, self.core)
        add_background(registry, self.background)
        add_node_state(registry, self.hub.guards, self.hub.sessions)
        registry.add(lambda: [("sora_worker_failures_total", ("process",), self.supervisor.restarts)])
        self.monitoring.checker.add("processes", self._check_workers)
        self.cluster.monitor(self.monitoring)
        self.challenges.monitor(self.monitoring)
        self.renewal.monitor(self.monitoring)
        self.relay.monitor(self.monitoring)
        self.monitoring.start()
        self.metrics_servers = await open_metrics_servers(self.core, self.monitoring, self.sockets)
        self.core.workers.start("worker figures", self._keep_figures)

    def _commands(self) -> dict[str, Handler]:
        status = StatusCommand(
            self._listener_status,
            self.hub.guards,
            self.core.uploads.staging_level,
            time.monotonic,
            self.supervisor.describe,
            self.cluster.summary,
        )
        return {
            **status.table(),
            **block_commands(self.hub.guards),
            **connection_commands(
                self.hub.sessions, time.time, self.hub.refresh, lambda: self.cluster.others
            ),
            **self.cluster.commands(),
            **self.renewal.commands(),
            **self.relay.commands(),
            **self.monitoring.commands(),
            **self.commands,
        }

    # --- figures of all processes ---

    async def _snapshots(self) -> dict[str, Snapshot]:
        await self._ask_figures()
        return {CONTROL: self.monitoring.registry.snapshot(), DEPARTED: self._gone, **self._last}

    async def _ask_figures(self) -> None:
        answers: dict[str, Any] = await self.supervisor.ask_all("metrics")
        self._last |= {
            name: snapshot_from(plain) for name, plain in answers.items() if name in self.supervisor.workers
        }

    async def shown_certificates(self) -> dict[str, list[Shown]]:
        """What each process shows, by its name; a worker that does not answer is left out."""
        answers = await self.supervisor.ask_all("shown_certificates")
        return {CONTROL: list(self.core.certificates)} | {
            name: [shown_from(plain) for plain in rows] for name, rows in answers.items()
        }

    async def _keep_figures(self, stop: asyncio.Event) -> None:
        """So that little is forgotten of a worker that is killed."""
        while not stop.is_set():
            await self._ask_figures()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 5.0)

    def _departed(self, name: str) -> None:
        """What a worker had counted stays counted: totals never fall."""
        last = self._last.pop(name, None)
        if last is None:
            return
        families = [
            each
            for each in self.monitoring.registry.families
            if each.kind is not Kind.GAUGE and each.all_labels == each.labels
        ]
        self._gone = merge(families, {"before": self._gone, "now": last})

    async def _check_workers(self) -> Finding:
        missing, behind = self.supervisor.missing, self.supervisor.behind
        if missing:
            return Finding(State.DEGRADED, f"{missing} workers do not run; see the log")
        if behind:
            return Finding(State.DEGRADED, f"{', '.join(behind)}: not taken the last reload; see the log")
        return OK

    async def _listener_status(self) -> list[ListenerStatus]:
        counts: dict[str, dict[str, list[int]]] = await self.supervisor.ask_all("counts")
        totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for answer in counts.values():
            for name, (connections, refused) in answer.items():
                totals[name][0] += connections
                totals[name][1] += refused
        return [
            ListenerStatus(each.name, each.type, self._bound[each.name], *totals[each.name])
            for each in protocol_servers(self.config)
            if each.name in self._bound  # not while the node starts
        ]

    # --- for who started it ---

    async def reload(self, config: Config) -> list[str]:
        """As ``Node.reload``. A new worker has it from the start."""
        parts = Parts(
            core=self.core,
            guards=self.hub.guards,
            sessions=self.hub.sessions,
            metrics_servers=self.metrics_servers,
            background=self.background,
        )
        troubles = put_in_force(config, parts)
        self.config = config
        self.challenges.obey(config)
        self.renewal.reload(config)
        self.hub.recheck()
        faults = await self.supervisor.reload()
        behind = [
            f"{name} goes on with the old settings and is asked again: {why}" for name, why in faults.items()
        ]
        return [*troubles, *behind, *await self.cluster.reload(config)]

    async def stop_accepting(self) -> None:
        """Sessions stay. Idempotent."""
        unready(self.monitoring.checker)
        self.supervisor.stop_accepting(self.sockets.handed_names())
        self.sockets.shut(protocol_servers(self.config))
        await self.supervisor.end_entering()
        await self.cluster.hand_over()

    async def resume_accepting(self) -> None:
        """Undo ``stop_accepting``. Raises ListenFailed, with everything as it was."""
        self.sockets.reopen(protocol_servers(self.config))
        self.supervisor.resume_accepting()
        await self.cluster.resume()
        ready(self.monitoring.checker)

    def session_count(self) -> int:
        return len(self.hub.sessions)

    async def ensure_account(self, address: str, password: str) -> None:
        """Create the account when it is not there yet."""
        await ensure_account(self.core.accounts, address, password)

    def addresses(self) -> dict[str, str]:
        """Server name to the address that was really bound."""
        return self._bound | {each.server.name: each.address for each in self.metrics_servers}
