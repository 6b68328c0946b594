"""Cancelled callers and a server that is killed: nothing half-written, nothing acknowledged lost, nothing
stored twice."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

import pytest

from storage.errors import StorageError
from storage.model import MailboxId, NewMessage, Uid, Wanted
from storage.postgres.migrate import migrate
from storage.postgres.pool import Database, DatabaseSettings, EndpointSettings
from storage.postgres.server import DURABLE, PORT, LocalServer

from ...support.postgres import SharedServer
from ...support.stores import PostgresStores, staged


async def test_an_append_cancelled_anywhere_happened_or_not(postgres_stores: PostgresStores) -> None:
    inbox, other = await postgres_stores.inbox(), await postgres_stores.inbox()
    outcomes = set()
    for steps in range(40):
        key = bytes([steps]) * 32
        messages = [NewMessage(inbox, delivery_key=key), NewMessage(other, delivery_key=key)]
        body = staged(b"%d" % steps, frames=1 + 6 * (steps % 2))
        task = asyncio.create_task(postgres_stores.mail.append(body, messages))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        outcomes.add(task.cancelled())
        answers = await postgres_stores.mail.append(body, messages)
        assert answers[0].duplicate == answers[1].duplicate
        for answer in answers:
            assert await postgres_stores.mail.delivered(answer.mailbox_id, key)
    assert True in outcomes
    assert len(postgres_stores.mail.queue) == 0
    for mailbox_id in (inbox, other):
        await postgres_stores.audit(mailbox_id)
        view = await postgres_stores.mail.load_view(mailbox_id)
        assert len(view.uids) == 40
        rows = await postgres_stores.mail.fetch(mailbox_id, [Uid(uid) for uid in view.uids], Wanted.REFERENCE)
        for row in rows:
            frames = await postgres_stores.uploads.staged_frames(row.ref.id)
            assert frames is not None
            assert len(frames) in {1, 7}
    open_now = await postgres_stores.database.read(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in trans%'"
    )
    assert open_now == []


async def deliver_until_done(stores: PostgresStores, box: MailboxId, name: int, count: int) -> None:
    """As an MTA does: the same bytes and key again until they are accepted."""
    for n in range(count):
        key = b"%16d%16d" % (name, n)
        body = staged(b"%d %d" % (name, n), frames=1 if n % 5 else 6)
        while True:
            try:
                await stores.mail.append(body, [NewMessage(box, delivery_key=key)])
            except StorageError:
                await asyncio.sleep(0.02)
                continue
            break


@pytest.mark.slow
async def test_killing_the_server_neither_loses_nor_doubles(pg_server: SharedServer) -> None:
    with tempfile.TemporaryDirectory(prefix="sora-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        server = LocalServer(
            Path(name) / "pg", "secret", binaries=pg_server.server.binaries, options=DURABLE, sync=False
        )
        await server.start()
        try:
            await server.create_database("mail")
            hosts = ((str(server.socket_directory), PORT),)
            endpoint = EndpointSettings(hosts, server.user, "secret", "mail", max_connections=10)
            await migrate(endpoint)
            stores = PostgresStores(await Database.open(DatabaseSettings(write=endpoint)))
            boxes = [await stores.inbox() for _ in range(4)]
            writers = [
                asyncio.create_task(deliver_until_done(stores, boxes[n % 4], n, 120)) for n in range(8)
            ]
            rng = random.Random(7)
            for _ in range(3):
                await asyncio.sleep(rng.uniform(0.05, 0.3))
                await server.kill()
                await server.start()
            await asyncio.gather(*writers)
            for box in boxes:
                await stores.audit(box)
                assert (await stores.mail.load_view(box)).mailbox.messages == 240
            await stores.database.close()
        finally:
            await server.stop()
