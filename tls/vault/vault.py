"""Accounts, journals and generations in a bucket, sealed, with copies on the node's own disk.

Every write is a new object that is read back before it counts, so that a reader, or the successor of a node
that died at any point, finds either what was there before or what is new.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

from ..errors import CertificateUnusable
from ..ports import Account, Bucket, BucketUnavailable, Generation, Journal, SealedCopy
from . import layout
from .layout import Place
from .memory import MemoryBucket
from .opening import Opener, challenge_label, is_over, judged
from .records import Challenge, dump
from .relics import Relics
from .sealing import NONCE_BYTES, Kind, Label, NotUsable, Reason, Seals

log = logging.getLogger("sora.tls.vault")

KEPT_GENERATIONS = 3
KEPT_ACCOUNTS = 3
OTHERS_MAX = 8  # certificates that are asked for no more, of a look at them
PROVED_AFTER = timedelta(hours=24)  # the newest has been loadable so long before older ones go
SWEEP_MAX = 200  # challenges looked at in one sweep


def _utc_now() -> datetime:
    return datetime.now(UTC)


class SealedVault:
    """The ``Vault`` of the contracts, and what keeps it tidy.

    ``cas``: directory URLs whose certificates may be served: what a CA that is configured no more has issued
    is not seen. ``mirror``: a bucket that never raises.
    """

    def __init__(
        self,
        bucket: Bucket,
        seals: Seals,
        cas: Sequence[str],
        *,
        mirror: Bucket | None = None,
        now: Callable[[], datetime] = _utc_now,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._bucket = bucket
        self._seals = seals
        self._ca_ids = list(dict.fromkeys(layout.ca_id(ca) for ca in cas))
        self._mirror = mirror or MemoryBucket()
        self._now = now
        self._random_bytes = random_bytes
        self._opener = Opener(seals)
        self.skipped = self._opener.skipped
        self.relics = Relics(bucket, self._opener)
        self.local_relics = Relics(self._mirror, self._opener)
        # wanted ids of which there are objects, but none that our keys open: an operator's mistake
        self.sealed_elsewhere: set[str] = set()
        self.unusable: dict[str, str] = {}  # wanted ids of which there are objects and none can be used: why
        self._known: dict[str, tuple[str, Generation]] = {}  # by wanted id, the key and what it opened to
        self._strange: dict[str, datetime] = {}  # challenges that do not open, and since when

    # --- generations ---

    async def newest(self, wanted_id: str) -> Generation | None:
        """Of the bucket and the mirror, the highest fence that verifies. Its dates are the caller's to
        judge. One listing for each CA; one read when there is something new. Raises BucketUnavailable."""
        remote = await self._places(self._bucket, Kind.CERTIFICATE, wanted_id)
        return await self._pick(wanted_id, remote)

    async def newest_local(self, wanted_id: str) -> Generation | None:
        """The same from the mirror alone."""
        return await self._pick(wanted_id, [])

    async def in_force(self, wanted_id: str, *, is_local: bool = False) -> Generation | None:
        """The newest whose dates are right now: what is shown until a newer one begins. ``is_local``: of the
        mirror alone. Raises BucketUnavailable."""
        local = await self._places(self._mirror, Kind.CERTIFICATE, wanted_id)
        remote = [] if is_local else await self._places(self._bucket, Kind.CERTIFICATE, wanted_id)
        for place in sorted({*remote, *local}, reverse=True):
            found = await self._open(place, wanted_id, remote, local, set())
            if found is not None and judged(found).refusal(self._now()) is None:
                return found
        return None

    async def others(self, without: Collection[str], *, is_local: bool = False) -> list[Generation]:
        """The newest of each certificate that is not among the ids ``without``, the highest fence first;
        OTHERS_MAX are looked at. ``is_local``: in the mirror alone. What cannot be used is left out. Raises
        BucketUnavailable."""
        fences: dict[str, int] = {}
        for bucket in (self._mirror,) if is_local else (self._mirror, self._bucket):
            for ca in self._ca_ids:
                there = layout.newest_fences(ca, await bucket.list(layout.certificates(ca)))
                fences |= {key: max(fence, fences.get(key, 0)) for key, fence in there.items()}
        ids = sorted(fences.keys() - set(without), key=lambda each: (-fences[each], each))
        found: list[Generation] = []
        for wanted_id in ids[:OTHERS_MAX]:
            newest = await (self.newest_local(wanted_id) if is_local else self.newest(wanted_id))
            if newest is None:  # nobody asks for it: no trouble
                self.unusable.pop(wanted_id, None)
                self.sealed_elsewhere.discard(wanted_id)
            else:
                found.append(newest)
        return found

    async def generations(self, wanted_id: str) -> list[int]:
        found = await self._places(self._bucket, Kind.CERTIFICATE, wanted_id)
        return sorted({place.fence for place in found}, reverse=True)

    async def publish(self, generation: Generation) -> None:
        """In the bucket, read back, and in the mirror when it returns; also what becomes valid later. Raises
        CertificateUnusable for what no node would ever serve, BucketUnavailable: then it may be there or not,
        and publishing it again is right."""
        key, sealed = self._sealed_generation(generation)
        await self._store(key, sealed)
        await self._mirror.put(key, sealed)

    async def publish_locally(self, generation: Generation) -> SealedCopy:
        """In the mirror only, while the bucket is away; ``upload_local`` makes it good. Raises
        CertificateUnusable."""
        key, sealed = self._sealed_generation(generation)
        await self._mirror.put(key, sealed)
        return SealedCopy(key, sealed, is_kept=await self._mirror.get(key) == sealed)

    async def keep(self, wanted_id: str, key: str, sealed: bytes) -> Generation | None:
        """Put into the mirror what another node could not put into the bucket. None, and nothing is kept: it
        is of another certificate, does not open or verify, or the mirror has as high a fence."""
        places = [
            place for ca in self._ca_ids for place in layout.places(Kind.CERTIFICATE, ca, wanted_id, [key])
        ]
        known = await self.newest_local(wanted_id)
        if not places or (known is not None and known.fence >= places[0].fence):
            return None
        try:
            generation = self._opener.generation(places[0], wanted_id, sealed)
        except NotUsable as error:
            self._opener.skip(key, error)
            return None
        await self._mirror.put(key, sealed)
        return generation

    async def upload_local(self, wanted_id: str) -> bool:
        """Put the mirror's newest into the bucket when that has no fence as high; whether it did. Raises
        BucketUnavailable."""
        local = await self.newest_local(wanted_id)
        if local is None or local.fence <= max(await self.generations(wanted_id), default=-1):
            return False
        key, _ = self._known[wanted_id]
        sealed = await self._mirror.get(key)
        if sealed is None:
            return False
        await self._store(key, sealed)
        return True

    async def prune(self, wanted_id: str) -> int:
        """Remove all but the last KEPT_GENERATIONS fences of each CA; how many objects went.

        Nothing goes while the newest does not load from the bucket. When it does, those go that have
        expired, and the others once it has been there for PROVED_AFTER. Raises BucketUnavailable.
        """
        gone = 0
        for ca in self._ca_ids:
            found = await self._places(self._bucket, Kind.CERTIFICATE, wanted_id, [ca])
            newest = await self._open_remote(found[0], wanted_id) if found else None
            if newest is None:
                continue
            is_proved = self._now() - newest.issued_at >= PROVED_AFTER
            for place in _beyond(found, KEPT_GENERATIONS):
                if is_proved or await self._is_expired(place, wanted_id):
                    await self._bucket.delete(place.key)
                    gone += 1
        return gone

    def _sealed_generation(self, generation: Generation) -> tuple[str, bytes]:
        bundle = judged(generation)
        if bundle.is_expired(self._now()):
            refusal = bundle.refusal(self._now())
            raise CertificateUnusable(f"certificate {generation.wanted_id} is not published: {refusal}")
        label = Label(Kind.CERTIFICATE, layout.ca_id(generation.ca), generation.wanted_id, generation.fence)
        sealed = self._seal(label, dump(generation))
        return layout.certificate_key(label, sealed), sealed

    async def _pick(self, wanted_id: str, remote: Sequence[Place]) -> Generation | None:
        local = await self._places(self._mirror, Kind.CERTIFICATE, wanted_id)
        skipped: set[Reason] = set()
        everything = sorted({*remote, *local}, reverse=True)
        for _, group in groupby(everything, key=lambda place: place.fence):
            found = [
                (generation.issued_at, place, generation)
                for place in group
                if (generation := await self._open(place, wanted_id, remote, local, skipped)) is not None
            ]
            if found:
                _, place, newest = max(found, key=lambda item: item[:2])
                self._known[wanted_id] = (place.key, newest)
                self.sealed_elsewhere.discard(wanted_id)
                self.unusable.pop(wanted_id, None)
                await self._trim_mirror({*local, place}, newest.fence)
                return newest
        if Reason.OTHER_KEY in skipped:
            self.sealed_elsewhere.add(wanted_id)
        self.unusable[wanted_id] = ", ".join(sorted(each.value for each in skipped))
        return None

    async def _open(
        self,
        place: Place,
        wanted_id: str,
        remote: Sequence[Place],
        local: Sequence[Place],
        skipped: set[Reason],
    ) -> Generation | None:
        """From the mirror, else the bucket; then the mirror gets its copy."""
        known = self._known.get(wanted_id)
        if known is not None and known[0] == place.key and place in local:
            return known[1]  # what it opened to before
        for bucket, held in ((self._mirror, local), (self._bucket, remote)):
            if place not in held:
                continue
            sealed = await bucket.get(place.key)
            try:
                generation = self._opener.generation(place, wanted_id, sealed)
            except NotUsable as error:
                skipped.add(error.reason)
                self._opener.skip(place.key, error)
                continue
            if bucket is self._bucket and sealed is not None:
                await self._mirror.put(place.key, sealed)
            return generation
        return None

    async def _open_remote(self, place: Place, wanted_id: str) -> Generation | None:
        try:
            return self._opener.generation(place, wanted_id, await self._bucket.get(place.key))
        except NotUsable as error:
            self._opener.skip(place.key, error)
            return None

    async def _is_expired(self, place: Place, wanted_id: str) -> bool:
        generation = await self._open_remote(place, wanted_id)
        return generation is not None and judged(generation).not_after <= self._now()

    async def _trim_mirror(self, local: Iterable[Place], newest: int) -> None:
        for place in _beyond(local, KEPT_GENERATIONS):
            if place.fence < newest:
                await self._mirror.delete(place.key)

    # --- accounts ---

    async def account(self, ca: str) -> Account | None:
        return await self._account(self._bucket, ca)

    async def account_local(self, ca: str) -> Account | None:
        """From the mirror alone."""
        return await self._account(self._mirror, ca)

    async def put_account(self, account: Account, fence: int) -> None:
        """In force when it returns. Raises BucketUnavailable."""
        label = Label(Kind.ACCOUNT, layout.ca_id(account.ca), "", fence)
        older = await self._put_numbered(label, dump(account))
        await self._tidy(older[KEPT_ACCOUNTS - 1 :])

    async def _account(self, bucket: Bucket, ca: str) -> Account | None:
        for place in await self._places(bucket, Kind.ACCOUNT, "", [layout.ca_id(ca)]):
            sealed = await bucket.get(place.key)
            try:
                found = self._opener.account(place, sealed)
            except NotUsable as error:
                self._opener.skip(place.key, error)
                continue
            if bucket is self._bucket and sealed is not None:
                await self._mirror.put(place.key, sealed)
            return found
        return None

    # --- journals ---

    async def journal(self, wanted_id: str) -> Journal | None:
        """Of several under the highest fence, which a node that died between two CAs may leave, the last."""
        places = await self._places(self._bucket, Kind.ORDER, wanted_id)
        for _, group in groupby(places, key=lambda place: place.fence):
            found = [journal for place in group if (journal := await self._journal(place, wanted_id))]
            if found:
                return max(found, key=lambda journal: journal.begun_at)
        return None

    async def _journal(self, place: Place, wanted_id: str) -> Journal | None:
        try:
            return self._opener.journal(place, wanted_id, await self._bucket.get(place.key))
        except NotUsable as error:
            self._opener.skip(place.key, error)
            return None

    async def put_journal(self, journal: Journal) -> None:
        """What earlier orders left is superseded, at other CAs too. Raises BucketUnavailable."""
        label = Label(Kind.ORDER, layout.ca_id(journal.ca), journal.wanted.id, journal.fence)
        await self._tidy(await self._put_numbered(label, dump(journal)))

    async def drop_journal(self, wanted_id: str, up_to: int | None = None) -> None:
        places = await self._places(self._bucket, Kind.ORDER, wanted_id)
        for place in reversed(places):  # whatever interrupts this, the newest is what remains
            if up_to is None or place.fence <= up_to:
                await self._bucket.delete(place.key)

    # --- challenges ---

    async def challenge(self, token: str) -> str | None:
        """Costs nothing for what cannot be a token. Raises BucketUnavailable."""
        if not layout.is_token(token):
            return None
        key = layout.challenge_key(token)
        sealed = await self._bucket.get(key)
        if sealed is None:
            return None
        try:
            found = self._opener.challenge(token, sealed)
        except NotUsable as error:
            self._opener.skip(key, error)
            return None
        return None if is_over(found, self._now()) else found.key_authorisation

    async def put_challenge(self, token: str, key_authorisation: str) -> None:
        """Readable by all nodes when it returns. Raises BucketUnavailable, ValueError."""
        if not key_authorisation.startswith(f"{token}."):
            raise ValueError("the key authorisation is not that of the token")
        key = layout.challenge_key(token)
        if await self.challenge(token) != key_authorisation:
            content = dump(Challenge(key_authorisation, self._now()))
            await self._store(key, self._seal(challenge_label(token), content))

    async def drop_challenge(self, token: str) -> None:
        """Raises BucketUnavailable, ValueError."""
        await self._bucket.delete(layout.challenge_key(token))

    async def sweep(self) -> int:
        """Remove challenges that orders left behind an hour ago; how many went. Raises BucketUnavailable."""
        listed = await self._bucket.list(layout.CHALLENGES)
        keys = [key for key in listed if layout.is_token(key.removeprefix(layout.CHALLENGES))][:SWEEP_MAX]
        self._strange = {key: since for key, since in self._strange.items() if key in keys}
        over = [key for key in keys if await self._is_over(key)]
        for key in over:
            await self._bucket.delete(key)
        return len(over)

    async def _is_over(self, key: str) -> bool:
        """What does not open counts from when it was first seen."""
        sealed = await self._bucket.get(key)
        if sealed is None:
            return False
        now = self._now()
        try:
            found = self._opener.challenge(key.removeprefix(layout.CHALLENGES), sealed)
        except NotUsable as error:
            self._opener.skip(key, error)
            found = Challenge("", self._strange.setdefault(key, now))
        return is_over(found, now)

    # --- what all of them do ---

    def _seal(self, label: Label, content: bytes) -> bytes:
        return self._seals.seal(label, content, self._random_bytes(NONCE_BYTES))

    async def _store(self, key: str, sealed: bytes) -> None:
        await self._bucket.put(key, sealed)
        found = await self._bucket.get(key)
        if found != sealed:
            how = "it is not there" if found is None else "its bytes are others"
            raise BucketUnavailable(f"{key} was written, but when it was read back, {how}")

    async def _put_numbered(self, label: Label, content: bytes) -> list[Place]:
        """Store, and mirror, under the next free key. Older places of the subject, the newest first."""
        others = () if label.kind is Kind.ACCOUNT else self._ca_ids
        cas = dict.fromkeys((label.ca_id, *others))
        there = await self._places(self._bucket, label.kind, label.subject, cas)
        key = layout.numbered_key(label, there)
        sealed = self._seal(label, content)
        await self._store(key, sealed)
        if label.kind is Kind.ACCOUNT:
            await self._mirror.put(key, sealed)
        return [place for place in there if place.fence <= label.fence]

    async def _places(
        self, bucket: Bucket, kind: Kind, subject: str, cas: Iterable[str] | None = None
    ) -> list[Place]:
        """The newest first."""
        found: list[Place] = []
        for ca in self._ca_ids if cas is None else cas:
            keys = await bucket.list(layout.prefix(kind, ca, subject))
            found += layout.places(kind, ca, subject, keys)
        return sorted(found, reverse=True)

    async def _tidy(self, places: Sequence[Place]) -> None:
        """Nobody needs these any more; what cannot be removed now is left for the next time."""
        for place in reversed(places):
            try:
                await self._bucket.delete(place.key)
            except BucketUnavailable as error:
                log.warning("an object that is superseded stays for now: %s", error)
                return


def _beyond(places: Iterable[Place], kept: int) -> list[Place]:
    """Those of all but the highest ``kept`` fences, the oldest first."""
    by_age = sorted(places)
    fences = sorted({place.fence for place in by_age})[-kept:]
    return [place for place in by_age if place.fence not in fences]
