"""kill -9 of a process that delivers and uploads, on PostgreSQL: all it acknowledged is there once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from storage.model import Uid, Wanted
from storage.objects.keys import object_key
from storage.postgres.pool import DatabaseSettings
from tests.support.deliverer import options_of, size_of
from tests.support.queue import PostgresQueue
from tests.support.stores import PostgresStores, postgres_stores
from tests.support.way import Way, message

__all__ = ["postgres_stores"]  # a fixture
ROOT = Path(__file__).resolve().parents[2]
KILLED_AFTER = (1, 17, 60)  # acknowledged messages


@pytest.mark.parametrize("use_disk", [False, True], ids=["database", "disk"])
async def test_all_acknowledged_mail_is_there_once(
    tmp_path: Path, postgres_stores: PostgresStores, pg_settings: DatabaseSettings, use_disk: bool
) -> None:
    queue = await PostgresQueue.create(postgres_stores)
    options = options_of(pg_settings, queue, tmp_path, use_disk=use_disk)
    acked: list[int] = []
    for kill_after in KILLED_AFTER:
        first = max(acked, default=0) + 100
        acked += await deliver_until_killed({**options, "first": first}, kill_after)
    assert len(acked) == len(set(acked)) >= sum(KILLED_AFTER)
    way = Way(tmp_path, queue, use_disk=use_disk)
    await check(way, queue, acked)
    for _ in range(10):
        await queue.pass_time(24 * 3600)  # leases of the dead run out
        await way.drain()
    assert (await way.uploader.backlog()).contents == 0
    await check(Way(tmp_path / "elsewhere", queue, store=way.store), queue, acked)
    assert await way.objects() == {object_key(ref.hash, ref.id) for ref in await queue.contents()}


async def deliver_until_killed(options: dict[str, object], kill_after: int) -> list[int]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.deliverer", json.dumps(options)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    acked = []
    async with asyncio.timeout(60):
        while len(acked) < kill_after:
            acked.append(int(await process.stdout.readline()))
        process.kill()
        rest = await process.stdout.read()  # acknowledged before the blow fell
        await process.wait()
    return acked + [int(line) for line in rest.splitlines(keepends=True) if line.endswith(b"\n")]


async def check(way: Way, queue: PostgresQueue, acked: list[int]) -> None:
    rows = await queue.mail.fetch(queue.inbox, [Uid(uid) for uid in range(1, 1000)], Wanted.REFERENCE)
    copies = Counter(row.ref.hash for row in rows)
    assert set(copies.values()) == {1}
    bodies = {await way.read(row.ref) for row in rows}
    assert bodies >= {message(number, size_of(number)) for number in acked}
