"""A small upload and purge queue in memory, with what a delivery and a mailbox do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from storage.model import ContentHash, ContentId, ContentRef, StagedContent, StagingLevel, UploadLease
from storage.objects.keys import object_key


@dataclass
class Row:
    ref: ContentRef
    frames: list[bytes] | None
    encoded_bytes: int
    messages: int
    leased_until: float = 0.0
    due_at: float = 0.0
    attempts: int = 0
    errors: list[str] = field(default_factory=list)


class FakeQueue:
    """Everything the way of a body asks of the database. ``now`` is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rows: dict[int, Row] = {}
        self.doomed_keys: dict[int, str] = {}
        self._next = 1

    # --- what deliveries and mailboxes do ---

    async def append(self, staged: StagedContent) -> ContentRef:
        await asyncio.sleep(0)
        for row in self.rows.values():
            if row.ref.hash == staged.content.hash:
                row.messages += 1
                return row.ref
        ref = ContentRef(
            ContentId(self._next), staged.content.hash, staged.content.size_bytes, False, staged.node
        )
        self._next += 1
        frames = list(staged.frames) if staged.node is None else None
        self.rows[ref.id] = Row(ref, frames, staged.encoded_bytes, messages=1)
        return ref

    def expunge(self, content_id: ContentId) -> None:
        self.rows[content_id].messages -= 1

    def ref(self, content_id: ContentId) -> ContentRef:
        return self.rows[content_id].ref

    # --- UploadStore ---

    async def lease(self, node: str, limit: int, lease_s: float) -> list[UploadLease]:
        await asyncio.sleep(0)
        leases = []
        for row in self.rows.values():
            is_ours = row.ref.staged_node in (None, node)
            if row.ref.is_stored or not is_ours or max(row.leased_until, row.due_at) > self.now:
                continue
            row.leased_until = self.now + lease_s
            until = datetime.now(UTC) + timedelta(seconds=lease_s)
            leases.append(UploadLease(row.ref, row.attempts, until))
            if len(leases) == limit:
                break
        return leases

    async def staged_frames(self, content_id: ContentId) -> list[bytes] | None:
        await asyncio.sleep(0)
        row = self.rows.get(content_id)
        return row.frames if row else None

    async def mark_stored(self, content_ids: Sequence[ContentId]) -> list[ContentId]:
        await asyncio.sleep(0)
        known = []
        for content_id in content_ids:
            row = self.rows.get(content_id)
            if row is None:
                continue
            row.ref = ContentRef(row.ref.id, row.ref.hash, row.ref.size_bytes, True, None)
            row.frames = None
            known.append(content_id)
        return known

    async def release(self, content_id: ContentId, error: str, retry_in_s: float, *, permanent: bool) -> None:
        await asyncio.sleep(0)
        row = self.rows.get(content_id)
        if row is not None:
            row.leased_until = 0.0
            row.due_at = self.now + retry_in_s
            row.attempts += permanent
            row.errors.append(error)

    async def staging_level(self) -> StagingLevel:
        await asyncio.sleep(0)
        staged = [row for row in self.rows.values() if not row.ref.is_stored]
        return StagingLevel(len(staged), sum(row.encoded_bytes for row in staged), 0.0)

    async def locate(self, content_ids: Sequence[ContentId]) -> list[ContentRef]:
        await asyncio.sleep(0)
        return [self.rows[content_id].ref for content_id in content_ids if content_id in self.rows]

    async def still_staged(self, node: str, hashes: Sequence[ContentHash]) -> set[ContentHash]:
        await asyncio.sleep(0)
        staged = {row.ref.hash for row in self.rows.values() if row.ref.staged_node == node}
        return staged & set(hashes)

    # --- PurgeStore ---

    async def expire(self, older_than: timedelta, limit: int) -> int:
        return 0

    async def purge_messages(self, grace: timedelta, limit: int) -> int:
        return 0

    async def purge_contents(self, limit: int) -> int:
        await asyncio.sleep(0)
        gone = [row.ref for row in self.rows.values() if row.messages == 0 and row.leased_until <= self.now][
            :limit
        ]
        for ref in gone:
            del self.rows[ref.id]
            self.doomed_keys[ref.id] = object_key(ref.hash, ref.id)
        return len(gone)

    async def doomed(self, limit: int) -> list[tuple[int, str]]:
        await asyncio.sleep(0)
        return list(self.doomed_keys.items())[:limit]

    async def forget_doomed(self, ids: Sequence[int]) -> None:
        await asyncio.sleep(0)
        for number in ids:
            self.doomed_keys.pop(number, None)

    async def purge_delivery_keys(self, limit: int) -> int:
        return 0
