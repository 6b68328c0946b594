"""A real kill -9 at every point of a delivery at which something leaves the process, on PostgreSQL.

What was acknowledged is there once, with its bytes; what was not is there once after the sender has tried
again; nothing is left lying about. ``test_faults.py`` does the same with simulated deaths, power cuts and
errors, for uploads and purges too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from storage.model import MailboxId, NewMessage, Wanted
from storage.postgres.pool import DatabaseSettings
from storage.staging import IN_FLIGHT_S
from tests.support.deliverer import options_of
from tests.support.lifeline import MAIL, key_of, mail_of
from tests.support.queue import PostgresQueue
from tests.support.stores import PostgresStores, postgres_stores
from tests.support.way import Way

__all__ = ["postgres_stores"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]
LIFE_ENDS_WITHIN_S = 120.0
MAX_POINTS = 300
FEWEST = {False: 20, True: 40}  # points, by staging: with fewer something is not counted


class Lives:
    """The process that forks and kills, one life after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def begin(cls, options: dict[str, object]) -> Lives:
        command = (sys.executable, "-m", "tests.support.lifeline", json.dumps(options))
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe))

    async def live(self, at: int) -> tuple[set[int], str]:
        """What was acknowledged, and where it died; empty: it did not."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(b"%d\n" % at)
        acked: set[int] = set()
        where = "nowhere"
        async with asyncio.timeout(LIFE_ENDS_WITHIN_S):
            while (line := (await stdout.readline()).decode().strip()) != "end":
                word, _, rest = line.partition(" ")
                assert word in ("ack", "at", "whole"), line or "the process has failed"
                if word == "ack":
                    acked.add(int(rest))
                else:
                    where = rest
        assert where != "nowhere", "it died by itself"
        return acked, where

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@pytest.mark.parametrize("use_disk", [False, True], ids=["database", "disk"])
async def test_killed_at_every_point_of_a_delivery(
    tmp_path: Path, postgres_stores: PostgresStores, pg_settings: DatabaseSettings, use_disk: bool
) -> None:
    queue = await PostgresQueue.create(postgres_stores)
    options = options_of(pg_settings, queue, tmp_path, use_disk=use_disk)
    lives = await Lives.begin(options)
    deaths: Counter[str] = Counter()
    try:
        for at in range(1, MAX_POINTS):
            acked, where = await lives.live(at)
            try:
                await check_life(tmp_path / str(at), queue, str(at), acked, use_disk=use_disk)
            except BaseException as error:
                error.add_note(f"killed at point {at}, {where}; acknowledged: {acked}")
                raise
            if not where:
                assert acked == {number for number, _ in MAIL}
                break
            deaths[where] += 1
            shutil.rmtree(tmp_path / str(at), ignore_errors=True)
        else:
            pytest.fail("it is killed for ever")
    finally:
        await lives.end()
    assert deaths.total() >= FEWEST[use_disk], deaths
    assert deaths["before the answer"] == deaths["after the answer"] == len(MAIL)
    assert deaths["after a write to the database"] >= 8
    assert (deaths["disk rename"] >= len(MAIL)) == use_disk


async def check_life(root: Path, queue: PostgresQueue, life: str, acked: set[int], *, use_disk: bool) -> None:
    way = Way(root, queue, use_disk=use_disk, has_cache=False)  # the next start of the node
    mails = {number: mail_of(life, number, size) for number, size in MAIL}
    found = await bodies(way)
    assert all(count == 1 for count in found.values())
    assert set(found) <= set(mails.values())
    assert {mails[number] for number in acked} <= set(found)
    for number, mail in mails.items():  # the sender tries again, also what it has no answer for
        await queue.mail.append(
            await way.stage(mail), [NewMessage(queue.inbox, delivery_key=key_of(life, number))]
        )
    assert await bodies(way) == Counter(mails.values())
    await queue.pass_time(3600)
    await way.drain()
    assert (await way.uploader.backlog()).contents == 0
    for path in (each for each in root.rglob("*") if each.is_file()):
        then = path.stat().st_mtime - IN_FLIGHT_S - 1
        os.utime(path, (then, then))
    await way.uploader.sweep()
    left = [path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(root / "objects")]
    assert left == []
    assert await bodies(Way(root, queue, has_cache=False)) == Counter(mails.values())
    await forget(queue)


async def bodies(way: Way) -> Counter[bytes]:
    """Of all messages."""
    uids = (await way.queue.mail.load_view(way.queue.inbox)).uids
    rows = await way.queue.mail.fetch(MailboxId(way.queue.inbox), list(uids), Wanted.REFERENCE)  # type: ignore[arg-type]
    return Counter([await way.read(row.ref) for row in rows])


async def forget(queue: PostgresQueue) -> None:
    """The next life begins with an empty mailbox."""
    uids = (await queue.mail.load_view(queue.inbox)).uids
    await queue.mail.remove(queue.inbox, list(uids))  # type: ignore[arg-type]
