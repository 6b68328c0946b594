"""Bloat of the staging tables under a day's churn: ``python -m tests.bench.staging [--scale 0.1]``.

A day's 200,000 bodies go through a durable PostgreSQL as fast as it takes them, with the uploader beside
them and, in the second quarter, the object store away, so that a backlog of a quarter of the day builds up
and drains. Two servers: one whose autovacuum looks once a second (the day is compressed, so are its pauses),
one with PostgreSQL's own minute (as if this rate went on all day, which is the worst case).

It prints what the tables take on disk while that goes on, and fails when it is more than the bound:
BOUND_FACTOR times the most that was staged at once, plus what is staged in BOUND_S seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from storage.errors import StorageError, Unavailable
from storage.memory.blobs import MemoryBlobStore
from storage.model import MailboxId, NewMessage
from storage.objects.codec import Codec
from storage.postgres.migrate import migrate
from storage.postgres.pool import Database, DatabaseSettings, EndpointSettings
from storage.postgres.server import DURABLE, PORT, LocalServer
from storage.uploader import UploaderSettings
from tests.support.nodeprocess import public_directory
from tests.support.queue import PostgresQueue
from tests.support.stores import PostgresStores
from tests.support.way import Way

BODIES = 200_000
DELIVERERS = 8
SIZES = ((4_000, 70), (20_000, 20), (100_000, 9), (1_000_000, 1))  # bytes, of a hundred
NOISE = random.Random(1).randbytes(2_000_000)  # bodies do not compress: what is staged is what came
BOUND_FACTOR = 1.5
BOUND_S = 150.0  # two rounds of autovacuum, and what they take
SAMPLES = 24
MIB = 1024 * 1024

_SIZES = """
SELECT pg_table_size('staged_frames') AS frames, pg_indexes_size('staged_frames') AS frame_indexes,
       pg_total_relation_size('staged_contents') AS contents,
       (SELECT coalesce(sum(encoded_bytes), 0) FROM staged_contents)::bigint AS live,
       (SELECT count(*) FROM staged_contents) AS waiting"""


class Nowhere(MemoryBlobStore):
    """Takes what is put, keeps nothing, and may be away."""

    is_away = False

    async def put_many(
        self, objects: Mapping[str, Sequence[bytes]], slots: asyncio.Semaphore
    ) -> dict[str, int | StorageError]:
        if self.is_away:
            return dict.fromkeys(objects, Unavailable("away"))
        return {key: sum(map(len, frames)) for key, frames in objects.items()}


@dataclass
class Soak:
    way: Way
    store: Nowhere
    inboxes: list[MailboxId]
    total: int
    begun: float = field(default_factory=time.perf_counter)
    done: int = 0
    bytes: int = 0
    peak_live: int = 0
    peak_size: int = 0

    async def deliver(self, worker: int) -> None:
        rng = random.Random(worker)
        sizes, weights = zip(*SIZES, strict=True)
        while self.done < self.total:
            self.done += 1
            number = self.done
            (size,) = rng.choices(sizes, weights)
            start = rng.randrange(len(NOISE) - size)
            body = b"Subject: %d\r\n\r\n" % number + NOISE[start : start + size]
            staged = await self.way.stage(body)
            self.bytes += staged.encoded_bytes
            await self.way.queue.mail.append(staged, [NewMessage(self.inboxes[worker])])
            self.way.uploader.notify()
            self.store.is_away = self.total * 0.25 <= number < self.total * 0.5

    async def watch(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        while True:
            await self.sample(connection)
            upto = self.done + self.total / SAMPLES
            while self.done < min(upto, self.total):
                await asyncio.sleep(0.05)
            if self.done >= self.total:
                return

    async def sample(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        row = await connection.fetchrow(_SIZES)
        assert row is not None
        self.peak_live = max(self.peak_live, row["live"])
        size = row["frames"] + row["frame_indexes"] + row["contents"]
        self.peak_size = max(self.peak_size, size)
        print(
            f"{time.perf_counter() - self.begun:7.0f} {self.done:8,} {row['waiting']:8,}"
            f" {row['live'] / MIB:8,.0f} {row['frames'] / MIB:8,.0f} {row['frame_indexes'] / MIB:8,.1f}"
            f" {row['contents'] / MIB:8,.1f}",
            flush=True,
        )

    def bound(self) -> float:
        per_second = self.bytes / (time.perf_counter() - self.begun)
        return BOUND_FACTOR * self.peak_live + per_second * BOUND_S


async def soak(server: LocalServer, directory: Path, total: int) -> None:
    endpoint = EndpointSettings(
        hosts=((str(server.socket_directory), PORT),),
        user=server.user,
        password="bench",
        database="bench",
        max_connections=DELIVERERS + 4,
    )
    await server.create_database("bench")
    settings = DatabaseSettings(write=endpoint)
    await migrate(settings)
    database = await Database.open(settings)
    stores = PostgresStores(database)
    queue = PostgresQueue(stores, await stores.inbox())
    store = Nowhere()
    way = Way(directory, queue, store=store, has_cache=False)
    way.codec = way.uploader._codec = way.intake._codec = Codec(compress=False)
    way.uploader._clock = time.monotonic
    way.uploader.settings = UploaderSettings()
    run = Soak(way, store, [await stores.inbox() for _ in range(DELIVERERS)], total)
    connection = await server.connect("bench")
    print("seconds   bodies  waiting live MiB   frames  indexes  queue MiB")
    stop = asyncio.Event()
    uploading = asyncio.create_task(way.uploader.run(stop))
    watching = asyncio.create_task(run.watch(connection))
    await asyncio.gather(*map(run.deliver, range(DELIVERERS)))
    await watching
    store.is_away = False
    while (await way.uploader.backlog()).contents:
        way.uploader.notify()
        await asyncio.sleep(0.1)
    await run.sample(connection)
    stop.set()
    way.uploader.notify()
    await uploading
    await connection.close()
    await database.close()
    took_s, bound = time.perf_counter() - run.begun, run.bound()
    print(
        f"{total:,} bodies, {run.bytes / MIB:,.0f} MiB, {total / took_s:,.0f}/s; at most"
        f" {run.peak_live / MIB:,.0f} MiB staged, {run.peak_size / MIB:,.0f} MiB on disk,"
        f" bound {bound / MIB:,.0f} MiB\n",
        flush=True,
    )
    assert run.peak_size <= bound, "the staging tables are bloated"


async def main(scale: float, naptimes: Sequence[str]) -> None:
    for naptime in naptimes:
        directory = public_directory("sora-soak-")
        options = {**DURABLE, "autovacuum_naptime": naptime, "log_autovacuum_min_duration": "0"}
        server = LocalServer(directory / "postgres", "bench", options=options)
        try:
            await server.start()
            print(f"autovacuum looks every {naptime}")
            await soak(server, directory, int(BODIES * scale))
        finally:
            await server.stop()
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.staging", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the day, e.g. 0.1")
    parser.add_argument("--naptime", action="append", help="of autovacuum; default: 1s and then 60s")
    wanted = parser.parse_args()
    asyncio.run(main(wanted.scale, wanted.naptime or ["1s", "60s"]))
