"""A bounded pool of connections to one role, and the loop over its hosts.

Why not asyncpg's pool: it resets the session on every release (half again the client's CPU and a round
trip), has no lifetime limit, and waits without bound. Ours relies on one invariant instead: a connection
goes back only when its last statement finished and no transaction is open; any other is closed in the
background and never used again. Closing is what ends the transaction of a cancelled caller, so cleaning
up never depends on the caller's own cancelled task.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg

from storage.errors import StorageError, Unavailable

from .errors import Phase, lost_connection, translate
from .settings import EndpointSettings

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 5.0  # for a cancel request to be answered before the socket is cut
SESSION = {
    "application_name": "sora",
    "jit": "off",  # never pays for short statements
    # Statements are written for one plan, by index, whatever the tables hold: planning again would cost
    # more than running, and a plan made while a table was small must be right when it has grown.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
}


log = logging.getLogger("sora.sql")


def connect_options(
    settings: EndpointSettings, server_settings: dict[str, str], timeout_s: float = CONNECT_TIMEOUT_S
) -> dict[str, Any]:
    """Keyword arguments for ``asyncpg.connect``, all but the address. Nobody waits longer for a connection
    than for a query."""
    return {
        "user": settings.user,
        "password": settings.password,
        "database": settings.database,
        "ssl": ssl.create_default_context() if settings.tls else False,
        "timeout": min(CONNECT_TIMEOUT_S, timeout_s),
        "statement_cache_size": 200,
        "max_cached_statement_lifetime": 0,
        "max_cacheable_statement_size": 0,
        "server_settings": {**SESSION, **server_settings},
    }


def log_statement(query: Any) -> None:
    """One statement with its duration; never its parameters, which may be secrets or mail."""
    outcome = f" failed: {type(query.exception).__name__}" if query.exception else ""
    log.info("%.1f ms%s: %s", query.elapsed * 1000, outcome, " ".join(query.query.split()))


class HostList:
    """Connects to the first host of a list that will do, starting with the one that did last time."""

    def __init__(
        self,
        hosts: tuple[tuple[str, int], ...],
        options: dict[str, Any],
        *,
        must_accept_writes: bool,
        log_statements: bool = False,
    ) -> None:
        self._hosts = hosts
        self._preferred = 0
        self._log_statements = log_statements
        self._options = options | ({"target_session_attrs": "read-write"} if must_accept_writes else {})

    async def connect(self) -> Connection:
        """Raises Unavailable when no host will do; its cause is what the last one said."""
        problems: list[str] = []
        last: Exception | None = None
        count = len(self._hosts)
        for index in (*range(self._preferred, count), *range(self._preferred)):
            host, port = self._hosts[index]
            try:
                connection: Connection = await asyncpg.connect(host=host, port=port, **self._options)
            except Exception as error:
                refused = isinstance(error, asyncpg.PostgresError)  # no such database, bad password, ...
                if not refused and translate(error, Phase.NOTHING_WRITTEN) is None:
                    raise
                problems.append(f"{host}:{port}: {error or type(error).__name__}")
                last = error
                continue
            self._preferred = index
            if self._log_statements:
                connection.add_query_logger(log_statement)
            return connection
        raise Unavailable("no PostgreSQL server can be used: " + "; ".join(problems)) from last


@dataclass(frozen=True, slots=True)
class _Idle:
    connection: Connection
    since: float


class _Limit:
    """Asks the server to end the statement of a connection that takes too long."""

    def __init__(self, pool: ConnectionPool, connection: Connection, after_s: float) -> None:
        self._pool = pool
        self._pid = connection.get_server_pid()
        self._asking: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(after_s, self._fire)

    def _fire(self) -> None:
        self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        try:
            await self._pool.fetch("SELECT pg_cancel_backend($1)", (self._pid,), CLOSE_TIMEOUT_S)
        except Exception as error:
            if translate(error, Phase.NOTHING_WRITTEN) is None and not isinstance(error, StorageError):
                raise

    def stop(self) -> bool:
        """Whether the server has been asked: then the request may still be on its way, and would hit the
        connection's next statement."""
        self._timer.cancel()
        return self._asking is not None


