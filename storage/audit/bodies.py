"""Every content has its body, and every object its content.

Objects are named by content hash and row id, and the database has an index by hash. So both sides are walked
in 256 shards by the first octet of the hash: the objects of one shard are held in memory (some 400 octets
each, 1/256 of all), the contents come in pages. The two sides are read one after the other while mail goes
on, so whatever seems to be wrong is looked at once more, and is a finding only when it is so still:

* a body is missing when its row says that it is stored, it has no object, and the row still says so;
* an object is an orphan when it is older than the grace, its content is not in the database, neither now nor
  at the end of the audit, and it was there still when that was found. Contents get their ids before they have
  objects, and ids are never used twice: an object of an id that the database has not given out yet tells that
  the database is older than the store. Then nothing is an orphan for certain, and nothing is removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from storage.errors import Corrupt, NotFound
from storage.model import AccountId, ContentHash, ContentId, ContentRef
from storage.objects.keys import object_key, parse_object_key

from .findings import Kind, Report
from .sizes import is_possible

if TYPE_CHECKING:
    from storage.api import BlobStore, UploadStore
    from storage.objects.codec import Codec
    from storage.postgres.auditing import ContentFacts, PostgresAudit

    from .copies import Copies

log = logging.getLogger("sora.audit")

PAGE = 1000
SHARDS = 256
AT_ONCE = 8  # objects that are looked at or read
ORPHAN_GRACE = timedelta(days=1)  # no upload takes so long
MAX_ORPHANS = 100_000  # remembered for the second look; a further audit finds the others
# More orphans than this share of all objects are no left-overs: something is wrong, and is not made worse.
MAX_ORPHAN_SHARE = 0.1
FEW_ORPHANS = 100

Name = tuple[ContentHash, ContentId]  # of an object
Progress = Callable[[str, int, int], None]  # what, how much of it, of how much (0: not known)


@dataclass(frozen=True, slots=True)
class Held:
    """An object, as it was listed."""

    size_bytes: int
    modified_at: datetime


class BodyAudit:
    """One run. ``copies`` and ``repairs`` say what may be done."""

    def __init__(
        self,
        audit: PostgresAudit,
        uploads: UploadStore,
        store: BlobStore,
        codec: Codec,
        copies: Copies,
        report: Report,
        *,
        is_deep: bool,
        repairs: bool,
        progress: Progress,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._audit = audit
        self._uploads = uploads
        self._store = store
        self._codec = codec
        self._copies = copies
        self._report = report
        self._is_deep = is_deep
        self._repairs = repairs
        self._progress = progress
        self._now = now
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._orphans: dict[ContentId, str] = {}
        self._last_id = 0

    # --- all of it ---

    async def run(self) -> None:
        """Raises Unavailable."""
        for shard in range(SHARDS):
            held = await self._list(shard)
            self._last_id = await self._audit.last_content_id()  # after the objects were listed
            await self._walk(shard, held)
            await self._left_over(held)
            self._progress("objects", shard + 1, SHARDS)
        await self._remove_orphans()

    async def _list(self, shard: int) -> dict[Name, Held]:
        found: dict[Name, Held] = {}
        async for info in self._store.list(f"bodies/{shard:02x}"):
            parsed = parse_object_key(info.key)
            if parsed is None:
                self._report.add(Kind.FOREIGN_OBJECT, info.key)
                continue
            self._report.saw("objects")
            found[parsed] = Held(info.size_bytes, info.modified_at)
        return found

    async def _walk(self, shard: int, held: dict[Name, Held]) -> None:
        after = bytes([shard])
        before = bytes([shard + 1]) if shard < SHARDS - 1 else b"\xff" * 33
        while page := await self._audit.by_hash(after, before, PAGE):
            there = {f.ref.id: held.pop((f.ref.hash, f.ref.id), None) for f in page}
            await self._check(page, there)
            after = page[-1].ref.hash

    async def _check(self, page: Sequence[ContentFacts], held: dict[ContentId, Held | None]) -> None:
        self._report.saw("contents", len(page))
        await self._check_rows(page)
        whole: list[ContentRef] = []
        for facts in page:
            there = held[facts.ref.id]
            if not facts.ref.is_stored:
                continue
            if there is None:
                await self._missing(facts.ref)
            elif not is_possible(there.size_bytes, facts.ref.size_bytes):
                sample = f"{object_key(facts.ref.hash, facts.ref.id)}: {there.size_bytes} bytes"
                await self._replace(Kind.WRONG_SIZE, facts.ref, sample)
            else:
                whole.append(facts.ref)
        if self._is_deep:
            await self._read_all(whole)

    async def _check_rows(self, page: Sequence[ContentFacts]) -> None:
        unused = [facts.ref.id for facts in page if not facts.is_used and not facts.is_candidate]
        doomed = [facts.ref.id for facts in page if facts.is_doomed]
        for content_id in unused:
            self._report.add(Kind.UNUSED_CONTENT, f"content {content_id}", repaired=self._repairs)
        for content_id in doomed:
            self._report.add(Kind.DOOMED_IN_USE, f"content {content_id}", repaired=self._repairs)
        if self._repairs and doomed:
            await self._audit.undoom(doomed)
        if self._repairs and unused:
            await self._audit.note_unused(unused)

    # --- the bodies of one account ---

    async def run_account(self, account_id: AccountId) -> None:
        """Asks for each object by name. Raises Unavailable."""
        after = 0
        while page := await self._audit.of_account(account_id, after, PAGE):
            stored = [facts.ref for facts in page if facts.ref.is_stored]
            infos = await asyncio.gather(*(self._held(ref) for ref in stored))
            found = dict(zip((ref.id for ref in stored), infos, strict=True))
            await self._check(page, {facts.ref.id: found.get(facts.ref.id) for facts in page})
            after = page[-1].ref.id
            self._progress("contents", self._report.seen["contents"], 0)

    async def _held(self, ref: ContentRef) -> Held | None:
        async with self._slots:
            info = await self._store.head(object_key(ref.hash, ref.id))
        return None if info is None else Held(info.size_bytes, info.modified_at)

    # --- what is missing ---

    async def _missing(self, ref: ContentRef) -> None:
        """The store was asked before the database: it may have come, or gone, in between."""
        if await self._held(ref) is None and await self._is_still_stored(ref):
            await self._replace(Kind.MISSING_OBJECT, ref, object_key(ref.hash, ref.id))

    async def _is_still_stored(self, ref: ContentRef) -> bool:
        located = await self._uploads.locate([ref.id])
        return bool(located) and located[0].is_stored

    async def _replace(self, kind: Kind, ref: ContentRef, sample: str) -> None:
        """An upload writes the same bytes to the same key, so that a sound copy heals it."""
        if not await self._is_still_stored(ref):
            return
        encoded = await self._copies.find(ref.hash)
        is_repaired = False
        if encoded is None:
            sample += " (no copy here)"
        elif self._repairs:
            is_repaired = await self._audit.stage(ref.id, encoded)
        self._report.add(kind, sample, repaired=is_repaired)

    async def _read_all(self, refs: Sequence[ContentRef]) -> None:
        for at in range(0, len(refs), AT_ONCE * 8):
            await asyncio.gather(*(self._read(ref) for ref in refs[at : at + AT_ONCE * 8]))
            self._progress("bodies read", self._report.seen.get("bodies read", 0), 0)

    async def _read(self, ref: ContentRef) -> None:
        key = object_key(ref.hash, ref.id)
        decoder = self._codec.decoder(ref.hash)
        async with self._slots:
            try:
                async for piece in self._store.stream(key):
                    await asyncio.to_thread(decoder.feed, piece)
                decoder.finish()
            except NotFound:
                await self._missing(ref)
            except Corrupt as error:
                await self._replace(Kind.DAMAGED_OBJECT, ref, f"{key}: {error}")
        self._report.saw("bodies read")

    # --- what is left over ---

    async def _left_over(self, held: dict[Name, Held]) -> None:
        """Objects whose contents did not come up."""
        names = list(held)
        for at in range(0, len(names), PAGE):
            batch = names[at : at + PAGE]
            known = await self._audit.known([content_id for _, content_id in batch])
            for name in batch:
                if name[1] not in known:
                    await self._suspect(name[1], object_key(*name), held[name])

    async def _suspect(self, content_id: ContentId, key: str, there: Held) -> None:
        """The store is asked once more: the object may have been deleted, with its content, since it was
        listed."""
        if content_id > self._last_id:
            self._report.add(Kind.NEWER_OBJECT, key)
        elif self._now() - there.modified_at < ORPHAN_GRACE:
            self._report.saw("young objects without content")
        elif await self._store.head(key) is not None:
            self._report.add(Kind.ORPHAN_OBJECT, key)
            if len(self._orphans) < MAX_ORPHANS:
                self._orphans[content_id] = key

    async def _remove_orphans(self) -> None:
        """The second look. The cleaner deletes what is queued here."""
        found = self._report.tallies.get(Kind.ORPHAN_OBJECT)
        if found is None or not self._repairs:
            return
        if Kind.NEWER_OBJECT in self._report.tallies:
            return
        of = self._report.seen["objects"]
        if found.found > FEW_ORPHANS and found.found > MAX_ORPHAN_SHARE * of:
            self._report.notes.append(
                f"{found.found} of {of} objects seem to be orphans: too many to be left over, and none is"
                " removed. Is this the right database for this bucket?"
            )
            return
        ids = list(self._orphans)
        for at in range(0, len(ids), PAGE):
            batch = ids[at : at + PAGE]
            known = await self._audit.known(batch)
            sure = {content_id: self._orphans[content_id] for content_id in batch if content_id not in known}
            self._report.repaired(Kind.ORPHAN_OBJECT, await self._audit.doom(sure))
