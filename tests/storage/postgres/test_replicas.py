"""A real streaming replica: reads are spread over it, and everyone still sees their own writes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import Unavailable
from storage.model import INBOX, AccountId
from storage.postgres.migrate import migrate
from storage.postgres.pool import Database, DatabaseSettings, EndpointSettings
from storage.postgres.server import PORT, LocalServer

from ...support.postgres import SharedServer
from ...support.stores import PostgresStores

OPTIONS = {
    "fsync": "off",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "max_connections": "40",
    "shared_buffers": "32MB",
    "wal_receiver_status_interval": "1",
}
PASSWORD = "for-tests-only"


def endpoint(*servers: LocalServer) -> EndpointSettings:
    hosts = tuple((str(server.socket_directory), PORT) for server in servers)
    return EndpointSettings(hosts, servers[0].user, PASSWORD, "mail", max_connections=8)


async def clone(primary: LocalServer, directory: Path) -> LocalServer:
    """A standby made with pg_basebackup, started."""
    standby = LocalServer(directory, PASSWORD, binaries=primary.binaries, options=OPTIONS, sync=False)
    directory.mkdir(mode=0o700)
    launch = primary._launch
    launch.own(directory)
    command = [
        *launch.prefix,
        str(primary.binaries / "pg_basebackup"),
        "-D",
        str(standby.data),
        "-R",
        "--no-sync",
    ]
    command += ["-c", "fast", "-h", str(primary.socket_directory), "-p", str(PORT), "-U", primary.user]
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    await asyncio.to_thread(
        subprocess.run, command, check=True, env=environment, cwd="/", capture_output=True, **launch.options()
    )
    await standby.start()
    return standby


@asynccontextmanager
async def pair(binaries: Path) -> AsyncIterator[tuple[LocalServer, LocalServer]]:
    """A primary and its replica."""
    with tempfile.TemporaryDirectory(prefix="sora-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        primary = LocalServer(directory / "a", PASSWORD, binaries=binaries, options=OPTIONS, sync=False)
        await primary.start()
        try:
            await primary.create_database("mail")
            await migrate(endpoint(primary))
            standby = await clone(primary, directory / "b")
            try:
                yield primary, standby
            finally:
                await standby.stop()
        finally:
            await primary.stop()


async def on(server: LocalServer, sql: str) -> None:
    connection = await server.connect("mail")
    await connection.execute(sql)
    await connection.close()


async def until_fresh(database: Database, account_id: AccountId) -> None:
    """Probe until the replica may answer for the account again."""
    assert database._reads is not None
    async with asyncio.timeout(60):
        while not database._reads.candidates([("account", account_id)]):
            await database._reads.probe()
            await asyncio.sleep(0.01)


async def replica_reads(stores: PostgresStores, account_id: AccountId) -> tuple[int, int]:
    """Messages in INBOX as read now, and how many of the reads went to a replica."""
    before = stores.database.stats["replica"]
    mailbox = await stores.mail.get_mailbox(account_id, INBOX)
    return mailbox.messages, stores.database.stats["replica"] - before


@pytest.mark.slow
async def test_reads_go_to_the_replica_but_never_back_in_time(pg_server: SharedServer) -> None:
    async with pair(pg_server.server.binaries) as (primary, standby):
        settings = DatabaseSettings(write=endpoint(primary), read=endpoint(standby))
        stores = PostgresStores(await Database.open(settings))
        writer, bystander = await stores.new_account(), await stores.new_account()
        await until_fresh(stores.database, writer)
        await until_fresh(stores.database, bystander)
        assert await replica_reads(stores, writer) == (0, 1)

        await on(standby, "SELECT pg_wal_replay_pause()")
        inbox = (await stores.mail.get_mailbox(writer, INBOX)).id
        await stores.add(inbox)
        assert stores.database._reads is not None
        for _ in range(3):
            await stores.database._reads.probe()
            assert await replica_reads(stores, writer) == (1, 0)
            assert len((await stores.mail.load_view(inbox)).uids) == 1
        assert await replica_reads(stores, bystander) == (0, 1)

        await stores.uploads.lease("node", 10, 60)
        await stores.purge.purge_contents(10)
        assert await replica_reads(stores, bystander) == (0, 1)  # what no reader can see concerns no reader

        await on(standby, "SELECT pg_wal_replay_resume()")
        await until_fresh(stores.database, writer)
        assert await replica_reads(stores, writer) == (1, 1)

        await standby.stop()
        assert (await replica_reads(stores, bystander))[0] == 0
        assert await replica_reads(stores, bystander) == (0, 0)
        await standby.start()
        await until_fresh(stores.database, bystander)
        assert await replica_reads(stores, bystander) == (0, 1)

        await primary.stop()
        await stores.database._reads.probe()
        with pytest.raises(Unavailable):
            await stores.add(inbox)
        assert await replica_reads(stores, bystander) == (0, 1)
        assert await replica_reads(stores, writer) == (1, 1)
        await stores.database.close()


@pytest.mark.slow
async def test_writes_follow_a_failover(pg_server: SharedServer) -> None:
    async with pair(pg_server.server.binaries) as (primary, standby):
        both = DatabaseSettings(
            write=endpoint(standby, primary)
        )  # the standby is asked first and passed over
        stores = PostgresStores(await Database.open(both))
        inbox = await stores.inbox()
        await stores.add(inbox, b"before")
        await caught_up(primary, standby)
        await primary.stop()
        with pytest.raises(Unavailable):
            await Database.open(both)
        await on(standby, "SELECT pg_promote()")
        async with asyncio.timeout(60):
            while not await accepts(stores, inbox):
                await asyncio.sleep(0.01)
        assert len((await stores.mail.load_view(inbox)).uids) == 2
        await stores.audit(inbox)
        await stores.database.close()


async def accepts(stores: PostgresStores, inbox: object) -> bool:
    try:
        await stores.add(inbox, b"after")  # type: ignore[arg-type]
    except Unavailable:
        return False
    return True


async def caught_up(primary: LocalServer, standby: LocalServer) -> None:
    ahead, behind = await primary.connect("mail"), await standby.connect("mail")
    position = await ahead.fetchval("SELECT pg_current_wal_lsn()::text")
    async with asyncio.timeout(60):
        while not await behind.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position):
            await asyncio.sleep(0.01)
    await ahead.close()
    await behind.close()


async def test_the_primary_may_be_its_own_read_endpoint(pg_settings: DatabaseSettings) -> None:
    mine = pg_settings.write
    settings = DatabaseSettings(write=mine, read=replace(mine, max_connections=2))
    stores = PostgresStores(await Database.open(settings))
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    await stores.add(inbox)
    assert await replica_reads(stores, account_id) == (1, 1)
    await stores.database.close()
