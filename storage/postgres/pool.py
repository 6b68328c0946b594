"""The database as the stores see it: ``read``, ``write``, ``transaction``, and what they cost.

Every statement of the system passes through here, so this is where round trips are counted, timeouts
applied, foreign exceptions translated (``errors.py``) and reads spread over replicas (``replicas.py``).

Read-your-writes: callers name what a statement concerns (``account=``, ``mailbox=``). A read goes to a
replica only when it has replayed every write this process has made under the same names
(``freshness.py``); reads that name nothing, and ``on_primary`` ones, go to the primary.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

from storage.errors import StorageError, Unavailable

from .connections import Connection, ConnectionPool, HostList, connect_options
from .errors import READ_ONLY_SERVER, RETRYABLE, Phase, lost_connection, translate, translated
from .replicas import PRIMARY_POSITION, ReadSet, Replica
from .settings import DatabaseSettings, EndpointSettings

__all__ = ["Database", "DatabaseSettings", "EndpointSettings", "Record", "Transaction"]

Record: TypeAlias = asyncpg.Record

ATTEMPTS = 4  # of a statement that PostgreSQL rolled back to break a deadlock
OLDEST_SERVER = 14
CONNECTION_WAIT_S = 10.0
# A write that takes too long is ended by the server, whose answer says that nothing was written. This is how
# much longer we wait for that answer: without it the outcome is unknown.
CLIENT_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerState:
    """One PostgreSQL server as this process sees it, for health and metrics."""

    role: str  # "primary" or "replica"
    name: str  # host and port; of the primary "primary", as it may move between hosts
    busy_connections: int
    open_connections: int
    max_connections: int
    is_reachable: bool = True  # replicas: the last probe got an answer
    lag_s: float = 0.0  # replicas: at most so far behind, in steps of about a second


class Transaction:
    """An open transaction: asyncpg's calls, counted, with translated errors."""

    def __init__(self, connection: Connection, stats: Counter[str], timeout_s: float) -> None:
        self._connection = connection
        self._stats = stats
        self._timeout_s = timeout_s

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        self._stats["transaction"] += 1
        with translated(Phase.NOTHING_WRITTEN):
            return await self._connection.fetch(sql, *args, timeout=self._timeout_s)

    async def execute(self, sql: str, *args: object) -> str:
        self._stats["transaction"] += 1
        with translated(Phase.NOTHING_WRITTEN):
            return await self._connection.execute(sql, *args, timeout=self._timeout_s)


