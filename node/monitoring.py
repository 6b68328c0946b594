"""What a node tells about itself: its figures, the state of its parts, and where both can be asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import StorageError
from storage.model import StagingLevel

from . import checks, logs
from .checks import Checker, Disk
from .control import Arguments, Handler
from .health import OK, Board, Finding
from .logsinks import LOSS
from .metrics import sources
from .metrics.family import Snapshot, merge
from .metrics.lag import LoopLag
from .metrics.registry import Reading, Registry

if TYPE_CHECKING:
    from .core import Core
    from .metrics.server import MetricsServer
    from .sockets import Sockets

PROBED_KEY = "probe"  # is never there; asking for it needs the endpoint, the bucket and our key to work


Snapshots = Callable[[], Awaitable[dict[str, Snapshot]]]


class Monitoring:
    """Of one process on its open core; ``snapshots`` gives those of all processes of the node by name."""

    def __init__(self, core: Core, snapshots: Snapshots) -> None:
        self._core = core
        self._snapshots = snapshots
        self._level: StagingLevel | None = None
        self._staging_tables = 0  # bytes
        self._disks: dict[str, Disk] = {}
        self._lost = 0  # log lines, of all processes, at the last look
        self.lag = LoopLag()
        self.checker = Checker(Board(), time.monotonic)
        self.registry = Registry()
        self._add_checks()
        self.registry.add(lambda: sources.read_components(self.board, time.monotonic(), time.time()))
        self.registry.add(self._read_checked)

    def start(self) -> None:
        self._core.exit.push_async_callback(self.checker.close)
        self._core.workers.start("health", self.checker.run)
        self._core.workers.start("loop-lag", self.lag.run)

    @property
    def board(self) -> Board:
        return self.checker.board

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type.

        Writing the page takes 10 to 40 ms, in a thread: nobody on this loop should wait for it.
        """
        from .metrics.exposition import render

        families = self.registry.families
        snapshots = await self._snapshots()
        return await asyncio.to_thread(lambda: render(families, merge(families, snapshots), accept))

    async def report(self) -> dict[str, Any]:
        """The state of all components, checked within the last few seconds."""
        await self.checker.refresh(checks.FRESH_S)
        return {"node": self._core.config.hostname, **self.board.report(time.monotonic(), datetime.now(UTC))}

    def commands(self) -> dict[str, Handler]:
        """For the control socket."""

        async def health(_arguments: Arguments) -> object:
            return await self.report()

        return {"health": health}

    # --- components ---

    def _add_checks(self) -> None:
        add = self.checker.add
        add("database", lambda: checks.check_primary(self._core.database), is_critical=True)
        if self._core.database.has_replicas:
            add("replicas", self._check_replicas)
        add("object_store", self._check_store)
        add("staging", self._check_staging)
        add("certificates", self._check_certificates)
        add("disks", self._check_disks)
        add("workers", self._check_workers)
        add("log", self._check_log)

    async def _check_log(self) -> Finding:
        lost = sum(
            int(numbers[0])
            for snapshot in (await self._snapshots()).values()
            for numbers in snapshot.get("sora_log_lines_lost_total", {}).values()
        )
        before, self._lost = self._lost, lost
        logs.retry()
        return checks.judge_log(LOSS, max(0, lost - before))

    async def _check_replicas(self) -> Finding:
        return checks.judge_replicas(self._core.database.servers())

    async def _check_store(self) -> Finding:
        await self._core.store.head(PROBED_KEY)
        return OK

    async def _check_staging(self) -> Finding:
        try:
            self._level = await self._core.uploads.staging_level()
            self._staging_tables = await self._core.uploads.table_bytes()
        except StorageError:
            self._level = None  # a stale figure would look like a backlog that does not move
            raise
        limit_bytes = self._core.config.uploader.max_staging_size_bytes
        return checks.judge_staging(self._level, self._core.staging_place, limit_bytes)

    async def _check_certificates(self) -> Finding:
        shown = list(self._core.certificates)
        expiries = {each.label: each.not_after for each in shown}
        issued = {each.label for each in shown if each.wanted_id}
        return checks.judge_certificates(expiries, datetime.now(UTC), issued)

    async def _check_disks(self) -> Finding:
        config = self._core.config
        paths = {"staging": config.uploader.path}
        if self._core.cache is not None:
            paths["cache"] = config.local_cache.path
        if config.s3.driver == "file":
            paths["objects"] = config.s3.path
        if config.embedded.postgres_path:
            paths["database"] = config.embedded.postgres_path
        self._disks = await asyncio.to_thread(
            lambda: {name: checks.disk_of(Path(path)) for name, path in paths.items()}
        )
        return checks.judge_disks(self._disks)

    async def _check_workers(self) -> Finding:
        return checks.judge_workers(self._core.workers)

    # --- figures ---

    def _read_checked(self) -> Iterator[Reading]:
        """What the checks found out on their way."""
        yield "sora_event_loop_lag_seconds", (), self.lag.lags
        if self._level is not None:
            yield "sora_staging_bodies", (), self._level.contents
            yield "sora_staging_bytes", (), self._level.encoded_bytes
            yield "sora_staging_oldest_age_seconds", (), self._level.oldest_age_s
            yield "sora_staging_bounded_bytes", (), self._level.bytes_at(self._core.staging_place)
            yield "sora_staging_table_bytes", (), self._staging_tables
        limit_bytes = self._core.config.uploader.max_staging_size_bytes
        if limit_bytes:
            yield "sora_staging_limit_bytes", (), limit_bytes
        for name, disk in self._disks.items():
            yield "sora_disk_free_bytes", (name,), disk.free_bytes
            yield "sora_disk_size_bytes", (name,), disk.size_bytes


async def open_metrics_servers(core: Core, monitoring: Monitoring, sockets: Sockets) -> list[MetricsServer]:
    """Those of the configuration. Raises ListenFailed."""
    servers = [each for each in core.config.servers if each.start and each.type == "metrics"]
    if not servers:
        return []
    listening = sockets.listen(servers, core.certificates)
    from .metrics.server import MetricsServer  # aiohttp takes 0.15 s and 16 MB

    opened = []
    for server in servers:
        serving = MetricsServer(server, monitoring.render, monitoring.report, core.certificates.of(server))
        await serving.open(listening[server.name])
        core.exit.push_async_callback(serving.close)
        core.workers.start(f"{server.name}-sweep", serving.sweep)
        opened.append(serving)
    return opened
