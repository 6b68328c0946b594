"""``UploadStore`` and ``PurgeStore`` in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from storage.api import RETRY_WINDOW
from storage.model import (
    AccountId,
    ContentHash,
    ContentId,
    ContentRef,
    StagingLevel,
    StagingPlace,
    UploadLease,
)
from storage.objects.keys import object_key
from storage.recovery import day_of

from .tables import DoomedObject, StoredContent, StoredMailbox, Tables


class MemoryUploadStore:
    """``storage.api.UploadStore``."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    async def lease(self, node: str, limit: int, lease_s: float) -> list[UploadLease]:
        now = self.tables.now()
        due = [
            content
            for content in self.tables.contents.values()
            if not content.is_stored and content.next_attempt_at <= now and content.node in {None, node}
        ]
        due.sort(key=lambda content: content.next_attempt_at)
        until = now + timedelta(seconds=lease_s)
        for content in due[:limit]:
            content.lease_until = content.next_attempt_at = until
            content.lease_node = node
        leased = sorted(due[:limit], key=lambda content: content.id)
        return [UploadLease(content.ref, content.attempts, until) for content in leased]

    async def reclaim(self, node: str) -> int:
        now = self.tables.now()
        held = [
            content
            for content in self.tables.contents.values()
            if content.lease_node == node and content.lease_until and content.lease_until > now
        ]
        for content in held:
            content.lease_until, content.next_attempt_at = None, content.staged_at
        return len(held)

    async def staged_frames(self, content_id: ContentId) -> list[bytes] | None:
        content = self.tables.contents.get(content_id)
        return list(content.frames) or None if content else None

    async def staged_frames_of(self, content_ids: Sequence[ContentId]) -> dict[ContentId, list[bytes]]:
        found = {content_id: await self.staged_frames(content_id) for content_id in content_ids}
        return {content_id: frames for content_id, frames in found.items() if frames}

    async def mark_stored(self, content_ids: Sequence[ContentId]) -> list[ContentId]:
        known = [self.tables.contents[id_] for id_ in sorted(content_ids) if id_ in self.tables.contents]
        for content in known:
            content.is_stored = True
            content.frames = []
            content.lease_until = None
        for doomed in self.tables.doomed:
            if doomed.content_id in content_ids and doomed.content_id not in self.tables.contents:
                doomed.id, doomed.is_forgotten = self.tables.next_id(), False
        return [content.id for content in known]

    async def release(self, content_id: ContentId, error: str, retry_in_s: float, *, permanent: bool) -> None:
        content = self.tables.contents.get(content_id)
        if content is None:
            return
        content.lease_until = None
        content.next_attempt_at = self.tables.now() + timedelta(seconds=retry_in_s)
        content.attempts += permanent
        content.last_error = error

    async def staging_level(self) -> StagingLevel:
        staged = [content for content in self.tables.contents.values() if not content.is_stored]
        now = self.tables.now()
        oldest = min((content.staged_at for content in staged), default=now)
        total = sum(content.encoded_bytes for content in staged)
        nodes = sorted({content.node for content in staged}, key=lambda node: node or "")
        places = tuple(self._place(node, staged) for node in nodes)
        return StagingLevel(len(staged), total, (now - oldest).total_seconds(), places)

    def _place(self, node: str | None, staged: list[StoredContent]) -> StagingPlace:
        here = [content for content in staged if content.node == node]
        age = self.tables.now() - min(content.staged_at for content in here)
        total = sum(content.encoded_bytes for content in here)
        return StagingPlace(node, len(here), total, age.total_seconds())

    async def locate(self, content_ids: Sequence[ContentId]) -> list[ContentRef]:
        wanted = sorted(set(content_ids))
        return [self.tables.contents[id_].ref for id_ in wanted if id_ in self.tables.contents]

    async def restore_turns(self, content_ids: Sequence[ContentId]) -> None:
        for id_ in content_ids:
            content = self.tables.contents.get(id_)
            if content is not None and content.lease_until is None:
                content.next_attempt_at = content.staged_at

    async def find(self, hashes: Sequence[ContentHash]) -> dict[ContentHash, ContentRef]:
        return {hash_: self.tables.by_hash[hash_].ref for hash_ in hashes if hash_ in self.tables.by_hash}

    async def take_over(
        self, content_hash: ContentHash, node: str | None, frames: Sequence[bytes], encoded_bytes: int
    ) -> bool:
        content = self.tables.by_hash.get(content_hash)
        return content is not None and content.move_to(node, frames, encoded_bytes)


