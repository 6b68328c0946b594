"""An object store whose calls are counted and timed, whichever it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

from storage.api import BlobInfo, BlobStore
from storage.errors import NotFound, StorageError

from .counting import DURATIONS, Distribution


class MeteredStore:
    """``storage.api.BlobStore`` around another. ``results`` counts objects by operation and result (ok,
    missing, error); ``durations`` are of whole calls, of a stream up to its first piece."""

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner
        self.results: Counter[tuple[str, str]] = Counter()
        self.durations: dict[str, Distribution] = {}

    async def put(self, key: str, frames: Sequence[bytes]) -> None:
        with self._measured("put"):
            await self._inner.put(key, frames)

    async def put_many(
        self, objects: Mapping[str, Sequence[bytes]], slots: asyncio.Semaphore
    ) -> dict[str, int | StorageError]:
        started = perf_counter()
        done = await self._inner.put_many(objects, slots)
        self._note("put", perf_counter() - started)
        failed = sum(isinstance(each, StorageError) for each in done.values())
        self.results["put", "error"] += failed
        self.results["put", "ok"] += len(done) - failed
        return done

    async def get(self, key: str) -> bytes:
        with self._measured("get"):
            return await self._inner.get(key)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        pieces = self._inner.stream(key)
        try:
            with self._measured("get"):
                first = await anext(pieces, None)
            if first is not None:
                yield first
                async for piece in self._rest(pieces):
                    yield piece
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()  # whoever stops reading early gives the connection back

    async def _rest(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for piece in pieces:
                yield piece
        except StorageError:
            self.results["get", "error"] += 1
            raise

    async def head(self, key: str) -> BlobInfo | None:
        with self._measured("head"):
            return await self._inner.head(key)

    async def delete(self, keys: Sequence[str]) -> None:
        with self._measured("delete"):
            await self._inner.delete(keys)

    def list(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        return self._inner.list(prefix)

    @contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        except NotFound:
            self.results[operation, "missing"] += 1
            raise
        except StorageError:
            self.results[operation, "error"] += 1
            raise
        else:
            self.results[operation, "ok"] += 1
        finally:
            self._note(operation, perf_counter() - started)

    def _note(self, operation: str, seconds: float) -> None:
        durations = self.durations.get(operation)
        if durations is None:
            durations = self.durations[operation] = Distribution(DURATIONS)
        durations.add(seconds)
