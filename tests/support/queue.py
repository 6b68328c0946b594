"""The database as the way of a body sees it: messages come and go, contents are queued and purged.

One face over the memory stores (whose time is moved by hand) and PostgreSQL (whose rows are made older).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from storage.api import PurgeStore, UploadStore
from storage.memory.background import MemoryPurgeStore, MemoryUploadStore
from storage.memory.mail import MemoryMailStore
from storage.memory.tables import StoredContent, Tables
from storage.model import (
    ContentHash,
    ContentId,
    ContentRef,
    FlagChange,
    Flags,
    MailboxId,
    NewMessage,
    StagedContent,
    SystemFlag,
    Uid,
    Wanted,
)

from .stores import MemoryStores, PostgresStores, Stores

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MAX_MESSAGES = 200
TABLES = "accounts, contents, doomed_objects, purge_candidates"


class MailQueue:
    """One mailbox that everything is delivered to. ``now`` is the uploader's clock, in seconds."""

    def __init__(self, stores: Stores, inbox: MailboxId) -> None:
        self.stores = stores
        self.mail = stores.mail
        self.uploads: UploadStore = stores.uploads
        self.purge: PurgeStore = stores.purge
        self.inbox = inbox
        self.now = 0.0

    async def append(self, staged: StagedContent) -> ContentRef:
        """As one delivery does it: the bytes as received are the key."""
        key = hashlib.sha256(staged.content.hash + b"%d" % self.now).digest()
        (appended,) = await self.mail.append(staged, [NewMessage(self.inbox, delivery_key=key)])
        return await self.ref_of(appended.uid)

    async def ref_of(self, uid: Uid) -> ContentRef:
        (row,) = await self.mail.fetch(self.inbox, [uid], Wanted.REFERENCE)
        return row.ref

    async def live(self) -> list[ContentRef]:
        """One for each message."""
        uids = [Uid(uid) for uid in range(1, MAX_MESSAGES)]
        return [row.ref for row in await self.mail.fetch(self.inbox, uids, Wanted.REFERENCE)]

    async def expunge_all_of(self, content_hash: ContentHash) -> None:
        uids = [Uid(uid) for uid in range(1, MAX_MESSAGES)]
        rows = await self.mail.fetch(self.inbox, uids, Wanted.REFERENCE)
        chosen = [row.uid for row in rows if row.ref.hash == content_hash]
        await self.mail.store_flags(self.inbox, chosen, FlagChange.ADD, Flags(SystemFlag.DELETED))
        await self.mail.expunge(self.inbox, chosen)

    async def contents(self) -> list[ContentRef]:
        """All of the database, referred to or not."""
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        raise NotImplementedError


class MemoryQueue(MailQueue):
    def __init__(self) -> None:
        stores = MemoryStores()
        self.tables: Tables = stores.tables
        self.tables.now = lambda: EPOCH + timedelta(seconds=self.now)
        self.now = 0.0
        super().__init__(stores, self.tables.provision(self.tables.add_account().id))
        assert isinstance(self.mail, MemoryMailStore)
        assert isinstance(self.uploads, MemoryUploadStore)
        assert isinstance(self.purge, MemoryPurgeStore)

    @property
    def rows(self) -> dict[ContentId, StoredContent]:
        return self.tables.contents

    def ref(self, content_id: ContentId) -> ContentRef:
        return self.tables.contents[content_id].ref

    def forget(self, content_id: ContentId) -> None:
        """Purge it at once, messages and all."""
        content = self.tables.contents.pop(content_id)
        del self.tables.by_hash[content.content.hash]

    async def contents(self) -> list[ContentRef]:
        return [content.ref for content in self.tables.contents.values()]

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds


class PostgresQueue(MailQueue):
    def __init__(self, stores: PostgresStores, inbox: MailboxId) -> None:
        super().__init__(stores, inbox)
        self._database = stores.database

    @classmethod
    async def create(cls, stores: PostgresStores) -> PostgresQueue:
        """Over an emptied database."""
        await stores.database.write(f"TRUNCATE {TABLES} CASCADE")
        return cls(stores, await stores.inbox())

    async def contents(self) -> list[ContentRef]:
        ids = [ContentId(row["id"]) for row in await self._database.read("SELECT id FROM contents")]
        return await self.uploads.locate(ids)

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        await self._database.write(
            "UPDATE staged_contents SET next_attempt_at = next_attempt_at - $1::interval,"
            " lease_until = lease_until - $1::interval",
            timedelta(seconds=seconds),
        )
