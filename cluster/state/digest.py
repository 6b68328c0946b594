"""One number for how far a node knows all maps, kept up to date with every change.

Each map that matters has a 64-bit hash of (owner, epoch, what is known of it); the digest is the exclusive or
of them all, a bucket's is that of the maps in it. Equal digests: nothing to say. Different ones: the buckets
tell in 256 bytes which of a thousand maps to compare.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from .records import BUCKETS, EpochMap

SUMMARY_BYTES: Final = BUCKETS * 4


class Digest:
    def __init__(self) -> None:
        self._buckets = [0] * BUCKETS
        self._total = 0
        self._dirty: dict[EpochMap, None] = {}

    def touch(self, home: EpochMap) -> None:
        """What is known of this map, or whether it matters, has changed. O(1); the hash waits until asked."""
        self._dirty[home] = None

    def total(self) -> int:
        self._settle()
        return self._total

    def summary(self) -> bytes:
        self._settle()
        return b"".join((bucket & 0xFFFFFFFF).to_bytes(4, "big") for bucket in self._buckets)

    def differing(self, summary: bytes) -> int:
        """A bit for each bucket that is not as in ``summary``."""
        own = self.summary()
        mask = 0
        for index in range(BUCKETS):
            if own[4 * index : 4 * index + 4] != summary[4 * index : 4 * index + 4]:
                mask |= 1 << index
        return mask

    def _settle(self) -> None:
        for home in self._dirty:
            mark = _mark(home) if home.matters and not home.is_gone else 0
            self._buckets[home.bucket] ^= home.mark ^ mark
            self._total ^= home.mark ^ mark
            home.mark = mark
        self._dirty.clear()


def _mark(home: EpochMap) -> int:
    known = home.known
    content = home.prefix + known.upto.to_bytes(8, "big")
    if known.ahead:
        content += repr(known.ahead).encode()
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
