"""From a sealed object to what it holds, or to the reason why it is passed over."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import datetime, timedelta
from typing import TypeVar

from ..bundle import Bundle, verify_bundle
from ..errors import CertificateUnusable
from ..ports import Account, Generation, Journal
from .layout import Place, ca_id, digest
from .records import Challenge, load
from .sealing import Kind, Label, NotUsable, Reason, Seals

T = TypeVar("T", Account, Generation, Journal)
log = logging.getLogger("sora.tls.vault")

CHALLENGE_LIFE = timedelta(hours=1)
_TOLD_MAX = 1000


class Opener:
    """``skipped`` counts what was passed over; each object is told once for each reason."""

    def __init__(self, seals: Seals) -> None:
        self._seals = seals
        self.skipped: Counter[Reason] = Counter()
        self._told: set[tuple[str, Reason]] = set()

    def generation(self, place: Place, wanted_id: str, sealed: bytes | None) -> Generation:
        """Verified but for its dates. Raises NotUsable."""
        if sealed is not None and digest(sealed) != place.digest:
            raise NotUsable(Reason.CORRUPT, "its bytes are not those its name tells")
        found = self._record(place, Kind.CERTIFICATE, wanted_id, sealed, Generation)
        if (found.wanted_id, found.fence, ca_id(found.ca)) != (wanted_id, place.fence, place.ca_id):
            raise NotUsable(Reason.MISPLACED, "it holds a certificate of another place")
        try:
            judged(found)
        except CertificateUnusable as error:
            raise NotUsable(Reason.INVALID, str(error)) from error
        return found

    def account(self, place: Place, sealed: bytes | None) -> Account:
        """Raises NotUsable."""
        found = self._record(place, Kind.ACCOUNT, "", sealed, Account)
        if ca_id(found.ca) != place.ca_id:
            raise NotUsable(Reason.MISPLACED, "it holds an account of another CA")
        return found

    def journal(self, place: Place, wanted_id: str, sealed: bytes | None) -> Journal:
        """Raises NotUsable."""
        found = self._record(place, Kind.ORDER, wanted_id, sealed, Journal)
        if (found.wanted.id, found.fence, ca_id(found.ca)) != (wanted_id, place.fence, place.ca_id):
            raise NotUsable(Reason.MISPLACED, "it holds an order of another place")
        return found

    def challenge(self, token: str, sealed: bytes) -> Challenge:
        """Raises NotUsable."""
        found = load(self._seals.open(challenge_label(token), sealed), Challenge)
        if not found.key_authorisation.startswith(f"{token}."):
            raise NotUsable(Reason.INVALID, "it answers another token")
        return found

    def skip(self, key: str, error: NotUsable) -> None:
        self.skipped[error.reason] += 1
        if (key, error.reason) in self._told:
            return
        if len(self._told) >= _TOLD_MAX:
            self._told.clear()
        self._told.add((key, error.reason))
        log.warning("object %s is passed over (%s): %s", key, error.reason.value, error)

    def _record(self, place: Place, kind: Kind, subject: str, sealed: bytes | None, record: type[T]) -> T:
        if sealed is None:
            raise NotUsable(Reason.VANISHED, "it was listed, and is not there")
        label = Label(kind, place.ca_id, subject, place.fence)
        return load(self._seals.open(label, sealed), record)


def challenge_label(token: str) -> Label:
    return Label(Kind.CHALLENGE, "", token)


def judged(generation: Generation) -> Bundle:
    """Facts of the leaf. Raises CertificateUnusable."""
    source = f"certificate {generation.wanted_id} of fence {generation.fence}"
    return verify_bundle(generation.chain_pem, generation.key_pem, generation.names, source)


def is_over(challenge: Challenge, now: datetime) -> bool:
    return now - challenge.put_at > CHALLENGE_LIFE
