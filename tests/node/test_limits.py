"""Limits of the configuration on a whole node with real PostgreSQL."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from node.app import Node
from storage.postgres.settings import DatabaseSettings
from tests.node.test_app import ADDRESS, PASSWORD, Imap, configure, deliver
from tests.support.postgres import WAITERS
from tests.support.waiting import until

LIMITS = """
max_connections_per_user = 2
[servers.timeouts.imap_command_timeouts]
store = "2s"
copy = "3s"
"""
COMMANDS = ("STORE 1 +FLAGS (\\Flagged)", "COPY 1 Trash")


async def test_limits_of_users_and_commands(
    tmp_path: Path, pg_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = 'name = "imap"\naddr = "127.0.0.1:0"\nmax_connections = {most}\n'
    monkeypatch.setattr("tests.node.test_app.SERVERS", _with_limits(first))
    node = Node(configure(tmp_path, pg_settings))
    await node.start()
    try:
        await node.ensure_account(ADDRESS, PASSWORD)
        await deliver(node, b"Subject: one\r\n\r\nhello\r\n")
        client, other = await Imap.open(node), await Imap.open(node)
        await client.login()
        await other.login()
        third = await Imap.open(node)
        refusal = await third.command(f'LOGIN {ADDRESS} "{PASSWORD}"')
        assert b"NO [LIMIT] Too many connections: 2 are allowed" in refusal
        await other.command("LOGOUT")
        await third.login()
        await _time_out(client, pg_settings)
        assert node.doors.memory.used_bytes == 0
        for each in (client, other, third):
            each.writer.close()
        async with asyncio.timeout(60):
            while not node.sessions.is_empty:
                await asyncio.sleep(0.01)
    finally:
        await node.stop()


def _with_limits(first: str) -> str:
    from tests.node import test_app

    assert first in test_app.SERVERS
    return test_app.SERVERS.replace(first, first + LIMITS)


async def _time_out(client: Imap, pg: DatabaseSettings) -> None:
    """Somebody else holds the rows: the statement is given up, and nothing is left of it."""
    assert b"* 1 EXISTS" in await client.command("SELECT INBOX")
    blocker, watcher = await _connected(pg), await _connected(pg)

    async def nobody_waits() -> bool:
        """What was given up is ended a little later, and would be done if the rows were free before."""
        return not await watcher.fetchval(WAITERS)

    try:
        async with blocker.transaction():
            await blocker.execute("SELECT 1 FROM mailboxes FOR UPDATE")
            for command in COMMANDS:
                answer = await client.command(command)
                assert b"NO [LIMIT] The command took too long" in answer, answer
            await until(nobody_waits)
        assert b"FLAGS ()" in (await client.command("FETCH 1 FLAGS")).replace(b"\\Recent", b"")
        assert b"MESSAGES 0" in await client.command("STATUS Trash (MESSAGES)")
        for command in COMMANDS:
            await until(partial(_is_done, client, command))
    finally:
        await blocker.close()
        await watcher.close()


async def _is_done(client: Imap, command: str) -> bool:
    """A busy machine may take longer than commands are given here."""
    return b" OK " in await client.command(command)


async def _connected(pg: DatabaseSettings) -> asyncpg.Connection[asyncpg.Record]:
    write = pg.write
    return await asyncpg.connect(
        host=write.hosts[0][0],
        port=write.hosts[0][1],
        user=write.user,
        password=write.password,
        database=write.database,
    )
