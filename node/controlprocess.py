"""A node of several processes: core and background here, doors in the workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .certificatelink import Courier, shown_from
from .composition import Composition
from .desk import Hub
from .doors import protocol_servers
from .health import OK, Finding, State
from .limits import session_limits
from .metrics.family import Kind, Snapshot, merge
from .status import ListenerStatus
from .supervisor import Orders, Supervisor, snapshot_from

if TYPE_CHECKING:
    from .certificates import Shown
    from .clustering.service import Parts as ClusterParts
    from .config import Config
    from .footing import Footing
    from .loginguard import Guards
    from .searches import Searches
    from .sessions import Sessions

CONTROL = "control"
DEPARTED = "departed"  # what workers that are gone had counted


def worker_count(config: Config) -> int:
    """Processes that serve clients."""
    return config.workers or len(os.sched_getaffinity(0))


class ControlProcess(Composition):
    """A node whose doors are in ``workers`` processes."""

    def __init__(self, config: Config, workers: int, footing: Footing | None = None) -> None:
        super().__init__(config, footing, processes=workers + 1)
        self.hub = Hub(config, workers)
        self.hub.on_relay_queued = self.relay.queued
        courier = Courier(self.core.certificates)
        self.core.certificates.changed = courier.changed
        self.supervisor = Supervisor(self._orders, courier, self.hub, workers, self._departed)
        self._bound: dict[str, str] = {}  # addresses, by server
        self._last: dict[str, Snapshot] = {}  # of each worker
        self._gone: Snapshot = {}

    @property
    def guards(self) -> Guards:
        return self.hub.guards

    @property
    def sessions(self) -> Sessions:
        return self.hub.sessions

    @property
    def searches(self) -> Searches:
        return self.hub.searches

    @property
    def front(self) -> Supervisor:
        return self.supervisor

    def _orders(self) -> Orders:
        return Orders(self.config)

    # --- life ---

    def _listen_to_front(self) -> None:
        self.hub.on_wanted = self.renewal.client_waits
        self.hub.on_staged = self.background.uploader.notify

    def _cluster_parts(self) -> ClusterParts:
        return replace(
            super()._cluster_parts(), peers_changed=self.hub.tell_peers, check_full=self.hub.check_full
        )

    async def _open_front(self) -> None:
        self.exit_stack.push_async_callback(self.supervisor.stop)
        self.exit_stack.callback(self.sockets.close)  # ours first: nobody waits in a queue that is not served
        self.exit_stack.callback(self.hub.guards.close)
        servers = protocol_servers(self.config)
        for server in servers:
            self.hub.sessions.limit(server.name, session_limits(server))
        self.supervisor.sockets = self.sockets.listen(servers, self.core.certificates)
        self._bound = {server.name: self.sockets.of(server).address for server in servers}
        await self.supervisor.start()

    def _watch_front(self) -> None:
        registry, checker = self.monitoring.registry, self.monitoring.checker
        registry.add(lambda: [("sora_worker_failures_total", ("process",), self.supervisor.restarts)])
        checker.add("processes", self._check_workers)
        self.core.workers.start("worker figures", self._keep_figures)

    async def _obey(self) -> list[str]:
        """A new worker has it from the start."""
        self.hub.recheck()
        faults = await self.supervisor.reload()
        return [
            f"{name} goes on with the old settings and is asked again: {why}" for name, why in faults.items()
        ]

    def _processes(self) -> list[dict[str, object]]:
        return self.supervisor.describe()

    async def _refresh(self) -> None:
        await self.hub.refresh()

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

    def addresses(self) -> dict[str, str]:
        return self._bound | {each.server.name: each.address for each in self.metrics_servers}
