"""Staged bodies go to the object store: leased, verified, put, verified, marked, only then unstaged.

Every step may be repeated: keys are unique per content, a put of the same bytes changes nothing, marking
twice is a no-op. So a node may die anywhere in between; the lease runs out and any node that can reach the
body starts over.

Faults are of two kinds. The store or the database being away says nothing about a body: it is given back
without counting an attempt, the uploader slows down as a whole, and probes with a single body until one
goes through; then the backlog follows, the oldest first. Each probe takes another body, since the fault may
be of one alone; they all get their old turns again once the store is back. A body whose bytes are wrong or
gone is *stuck*: counted, logged as an error, kept for ever and tried again at long intervals; nothing here
ever gives up on mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from .api import BlobStore, Staging, UploadStore
from .budget import ByteBudget
from .errors import CommitUnknown, Corrupt, NotFound, StorageError, Unavailable
from .model import ContentHash, ContentId, ContentRef, StagingLevel, UploadLease
from .objects.cache import BodyCache
from .objects.codec import Codec
from .objects.keys import object_key

log = logging.getLogger("sora.uploader")

MIN_BACKOFF_S = 1.0
# While the store is away one body probes at least this often: so soon is the way noticed to be open again.
MAX_BACKOFF_S = 15.0
MAX_DISPLACED = 10_000  # bodies whose turn is restored after an outage; a probe displaces one
STUCK_RETRY_S = 15 * 60.0
MAX_STUCK_RETRY_S = 24 * 3600.0
DEFAULT_BUDGET_BYTES = 64 * 1024 * 1024  # of encoded bodies in memory
# Bodies that are read, checked and put together: what costs a turn of a thread, or of the database, is
# paid once for them.
GROUP_BYTES = 512 * 1024
GROUP_BODIES = 50
SWEEP_EVERY_S = 60.0
SWEEP_BATCH = 500


@dataclass(frozen=True, slots=True)
class UploaderSettings:
    batch_size: int = 100  # contents leased, and marked in one commit
    concurrency: int = 20
    poll_interval_s: float = 10.0  # a delivery of this node is noticed sooner, see notify
    # What is delivered within this time is uploaded together, which costs half of uploading it singly and
    # leaves the disk to the deliveries. The bodies are durable in staging meanwhile.
    gather_s: float = 0.25
    lease_s: float = 300.0
    retry_interval_s: float = 30.0  # of a body that fails while others go through
    max_attempts: int = 20  # with wrong bytes; then it is looked at once a day


@dataclass(slots=True)
class UploadCounters:
    uploaded: int = 0
    bytes: int = 0
    transient_failures: int = 0
    stuck: int = 0
    purged_meanwhile: int = 0
    swept: int = 0  # staged files that nobody needed any more
    adopted: int = 0  # found on our disk, and waiting under the name of another node


@dataclass(slots=True)
class _Upload:
    """One body that is in the object store and not yet marked."""

    id: ContentId
    size_bytes: int


@dataclass(slots=True)
class _Failed:
    """One body that a transient fault kept from the object store."""

    id: ContentId
    error: Unavailable


_Outcome: TypeAlias = _Upload | _Failed | BaseException | None


def _groups(leases: Sequence[UploadLease]) -> list[list[UploadLease]]:
    """Of at most GROUP_BODIES and GROUP_BYTES, or of one."""
    groups: list[list[UploadLease]] = []
    room = 0
    for lease in leases:
        if not groups or lease.ref.size_bytes > room or len(groups[-1]) == GROUP_BODIES:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(lease)
        room -= lease.ref.size_bytes
    return groups


class Uploader:
    """One runs on every node, in its control process."""

    def __init__(
        self,
        uploads: UploadStore,
        staging: Staging,
        store: BlobStore,
        codec: Codec,
        node: str,
        *,
        settings: UploaderSettings | None = None,
        cache: BodyCache | None = None,
        budget: ByteBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.counters = UploadCounters()
        self.settings = settings or UploaderSettings()
        self._uploads = uploads
        self._staging = staging
        self._store = store
        self._codec = codec
        self._node = node
        self._cache = cache
        self._budget = budget or ByteBudget(DEFAULT_BUDGET_BYTES)
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._slots = asyncio.Semaphore(self.settings.concurrency)
        self._faults = 0  # transient ones in a row
        self._paused_until = float("-inf")
        self._swept_at = float("-inf")
        self._wake = asyncio.Event()
        self._has_strays = True
        self._has_adopted = False
        self._displaced: list[ContentId] = []  # given back because the store is away

    # --- for the node ---

    def notify(self) -> None:
        """A body was staged: upload it soon, without waiting for the next poll."""
        self._wake.set()

    async def backlog(self) -> StagingLevel:
        return await self._uploads.staging_level()

    @property
    def is_paused(self) -> bool:
        """The object store or database is away; see ``step``."""
        return self._clock() < self._paused_until

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set; the batch in hand is finished first."""
        while not stop.is_set():
            self._wake.clear()
            try:
                await self._reclaim_strays()
                limit = self._limit
                is_behind = await self._batch(limit) >= limit
                await self._sweep_if_due()
            except StorageError as error:
                self._has_strays = True
                self._slow_down(error)
                is_behind = False
            except Exception as error:  # a worker loop: nothing may end it
                log.exception("uploader: unexpected error")
                self._has_strays = True
                self._slow_down(error)
                is_behind = False
            if not is_behind:
                await self._rest(stop)

    async def _reclaim_strays(self) -> None:
        """Leases of an earlier process of this node, or of a step that lost the database in its middle:
        nothing of this process is under way between two steps."""
        if self._has_strays and not self.is_paused:
            await self._uploads.reclaim(self._node)
            self._has_strays = False

    # --- one unit of work ---

    async def step(self) -> bool:
        """Lease one batch and see it through; whether there was any.

        Raises Unavailable, CommitUnknown when the database is away.
        """
        return await self._batch(self._limit) > 0

    @property
    def _limit(self) -> int:
        """Of the next batch; a single body probes whether a fault is over."""
        return self.settings.batch_size if self._faults == 0 else 1

    async def _batch(self, limit: int) -> int:
        """How many were leased; fewer than ``limit`` when no more is due."""
        if self.is_paused:
            return 0
        leases = await self._uploads.lease(self._node, limit, self.settings.lease_s)
        if not leases:
            return 0
        outcomes = await self._upload_all(leases)
        await self._mark([done for done in outcomes if isinstance(done, _Upload)])
        await self._restore_turns()
        await self._release_failed(
            [failed for failed in outcomes if isinstance(failed, _Failed)],
            is_store_up=any(isinstance(done, _Upload) for done in outcomes),
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return len(leases)

    async def sweep(self) -> int:
        """Remove staged files that no content needs; how many. See ``storage.staging``.

        A file that a content needs which waits on the disk of *another* node stays, too: who knows what has
        become of that one.
        """
        found = await self._staging.pending()
        removed = 0
        for at in range(0, len(found), SWEEP_BATCH):
            batch = found[at : at + SWEEP_BATCH]
            needed = await self._on_disks(batch)
            for content_hash in batch:
                if content_hash not in needed and await self._staging.remove(content_hash):
                    removed += 1
        self.counters.swept += removed
        return removed

    async def adopt(self) -> int:
        """Bodies on our disk that wait under the name of another node are ours from now on; how many.

        That node was this machine before it was rebuilt or renamed, or had the same bytes delivered.
        """
        found = await self._staging.held()
        adopted = 0
        for at in range(0, len(found), SWEEP_BATCH):
            for ref in (await self._on_disks(found[at : at + SWEEP_BATCH])).values():
                if ref.staged_node != self._node and await self._take_over(ref):
                    adopted += 1
        if adopted:
            log.info("%d staged bodies of an earlier node were found here and are uploaded", adopted)
        self.counters.adopted += adopted
        return adopted

    async def _on_disks(self, hashes: Sequence[ContentHash]) -> dict[ContentHash, ContentRef]:
        found = await self._uploads.find(hashes)
        return {content_hash: ref for content_hash, ref in found.items() if ref.staged_node is not None}

    async def _take_over(self, ref: ContentRef) -> bool:
        """False: our copy is gone or damaged."""
        async with self._budget.hold(ref.size_bytes):
            frames = await self._staging.get(replace(ref, staged_node=self._node))
            if frames is None:
                return False
            try:
                await asyncio.to_thread(self._codec.decode_all, b"".join(frames), ref.hash)
            except Corrupt as error:
                log.error(
                    "the staged body %s of %s is damaged here: %s", ref.hash.hex(), ref.staged_node, error
                )
                return False
            return await self._uploads.take_over(ref.hash, self._node, (), sum(map(len, frames)))

    async def _sweep_if_due(self) -> None:
        if self.is_paused or self._clock() - self._swept_at < SWEEP_EVERY_S:
            return
        self._swept_at = self._clock()
        if not self._has_adopted:
            await self.adopt()
            self._has_adopted = True
        await self.sweep()

    # --- bodies ---

    async def _upload_all(self, leases: Sequence[UploadLease]) -> list[_Outcome]:
        """An exception among the outcomes is one that nobody expected."""
        done = await asyncio.gather(*map(self._upload_group, _groups(leases)), return_exceptions=True)
        return [each for group in done for each in ([group] if isinstance(group, BaseException) else group)]

    async def _upload_group(self, leases: Sequence[UploadLease]) -> list[_Outcome]:
        async with self._budget.hold(sum(lease.ref.size_bytes for lease in leases)):
            try:
                bodies = await self._staging.get_many([lease.ref for lease in leases])
            except Unavailable as error:
                return [_Failed(lease.ref.id, error) for lease in leases]
            outcomes = await self._put_all([lease.ref for lease in leases if lease.ref.id in bodies], bodies)
            return [await self._settle(lease, outcomes.get(lease.ref.id)) for lease in leases]

    async def _put_all(
        self, refs: Sequence[ContentRef], bodies: Mapping[ContentId, list[bytes]]
    ) -> dict[ContentId, int | StorageError]:
        """Sizes of what is in the object store now, whole and unharmed, and what kept the others out."""
        outcomes: dict[ContentId, int | StorageError] = {}
        outcomes.update(await asyncio.to_thread(self._damaged, refs, bodies))
        sound = {object_key(ref.hash, ref.id): ref for ref in refs if ref.id not in outcomes}
        done = await self._store.put_many({key: bodies[ref.id] for key, ref in sound.items()}, self._slots)
        for key, ref in sound.items():
            found, size = done[key], sum(map(len, bodies[ref.id]))
            if isinstance(found, NotFound):  # its bucket is gone, which is no fault of the body
                found = Unavailable(f"the object store has no place for {key}: {found}")
            if found != size and isinstance(found, int):
                found = Unavailable(f"object {key} has {found} bytes after a put of {size}")
            outcomes[ref.id] = found
        if self._cache is not None:
            put = [ref for ref in sound.values() if isinstance(outcomes[ref.id], int)]
            await asyncio.to_thread(self._keep, self._cache, put, bodies)
        return outcomes

    def _damaged(
        self, refs: Sequence[ContentRef], bodies: Mapping[ContentId, list[bytes]]
    ) -> dict[ContentId, Corrupt]:
        """Those whose bytes do not decode to what their hash says."""
        found: dict[ContentId, Corrupt] = {}
        for ref in refs:
            try:
                self._codec.decode_all(b"".join(bodies[ref.id]), ref.hash)
            except Corrupt as error:
                found[ref.id] = error
        return found

    def _keep(
        self, cache: BodyCache, refs: Sequence[ContentRef], bodies: Mapping[ContentId, list[bytes]]
    ) -> None:
        for ref in refs:
            cache.put(ref.hash, bodies[ref.id])

    async def _settle(self, lease: UploadLease, outcome: int | StorageError | None) -> _Outcome:
        """``outcome``: None when staging did not have the body."""
        try:
            if outcome is None:
                return await self._without_body(lease.ref)
            if isinstance(outcome, StorageError):
                raise outcome
            return _Upload(lease.ref.id, outcome)
        except (Corrupt, NotFound) as error:
            await self._release_stuck(lease, error)
            return None
        except Unavailable as error:
            return _Failed(lease.ref.id, error)

    async def _without_body(self, ref: ContentRef) -> _Upload | None:
        """The staged body is gone: purged, marked by another node, or put before and not marked."""
        found = await self._uploads.locate([ref.id])
        if not found or found[0].is_stored:
            return None
        encoded = await self._store.get(object_key(ref.hash, ref.id))
        await asyncio.to_thread(self._codec.decode_all, encoded, ref.hash)
        return _Upload(ref.id, len(encoded))

    async def _mark(self, done: Sequence[_Upload]) -> None:
        if not done:
            return
        known = set(await self._uploads.mark_stored([upload.id for upload in done]))
        self._faults = 0
        self.counters.uploaded += len(known)
        self.counters.bytes += sum(upload.size_bytes for upload in done if upload.id in known)
        self.counters.purged_meanwhile += len(done) - len(known)  # their objects are queued for deletion

    # --- faults ---

    def _slow_down(self, error: Exception) -> None:
        longest = min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2.0 ** min(self._faults, 16))
        delay = longest * self._rng.uniform(0.5, 1.0)
        self._faults += 1
        self._paused_until = self._clock() + delay
        log.warning("uploads pause for %.1f s: %s", delay, error)

    async def _release_failed(self, failed: Sequence[_Failed], *, is_store_up: bool) -> None:
        """``is_store_up``: others of the batch went through, so the fault is of these bodies alone and does
        not slow down the rest."""
        if not failed:
            return
        self.counters.transient_failures += len(failed)
        if not is_store_up:
            self._slow_down(failed[0].error)
            room = MAX_DISPLACED - len(self._displaced)
            self._displaced += [one.id for one in failed[:room]]
        retry_in = (
            self.settings.retry_interval_s if is_store_up else max(0.0, self._paused_until - self._clock())
        )
        for one in failed:
            await self._give_back(self._uploads.release(one.id, str(one.error), retry_in, permanent=False))

    async def _restore_turns(self) -> None:
        """The store is back: what failed while it was away goes before what came later."""
        if self._faults or not self._displaced:
            return
        displaced, self._displaced = self._displaced, []
        await self._give_back(self._uploads.restore_turns(displaced))

    async def _release_stuck(self, lease: UploadLease, error: StorageError) -> None:
        self.counters.stuck += 1
        is_for_operator = lease.attempts + 1 >= self.settings.max_attempts
        longer = STUCK_RETRY_S * 2.0 ** min(lease.attempts, 10)
        retry_in = MAX_STUCK_RETRY_S if is_for_operator else min(MAX_STUCK_RETRY_S, longer)
        log.error(
            "staged body %s (content %d) cannot be uploaded and is kept, attempt %d: %s",
            lease.ref.hash.hex(),
            lease.ref.id,
            lease.attempts + 1,
            error,
        )
        await self._give_back(self._uploads.release(lease.ref.id, str(error), retry_in, permanent=True))

    async def _give_back(self, release: Awaitable[None]) -> None:
        try:
            await release
        except (Unavailable, CommitUnknown) as error:
            self._has_strays = True
            log.warning("lease not given back yet: %s", error)

    async def _rest(self, stop: asyncio.Event) -> None:
        """Until a poll is due or a pause is over, or some time after somebody called."""
        pause = self._paused_until - self._clock()
        wanted = [stop] if pause > 0 else [stop, self._wake]
        waits = [asyncio.ensure_future(event.wait()) for event in wanted]
        try:
            timeout = pause if pause > 0 else self.settings.poll_interval_s
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._wake.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.gather_s):
                    await stop.wait()
