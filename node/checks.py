"""Checks behind the health components, and when they run.

A checker runs a check at its interval, never twice at a time and never longer than its timeout; whoever
asks in between gets what is known. So health pages may be asked as often as somebody likes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import StorageError
from storage.model import StagingLevel

from .health import OK, Board, Component, Finding, State, worst
from .logsinks import Loss
from .units import format_duration

if TYPE_CHECKING:
    from storage.postgres.pool import Database, ServerState

    from .workers import Workers

log = logging.getLogger("sora.health")

Check = Callable[[], Awaitable[Finding]]

INTERVAL_S = 15.0
TIMEOUT_S = 5.0
FRESH_S = 3.0  # who asks gets nothing older than this, unless a check is slow

# A staged body waits for seconds; longer means that uploads do not go through.
BACKLOG_AGE_DEGRADED_S = 900.0
BACKLOG_SHARE_DEGRADED = 0.8
REPLICA_LAG_DEGRADED_S = 60.0
CERTIFICATE_SOON = timedelta(days=14)
DISK_SHARE_DEGRADED, DISK_SHARE_DOWN = 0.10, 0.02

_TAKES_WRITES = """
SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' AS takes_writes"""


@dataclass(slots=True)
class _Job:
    component: Component
    check: Check
    running: asyncio.Task[None] | None = None


