"""What this node has of each certificate, from the bucket or its own mirror, and puts on show.

A configuration with one name more asks for another certificate. Until that is there, which a name that cannot
be validated may delay for ever, what was issued for other sets of the same names is shown on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ..bundle import Bundle, covers, parse_bundle
from ..errors import CertificateUnusable
from ..ports import Account, BucketUnavailable, Generation, SealedCopy, Vault
from ..vault.opening import judged
from ..vault.relics import Relics
from ..wanted import Wanted

log = logging.getLogger("sora.tls.renewing")

Offer = Callable[[Sequence[Generation]], Mapping[str, str]]


class MirroredVault(Vault, Protocol):
    """The vault with the node's own copies. ``unusable``: why none of the objects of a certificate can be
    used, by its id; empty or absent: there are none, or one can."""

    unusable: dict[str, str]
    relics: Relics
    local_relics: Relics

    async def newest_local(self, wanted_id: str) -> Generation | None: ...

    async def in_force(self, wanted_id: str, *, is_local: bool = False) -> Generation | None: ...

    async def others(self, without: Collection[str], *, is_local: bool = False) -> list[Generation]: ...

    async def account_local(self, ca: str) -> Account | None: ...

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
    """``offer``: shows generations to clients, and says why it refuses one, by id. ``retain``: shows those of
    these ids only."""

    def __init__(
        self,
        vault: MirroredVault,
        offer: Offer,
        now: Callable[[], datetime],
        retain: Callable[[Sequence[str]], None] = lambda _wanted_ids: None,
    ) -> None:
        self.copies: dict[str, Copy] = {}
        self.standins: dict[str, Copy] = {}  # asked for no more, shown while what is asked for is missing
        self.bucket_trouble = ""  # of the last look
        self.synced_at: datetime | None = None  # the bucket was read whole
        self._vault = vault
        self._offer = offer
        self._now = now
        self._retain = retain
        self._wanted: tuple[Wanted, ...] = ()

    def bundle(self, wanted_id: str) -> Bundle | None:
        copy = self.copies.get(wanted_id)
        return copy.bundle if copy else None

    def fence(self, wanted_id: str) -> int:
        """-1: there is none."""
        copy = self.copies.get(wanted_id)
        return copy.generation.fence if copy else -1

    async def load(self, wanted: Sequence[Wanted]) -> None:
        """From the mirror: what a node shows before it has heard of anybody."""
        self._wanted = tuple(wanted)
        for each in wanted:
            found = await self._vault.newest_local(each.id)
            if found is not None:
                await self._precede(found, is_local=True)
                self.take(found)
        await self._stand_in(is_local=True)

    async def sync(self, wanted: Sequence[Wanted]) -> bool:
        """From the bucket; whether it could be read. Never raises for the bucket."""
        self._wanted = tuple(wanted)
        try:
            for each in wanted:
                await self.look(each)
            self._let_go()  # of what something stood in for that was early
            await self._stand_in()
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
            await self._precede(found)
            self.take(found)
        return self.copies.get(wanted.id)

    async def _precede(self, newest: Generation, *, is_local: bool = False) -> None:
        """After a start: when the newest begins later only, the one that is in force is shown until then.
        Raises BucketUnavailable."""
        if newest.wanted_id in self.copies or not judged(newest).is_early(self._now()):
            return
        before = await self._vault.in_force(newest.wanted_id, is_local=is_local)
        if before is not None:
            self.take(before)

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
        self._let_go()
        return True

    def retain(self, wanted: Sequence[Wanted]) -> None:
        """These are asked for now, and no others."""
        self._wanted = tuple(wanted)
        kept = {each.id for each in wanted}
        known = self.copies | self.standins
        self.copies = {wanted_id: copy for wanted_id, copy in known.items() if wanted_id in kept}
        self.standins = {wanted_id: copy for wanted_id, copy in known.items() if wanted_id not in kept}
        self._let_go()
        self._retain(self._shown_ids())

    # --- in place of what is missing ---

    def standing_in(self, wanted: Wanted) -> list[Copy]:
        """For this one, which is missing."""
        return [copy for copy in self.standins.values() if _shares(copy.bundle, wanted)]

    async def _stand_in(self, *, is_local: bool = False) -> None:
        lacking = self._lacking()
        if not lacking:
            return
        known = [*(each.id for each in self._wanted), *self.standins]
        for generation in await self._vault.others(known, is_local=is_local):
            try:
                bundle = parse_bundle(generation.chain_pem, generation.key_pem, generation.wanted_id)
            except CertificateUnusable as error:
                log.error("a certificate cannot be used: %s", error)
                continue
            if bundle.refusal(self._now()) or not any(_shares(bundle, each) for each in lacking):
                continue
            if generation.wanted_id not in self._offer([generation]):
                self.standins[generation.wanted_id] = Copy(generation, bundle)
                names = ", ".join(bundle.names)
                log.warning("number %d, for %s, is shown until there is another", generation.fence, names)

    def _let_go(self) -> None:
        """Of what nothing that is missing needs any more."""
        lacking = self._lacking()
        gone = [
            wanted_id
            for wanted_id, copy in self.standins.items()
            if not any(_shares(copy.bundle, each) for each in lacking)
        ]
        for wanted_id in gone:
            del self.standins[wanted_id]
        if gone:
            self._retain(self._shown_ids())

    def _lacking(self) -> list[Wanted]:
        """Missing, or not yet valid."""
        now = self._now()
        begun = {wanted_id for wanted_id, copy in self.copies.items() if not copy.bundle.is_early(now)}
        return [each for each in self._wanted if each.id not in begun]

    def _shown_ids(self) -> list[str]:
        return [*(each.id for each in self._wanted), *self.standins]


def _shares(bundle: Bundle, wanted: Wanted) -> bool:
    return any(covers(bundle.names, name) for name in wanted.names)
