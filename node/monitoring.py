"""What a node tells about itself: its figures, the state of its parts, and where both can be asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import StorageError
from storage.model import StagingLevel

from . import checks
from .checks import Checker, Disk
from .control import Arguments, Handler
from .health import OK, Board, Finding
from .metrics import sources
from .metrics.family import merge
from .metrics.lag import LoopLag
from .metrics.process import ProcessFigures
from .metrics.registry import Reading, Registry

if TYPE_CHECKING:
    from .app import Node
    from .metrics.store import MeteredStore

THIS_PROCESS = "main"
PROBED_KEY = "probe"  # is never there; asking for it needs the endpoint, the bucket and our key to work


class Monitoring:
    """Of one node in one process."""

    def __init__(self, node: Node, store: MeteredStore) -> None:
        self._node = node
        self._store = store
        self._level: StagingLevel | None = None
        self._disks: dict[str, Disk] = {}
        self.lag = LoopLag()
        self.checker = Checker(Board(), time.monotonic)
        self.registry = Registry()
        self._add_checks()
        self._add_sources()

    @property
    def board(self) -> Board:
        return self.checker.board

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type."""
        from .metrics.exposition import render

        families = self.registry.families
        return render(families, merge(families, {THIS_PROCESS: self.registry.snapshot()}), accept)

    async def report(self) -> dict[str, Any]:
        """The state of all components, checked within the last few seconds."""
        await self.checker.refresh(checks.FRESH_S)
        return {"node": self._node.config.hostname, **self.board.report(time.monotonic(), datetime.now(UTC))}

    def commands(self) -> dict[str, Handler]:
        """For the control socket."""

        async def health(_arguments: Arguments) -> object:
            return await self.report()

        return {"health": health}

    # --- components ---

    def _add_checks(self) -> None:
        add = self.checker.add
        add("database", lambda: checks.check_primary(self._node.database), is_critical=True)
        if self._node.database.has_replicas:
            add("replicas", self._check_replicas)
        add("object_store", self._check_store)
        add("staging", self._check_staging)
        add("certificates", self._check_certificates)
        add("disks", self._check_disks)
        add("workers", self._check_workers)

    async def _check_replicas(self) -> Finding:
        return checks.judge_replicas(self._node.database.servers())

    async def _check_store(self) -> Finding:
        await self._store.head(PROBED_KEY)
        return OK

    async def _check_staging(self) -> Finding:
        try:
            self._level = await self._node.uploads.staging_level()
        except StorageError:
            self._level = None  # a stale figure would look like a backlog that does not move
            raise
        return checks.judge_staging(self._level, self._node.config.uploader.max_staging_size_bytes)

    async def _check_certificates(self) -> Finding:
        expiries = {str(each.cert_file): each.bundle.not_after for each in self._node.certificates}
        return checks.judge_certificates(expiries, datetime.now(UTC))

    async def _check_disks(self) -> Finding:
        config = self._node.config
        paths = {"staging": config.uploader.path}
        if self._node.cache is not None:
            paths["cache"] = config.local_cache.path
        if config.s3.driver == "file":
            paths["objects"] = config.s3.path
        self._disks = await asyncio.to_thread(
            lambda: {name: checks.disk_of(Path(path)) for name, path in paths.items()}
        )
        return checks.judge_disks(self._disks)

    async def _check_workers(self) -> Finding:
        return checks.judge_workers(self._node.workers)

    # --- figures ---

    def _add_sources(self) -> None:
        node, add = self._node, self.registry.add
        add(ProcessFigures())
        add(lambda: sources.read_connections(node.listeners))
        add(lambda: sources.read_sessions(node.sessions, node.memory))
        add(lambda: sources.read_instruments(node.instruments))
        add(lambda: sources.read_authentication(node.authenticator, node.verifier))
        add(lambda: sources.read_guards(node.guards))
        add(lambda: sources.read_bodies(node.bodies, node.views))
        if (cache := node.cache) is not None:
            add(lambda: sources.read_cache(cache))
        add(lambda: sources.read_store(self._store))
        add(lambda: sources.read_uploads(node.uploader, node.cleaner))
        add(lambda: sources.read_database(node.database))
        add(lambda: sources.read_node(node.certificates, node.feed, node.workers))
        add(lambda: sources.read_components(self.board, time.monotonic(), time.time()))
        add(self._read_checked)

    def _read_checked(self) -> Iterator[Reading]:
        """What the checks found out on their way."""
        yield "sora_event_loop_lag_seconds", (), self.lag.lags
        if self._level is not None:
            yield "sora_staging_bodies", (), self._level.contents
            yield "sora_staging_bytes", (), self._level.encoded_bytes
            yield "sora_staging_oldest_age_seconds", (), self._level.oldest_age_s
        limit_bytes = self._node.config.uploader.max_staging_size_bytes
        if limit_bytes:
            yield "sora_staging_limit_bytes", (), limit_bytes
        for name, disk in self._disks.items():
            yield "sora_disk_free_bytes", (name,), disk.free_bytes
            yield "sora_disk_size_bytes", (name,), disk.size_bytes
