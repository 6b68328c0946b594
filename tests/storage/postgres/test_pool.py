"""The pool against a real server: failures, cancellation, bounds."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import asyncpg
import pytest

from storage.errors import CommitUnknown, NotFound, StagingFull, Unavailable
from storage.postgres import pool
from storage.postgres.errors import Phase, translate
from storage.postgres.pool import Database, DatabaseSettings

from ...support.postgres import SharedServer, until_someone_waits
from ...support.waiting import until

_LOCK_BOTH = """
WITH a AS MATERIALIZED (SELECT id FROM accounts WHERE id = $1 FOR UPDATE),
b AS MATERIALIZED (SELECT id FROM accounts WHERE id = $2 + 0 * (SELECT id FROM a) FOR UPDATE)
SELECT * FROM b"""


async def kill_all(database: Database) -> None:
    """Cut every other connection of this database from the server's side."""
    await database.read(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def open_transactions(database: Database) -> int:
    rows = await database.read(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
    )
    n: int = rows[0]["n"]
    return n


async def sleeping(database: Database) -> bool:
    return bool(
        await database.read(
            "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        )
    )


async def test_reads_and_writes_are_counted(database: Database) -> None:
    database.stats.clear()
    await database.read("SELECT 1")
    await database.write("INSERT INTO accounts DEFAULT VALUES")
    async with database.transaction() as transaction:
        await transaction.fetch("SELECT 1")
    assert database.stats == {"read": 1, "write": 1, "begin": 1, "transaction": 1, "commit": 1}
    assert database.round_trips == 5


async def test_a_raising_block_is_rolled_back(database: Database) -> None:
    with pytest.raises(NotFound):
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO accounts DEFAULT VALUES")
            raise NotFound("changed our mind")
    assert await database.read("SELECT * FROM accounts") == []
    assert database.open_connections == 1


async def test_a_cancelled_transaction_leaves_nothing_open(database: Database) -> None:
    started = asyncio.Event()

    async def slow() -> None:
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO accounts DEFAULT VALUES")
            started.set()
            await transaction.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(slow())
    await started.wait()
    await until(lambda: sleeping(database))  # the server ignores what cancels a statement that has not begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(60):
        while await open_transactions(database):
            await asyncio.sleep(0)
    assert await database.read("SELECT * FROM accounts") == []


async def test_a_cancelled_statement_frees_its_slot(pg_settings: DatabaseSettings) -> None:
    settings = dataclasses.replace(
        pg_settings, write=dataclasses.replace(pg_settings.write, max_connections=1)
    )
    database = await Database.open(settings)
    task = asyncio.create_task(database.write("SELECT pg_sleep(60)"))
    while database.stats["write"] == 0:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(60):
        assert len(await database.read("SELECT 1")) == 1
    await database.close()


async def test_a_lost_connection_means_unknown_when_writing_and_unavailable_before(
    database: Database,
) -> None:
    with pytest.raises(CommitUnknown):
        await database.write("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(Unavailable):
        async with database.transaction() as transaction:
            await transaction.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert len(await database.read("SELECT 1")) == 1


async def test_a_connection_killed_at_commit_is_unknown(database: Database) -> None:
    with pytest.raises(CommitUnknown):
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO accounts DEFAULT VALUES")
            (row,) = await transaction.fetch("SELECT pg_backend_pid() AS pid")
            await database.read("SELECT pg_terminate_backend($1, 5000)", row["pid"])


async def test_idle_connections_that_were_cut_are_replaced(database: Database) -> None:
    await asyncio.gather(*(database.read("SELECT pg_sleep(0.01)") for _ in range(4)))
    await kill_all(database)
    for _ in range(8):
        assert len(await database.read("SELECT 1")) == 1


async def test_waiting_for_a_connection_is_bounded(
    pg_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dataclasses.replace(pg_settings.write, max_connections=1)
    monkeypatch.setattr(pool, "CONNECTION_WAIT_S", 0.05)
    database = await Database.open(dataclasses.replace(pg_settings, write=one))
    async with database.transaction():
        with pytest.raises(Unavailable, match="busy"):
            await database.read("SELECT 1")
    assert len(await database.read("SELECT 1")) == 1
    await database.close()


async def test_a_slow_write_is_ended_and_its_outcome_known(pg_settings: DatabaseSettings) -> None:
    database = await Database.open(dataclasses.replace(pg_settings, write_timeout_s=0.1))
    with pytest.raises(Unavailable, match="57014"):
        await database.write("WITH made AS (INSERT INTO accounts DEFAULT VALUES) SELECT pg_sleep(60)")
    assert await database.read("SELECT FROM accounts") == []
    database.settings = pg_settings  # the next one takes as long as the machine needs
    await database.write("INSERT INTO accounts DEFAULT VALUES")
    await database.close()


async def test_lock_timeout_is_unavailable(pg_settings: DatabaseSettings) -> None:
    database = await Database.open(dataclasses.replace(pg_settings, lock_timeout_s=0.05))
    await database.write("INSERT INTO accounts DEFAULT VALUES")
    async with database.transaction() as transaction:
        await transaction.fetch("SELECT * FROM accounts FOR UPDATE")
        with pytest.raises(Unavailable, match="55P03"):
            await database.write("UPDATE accounts SET deleted_at = now()")
    await database.close()


async def test_deadlocks_are_run_again(database: Database) -> None:
    await database.write("INSERT INTO accounts DEFAULT VALUES")
    await database.write("INSERT INTO accounts DEFAULT VALUES")
    first, second = [row["id"] for row in await database.read("SELECT id FROM accounts ORDER BY id")]
    write = None
    with contextlib.suppress(Unavailable):  # PostgreSQL may choose the transaction as the victim
        async with database.transaction() as transaction:
            await transaction.fetch("SELECT FROM accounts WHERE id = $1 FOR UPDATE", second)
            write = asyncio.create_task(database.write(_LOCK_BOTH, first, second))
            await until_someone_waits(database)
            await transaction.fetch("SELECT FROM accounts WHERE id = $1 FOR UPDATE", first)
    assert write is not None
    assert len(await write) == 1


async def test_no_server_is_unavailable(pg_settings: DatabaseSettings, tmp_path: object) -> None:
    nowhere = dataclasses.replace(pg_settings.write, hosts=((str(tmp_path), 5432),))
    with pytest.raises(Unavailable):
        await Database.open(DatabaseSettings(write=nowhere))


async def test_a_missing_database_is_named(pg_settings: DatabaseSettings) -> None:
    missing = dataclasses.replace(pg_settings.write, database="not_there")
    with pytest.raises(Unavailable, match="not_there"):
        await Database.open(DatabaseSettings(write=missing))


async def test_the_first_host_that_works_is_used(pg_settings: DatabaseSettings, tmp_path: object) -> None:
    hosts = ((str(tmp_path), 5432), *pg_settings.write.hosts)
    both = dataclasses.replace(pg_settings.write, hosts=hosts)
    database = await Database.open(DatabaseSettings(write=both))
    assert len(await database.read("SELECT 1")) == 1
    await database.close()


async def test_a_server_turned_read_only_is_left(
    pg_settings: DatabaseSettings, pg_server: SharedServer
) -> None:
    database = await Database.open(pg_settings)
    await database.write("SET default_transaction_read_only = on")  # this one connection
    with pytest.raises(Unavailable):
        await database.write("INSERT INTO accounts DEFAULT VALUES")
    await database.write("INSERT INTO accounts DEFAULT VALUES")
    await database.close()


@pytest.mark.parametrize(
    ("error", "phase", "expected"),
    [
        (asyncpg.DiskFullError("full"), Phase.COMMITTING, StagingFull),
        (asyncpg.LockNotAvailableError("lock"), Phase.COMMITTING, Unavailable),
        (asyncpg.QueryCanceledError("slow"), Phase.COMMITTING, Unavailable),
        (asyncpg.DeadlockDetectedError("dead"), Phase.COMMITTING, Unavailable),
        (asyncpg.AdminShutdownError("bye"), Phase.COMMITTING, CommitUnknown),
        (asyncpg.AdminShutdownError("bye"), Phase.NOTHING_WRITTEN, Unavailable),
        (ConnectionResetError(), Phase.COMMITTING, CommitUnknown),
        (TimeoutError(), Phase.COMMITTING, CommitUnknown),
        (TimeoutError(), Phase.NOTHING_WRITTEN, Unavailable),
    ],
)
def test_translation(error: Exception, phase: Phase, expected: type[Exception]) -> None:
    assert type(translate(error, phase)) is expected


def test_programming_errors_are_not_translated() -> None:
    assert translate(asyncpg.UndefinedColumnError("no"), Phase.COMMITTING) is None
    assert translate(asyncpg.UniqueViolationError("dup"), Phase.COMMITTING) is None
