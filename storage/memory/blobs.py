"""BlobStore in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime

from storage.api import BlobInfo
from storage.errors import NotFound, StorageError
from storage.objects.codec import FRAME_BYTES
from storage.objects.singly import put_each


class MemoryBlobStore:
    """``objects`` is open to tests that want to damage what is stored."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._modified: dict[str, datetime] = {}

    async def put(self, key: str, frames: Sequence[bytes]) -> None:
        self.objects[key] = b"".join(frames)
        self._modified[key] = datetime.now(UTC)

    async def put_many(
        self, objects: Mapping[str, Sequence[bytes]], slots: asyncio.Semaphore
    ) -> dict[str, int | StorageError]:
        return await put_each(self, objects, slots)

    async def get(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFound(f"absent while reading object {key}") from None

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        whole = await self.get(key)
        for at in range(0, len(whole), FRAME_BYTES):
            yield whole[at : at + FRAME_BYTES]

    async def head(self, key: str) -> BlobInfo | None:
        if key not in self.objects:
            return None
        return BlobInfo(key, len(self.objects[key]), self._modified[key])

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    async def list(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        inside = f"{prefix.rstrip('/')}/" if prefix else ""
        for key in [key for key in self.objects if key.startswith(inside)]:
            info = await self.head(key)
            if info is not None:
                yield info
