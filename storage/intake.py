"""What was received becomes a staged content: hashed while it came in, scanned once, encoded once."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from .api import Spool, Staging
from .budget import ByteBudget
from .floor import DiskFloor
from .model import Content, ContentHash, StagedContent
from .objects.codec import Codec
from .objects.disk import Disk
from .spool import BodySpool

Describe: TypeAlias = Callable[[bytes | mmap.mmap, ContentHash], Content]

# Scanning and encoding take about 3 us a KiB; more than this would hold up the other connections.
THREAD_BYTES = 128 * 1024
# Bodies above THREAD_BYTES that are being encoded or whose frames wait for their commit.
DEFAULT_BUDGET_BYTES = 256 * 1024 * 1024


class _Loan:
    """Goes when the frames that hold it go."""


class _Frames(tuple[bytes, ...]):
    """Frames whose bytes are back in the budget once nobody holds them."""

    loan: _Loan


class LocalIntake:
    """``storage.api.Intake``."""

    def __init__(
        self,
        staging: Staging,
        codec: Codec,
        describe: Describe,
        spool_dir: Path,
        disk: Disk | None = None,
        budget: ByteBudget | None = None,
        floor: DiskFloor | None = None,
    ) -> None:
        """``floor``: of the disk of ``spool_dir``."""
        self._staging = staging
        self._codec = codec
        self._describe = describe
        self._spool_dir = spool_dir
        self._disk = disk or Disk()
        self._floor = floor
        self._budget = budget or ByteBudget(DEFAULT_BUDGET_BYTES)

    def spool(self) -> BodySpool:
        return BodySpool(self._spool_dir, self._disk, self._floor)

    async def take(self, spool: Spool) -> StagedContent:
        if not isinstance(spool, BodySpool):
            raise TypeError("the spool is not of this intake")
        try:
            if spool.size_bytes <= THREAD_BYTES:
                return await self._staging.put(*self._prepare(spool))
            return await self._take_large(spool)
        finally:
            spool.close()

    async def discard(self, staged: StagedContent) -> None:
        """Nothing to undo: frames are dropped with ``staged``, and a staged file may be shared with
        another delivery, so only the uploader's sweep takes it away."""

    async def _take_large(self, spool: BodySpool) -> StagedContent:
        taken = await self._budget.take(spool.size_bytes)
        frames: _Frames | None = None
        try:
            content, encoded = await asyncio.to_thread(self._prepare, spool)
            staged = await self._staging.put(content, encoded)
            if not staged.frames:
                return staged
            frames = _Frames(staged.frames)
        finally:
            if frames is None:
                self._budget.give_back(taken)
        frames.loan = _Loan()
        weakref.finalize(frames.loan, self._give_back_from_anywhere, asyncio.get_running_loop(), taken)
        return StagedContent(content, frames, staged.node, staged.encoded_bytes)

    def _give_back_from_anywhere(self, loop: asyncio.AbstractEventLoop, taken: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._budget.give_back, taken)

    def _prepare(self, spool: BodySpool) -> tuple[Content, list[bytes]]:
        data = spool.buffer()
        try:
            content_hash = spool.content_hash()
            return self._describe(data, content_hash), self._codec.encode(data, content_hash)
        finally:
            if isinstance(data, mmap.mmap):
                data.close()
