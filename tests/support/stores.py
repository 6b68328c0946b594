"""Every implementation of the mail contracts behind one face, for the contract tests."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
import pytest_asyncio

from storage.api import MailStore, PurgeStore, RecoveredMail, UploadStore
from storage.memory.background import MemoryPurgeStore, MemoryUploadStore
from storage.memory.mail import MemoryMailStore
from storage.memory.recovered import MemoryRecoveredMail
from storage.memory.tables import Tables
from storage.model import (
    DEFAULT_MAILBOXES,
    INBOX,
    AccountId,
    Appended,
    Content,
    ContentHash,
    Flags,
    MailboxId,
    NewMessage,
    StagedContent,
    SystemFlag,
)
from storage.postgres.pool import Database
from storage.postgres.purge import PostgresPurgeStore
from storage.postgres.recovered import PostgresRecoveredMail
from storage.postgres.store import PostgresMailStore
from storage.postgres.uploads import PostgresUploadStore

NO_FLAGS = Flags()
ROOT = "Recovered"


def content(body: bytes = b"Subject: x\r\n\r\nhello\r\n") -> Content:
    header = body.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    digest = ContentHash(hashlib.sha256(body).digest())
    return Content(digest, len(body), header, b"envelope of " + header, b"structure of " + header)


def staged(
    body: bytes = b"Subject: x\r\n\r\nhello\r\n", *, frames: int = 1, node: str | None = None
) -> StagedContent:
    """``frames`` equal pieces, or none when it is on the disk of ``node``."""
    pieces = () if node else tuple(b"encoded %d " % n + body for n in range(frames))
    return StagedContent(content(body), pieces, node, sum(map(len, pieces)) or len(body))


class Stores:
    """The three stores on one database, and what only a test may do to it."""

    mail: MailStore
    uploads: UploadStore
    purge: PurgeStore
    recovered: RecoveredMail

    async def new_account(self) -> AccountId:
        raise NotImplementedError

    async def delete_account(self, account_id: AccountId) -> None:
        raise NotImplementedError

    async def age_deliveries(self, by: timedelta) -> None:
        """As if every delivery key had been recorded that much earlier."""
        raise NotImplementedError

    async def age_deletions(self, by: timedelta) -> None:
        """As if all that was deleted had been deleted that much earlier, before anybody looked."""
        raise NotImplementedError

    async def inbox(self) -> MailboxId:
        """The INBOX of a new account."""
        return (await self.mail.get_mailbox(await self.new_account(), INBOX)).id

    async def add(self, mailbox_id: MailboxId, *bodies: bytes, flags: Flags = NO_FLAGS) -> list[Appended]:
        """One message for each body; without bodies, one."""
        return [
            (await self.mail.append(staged(body), [NewMessage(mailbox_id, flags=flags)]))[0]
            for body in bodies or (b"Subject: one\r\n\r\n",)
        ]

    async def audit(self, mailbox_id: MailboxId) -> None:
        """The counters equal a recount, and no row's modseq is above the mailbox's."""
        view = await self.mail.load_view(mailbox_id)
        mailbox = view.mailbox
        assert mailbox.messages == len(view.uids)
        assert mailbox.unseen == sum(not bits & SystemFlag.SEEN for bits in view.flags)
        assert mailbox.deleted == sum(bool(bits & SystemFlag.DELETED) for bits in view.flags)
        assert mailbox.size_bytes == sum(view.sizes)
        assert list(view.uids) == sorted(set(view.uids))
        assert all(uid < mailbox.uidnext for uid in view.uids)
        assert all(modseq <= mailbox.highestmodseq for modseq in view.modseqs)


class MemoryStores(Stores):
    def __init__(self) -> None:
        self.tables = Tables()
        self.mail = MemoryMailStore(self.tables)
        self.uploads = MemoryUploadStore(self.tables)
        self.purge = MemoryPurgeStore(self.tables)
        self.recovered = MemoryRecoveredMail(self.tables, ROOT)

    async def new_account(self) -> AccountId:
        account_id = AccountId(self.tables.next_id())
        self.tables.provision(account_id)
        return account_id

    async def delete_account(self, account_id: AccountId) -> None:
        self.tables.accounts[account_id].deleted_at = self.tables.now()

    async def age_deliveries(self, by: timedelta) -> None:
        for key in self.tables.deliveries:
            self.tables.deliveries[key] -= by

    async def age_deletions(self, by: timedelta) -> None:
        for box in self.tables.mailboxes.values():
            box.deleted_at = box.deleted_at and box.deleted_at - by
            for entry in box.expunged.values():
                entry.expunged_at -= by


class PostgresStores(Stores):
    def __init__(self, database: Database) -> None:
        self.database = database
        self.mail: PostgresMailStore = PostgresMailStore(database)
        self.uploads = PostgresUploadStore(database)
        self.purge = PostgresPurgeStore(database)
        self.recovered = PostgresRecoveredMail(database, ROOT)

    async def new_account(self) -> AccountId:
        ((account_id,),) = await self.database.write("INSERT INTO accounts DEFAULT VALUES RETURNING id")
        for name, use in DEFAULT_MAILBOXES:
            await self.mail.create_mailbox(account_id, name, use)
            await self.mail.set_subscribed(account_id, name, subscribed=True)
        return AccountId(account_id)

    async def delete_account(self, account_id: AccountId) -> None:
        await self.database.write("UPDATE accounts SET deleted_at = now() WHERE id = $1", account_id)

    async def age_deliveries(self, by: timedelta) -> None:
        await self.database.write("UPDATE deliveries SET delivered_at = delivered_at - $1::interval", by)

    async def age_deletions(self, by: timedelta) -> None:
        await self.database.write("UPDATE expunged SET expunged_at = expunged_at - $1::interval", by)
        await self.database.write("UPDATE mailboxes SET deleted_at = deleted_at - $1::interval", by)


@pytest_asyncio.fixture
async def memory_stores() -> MemoryStores:
    return MemoryStores()


@pytest_asyncio.fixture
async def postgres_stores(database: Database) -> PostgresStores:
    return PostgresStores(database)


@pytest.fixture(params=["memory_stores", "postgres_stores"])
def stores(request: pytest.FixtureRequest) -> Stores:
    """Each implementation in turn, without rows."""
    found: Stores = request.getfixturevalue(request.param)
    return found