class Checker:
    """Runs the checks of a board. ``clock`` gives monotonic seconds."""

    def __init__(self, board: Board, clock: Callable[[], float]) -> None:
        self.board = board
        self._clock = clock
        self._jobs: list[_Job] = []

    def add(self, name: str, check: Check, *, is_critical: bool = False) -> None:
        self._jobs.append(_Job(self.board.add(name, is_critical=is_critical), check))

    def remove(self, name: str) -> None:
        """Idempotent. A check that runs comes to its end unseen."""
        self._jobs = [job for job in self._jobs if job.component.name != name]
        self.board.remove(name)

    async def refresh(self, max_age_s: float) -> None:
        """Run the checks whose last answer is older; returns when they are done (``TIMEOUT_S`` at most)."""
        now = self._clock()
        due = []
        for job in self._jobs:
            checked = job.component.checked
            if job.running is None and (checked is None or now - checked >= max_age_s):
                job.running = asyncio.create_task(self._run(job))
            if job.running is not None:
                due.append(job.running)
        if due:
            await asyncio.wait(due)
        for task in due:
            if not task.cancelled():
                task.result()  # a check that failed in a way nobody thought of is reported where it was asked

    async def run(self, stop: asyncio.Event) -> None:
        """A worker: keeps the board fresh for metrics and alerts though nobody asks."""
        while not stop.is_set():
            await self.refresh(0.0)
            try:
                await asyncio.wait_for(stop.wait(), INTERVAL_S)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Give up the checks that run."""
        running = [job.running for job in self._jobs if job.running is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, job: _Job) -> None:
        finding = Finding(State.DOWN, "the check failed; see the log")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                finding = await job.check()
        except TimeoutError:
            finding = Finding(State.DOWN, f"no answer within {TIMEOUT_S:.0f} s")
        except (StorageError, OSError) as error:
            finding = Finding(State.DOWN, str(error))
        finally:
            job.running = None
            self._record(job.component, finding)

    def _record(self, component: Component, finding: Finding) -> None:
        if component.record(finding, self._clock()):
            level = logging.INFO if finding.state is State.OK else logging.WARNING
            log.log(level, "%s is %s: %s", component.name, finding.state.word, finding.detail or "well")


# --- the checks ---------------------------------------------------------------------------------------


async def check_primary(database: Database) -> Finding:
    """Raises Unavailable."""
    (row,) = await database.read(_TAKES_WRITES, on_primary=True, timeout_s=TIMEOUT_S)
    if not row["takes_writes"]:
        return Finding(State.DOWN, "PostgreSQL takes no writes: it is a standby, or read-only")
    return OK


def judge_replicas(servers: Iterable[ServerState]) -> Finding:
    """Reads go to the primary while a replica is away or behind, so this is never worse than degraded."""
    findings = []
    for server in servers:
        if server.role != "replica":
            continue
        if not server.is_reachable:
            findings.append(Finding(State.DEGRADED, f"{server.name} does not answer"))
        elif server.lag_s > REPLICA_LAG_DEGRADED_S:
            findings.append(
                Finding(State.DEGRADED, f"{server.name} is {format_duration(server.lag_s)} behind")
            )
    return worst(findings)


def judge_staging(level: StagingLevel, place: str | None, limit_bytes: int) -> Finding:
    """``place``: where the limit counts (``StagingPlace.node``); ``limit_bytes`` 0: none."""
    waiting = f"{level.contents} bodies ({_size(level.encoded_bytes)}) wait for the object store"
    counted = level.bytes_at(place)
    if limit_bytes and counted >= limit_bytes:
        return Finding(State.DOWN, f"{waiting}: staging is full and new mail is deferred")
    findings = [OK]
    if level.contents and level.oldest_age_s > BACKLOG_AGE_DEGRADED_S:
        age = format_duration(float(int(level.oldest_age_s)))
        findings.append(Finding(State.DEGRADED, f"{waiting}, the oldest for {age}"))
    if limit_bytes and counted > limit_bytes * BACKLOG_SHARE_DEGRADED:
        findings.append(Finding(State.DEGRADED, f"{waiting}, of {_size(limit_bytes)} allowed"))
    return worst(findings)


def judge_certificates(
    expiries: Mapping[str, datetime], now: datetime, issued: Collection[str] = ()
) -> Finding:
    """``issued``: those that we renew ourselves, whose life may be days: the component renewal knows more."""
    findings = []
    for name, not_after in expiries.items():
        words = f"{name} expires on {not_after:%Y-%m-%d}"
        if not_after <= now:
            findings.append(Finding(State.DOWN, f"{name} expired on {not_after:%Y-%m-%d}"))
        elif not_after - now < CERTIFICATE_SOON and name not in issued:
            findings.append(Finding(State.DEGRADED, words))
        else:
            findings.append(Finding(State.OK, words))
    return worst(findings)


@dataclass(frozen=True, slots=True)
class Disk:
    """Space for an unprivileged process."""

    free_bytes: int
    size_bytes: int


def disk_of(path: Path) -> Disk:
    """Raises OSError."""
    stat = os.statvfs(path)
    return Disk(stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize)


def judge_disks(disks: Mapping[str, Disk]) -> Finding:
    findings = []
    for name, disk in disks.items():
        share = disk.free_bytes / disk.size_bytes if disk.size_bytes else 0.0
        state = State.OK
        if share < DISK_SHARE_DOWN:
            state = State.DOWN
        elif share < DISK_SHARE_DEGRADED:
            state = State.DEGRADED
        findings.append(Finding(state, f"{name}: {share:.0%} ({_size(disk.free_bytes)}) free"))
    return worst(findings)


def judge_log(loss: Loss, lost_since: int) -> Finding:
    """``loss`` of this process, and what all have lost since the last look."""
    if not (loss.cause or lost_since):
        return OK
    why = f": {loss.cause}" if loss.cause else ""
    return Finding(State.DEGRADED, f"{max(lost_since, loss.missing)} log lines were lost{why}")


def judge_workers(workers: Workers) -> Finding:
    if not workers.failing:
        return OK
    return Finding(
        State.DEGRADED, f"{', '.join(sorted(workers.failing))} failed and will be started again; see the log"
    )


def _size(size_bytes: int) -> str:
    for unit, exponent in (("GB", 30), ("MB", 20), ("KB", 10)):
        if size_bytes >= 1 << exponent:
            return f"{size_bytes / (1 << exponent):.1f} {unit}"
    return f"{size_bytes} B"