class MemoryPurgeStore:
    """``storage.api.PurgeStore``."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    async def expire(self, older_than: timedelta, limit: int) -> int:
        before = self.tables.now() - older_than
        due = [
            (message.internaldate, box, message.uid)
            for box in self.tables.mailboxes.values()
            if box.deleted_at is None
            for message in box.messages.values()
            if message.internaldate < before
        ]
        due.sort(key=lambda entry: entry[0])
        by_box: dict[int, list[tuple[datetime, StoredMailbox, int]]] = {}
        for entry in due[:limit]:
            by_box.setdefault(entry[1].id, []).append(entry)
        for entries in by_box.values():
            box = entries[0][1]
            uids = sorted(uid for _, _, uid in entries)
            gone = [uid for uid in box.messages if uid in uids]
            box.expunge(gone, self.tables.now(), box.next_modseq(), recoverable=True)
        return len(due[:limit])

    async def purge_messages(self, grace: timedelta, limit: int) -> int:
        before = self.tables.now() - grace
        done = 0
        for box in self.tables.mailboxes.values():
            for entry in box.expunged.values():
                if entry.message is not None and entry.expunged_at <= before and done < limit:
                    entry.message = None
                    done += 1
        while done < limit and (more := self._purge_deleted(before, limit - done)):
            done += more
        return done

    def _purge_deleted(self, before: datetime, limit: int) -> int:
        gone = {a.id: a for a in self.tables.accounts.values() if a.deleted_at and a.deleted_at <= before}
        for box in self.tables.mailboxes.values():
            if (box.deleted_at and box.deleted_at <= before) or box.account_id in gone:
                uids = list(box.messages)[:limit]
                for uid in uids:
                    del box.messages[uid]
                if not uids:
                    del self.tables.mailboxes[box.id]
                return len(uids) or 1
        for account_id in gone:
            self._forget_sends(account_id)
            del self.tables.accounts[account_id]
            return 1
        return 0

    def _referenced(self) -> Iterator[ContentId]:
        for box in self.tables.mailboxes.values():
            yield from (message.content_id for message in box.messages.values())
            yield from (entry.message.content_id for entry in box.expunged.values() if entry.message)

    async def purge_days(self, grace: timedelta, limit: int) -> int:
        before = day_of(self.tables.now() - grace)
        done = 0
        for account_id, numbered in self.tables.numbered.items():
            left = {(box.id, message.uid) for _, box, message in self.tables.recoverable(account_id)}
            due = [
                entry
                for entry in numbered.entries
                if entry.day < before and (entry.mailbox_id, entry.message_uid) not in left
            ]
            for entry in due[: limit - done]:
                numbered.entries.remove(entry)
                done += 1
        return done

    async def purge_contents(self, limit: int) -> int:
        referenced, now = set(self._referenced()), self.tables.now()
        free = [
            content
            for content in self.tables.contents.values()
            if content.id not in referenced and (content.lease_until is None or content.lease_until <= now)
        ]
        for content in free[:limit]:
            del self.tables.contents[content.id]
            del self.tables.by_hash[content.content.hash]
            key = object_key(content.content.hash, content.id)
            self.tables.doomed.append(DoomedObject(self.tables.next_id(), content.id, key))
        return len(free[:limit])

    async def due(self, grace: timedelta, max_age: timedelta | None) -> dict[str, int]:
        now = self.tables.now()
        gone = {a.id for a in self.tables.accounts.values() if a.deleted_at and a.deleted_at <= now - grace}
        boxes = [
            box
            for box in self.tables.mailboxes.values()
            if box.account_id in gone or (box.deleted_at and box.deleted_at <= now - grace)
        ]
        logs = [entry for box in self.tables.mailboxes.values() for entry in box.expunged.values()]
        return {
            "expired": sum(
                max_age is not None and message.internaldate < now - max_age
                for box in self.tables.mailboxes.values()
                if box.deleted_at is None
                for message in box.messages.values()
            ),
            "accounts": len(gone),
            "mailboxes": len(boxes),
            "messages": sum(len(box.messages) for box in boxes)
            + sum(entry.message is not None and entry.expunged_at <= now - grace for entry in logs),
            "contents": len(set(self.tables.contents) - set(self._referenced())),
            "objects": sum(not doomed.is_forgotten for doomed in self.tables.doomed),
            "delivery_keys": sum(at < now - RETRY_WINDOW for at in self.tables.deliveries.values()),
        }

    async def doomed(self, limit: int) -> list[tuple[int, str]]:
        return [(entry.id, entry.key) for entry in self.tables.doomed if not entry.is_forgotten][:limit]

    async def forget_doomed(self, ids: Sequence[int]) -> None:
        for entry in self.tables.doomed:
            if entry.id in ids:
                entry.is_forgotten = True

    async def purge_delivery_keys(self, limit: int) -> int:
        before = self.tables.now() - RETRY_WINDOW
        old = [key for key, at in self.tables.deliveries.items() if at < before][:limit]
        for key in old:
            del self.tables.deliveries[key]
        return len(old)

    async def purge_send_log(self, limit: int) -> int:
        now = self.tables.now()
        answers = [key for key, each in self.tables.answers.items() if each.expires_at <= now][:limit]
        sends = [key for key, each in self.tables.sends.items() if each.expires_at <= now][:limit]
        for answer in answers:
            del self.tables.answers[answer]
        for send in sends:
            del self.tables.sends[send]
        return len(answers) + len(sends)

    def _forget_sends(self, account_id: AccountId) -> None:
        tables = self.tables
        tables.answers = {key: each for key, each in tables.answers.items() if key[0] != account_id}
        tables.sends = {key: each for key, each in tables.sends.items() if key[0] != account_id}
