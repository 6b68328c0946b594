"""Opened bodies: prefix and content of one message, read as one."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

from .errors import Corrupt, Unavailable
from .model import ContentRef
from .objects.codec import FRAME_BYTES
from .objects.disk import in_thread
from .objects.framefile import FrameFile


class MemoryBody:
    """Prefix and content of a small message."""

    def __init__(self, prefix: bytes, content: bytes) -> None:
        self.size_bytes = len(prefix) + len(content)
        self._whole = prefix + content if prefix else content

    async def read(self, start: int = 0, stop: int | None = None) -> bytes:
        return self._whole[slice(*_clamp(start, stop, self.size_bytes))]

    async def stream(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        start, stop = _clamp(start, stop, self.size_bytes)
        for at in range(start, stop, FRAME_BYTES):
            yield self._whole[at : min(at + FRAME_BYTES, stop)]


class FileBody:
    """Prefix and content of a large message, a frame in memory at a time."""

    def __init__(
        self,
        prefix: bytes,
        ref: ContentRef,
        file: FrameFile,
        heal: Callable[[ContentRef], Awaitable[FrameFile]],
    ) -> None:
        self.size_bytes = len(prefix) + ref.size_bytes
        self._prefix = prefix
        self._ref = ref
        self._file = file
        self._heal = heal

    async def read(self, start: int = 0, stop: int | None = None) -> bytes:
        return b"".join([piece async for piece in self.stream(start, stop)])

    async def stream(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Raises Corrupt, before the damaged piece; of a wrong whole, after the last piece."""
        start, stop = _clamp(start, stop, self.size_bytes)
        lead = len(self._prefix)
        for at in range(start, min(stop, lead), FRAME_BYTES):
            yield self._prefix[at : min(at + FRAME_BYTES, stop)]
        start, stop = max(start - lead, 0), max(stop - lead, 0)
        whole = hashlib.sha256() if (start, stop) == (0, self._ref.size_bytes) else None
        while start < stop:
            end = min(stop, (start // FRAME_BYTES + 1) * FRAME_BYTES)
            piece = await self._piece(start, end)
            if whole is not None:
                whole.update(piece)
            yield piece
            start = end
        if whole is not None and whole.digest() != self._ref.hash:
            raise Corrupt(f"body {self._ref.hash.hex()} does not match its hash")

    async def _piece(self, start: int, stop: int) -> bytes:
        with contextlib.suppress(Corrupt, Unavailable):
            return await in_thread(lambda: self._file.read(start, stop), "reading a body")
        self._file = await self._heal(self._ref)
        return await in_thread(lambda: self._file.read(start, stop), "reading a body")


def _clamp(start: int, stop: int | None, size: int) -> tuple[int, int]:
    stop = size if stop is None else max(0, min(stop, size))
    return max(0, min(start, stop)), stop
