"""The object store goes away and comes back: a real server, stopped and started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.rclone import RcloneServer
from storage.errors import Unavailable
from storage.objects.s3 import S3BlobStore
from tests.support.ports import free_port
from tests.support.queue import MemoryQueue
from tests.support.s3 import ACCESS, BUCKET, SECRET, s3_config
from tests.support.way import Way, message


async def test_mail_keeps_flowing_and_drains_afterwards(tmp_path: Path) -> None:
    server = RcloneServer(tmp_path / "s3" / "objects", free_port(), ACCESS, SECRET)
    await server.start(BUCKET)
    try:
        store = S3BlobStore(s3_config(server))
        way = Way(tmp_path / "node", MemoryQueue(), store=store)
        mail = [message(number, 20_000) for number in range(30)]
        refs = [await way.deliver(data) for data in mail[:15]]
        await way.uploader.step()
        assert way.uploader.counters.uploaded == 10

        await server.stop()
        await way.uploader.step()
        assert way.uploader.is_paused
        refs += [await way.deliver(data) for data in mail[15:]]
        far = Way(tmp_path / "far", way.queue, store=store)
        with pytest.raises(Unavailable):
            await far.read(way.queue.ref(refs[0].id))
        assert await far.read(refs[20]) == mail[20]  # still staged

        await server.start(BUCKET)
        while (await way.uploader.backlog()).contents:
            way.queue.now += 1
            await way.uploader.step()
        assert all(row.attempts == 0 for row in way.queue.rows.values())
        fresh = Way(tmp_path / "fresh", way.queue, store=store)
        for ref, data in zip(refs, mail, strict=True):
            assert await fresh.read(way.queue.ref(ref.id)) == data
    finally:
        await server.stop()
