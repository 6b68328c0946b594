"""Objects that nobody asks for any more: certificates and orders of names, key types or authorities that left
the configuration, and have long been over.

What a node of another configuration may still show, or a configuration that comes back may find, is younger.
Accounts stay: their keys revoke what they ordered. So does what our keys do not open, as it may be another's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..ports import Bucket
from . import layout
from .opening import Opener, judged
from .sealing import Kind, NotUsable

GRACE = timedelta(days=30)  # after a certificate has expired, or an order was begun
READS_MAX = 50  # objects that are not known yet, of one look


@dataclass(frozen=True, slots=True)
class Relic:
    """``over_at``: when the certificate expired, or the order was begun."""

    key: str
    text: str
    over_at: datetime

    def may_go(self, now: datetime) -> bool:
        return now - self.over_at >= GRACE


class Relics:
    """Of one bucket. Raises BucketUnavailable."""

    def __init__(self, bucket: Bucket, opener: Opener) -> None:
        self._bucket = bucket
        self._opener = opener
        self._known: dict[str, Relic | None] = {}  # by key; None: it does not open

    async def find(self, asked: Collection[tuple[str, str]], now: datetime) -> list[Relic]:
        """Those that may go. ``asked``: the ids of CAs and of certificates that are configured. One listing,
        and one read for each object that was not seen before, READS_MAX of these."""
        listed = await self._bucket.list(layout.ROOT)
        located = {key: found for key in listed if (found := layout.locate(key))}
        strange = [key for key, (_, subject, place) in located.items() if (place.ca_id, subject) not in asked]
        self._known = {key: relic for key, relic in self._known.items() if key in located}
        fresh = [key for key in strange if key not in self._known]
        for key in fresh[:READS_MAX]:
            self._known[key] = self._read(*located[key], await self._bucket.get(key))
        relics = (self._known.get(key) for key in strange)
        return [relic for relic in relics if relic is not None and relic.may_go(now)]

    async def discard(self, relic: Relic) -> None:
        await self._bucket.delete(relic.key)

    def _read(self, kind: Kind, subject: str, place: layout.Place, sealed: bytes | None) -> Relic | None:
        try:
            if kind is Kind.ORDER:
                journal = self._opener.journal(place, subject, sealed)
                names, begun = ", ".join(journal.wanted.names), journal.begun_at
                return Relic(place.key, f"the order of {begun:%Y-%m-%d} for {names}", begun)
            generation = self._opener.generation(place, subject, sealed)
        except NotUsable:
            return None
        bundle = judged(generation)
        names, ended = ", ".join(bundle.names), bundle.not_after
        text = f"certificate number {place.fence} for {names}, expired on {ended:%Y-%m-%d}"
        return Relic(place.key, text, ended)
