"""What this node has of each certificate, from the bucket or its own mirror, and puts on show."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ..bundle import Bundle, parse_bundle
from ..errors import CertificateUnusable
from ..ports import BucketUnavailable, Generation, SealedCopy, Vault
from ..wanted import Wanted

log = logging.getLogger("sora.tls.renewing")

Offer = Callable[[Sequence[Generation]], Mapping[str, str]]


class MirroredVault(Vault, Protocol):
    """The vault with the node's own copies. ``unusable``: why none of the objects of a certificate can be
    used, by its id; empty or absent: there are none, or one can."""

    unusable: dict[str, str]

    async def newest_local(self, wanted_id: str) -> Generation | None: ...

    async def account_local(self, ca: str) -> object: ...

    async def publish_locally(self, generation: Generation) -> SealedCopy: ...

    async def keep(self, wanted_id: str, key: str, sealed: bytes) -> Generation | None: ...

    async def upload_local(self, wanted_id: str) -> bool: ...

    async def prune(self, wanted_id: str) -> int: ...

    async def sweep(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Copy:
    generation: Generation
    bundle: Bundle


class Shelf:
    """``offer``: shows generations to clients, and says why it refuses one, by id."""

    def __init__(self, vault: MirroredVault, offer: Offer, now: Callable[[], datetime]) -> None:
        self.copies: dict[str, Copy] = {}
        self.bucket_trouble = ""  # of the last look
        self.synced_at: datetime | None = None  # the bucket was read whole
        self._vault = vault
        self._offer = offer
        self._now = now

    def bundle(self, wanted_id: str) -> Bundle | None:
        copy = self.copies.get(wanted_id)
        return copy.bundle if copy else None

    def fence(self, wanted_id: str) -> int:
        """-1: there is none."""
        copy = self.copies.get(wanted_id)
        return copy.generation.fence if copy else -1

    async def load(self, wanted: Sequence[Wanted]) -> None:
        """From the mirror: what a node shows before it has heard of anybody."""
        for each in wanted:
            found = await self._vault.newest_local(each.id)
            if found is not None:
                self.take(found)

    async def sync(self, wanted: Sequence[Wanted]) -> bool:
        """From the bucket; whether it could be read. Never raises for the bucket."""
        for each in wanted:
            try:
                await self.look(each)
            except BucketUnavailable:
                return False
        self.synced_at = self._now()
        return True

    async def look(self, wanted: Wanted) -> Copy | None:
        """Take the newest of the bucket. Raises BucketUnavailable."""
        try:
            found = await self._vault.newest(wanted.id)
        except BucketUnavailable as error:
            if not self.bucket_trouble:
                log.warning(
                    "certificates cannot be read from the bucket; what is here is served on: %s", error
                )
            self.bucket_trouble = str(error)
            raise
        if self.bucket_trouble:
            log.info("the bucket of certificates can be read again")
        self.bucket_trouble = ""
        if found is not None and found.fence >= self.fence(wanted.id):
            self.take(found)
        return self.copies.get(wanted.id)

    def take(self, generation: Generation) -> bool:
        """Show it, when it is fit to be shown."""
        known = self.copies.get(generation.wanted_id)
        if known is not None and known.generation == generation:
            return True
        try:
            bundle = parse_bundle(generation.chain_pem, generation.key_pem, generation.wanted_id)
        except CertificateUnusable as error:
            log.error("a certificate cannot be used: %s", error)
            return False
        self.copies[generation.wanted_id] = Copy(generation, bundle)
        refused = self._offer([generation])
        if generation.wanted_id in refused:
            log.warning(
                "certificate %s is not shown: %s", generation.wanted_id, refused[generation.wanted_id]
            )
            return False
        return True

    def retain(self, wanted: Sequence[Wanted]) -> None:
        kept = {each.id for each in wanted}
        self.copies = {wanted_id: copy for wanted_id, copy in self.copies.items() if wanted_id in kept}
