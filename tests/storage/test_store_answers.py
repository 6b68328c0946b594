"""What an object store says when it is not well costs no body an attempt, and no upload its turn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from storage.objects.keys import object_key
from storage.objects.s3 import S3BlobStore, S3Config
from storage.uploader import MAX_BACKOFF_S
from tests.support.queue import MemoryQueue
from tests.support.sullens3 import SullenS3
from tests.support.way import Way, message

MOODS = [
    "503 SlowDown",
    "500 InternalError",
    "429 TooManyRequests",
    "403 RequestTimeTooSkewed",  # a clock is wrong, ours or theirs
    "403 AccessDenied",
    "404 NoSuchBucket",
    "cuts",
    "hangs",
]
BODIES = 35


def store_at(s3: SullenS3) -> S3BlobStore:
    """Impatient only with one that will never answer."""
    timeout_s = 0.3 if s3.mood == "hangs" else 60.0
    config = S3Config(f"http://127.0.0.1:{s3.port}", "mail", "key", "secret", timeout_s=timeout_s, retries=0)
    return S3BlobStore(config)


def way_to(s3: SullenS3, root: Path) -> Way:
    return Way(root, MemoryQueue(), store=store_at(s3), has_cache=False)


@pytest.mark.parametrize("mood", MOODS)
async def test_an_outage_costs_no_attempts_and_no_turns(tmp_path: Path, mood: str) -> None:
    async with SullenS3(mood).listening() as s3:
        way = way_to(s3, tmp_path)
        refs = []
        for number in range(BODIES):
            refs.append(await way.deliver(message(number)))
            await way.queue.pass_time(1)
            if number in (12, 20, 30):
                await way.uploader.step()
                assert way.uploader.is_paused
        assert s3.objects == {}
        far = Way(tmp_path / "far", way.queue)
        for number, ref in enumerate(refs):
            assert await far.read(ref) == message(number)  # from staging
        s3.cheer()
        way.uploader._store = store_at(s3)
        await way.queue.pass_time(MAX_BACKOFF_S)
        before = way.queue.now
        await way.drain()
        assert way.queue.now == before  # nothing had to wait for a time of its own
        assert (await way.uploader.backlog()).contents == 0
        assert all(row.attempts == 0 for row in way.queue.rows.values())
        assert way.uploader.counters.stuck == 0
        turns = {f"/mail/{object_key(ref.hash, ref.id)}": turn for turn, ref in enumerate(refs)}
        assert set(s3.order) == set(turns)
        # within a batch there is no order; after the probe each is older than the next
        order = [turns[key] for key in s3.order[1:]]
        batches = [order[at : at + 10] for at in range(0, len(order), 10)]
        assert all(max(one) < min(other) for one, other in pairwise(batches)), order
        assert s3.most_at_once <= 4  # the uploader's concurrency


async def test_hours_of_outage_are_a_trickle_of_probes(tmp_path: Path) -> None:
    async with SullenS3("503 SlowDown").listening() as s3:
        way = way_to(s3, tmp_path)
        for number in range(20):
            await way.deliver(message(number))
        await way.uploader.step()
        asked = s3.requests
        while way.queue.now < 3600:
            await way.uploader.step()
            way.queue.now += 1
        assert 3600 / MAX_BACKOFF_S <= s3.requests - asked <= 3600 / (MAX_BACKOFF_S / 2) + 10
        s3.cheer()
        way.queue.now += MAX_BACKOFF_S
        await way.drain()
        assert len(s3.objects) == 20


async def test_a_store_that_throttles_gets_everything_in_the_end(tmp_path: Path) -> None:
    async with SullenS3("throttles").listening() as s3:
        way = way_to(s3, tmp_path)
        refs = [await way.deliver(message(number)) for number in range(BODIES)]
        for _ in range(3600):
            await way.uploader.step()
            way.queue.now += 1
        assert (await way.uploader.backlog()).contents == 0
        assert set(s3.objects) == {f"/mail/{object_key(ref.hash, ref.id)}" for ref in refs}
        assert all(row.attempts == 0 for row in way.queue.rows.values())
        assert s3.most_at_once <= 4
