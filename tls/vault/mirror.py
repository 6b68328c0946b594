"""Copies of the sealed objects on the node's own disk, so that it starts without the bucket.

A bucket that never fails: a disk that is full or cannot be read costs the copies, is counted and told once,
and the node goes on. Nothing may be concluded from an object that is not here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from storage.objects.disk import Disk

from ..ports import BucketUnavailable
from .directory import DirectoryBucket

T = TypeVar("T")
log = logging.getLogger("sora.tls.mirror")


class Mirror:
    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self._directory = DirectoryBucket(root, disk)
        self.failures: Counter[str] = Counter()  # by operation: put, get, list, delete
        self.is_failing = False

    async def put(self, key: str, data: bytes) -> None:
        await self._try("put", self._directory.put(key, data), None)

    async def get(self, key: str) -> bytes | None:
        return await self._try("get", self._directory.get(key), None)

    async def list(self, prefix: str) -> list[str]:
        return await self._try("list", self._directory.list(prefix), [])

    async def delete(self, key: str) -> None:
        await self._try("delete", self._directory.delete(key), None)

    async def _try(self, operation: str, work: Awaitable[T], otherwise: T) -> T:
        try:
            result = await work
        except BucketUnavailable as error:
            self.failures[operation] += 1
            if not self.is_failing:
                log.warning("certificates are not kept on this node's disk: %s", error)
            self.is_failing = True
            return otherwise
        if self.is_failing and operation == "put":
            log.info("certificates are kept on this node's disk again")
            self.is_failing = False
        return result
