"""Bodies in a staging directory whose node is gone: what still waits for one goes into the database.

From there any node uploads it. Each file is one transaction, so it may be interrupted and run again, beside
running nodes. Nothing is deleted, except by order (``remove``) what is in the database or the object store.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from .api import UploadStore
from .errors import Corrupt, NotFound
from .model import ContentHash, ContentRef
from .objects.codec import FRAME_BYTES, Codec
from .objects.disk import Disk, in_thread
from .staging import hash_of, staged_files

log = logging.getLogger("sora.staging")

LOOKED_UP_AT_ONCE = 500


class Fate(enum.Enum):
    """Of one staged file."""

    ADOPTED = "adopted"  # its body is in the database now
    HERE = "here"  # it was in the database already
    STORED = "stored"  # it is in the object store
    UNKNOWN = "unknown"  # no message of this database has these bytes
    DAMAGED = "damaged"  # its bytes are not what its name says, or sealed with a key we do not have


SAFE_ELSEWHERE = frozenset({Fate.ADOPTED, Fate.HERE, Fate.STORED})


@dataclass(slots=True)
class AdoptionReport:
    counts: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    adopted_bytes: int = 0
    left: list[tuple[Path, Fate]] = field(default_factory=list)  # what a person has to look at
    removed: int = 0


class Adoption:
    """Of one directory. ``remove``: files whose body is safe elsewhere."""

    def __init__(
        self,
        uploads: UploadStore,
        codec: Codec,
        root: Path,
        *,
        remove: bool = False,
        disk: Disk | None = None,
    ) -> None:
        self._uploads = uploads
        self._codec = codec
        self._root = root
        self._remove = remove
        self._disk = disk or Disk()

    async def run(self) -> AdoptionReport:
        """Holds one body at a time. Raises NotFound, Unavailable, StagingFull, CommitUnknown."""
        if not self._root.is_dir():
            raise NotFound(f"{self._root} is no directory")
        report = AdoptionReport()
        files = staged_files(self._root)
        while batch := await in_thread(partial(_next_batch, files), f"looking into {self._root}"):
            known = await self._uploads.find([content_hash for _, content_hash in batch])
            for path, content_hash in batch:
                fate = await self._adopt(path, content_hash, known.get(content_hash), report)
                await self._note(path, fate, report)
        return report

    async def _adopt(
        self, path: Path, content_hash: ContentHash, ref: ContentRef | None, report: AdoptionReport
    ) -> Fate:
        if ref is None:
            return Fate.UNKNOWN
        if ref.is_stored:
            return Fate.STORED
        if ref.staged_node is None:
            return Fate.HERE
        encoded = await in_thread(lambda: self._disk.read(path), f"reading {path}")
        try:
            await asyncio.to_thread(self._codec.decode_all, encoded, content_hash)
        except Corrupt as error:
            log.warning("%s is damaged: %s", path, error)
            return Fate.DAMAGED
        frames = _pieces(encoded)
        if not await self._uploads.take_over(content_hash, None, frames, len(encoded)):
            found = (await self._uploads.find([content_hash])).get(content_hash)
            return await self._adopt(path, content_hash, found, report)  # it has moved on meanwhile
        report.adopted_bytes += len(encoded)
        return Fate.ADOPTED

    async def _note(self, path: Path, fate: Fate, report: AdoptionReport) -> None:
        report.counts[fate] += 1
        if fate not in SAFE_ELSEWHERE:
            report.left.append((path, fate))
        elif self._remove:
            with contextlib.suppress(NotFound):
                await in_thread(lambda: self._disk.unlink(path), f"removing {path}")
                report.removed += 1


def _next_batch(files: Iterator[Path]) -> list[tuple[Path, ContentHash]]:
    found = ((path, hash_of(path)) for path in files)
    bodies = ((path, content_hash) for path, content_hash in found if content_hash is not None)
    return list(islice(bodies, LOOKED_UP_AT_ONCE))


def _pieces(encoded: bytes) -> Sequence[bytes]:
    return [encoded[at : at + FRAME_BYTES] for at in range(0, len(encoded), FRAME_BYTES)]
