"""The way of a body, without database and protocols: ``python -m tests.bench.bodies``.

Rates with fsync, on one loop; CPU time is that of the whole process, its threads included.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from node.rclone import RcloneServer
from storage.api import BlobStore
from storage.model import ContentHash, ContentRef
from storage.objects.codec import Codec, KeyRing
from storage.objects.s3 import S3BlobStore
from tests.support.messages import corpus
from tests.support.ports import free_port
from tests.support.queue import MemoryQueue
from tests.support.s3 import ACCESS, BUCKET, SECRET, s3_config
from tests.support.way import Way

T = TypeVar("T")
COUNT = 1000
AT_ONCE = 16
CODECS = {
    "plain": Codec(compress=False),
    "zstd": Codec(),
    "zstd, sealed": Codec(KeyRing(bytes(32))),
}


def text(size: int, number: int = 0) -> bytes:
    """Bytes that compress like real mail."""
    joined = b"%d\r\n" % number + b"".join(built.data for built in corpus(number + 1, 12))
    return (joined * (size // len(joined) + 1))[:size]


def cpu_us(work: Callable[[], object], rounds: int = 300) -> float:
    started = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - started) / rounds * 1e6


def codec() -> None:
    for size in (4_096, 20_480, 102_400):
        data = text(size)
        digest = ContentHash(hashlib.sha256(data).digest())
        for name, each in CODECS.items():
            encoded = b"".join(each.encode(data, digest))
            encode_us = cpu_us(partial(each.encode, data, digest))
            decode_us = cpu_us(partial(each.decode_all, encoded, digest))
            sizes = f"{size:7,} to {len(encoded):7,} bytes"
            print(f"{name:13} {sizes}   encode {encode_us:5.0f} us   decode {decode_us:5.0f} us")


async def rate(name: str, work: Callable[[T], Awaitable[object]], items: Sequence[T]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> None:
        async with slots:
            await work(item)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(one, items))
    report(name, len(items), time.perf_counter() - started, time.process_time() - cpu)


def report(name: str, count: int, wall: float, cpu: float) -> None:
    print(f"{name:44} {count / wall:8,.0f}/s   {cpu / count * 1e6:6.0f} us CPU each")


async def delivered(way: Way, mails: Sequence[bytes]) -> list[ContentRef]:
    return [await way.deliver(mail) for mail in mails]


async def uploads(name: str, way: Way) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    await way.drain()
    count = way.uploader.counters.uploaded
    report(name, count, time.perf_counter() - started, time.process_time() - cpu)


async def whole_way(root: Path, mails: Sequence[bytes], name: str, store: BlobStore | None) -> None:
    queue = MemoryQueue()
    way = Way(root / "writer", queue, store=store)
    await rate("intake, staging in the database", way.stage, mails)
    await delivered(way, mails)
    await uploads(f"upload to {name}, with cache fill", way)
    refs = await queue.contents()
    reader = Way(root / "reader", queue, store=way.store)
    await rate(f"read from {name}, with cache fill", reader.read, refs)
    again = Way(root / "reader", queue, store=way.store)
    cached = [ref for ref in refs if again.cache is not None and ref.hash in again.cache]
    await rate("read from the cache", again.read, cached)
    await rate("read again, from memory", again.read, cached)


async def main() -> None:
    mails = [text(20_480, number) for number in range(COUNT)]
    print(f"\n{COUNT} bodies of 20 KB, {AT_ONCE} at once")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        disk = Way(root / "disk", MemoryQueue(), use_disk=True)
        await rate("intake, staging on disk", disk.stage, mails)
        await whole_way(root / "fs", mails, "a directory", None)
        server = RcloneServer(root / "s3" / "objects", free_port(), ACCESS, SECRET)
        await server.start(BUCKET)
        try:
            await whole_way(root / "rclone", mails, "S3 (rclone)", S3BlobStore(s3_config(server)))
        finally:
            await server.stop()


if __name__ == "__main__":
    import uvloop

    codec()
    uvloop.run(main())