class Database:
    """One per process. ``stats`` counts round trips by kind: read, replica, write, transaction
    (statements inside one), begin, commit, rollback, retry."""

    def __init__(self, settings: DatabaseSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.stats: Counter[str] = Counter()
        slowest = max(settings.query_timeout_s, settings.write_timeout_s, settings.search_timeout_s)
        options = connect_options(
            settings.write,
            {
                "statement_timeout": str(int(slowest * 1000)),
                "lock_timeout": str(int(settings.lock_timeout_s * 1000)),
                # an open transaction whose client died silently must not hold its locks for ever
                "idle_in_transaction_session_timeout": str(int(slowest * 1000)),
            },
            settings.query_timeout_s,
        )
        wait_s = min(CONNECTION_WAIT_S, settings.query_timeout_s)
        hosts = HostList(
            settings.write.hosts,
            options,
            must_accept_writes=True,
            log_statements=settings.write.log_statements,
        )
        self._primary = ConnectionPool(hosts.connect, settings.write, wait_s=wait_s, clock=clock)
        self._reads: ReadSet | None = None
        if settings.read is not None:
            self._reads = ReadSet(
                settings.read,
                self._primary_position,
                timeout_s=max(settings.read.query_timeout_s, settings.search_timeout_s),
                wait_s=wait_s,
                clock=clock,
            )

    @classmethod
    async def open(cls, settings: DatabaseSettings) -> Database:
        """Connected and of a version that will do. Raises Unavailable."""
        database = cls(settings)
        try:
            await database._check_server()
            if database._reads is not None:
                await database._reads.probe()
                database._reads.start()
        except BaseException:
            await database.close()
            raise
        return database

    async def _check_server(self) -> None:
        await self._primary.warm()
        (row,) = await self.read("SELECT current_setting('server_version_num')::int AS version")
        if row["version"] < OLDEST_SERVER * 10_000:
            raise Unavailable(
                f"PostgreSQL {OLDEST_SERVER} or newer is needed, not {row['version'] // 10_000}"
            )

    async def close(self) -> None:
        if self._reads is not None:
            await self._reads.close()
        await self._primary.close()

    @property
    def round_trips(self) -> int:
        return sum(count for kind, count in self.stats.items() if kind != "retry")

    @property
    def open_connections(self) -> int:
        return self._primary.open_connections

    def servers(self) -> list[ServerState]:
        """Costs no round trip: replicas are probed about once a second anyway."""
        primary = self._primary
        states = [
            ServerState(
                "primary",
                "primary",
                primary.busy_connections,
                primary.open_connections,
                self.settings.write.max_connections,
            )
        ]
        if self._reads is None or self.settings.read is None:
            return states
        for replica in self._reads.replicas:
            pool = replica.pool
            states.append(
                ServerState(
                    "replica",
                    replica.name,
                    pool.busy_connections,
                    pool.open_connections,
                    self.settings.read.max_connections,
                    replica.fresh_to >= 0,
                    self._reads.lag_s(replica),
                )
            )
        return states

    @property
    def has_replicas(self) -> bool:
        return self._reads is not None

    # --- reads ---

    async def read(
        self,
        sql: str,
        *args: object,
        account: int | None = None,
        mailbox: int | None = None,
        on_primary: bool = False,
        timeout_s: float | None = None,
    ) -> list[Record]:
        """One statement that changes nothing. Raises Unavailable."""
        timeout_s = self.settings.query_timeout_s if timeout_s is None else timeout_s
        keys = _keys(account, () if mailbox is None else (mailbox,))
        if self._reads is not None and keys and not on_primary:
            for replica in self._reads.candidates(keys):
                rows = await self._read_replica(replica, sql, args, timeout_s)
                if rows is not None:
                    return rows
        return await self._read_primary(sql, args, timeout_s)

    async def _read_replica(
        self, replica: Replica, sql: str, args: Sequence[object], timeout_s: float
    ) -> list[Record] | None:
        """None: it failed and another server should be asked."""
        self.stats["replica"] += 1
        replica.reads += 1
        try:
            with translated(Phase.NOTHING_WRITTEN):
                return await replica.pool.fetch(sql, args, timeout_s)
        except StorageError:
            if self._reads is not None:
                self._reads.failed(replica)
            return None

    async def _read_primary(self, sql: str, args: Sequence[object], timeout_s: float) -> list[Record]:
        for is_last in (False, True):
            try:
                self.stats["read"] += 1
                return await self._primary.fetch(sql, args, timeout_s)
            except Exception as error:
                if lost_connection(error) and not is_last:
                    continue  # an idle connection that a restarted server had dropped
                ours = translate(error, Phase.NOTHING_WRITTEN)
                if ours is None:
                    raise
                raise ours from error
        raise AssertionError("the last attempt returns or raises")

    async def _primary_position(self) -> int:
        (row,) = await self.read(PRIMARY_POSITION, timeout_s=5.0)
        position: int = row["position"]
        return position

    # --- writes ---

    async def write(
        self, sql: str, *args: object, account: int | None = None, mailboxes: Iterable[int] | None = None
    ) -> list[Record]:
        """One statement on the primary that commits by itself.

        ``mailboxes=()`` says that no view of any mailbox changes; without any name the write concerns
        everyone, and no replica may answer until it has replayed it.
        Run again when PostgreSQL rolled it back to break a deadlock. Constraint violations come through
        as asyncpg's. Raises Unavailable, StagingFull (nothing was written), CommitUnknown.
        """
        keys = _names(account, mailboxes)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._write_once(sql, args, keys)
            except asyncpg.PostgresError as error:
                self._notice(error)
                if error.sqlstate in RETRYABLE and attempt < ATTEMPTS:
                    self.stats["retry"] += 1
                    continue
                ours = translate(error, Phase.COMMITTING)
                if ours is None:
                    raise
                raise ours from error
        raise AssertionError("the last attempt returns or raises")

    async def _write_once(
        self, sql: str, args: Sequence[object], keys: list[Hashable] | None
    ) -> list[Record]:
        timeout_s = self.settings.write_timeout_s
        self.stats["write"] += 1
        try:
            rows = await self._primary.fetch(sql, args, timeout_s + CLIENT_GRACE_S, cancel_after_s=timeout_s)
        except StorageError:
            raise  # no connection was to be had: nothing was sent
        except asyncpg.PostgresError:
            self._note(None)
            raise
        except BaseException as error:
            self._note(None)
            ours = translate(error, Phase.COMMITTING)
            if ours is None:
                raise
            raise ours from error
        self._note(keys)
        return rows

    def wrote(self, *, account: int | None = None, mailboxes: Iterable[int] = ()) -> None:
        """What is known of these names came from the primary just now: no replica may answer with less."""
        if self._reads is not None:
            self._reads.freshness.wrote(_keys(account, mailboxes))

    def _note(self, keys: list[Hashable] | None) -> None:
        if self._reads is None:
            return
        if keys is None:
            self._reads.freshness.wrote_unknown()
        else:
            self._reads.freshness.wrote(keys)

    def _notice(self, error: asyncpg.PostgresError) -> None:
        """A server that takes no writes any more has lost its role: look for the one that has it."""
        if error.sqlstate == READ_ONLY_SERVER:
            self._primary.condemn_all()

    @asynccontextmanager
    async def transaction(
        self, *, account: int | None = None, mailboxes: Iterable[int] | None = None
    ) -> AsyncIterator[Transaction]:
        """Committed when the block ends, rolled back when it raises, gone with its connection when the
        task is cancelled.

        Raises Unavailable, StagingFull (nothing was written), CommitUnknown.
        """
        timeout_s = self.settings.write_timeout_s + CLIENT_GRACE_S
        with translated(Phase.NOTHING_WRITTEN):
            connection = await self._primary.acquire()
            try:
                await self._control(connection, "BEGIN", timeout_s)
                yield Transaction(connection, self.stats, timeout_s)
                await self._commit(connection, timeout_s, _names(account, mailboxes))
            except Exception as error:
                await self._fail(connection, error, timeout_s)
                raise
            except BaseException:
                self._primary.discard(connection)
                raise
            self._primary.release(connection)

    async def _fail(self, connection: Connection, error: Exception, timeout_s: float) -> None:
        cause = error if isinstance(error, asyncpg.PostgresError) else error.__cause__
        try:
            await self._roll_back(connection, timeout_s)
        except BaseException:
            self._primary.discard(connection)
            raise
        if isinstance(cause, asyncpg.PostgresError):
            self._notice(cause)
            self._primary.give_back(connection, cause)
        else:
            self._primary.release(connection)

    async def _commit(self, connection: Connection, timeout_s: float, keys: list[Hashable] | None) -> None:
        try:
            with translated(Phase.COMMITTING):
                outcome = await self._control(connection, "COMMIT", timeout_s)
        except BaseException:
            self._note(None)
            raise
        self._note(keys)
        if outcome != "COMMIT":
            raise Unavailable("PostgreSQL rolled the transaction back")

    async def _roll_back(self, connection: Connection, timeout_s: float) -> None:
        """The block's own error matters; a connection that cannot even roll back is closed by the pool."""
        if connection.is_closed() or not connection.is_in_transaction():
            return
        try:
            await self._control(connection, "ROLLBACK", timeout_s)
        except Exception as error:
            if translate(error, Phase.NOTHING_WRITTEN) is None:
                raise

    async def _control(self, connection: Connection, command: str, timeout_s: float) -> str:
        self.stats[command.lower()] += 1
        return await connection.execute(command, timeout=timeout_s)


def _names(account: int | None, mailboxes: Iterable[int] | None) -> list[Hashable] | None:
    """None: the caller named nothing."""
    return None if account is None and mailboxes is None else _keys(account, mailboxes or ())


def _keys(account: int | None, mailboxes: Iterable[int]) -> list[Hashable]:
    keys: list[Hashable] = [("mailbox", mailbox) for mailbox in mailboxes]
    if account is not None:
        keys.append(("account", account))
    return keys
