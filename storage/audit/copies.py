"""Sound local copies of a body whose object is missing or damaged: in the cache, or staged on this node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from storage.errors import Corrupt
from storage.model import ContentHash
from storage.objects.codec import Codec
from storage.objects.disk import in_thread
from storage.staging import ASIDE_SUFFIX

BATCH = 1000


class Copies:
    """Directories of files that are named by their hash, in 256 directories each. Nothing is written."""

    def __init__(self, codec: Codec, *roots: Path) -> None:
        self._codec = codec
        self._roots = roots

    async def find(self, content_hash: ContentHash) -> bytes | None:
        """The encoded body, checked; None: there is none, or none that is sound. Holds one body."""
        for root in self._roots:
            encoded = await in_thread(partial(_read, _path(root, content_hash)), "reading a copy")
            if encoded is not None and await self.is_sound(content_hash, encoded):
                return encoded
        return None

    async def is_sound(self, content_hash: ContentHash, encoded: bytes) -> bool:
        try:
            await asyncio.to_thread(self._codec.decode_all, encoded, content_hash)
        except Corrupt:
            return False
        return True


def has_file(root: Path, content_hash: ContentHash) -> bool:
    """Also where a sweep has just moved it aside."""
    path = _path(root, content_hash)
    return path.exists() or path.with_name(path.name + ASIDE_SUFFIX).exists() or path.exists()


def batches(root: Path) -> Iterator[list[tuple[ContentHash, Path]]]:
    """All files below ``root`` with a hash for a name, a shard's at most BATCH at a time."""
    for shard in range(256):
        found: list[tuple[ContentHash, Path]] = []
        try:
            entries = os.scandir(root / f"{shard:02x}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                if len(entry.name) == 64:
                    found.append((ContentHash(bytes.fromhex(entry.name)), Path(entry.path)))
                if len(found) == BATCH:
                    yield found
                    found = []
        if found:
            yield found


def _path(root: Path, content_hash: ContentHash) -> Path:
    name = content_hash.hex()
    return root / name[:2] / name


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