class ConnectionPool:
    """At most ``max_connections`` connections; the most recently used is reused first."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        settings: EndpointSettings,
        *,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._connect = connect
        self._settings = settings
        self._wait_s = wait_s
        self._clock = clock
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._idle: deque[_Idle] = deque()
        self._born: dict[Connection, float] = {}
        self._condemned: set[Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.is_closed = False

    @property
    def open_connections(self) -> int:
        return len(self._born)

    @property
    def busy_connections(self) -> int:
        return len(self._born) - len(self._idle)

    async def warm(self) -> None:
        """Open ``min_connections`` now. Raises Unavailable."""
        taken = [await self.acquire() for _ in range(self._settings.min_connections)]
        for connection in taken:
            self.release(connection)

    async def fetch(
        self, sql: str, args: Sequence[object], timeout_s: float, *, cancel_after_s: float | None = None
    ) -> list[asyncpg.Record]:
        """One statement. Raises Unavailable when no connection was to be had, else what asyncpg raises.

        After ``cancel_after_s`` the server is asked to end it, and its answer says what became of it;
        after ``timeout_s`` we no longer wait and do not know.
        """
        connection = await self.acquire()
        limit = None if cancel_after_s is None else _Limit(self, connection, cancel_after_s)
        failure: BaseException | None = None
        try:
            rows: list[asyncpg.Record] = await connection.fetch(sql, *args, timeout=timeout_s)
            return rows
        except BaseException as error:
            failure = error
            raise
        finally:
            if limit is not None and limit.stop():
                self.discard(connection)
            elif failure is None:
                self.release(connection)
            elif isinstance(failure, asyncpg.PostgresError):
                self.give_back(connection, failure)
            else:
                self.discard(connection)

    def give_back(self, connection: Connection, error: asyncpg.PostgresError) -> None:
        """Release after a server's error, or discard when the error ended the connection."""
        if not lost_connection(error):
            self.release(connection)
            return
        self.discard(connection)
        self._drop_idle()  # they led to the same server; using one would make a write's outcome unknown

    async def acquire(self) -> Connection:
        await self._take_slot()
        try:
            return self._reusable() or await self._open()
        except BaseException:
            self._slots.release()
            raise

    async def _take_slot(self) -> None:
        if self.is_closed:
            raise Unavailable("the database is closed")
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Unavailable("all connections to PostgreSQL are busy", retry_after_s=5.0) from error

    def _reusable(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop().connection
            if not connection.is_closed():
                return connection
            self._forget(connection)
        return None

    async def _open(self) -> Connection:
        connection = await self._connect()
        if self.is_closed:
            connection.terminate()
            raise Unavailable("the database is closed")
        self._born[connection] = self._clock()
        return connection

    def release(self, connection: Connection) -> None:
        """Put back a connection whose last statement finished."""
        if connection.is_closed():
            self._forget(connection)
            self._slots.release()
        elif self.is_closed or connection.is_in_transaction() or self._is_spent(connection):
            self.discard(connection)
        else:
            self._idle.append(_Idle(connection, self._clock()))
            self._slots.release()
            self._trim()

    def discard(self, connection: Connection) -> None:
        """Close a connection that may be in the middle of something; its slot is free when it is gone."""
        task = asyncio.get_running_loop().create_task(self._close(connection, frees_slot=True))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, connection: Connection, *, frees_slot: bool) -> None:
        try:
            await connection.close(timeout=CLOSE_TIMEOUT_S)
        except Exception as error:
            connection.terminate()
            if translate(error, Phase.NOTHING_WRITTEN) is None:
                raise
        finally:
            self._forget(connection)
            if frees_slot:
                self._slots.release()

    def _is_spent(self, connection: Connection) -> bool:
        if connection in self._condemned:
            return True
        return self._clock() - self._born[connection] > self._settings.max_lifetime_s

    def _trim(self) -> None:
        """Let go of the longest idle connection when it was not needed for ``max_idle_s``."""
        oldest = self._idle[0]
        if len(self._born) <= self._settings.min_connections:
            return
        if self._clock() - oldest.since > self._settings.max_idle_s:
            self._idle.popleft()
            task = asyncio.get_running_loop().create_task(self._close(oldest.connection, frees_slot=False))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def condemn_all(self) -> None:
        """None of the present connections is used again: the server's role has changed."""
        self._condemned.update(self._born)
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            connection = self._idle.pop().connection
            connection.terminate()
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._born.pop(connection, None)
        self._condemned.discard(connection)

    async def close(self) -> None:
        """Close idle connections now and busy ones when they come back."""
        self.is_closed = True
        idle = [entry.connection for entry in self._idle]
        self._idle.clear()
        await asyncio.gather(*(self._close(connection, frees_slot=False) for connection in idle))
        if self._closing:
            await asyncio.wait(set(self._closing))
