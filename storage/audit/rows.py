"""Staged bodies are where their rows say, and mailboxes count right."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.model import AccountId, MailboxId

from .copies import Copies, batches, has_file
from .findings import Kind, Report

if TYPE_CHECKING:
    from storage.api import UploadStore
    from storage.objects.cache import BodyCache
    from storage.postgres.auditing import MailboxFacts, PostgresAudit, StagedFacts

    from .bodies import Progress

PAGE = 200
STAGED_PAGE = 1000
ROWS = 1000  # of one page of mailboxes
WAITS_LONG_S = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Here:
    """What lies on this machine. ``node`` is the name that its staged bodies are queued under."""

    node: str
    staging: Path
    cache: BodyCache | None
    max_attempts: int


class RowAudit:
    """One run."""

    def __init__(
        self,
        audit: PostgresAudit,
        uploads: UploadStore,
        copies: Copies,
        here: Here,
        report: Report,
        *,
        account_id: AccountId | None,
        is_deep: bool,
        repairs: bool,
        progress: Progress,
    ) -> None:
        self._audit = audit
        self._uploads = uploads
        self._copies = copies
        self._here = here
        self._report = report
        self._account_id = account_id
        self._is_deep = is_deep
        self._repairs = repairs
        self._progress = progress

    async def run(self) -> None:
        """Raises Unavailable."""
        await self._check_mailboxes()
        await self._check_staged()
        if self._account_id is None:
            await self._check_cache()

    # --- mailboxes ---

    async def _check_mailboxes(self) -> None:
        after = 0
        while page := await self._audit.mailboxes(after, PAGE, self._account_id):
            after = page[-1].id
            for facts in page:
                await self._check_counters(facts)
            self._report.saw("mailboxes", len(page))
            self._report.saw("messages", sum(facts.recounted[0] for facts in page))
            await self._check_messages([facts.id for facts in page])
            self._progress("mailboxes", self._report.seen["mailboxes"], 0)

    async def _check_counters(self, facts: MailboxFacts) -> None:
        faults = facts.faults()
        if not faults:
            return
        if self._repairs:
            await self._audit.recount(facts.id)
        sample = f"mailbox {facts.id} of account {facts.account_id}, {facts.name!r}: {'; '.join(faults)}"
        self._report.add(Kind.COUNTERS, sample, repaired=self._repairs)

    async def _check_messages(self, mailbox_ids: list[MailboxId]) -> None:
        for mailbox_id, uids in (await self._audit.lost(mailbox_ids, ROWS)).items():
            done = await self._audit.log_lost(mailbox_id, uids) if self._repairs else 0
            self._add(Kind.LOST_MESSAGE, mailbox_id, uids, done)
        for mailbox_id, uids in (await self._audit.empty_logs(mailbox_ids, ROWS)).items():
            done = await self._audit.close_logs(mailbox_id, uids) if self._repairs else 0
            self._add(Kind.LOG_WITHOUT_MESSAGE, mailbox_id, uids, done)

    def _add(self, kind: Kind, mailbox_id: MailboxId, uids: list[int], done: int) -> None:
        for uid in uids:
            self._report.add(kind, f"mailbox {mailbox_id}, uid {uid}")
        self._report.repaired(kind, done)

    # --- staging ---

    async def _check_staged(self) -> None:
        after = 0
        while page := await self._audit.staged(after, STAGED_PAGE, self._account_id):
            after = page[-1].ref.id
            self._report.saw("staged bodies", len(page))
            for facts in page:
                await self._check_one(facts)
            self._progress("staged bodies", self._report.seen["staged bodies"], 0)

    async def _check_one(self, facts: StagedFacts) -> None:
        ref, node = facts.ref, facts.ref.staged_node
        if facts.attempts >= self._here.max_attempts:
            self._report.add(Kind.STAGED_STUCK, f"content {ref.id}: {facts.last_error}")
        if node is not None and node != self._here.node:
            if facts.age_s > WAITS_LONG_S:
                self._report.add(
                    Kind.STAGED_ELSEWHERE, f"content {ref.id} on {node} for {facts.age_s / 3600:.0f} h"
                )
            return
        if not await self._has_body(facts) and await self._is_still_staged(facts):
            await self._stage_again(facts)

    async def _has_body(self, facts: StagedFacts) -> bool:
        ref = facts.ref
        if ref.staged_node is not None:
            is_there = await asyncio.to_thread(has_file, self._here.staging, ref.hash)
            if not is_there or not self._is_deep:
                return is_there
            return await self._copies.find(ref.hash) is not None
        if facts.frame_bytes != facts.encoded_bytes or not self._is_deep:
            return facts.frame_bytes == facts.encoded_bytes
        frames = await self._uploads.staged_frames(ref.id)
        return frames is None or await self._copies.is_sound(ref.hash, b"".join(frames))

    async def _is_still_staged(self, facts: StagedFacts) -> bool:
        """Uploaded since the page was read, it has no staged body any more."""
        located = await self._uploads.locate([facts.ref.id])
        return bool(located) and not located[0].is_stored

    async def _stage_again(self, facts: StagedFacts) -> None:
        encoded = await self._copies.find(facts.ref.hash)
        is_repaired = False
        if encoded is not None and self._repairs:
            is_repaired = await self._audit.stage(facts.ref.id, encoded)
        where = facts.ref.staged_node or "the database"
        sample = f"content {facts.ref.id} in {where}" + ("" if encoded is not None else " (no copy here)")
        self._report.add(Kind.STAGED_WITHOUT_BODY, sample, repaired=is_repaired)

    # --- the local cache ---

    async def _check_cache(self) -> None:
        cache = self._here.cache
        if cache is None:
            return
        for batch in await asyncio.to_thread(lambda: iter(batches(cache.root))):
            known = await self._audit.known_hashes([content_hash for content_hash, _ in batch])
            self._report.saw("cached bodies", len(batch))
            self._report.saw("cached bodies of purged mail", len(batch) - len(known))
            for content_hash, _path in batch if self._is_deep else ():
                encoded = await asyncio.to_thread(cache.get, content_hash)
                if encoded is None or await self._copies.is_sound(content_hash, encoded):
                    continue
                if self._repairs:
                    await asyncio.to_thread(cache.drop, content_hash)
                self._report.add(Kind.DAMAGED_CACHE_FILE, content_hash.hex(), repaired=self._repairs)
            self._progress("cached bodies", self._report.seen["cached bodies"], 0)
