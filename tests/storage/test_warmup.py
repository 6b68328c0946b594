from __future__ import annotations

from pathlib import Path

from storage.memory.blobs import MemoryBlobStore
from storage.model import AccountId
from storage.warmup import Warmup, WarmupSettings
from tests.support.queue import MemoryQueue
from tests.support.way import MIB, Way, message


async def prepared(tmp_path: Path, sizes: list[int]) -> tuple[Way, AccountId, list[bytes]]:
    """A reader with an empty cache, on a mailbox whose bodies are all in the object store."""
    queue, store = MemoryQueue(), MemoryBlobStore()
    writer = Way(tmp_path / "writer", queue, store=store)
    refs = [await writer.deliver(message(n, size)) for n, size in enumerate(sizes)]
    await writer.drain()
    account_id = queue.tables.mailboxes[queue.inbox].account_id
    return Way(tmp_path / "reader", queue, store=store), account_id, [ref.hash for ref in refs]


def warmup(way: Way, **options: object) -> Warmup:
    assert way.cache is not None
    settings = WarmupSettings(**options)  # type: ignore[arg-type]
    return Warmup(way.queue.mail, way.bodies, way.cache, settings, lambda: way.queue.now)


async def test_newest_bodies_are_fetched(tmp_path: Path) -> None:
    way, account_id, hashes = await prepared(tmp_path, [1000] * 8)
    warm = warmup(way, message_count=3)
    warm.login(account_id)
    await warm.drained()
    assert way.cache is not None
    assert [content_hash in way.cache for content_hash in hashes] == [False] * 5 + [True] * 3


async def test_once_an_interval(tmp_path: Path) -> None:
    way, account_id, _ = await prepared(tmp_path, [1000])
    warm = warmup(way, interval_s=100)
    for passed, reads in ((0, 1), (99, 1), (2, 2)):
        way.queue.now += passed
        if reads == 2:
            assert way.cache is not None
            (way.cache.root / ".").joinpath("x").mkdir(exist_ok=True)
            for path in way.cache.root.glob("??/*"):
                path.unlink()
            way.bodies._recent._bodies.clear()
        warm.login(account_id)
        await warm.drained()
        assert way.bodies.counters.store_reads == reads


async def test_bodies_the_cache_would_not_take_are_left(tmp_path: Path) -> None:
    way, account_id, _ = await prepared(tmp_path, [6 * MIB])
    warm = warmup(way)
    warm.login(account_id)
    await warm.drained()
    assert way.bodies.counters.store_reads == 0


async def test_missing_mailboxes_and_objects_disturb_nobody(tmp_path: Path) -> None:
    way, account_id, _ = await prepared(tmp_path, [1000])
    assert isinstance(way.store, MemoryBlobStore)
    way.store.objects.clear()
    warm = warmup(way, mailboxes=("Nowhere", "INBOX"))
    warm.login(account_id)
    await warm.drained()
    assert way.bodies.counters.unavailable == 1
