"""The read endpoint: replicas by load, health and freshness.

A background prober turns the epochs of ``freshness`` about once a second, learns what every replica has
replayed and which are in reach. A replica that fails is left out until a probe succeeds again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass, field

from storage.errors import StorageError

from .connections import ConnectionPool, HostList, connect_options
from .errors import Phase, translated
from .freshness import Freshness
from .settings import EndpointSettings

log = logging.getLogger("sora.storage.postgres")

PROBE_INTERVAL_S = 1.0
PROBE_TIMEOUT_S = 5.0
_ALWAYS_FRESH = 2**62
# A server that is no replica (the same host under both roles) has everything.
_REPLAYED = """
SELECT CASE WHEN pg_is_in_recovery()
            THEN coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::bigint END"""
PRIMARY_POSITION = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS position"


@dataclass(eq=False)
class Replica:
    name: str
    pool: ConnectionPool
    fresh_to: int = -1  # -1: not in reach, or not probed yet
    reads: int = field(default=0)


class ReadSet:
    """All replicas of the read endpoint."""

    def __init__(
        self,
        settings: EndpointSettings,
        primary_position: Callable[[], Awaitable[int]],
        *,
        timeout_s: float,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.freshness = Freshness()
        self._primary_position = primary_position
        options = connect_options(settings, {"statement_timeout": str(int(timeout_s * 1000))}, timeout_s)
        self.replicas = [
            Replica(
                f"{host}:{port}",
                ConnectionPool(
                    HostList(
                        ((host, port),),
                        options,
                        must_accept_writes=False,
                        log_statements=settings.log_statements,
                    ).connect,
                    settings,
                    wait_s=wait_s,
                    clock=clock,
                ),
            )
            for host, port in settings.hosts
        ]
        self._prober: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._prober = asyncio.get_running_loop().create_task(self._probe_for_ever())

    def candidates(self, keys: Iterable[Hashable]) -> list[Replica]:
        """Replicas that may answer for these keys, the least busy first."""
        needed = self.freshness.needed(keys)
        able = [replica for replica in self.replicas if replica.fresh_to >= needed]
        return sorted(able, key=lambda replica: (replica.pool.busy_connections, replica.reads))

    def lag_s(self, replica: Replica) -> float:
        """How far it was behind at the last probe, in whole epochs; 0.0 for one that is not in reach."""
        if replica.fresh_to < 0:
            return 0.0
        return max(0, self.freshness.epoch - 1 - replica.fresh_to) * PROBE_INTERVAL_S

    def failed(self, replica: Replica) -> None:
        """Leave it out until a probe succeeds."""
        if replica.fresh_to >= 0:
            log.warning("read replica %s does not answer", replica.name)
        replica.fresh_to = -1

    async def probe(self) -> None:
        """One round: turn the epoch, ask the primary, ask the replicas."""
        ended = self.freshness.turn()
        try:
            self.freshness.learn(ended, await self._primary_position())
        except StorageError as error:  # replicas go on serving those who wrote nothing since
            log.warning("primary cannot be probed: %s", error)
        await asyncio.gather(*(self._probe_replica(replica) for replica in self.replicas))

    async def _probe_replica(self, replica: Replica) -> None:
        try:
            with translated(Phase.NOTHING_WRITTEN):
                ((replayed,),) = await replica.pool.fetch(_REPLAYED, (), PROBE_TIMEOUT_S)
        except StorageError:
            self.failed(replica)
            return
        replica.fresh_to = _ALWAYS_FRESH if replayed is None else self.freshness.fresh_to(replayed)

    async def _probe_for_ever(self) -> None:
        while True:
            try:
                await self.probe()
            except Exception:  # a worker loop: whatever it was, the next round must come
                log.exception("probing read replicas failed")
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def close(self) -> None:
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])
        for replica in self.replicas:
            await replica.pool.close()
