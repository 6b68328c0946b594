"""The whole way of a body, composed over one directory: what a node builds, small enough for tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from storage.api import BlobStore, PurgeStore, Staging, UploadStore
from storage.bodies import BodyFinder
from storage.cleaner import Cleaner, CleanerSettings
from storage.floor import DiskFloor
from storage.intake import LocalIntake
from storage.mime.message import describe
from storage.model import ContentRef, StagedContent
from storage.objects.cache import BodyCache
from storage.objects.codec import Codec, KeyRing
from storage.objects.disk import Disk
from storage.objects.fs import FileBlobStore
from storage.staging import DatabaseStaging, DiskStaging, StagingAreas, StagingBound, disk_level
from storage.uploader import Uploader, UploaderSettings

from .queue import MailQueue

NODE = "node-1"
MIB = 1024 * 1024


def message(number: int, size: int = 2000) -> bytes:
    """A message of about ``size`` bytes, unlike every other."""
    head = b"From: ann@example.com\r\nSubject: number %d\r\n\r\n" % number
    noise = random.Random(number).randbytes(max(1, (size - len(head)) // 2)).hex().encode()
    lines = b"\r\n".join(noise[at : at + 76] for at in range(0, len(noise), 76))
    return head + lines + b"\r\n"


class Way:
    """``queue`` is the database and outlives the node; everything else is one life of a node.

    A life may end without a word, as a killed process does; ``close_all`` then closes what the kernel would.
    """

    lives: ClassVar[list[Way]] = []

    @classmethod
    def close_all(cls) -> None:
        for way in cls.lives:
            if way.cache is not None:
                way.cache.close()
        cls.lives.clear()

    def __init__(
        self,
        root: Path,
        queue: MailQueue,
        *,
        uploads: UploadStore | None = None,
        store: BlobStore | None = None,
        disk: Disk | None = None,
        use_disk: bool = False,
        max_staging_bytes: int = 1 << 40,
        has_cache: bool = True,
        is_store_near: bool = False,
        node: str = NODE,
        floors: Sequence[DiskFloor] = (),
    ) -> None:
        self.lives.append(self)
        self.queue = queue
        self.disk = disk or Disk()
        self.uploads: UploadStore = uploads or queue.uploads
        self.store: BlobStore = store or FileBlobStore(root / "objects", self.disk)
        self.codec = Codec(KeyRing(b"k" * 32))
        self.cache = BodyCache(root / "cache", 8 * MIB, 4 * MIB, self.disk) if has_cache else None
        if self.cache is not None:
            self.cache.open()
        self.staging_dir = root / "staging"
        self.staging: Staging = StagingAreas(
            DatabaseStaging(
                self.uploads, StagingBound(max_staging_bytes, self._database_level, floors=floors)
            ),
            DiskStaging(
                self.staging_dir,
                node,
                StagingBound(max_staging_bytes, lambda: disk_level(self.staging_dir), floors=floors),
                self.disk,
            ),
            use_disk=use_disk,
        )
        self.intake = LocalIntake(
            self.staging, self.codec, describe, root / "spool", self.disk, floor=floors[0] if floors else None
        )
        self.bodies = BodyFinder(
            self.store,
            self.staging,
            self.uploads,
            self.codec,
            root / "tmp",
            cache=self.cache,
            disk=self.disk,
            is_store_near=is_store_near,
        )
        self.uploader = Uploader(
            self.uploads,
            self.staging,
            self.store,
            self.codec,
            node,
            settings=UploaderSettings(batch_size=10, concurrency=4, gather_s=0, poll_interval_s=3600),
            cache=self.cache,
            clock=lambda: self.queue.now,
            rng=random.Random(1),
        )

    def cleaner(self, purge: PurgeStore | None = None) -> Cleaner:
        async def no_sleep(_seconds: float) -> None:
            return None

        return Cleaner(
            purge or self.queue.purge,
            self.store,
            CleanerSettings(grace=timedelta(0)),
            lambda: self.queue.now,
            no_sleep,
        )

    async def stage(self, data: bytes) -> StagedContent:
        spool = self.intake.spool()
        for at in range(0, len(data), 100_000):
            spool.write(data[at : at + 100_000])
        return await self.intake.take(spool)

    async def deliver(self, data: bytes) -> ContentRef:
        return await self.queue.append(await self.stage(data))

    async def read(self, ref: ContentRef, prefix: bytes = b"") -> bytes:
        return await (await self.bodies.open(ref, prefix)).read()

    async def drain(self) -> None:
        while await self.uploader.step():
            pass

    async def objects(self) -> set[str]:
        return {info.key async for info in self.store.list()}

    async def _database_level(self) -> int:
        return (await self.uploads.staging_level()).encoded_bytes
