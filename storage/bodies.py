"""Finds and opens bodies: memory, local cache, staging, object store, in that order.

What is handed out has been checked: small bodies as a whole against their hash before ``open`` returns,
large ones frame by frame while they are read (and as a whole when they are fetched or read as a whole).
A body that cannot be reached is ``Unavailable``, never empty. A damaged cache copy is dropped and
fetched again; only when the fetched bytes are damaged twice is it ``Corrupt``.

Concurrent opens of one content share one fetch, which a reader that goes away does not cut off.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .api import BlobStore, Body, Staging, UploadStore
from .budget import ByteBudget
from .errors import Corrupt, NotFound, StagingFull, StorageError, Unavailable
from .model import ContentHash, ContentRef
from .objects.cache import BodyCache
from .objects.codec import Codec, Decoder
from .objects.disk import TEMPORARY_SUFFIX, Descriptor, Disk, in_thread
from .objects.framefile import FrameFile
from .objects.fs import DIRECT_READ_BYTES
from .objects.keys import object_key
from .openbody import FileBody, MemoryBody

T = TypeVar("T")
log = logging.getLogger("sora.bodies")

SMALL_BYTES = 1024 * 1024  # up to here a body is held in memory whole, above it is read from a file
DEFAULT_MEMORY_BYTES = 32 * 1024 * 1024  # of recently opened bodies, a process
MAX_REMEMBERED_BYTES = 256 * 1024  # one large attachment should not push out a hundred messages
# Encoded bytes of large bodies being fetched at once.
DEFAULT_BUDGET_BYTES = 64 * 1024 * 1024
PREFETCH_TASKS = 4
PREFETCH_QUEUE = 64  # hints beyond are dropped: what comes first is opened first


@dataclass(slots=True)
class BodyCounters:
    memory_hits: int = 0
    cache_hits: int = 0
    staging_reads: int = 0
    store_reads: int = 0
    relocated: int = 0
    unavailable: int = 0
    corrupt: int = 0


class BodyFinder:
    """``storage.api.BodySource``; one a process."""

    def __init__(
        self,
        store: BlobStore,
        staging: Staging,
        uploads: UploadStore,
        codec: Codec,
        temp_dir: Path,
        *,
        cache: BodyCache | None = None,
        disk: Disk | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        budget: ByteBudget | None = None,
        is_store_near: bool = False,
    ) -> None:
        """``is_store_near``: objects are files of this machine. Small ones are read there, since a copy in
        the cache would cost more than it ever saves; large ones are found in the cache ready for reading
        in pieces."""
        self.counters = BodyCounters()
        self._store = store
        self._staging = staging
        self._uploads = uploads
        self._codec = codec
        self._cache = cache
        self._small_cache = None if is_store_near else cache
        self._disk = disk or Disk()
        self._temp_dir = temp_dir
        self._recent = _Recent(memory_bytes)
        self._budget = budget or ByteBudget(DEFAULT_BUDGET_BYTES)
        self._small: _SingleFlight[bytes] = _SingleFlight()
        self._large: _SingleFlight[FrameFile] = _SingleFlight()
        self._wanted: deque[ContentRef] = deque(maxlen=PREFETCH_QUEUE)
        self._prefetchers: set[asyncio.Task[None]] = set()

    async def open(self, ref: ContentRef, prefix: bytes = b"") -> Body:
        if ref.size_bytes <= SMALL_BYTES:
            return MemoryBody(prefix, await self._small_body(ref))
        return FileBody(prefix, ref, await self._large_body(ref), self._heal)

    def prefetch(self, refs: Sequence[ContentRef]) -> None:
        for ref in refs[:PREFETCH_QUEUE]:
            if ref.size_bytes <= SMALL_BYTES and not self._is_near(ref):
                self._wanted.append(ref)
        while self._wanted and len(self._prefetchers) < min(PREFETCH_TASKS, len(self._wanted)):
            task = asyncio.get_running_loop().create_task(self._run_prefetch())
            self._prefetchers.add(task)
            task.add_done_callback(self._prefetchers.discard)

    async def close(self) -> None:
        tasks = [*self._prefetchers, *self._small.tasks(), *self._large.tasks()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- small bodies ---

    async def _small_body(self, ref: ContentRef) -> bytes:
        remembered = self._recent.get(ref.hash)
        if remembered is not None:
            self.counters.memory_hits += 1
            return remembered
        if self._small_cache is not None and ref.size_bytes <= DIRECT_READ_BYTES:
            cached = self._decoded_from_cache(self._small_cache, ref)
            if cached is not None:
                self._recent.put(ref.hash, cached)
                return cached
        return await self._small.run(ref.hash, lambda: self._load_small(ref))

    def _decoded_from_cache(self, cache: BodyCache, ref: ContentRef) -> bytes | None:
        blob = cache.get(ref.hash)
        if blob is None:
            return None
        try:
            data = self._codec.decode_all(blob, ref.hash)
        except Corrupt as error:
            log.warning("dropping damaged cache copy of %s: %s", ref.hash.hex(), error)
            cache.drop(ref.hash)
            return None
        self.counters.cache_hits += 1
        return data

    async def _load_small(self, ref: ContentRef) -> bytes:
        if self._small_cache is not None and ref.size_bytes > DIRECT_READ_BYTES:
            cached = await asyncio.to_thread(self._decoded_from_cache, self._small_cache, ref)
            if cached is not None:
                self._recent.put(ref.hash, cached)
                return cached
        data = await self._twice(ref, self._fetch_small)
        self._recent.put(ref.hash, data)
        return data

    async def _fetch_small(self, ref: ContentRef) -> bytes:
        encoded = b"".join([piece async for piece in self._encoded(ref)])
        if ref.size_bytes <= DIRECT_READ_BYTES:
            data = self._codec.decode_all(encoded, ref.hash)
        else:
            data = await asyncio.to_thread(self._codec.decode_all, encoded, ref.hash)
        if self._small_cache is not None and ref.is_stored:
            await asyncio.to_thread(self._small_cache.put, ref.hash, [encoded])
        return data

    # --- large bodies ---

    async def _large_body(self, ref: ContentRef) -> FrameFile:
        return await self._large.run(ref.hash, lambda: self._load_large(ref))

    async def _load_large(self, ref: ContentRef) -> FrameFile:
        cached = await asyncio.to_thread(self._file_from_cache, ref)
        if cached is not None:
            self.counters.cache_hits += 1
            return cached
        async with self._budget.hold(ref.size_bytes):
            return await self._twice(ref, self._fetch_large)

    def _file_from_cache(self, ref: ContentRef) -> FrameFile | None:
        cached = self._cache.open_file(ref.hash) if self._cache is not None else None
        if self._cache is None or cached is None:
            return None
        try:
            file = FrameFile(cached, self._codec, ref.hash)
        except (Corrupt, OSError) as error:
            log.warning("dropping damaged cache copy of %s: %s", ref.hash.hex(), error)
            self._cache.drop(ref.hash)
            return None
        return file if file.size_bytes == ref.size_bytes else None

    async def _fetch_large(self, ref: ContentRef) -> FrameFile:
        """Into a file beside the cache, which takes it over when it fits; decoded on the way to check it."""
        path = self._temporary(ref.hash)
        try:
            file = await self._write_checked(ref, path)
        except StagingFull as error:
            path.unlink(missing_ok=True)
            raise Unavailable(f"no room to fetch a large body: {error}") from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        is_adopted = self._cache is not None and await asyncio.to_thread(self._cache.adopt, ref.hash, path)
        if not is_adopted:
            path.unlink(missing_ok=True)
        return FrameFile(file, self._codec, ref.hash)

    async def _write_checked(self, ref: ContentRef, path: Path) -> Descriptor:
        file = await in_thread(lambda: _create(path), "fetching a body")
        decoder = self._codec.decoder(ref.hash)
        async for piece in self._encoded(ref):
            await in_thread(_Step(self._disk, file, decoder, piece), "fetching a body")
        decoder.finish()
        return file

    def _temporary(self, content_hash: ContentHash) -> Path:
        if self._cache is not None:
            return self._cache.temporary(content_hash)
        return self._temp_dir / f".{content_hash.hex()}.{os.urandom(6).hex()}{TEMPORARY_SUFFIX}"

    async def _heal(self, ref: ContentRef) -> FrameFile:
        """A reader met a damaged frame in the copy of a large body."""
        log.warning("damaged local copy of %s, fetching it again", ref.hash.hex())
        if self._cache is not None:
            await asyncio.to_thread(self._cache.drop, ref.hash)
        return await self._large_body(ref)

    # --- wherever they are ---

    async def _twice(self, ref: ContentRef, fetch: Callable[[ContentRef], Awaitable[T]]) -> T:
        try:
            return await fetch(ref)
        except Corrupt as error:
            log.warning("body %s came damaged, fetching it again: %s", ref.hash.hex(), error)
        try:
            return await fetch(ref)
        except Corrupt as error:
            self.counters.corrupt += 1
            log.error("body %s (content %d) is damaged: %s", ref.hash.hex(), ref.id, error)
            raise

    async def _encoded(self, ref: ContentRef) -> AsyncIterator[bytes]:
        """From staging or the object store, following the body once when it has moved meanwhile."""
        source = await self._reach(ref)
        if source is None:
            source = await self._relocate(ref)
        async for piece in source:
            yield piece

    async def _reach(self, ref: ContentRef) -> AsyncIterator[bytes] | None:
        """None: it is not where the reference says."""
        if not ref.is_stored:
            frames = await self._staging.get(ref)
            if frames is None:
                return None
            self.counters.staging_reads += 1
            return _each(frames)
        key = object_key(ref.hash, ref.id)
        try:
            if ref.size_bytes <= SMALL_BYTES:
                source = _each([await self._store.get(key)])
            else:
                source = await _started(self._store.stream(key))
        except NotFound:
            return None
        self.counters.store_reads += 1
        return source

    async def _relocate(self, ref: ContentRef) -> AsyncIterator[bytes]:
        self.counters.relocated += 1
        found = await self._uploads.locate([ref.id])
        if not found:
            raise NotFound(f"content {ref.id} was purged")
        source = await self._reach(found[0])
        if source is not None:
            return source
        self.counters.unavailable += 1
        if found[0].staged_node is not None and not found[0].is_stored:
            raise Unavailable(f"body {ref.hash.hex()} is still on the disk of node {found[0].staged_node}")
        log.error("body %s (content %d) is not where the database says", ref.hash.hex(), ref.id)
        raise Unavailable(f"body {ref.hash.hex()} cannot be found now")

    # --- prefetching ---

    def _is_near(self, ref: ContentRef) -> bool:
        return ref.hash in self._recent or (self._small_cache is not None and ref.hash in self._small_cache)

    async def _run_prefetch(self) -> None:
        while self._wanted:
            ref = self._wanted.popleft()
            try:
                await self._small_body(ref)
            except StorageError as error:
                log.debug("prefetch of %s: %s", ref.hash.hex(), error)  # who opens it will be told


class _Recent:
    """Decoded small bodies, least recently used out first."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._used = 0
        self._bodies: OrderedDict[ContentHash, bytes] = OrderedDict()

    def __contains__(self, content_hash: ContentHash) -> bool:
        return content_hash in self._bodies

    def get(self, content_hash: ContentHash) -> bytes | None:
        data = self._bodies.get(content_hash)
        if data is not None:
            self._bodies.move_to_end(content_hash)
        return data

    def put(self, content_hash: ContentHash, data: bytes) -> None:
        if len(data) > min(MAX_REMEMBERED_BYTES, self._capacity) or content_hash in self._bodies:
            return
        self._bodies[content_hash] = data
        self._used += len(data)
        while self._used > self._capacity:
            self._used -= len(self._bodies.popitem(last=False)[1])


class _SingleFlight(Generic[T]):
    """One task a key, however many wait for it."""

    def __init__(self) -> None:
        self._flights: dict[bytes, asyncio.Task[T]] = {}

    def tasks(self) -> list[asyncio.Task[T]]:
        return list(self._flights.values())

    async def run(self, key: bytes, start: Callable[[], Any]) -> T:
        task = self._flights.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(start())
            self._flights[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    def _landed(self, key: bytes, task: asyncio.Task[T]) -> None:
        del self._flights[key]
        if not task.cancelled():
            task.exception()  # looked at: every waiter may be gone


@dataclass(frozen=True, slots=True)
class _Step:
    """Check one piece of a large body and write it down."""

    disk: Disk
    file: Descriptor
    decoder: Decoder
    piece: bytes

    def __call__(self) -> None:
        self.decoder.feed(self.piece)
        self.disk.write(self.file.fd, self.piece)


def _create(path: Path) -> Descriptor:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


async def _each(frames: Sequence[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        yield frame


async def _started(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream once its first piece is there, so that an absent object shows now."""
    first = await anext(stream, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in stream:
            yield piece

    return whole()
