"""A real PostgreSQL for the tests: one server for the whole run, one database for each module.

The server lives in memory without fsync (durability has tests of its own). Processes of a parallel run
share it: each holds a shared lock while it lives, and a small watcher waits for the exclusive one, which it
gets when the last of them is gone, however it ended; then it stops the server and removes the files.
``SORA_TEST_PG_BIN`` chooses the programs, for instance /usr/lib/postgresql/15/bin.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from storage.postgres.migrate import migrate
from storage.postgres.pool import Database, DatabaseSettings, EndpointSettings
from storage.postgres.server import PORT, LocalServer, ServerError, find_binaries

PASSWORD = "for-tests-only"
TEMPLATE = "template_sora"
NEEDED_BYTES = 512 << 20
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "1000",  # of all processes of a run: one for each core
    "shared_buffers": "256MB",
}
# argv: lock file, directory. Blocks until nobody uses the server.
_WATCHER = """
import fcntl, os, shutil, signal, sys, time
lock, directory = sys.argv[1:]
handle = open(lock)
fcntl.flock(handle, fcntl.LOCK_EX)
try:
    pid = int(open(os.path.join(directory, "data", "postmaster.pid")).readline())
    os.kill(pid, signal.SIGINT)
    for turn in range(3000):
        os.kill(pid, signal.SIGQUIT if turn == 500 else 0)
        time.sleep(0.01)
except (OSError, ValueError):
    pass
shutil.rmtree(directory, ignore_errors=True)
os.unlink(lock)
os.unlink(lock.removesuffix("lock") + "start")
"""

# Other databases of the server are of other processes of a parallel run.
WAITERS = """
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE NOT l.granted AND a.datname = current_database()"""

skipped_for_lack_of_server: list[str] = []


def _root() -> Path:
    """Memory, where there is room: in containers it may be 64 MB."""
    shm = Path("/dev/shm")
    has_room = os.access(shm, os.W_OK) and shutil.disk_usage(shm).total >= NEEDED_BYTES
    return shm if has_room else Path(tempfile.gettempdir())


class SharedServer:
    """This process's part in the shared server."""

    def __init__(self) -> None:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:12]
        self.directory = _root() / f"sora-test-{run}"
        self._lock = (_root() / f"sora-test-{run}.lock").open("a")  # open: in use by us
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        binaries = find_binaries(os.environ.get("SORA_TEST_PG_BIN"))
        self.server = LocalServer(self.directory, PASSWORD, binaries=binaries, options=FAST, sync=False)
        self._numbers = itertools.count(1)
        with (_root() / f"sora-test-{run}.start").open("a") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            asyncio.run(self._start(self._lock.name))

    async def _start(self, lock: str) -> None:
        await self.server.start()
        if not self.server.was_adopted:
            subprocess.Popen(
                [sys.executable, "-c", _WATCHER, lock, str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        if await self.server.create_database(TEMPLATE):
            await migrate(self.endpoint(TEMPLATE))

    def endpoint(self, database: str) -> EndpointSettings:
        return EndpointSettings(
            hosts=((str(self.server.socket_directory), PORT),),
            user=self.server.user,
            password=PASSWORD,
            database=database,
            max_connections=16,
        )

    def new_database(self, template: str | None = TEMPLATE) -> EndpointSettings:
        """A migrated database, or with ``template=None`` a bare one."""
        name = f"t{os.getpid()}_{next(self._numbers)}"
        how = "" if template is None else f"TEMPLATE {template}"
        if template is not None and self.server.binaries.exists() and _clones_files(self.server):
            how += " STRATEGY file_copy"
        asyncio.run(self._execute("postgres", f"CREATE DATABASE {name} {how}"))
        return self.endpoint(name)

    def drop_database(self, endpoint: EndpointSettings) -> None:
        asyncio.run(self._execute("postgres", f"DROP DATABASE IF EXISTS {endpoint.database} WITH (FORCE)"))

    async def _execute(self, database: str, sql: str) -> None:
        connection = await self.server.connect(database)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


def _clones_files(server: LocalServer) -> bool:
    return int((server.data / "PG_VERSION").read_text()) >= 15


async def empty(endpoint: EndpointSettings) -> None:
    """Delete every row; much faster than TRUNCATE on small tables."""
    host, port = endpoint.hosts[0]
    connection = await asyncpg.connect(
        host=host, port=port, user=endpoint.user, password=endpoint.password, database=endpoint.database
    )
    try:
        tables = await connection.fetch(
            "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public'"
            " AND tablename <> 'schema_migrations'"
        )
        deletes = "".join(f"DELETE FROM {row['name']};" for row in tables)
        await connection.execute(f"SET session_replication_role = replica; {deletes}")
    finally:
        await connection.close()


async def waiters(database: Database) -> int:
    """How many wait for a lock in this database."""
    ((n,),) = await database.read(WAITERS)
    return int(n)


async def until_someone_waits(database: Database, n: int = 1) -> None:
    async with asyncio.timeout(60):
        while await waiters(database) < n:
            await asyncio.sleep(0)


@pytest.fixture(scope="session")
def pg_server(request: pytest.FixtureRequest) -> SharedServer:
    """The shared server; skips when PostgreSQL cannot run here (the run's summary says how often)."""
    try:
        return SharedServer()
    except ServerError as error:
        pytest.skip(f"no PostgreSQL: {error}")


@pytest.fixture(scope="module")
def pg_database(pg_server: SharedServer) -> Iterator[EndpointSettings]:
    """A migrated database for the module; rows of earlier tests may be in it."""
    endpoint = pg_server.new_database()
    yield endpoint
    pg_server.drop_database(endpoint)


@pytest_asyncio.fixture
async def pg_settings(pg_database: EndpointSettings) -> DatabaseSettings:
    """Settings of a migrated database without rows."""
    await empty(pg_database)
    return DatabaseSettings(write=pg_database)


@pytest_asyncio.fixture
async def database(pg_settings: DatabaseSettings) -> AsyncIterator[Database]:
    """An open Database without rows."""
    opened = await Database.open(pg_settings)
    yield opened
    await opened.close()
