"""Services for sessions under test: stores that count their calls and fail on demand."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from protocols.errors import AuthenticationFailed
from protocols.ports import SETTINGS, Identity, MailboxChanged, Peer, Services
from storage.errors import CommitUnknown, StagingFull, Unavailable
from storage.memory.accounts import MemoryAccountStore
from storage.memory.mail import MemoryMailStore
from storage.memory.scripts import MemoryScriptStore
from storage.memory.sendlog import MemorySendLog
from storage.memory.tables import StoredMailbox, Tables
from storage.mime.message import describe
from storage.model import (
    ContentHash,
    ContentRef,
    MailboxId,
    NewMessage,
    StagedContent,
    Uid,
    UidValidity,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class FaultPlan:
    """Fails the ``nth`` store call of a scenario, before it is carried out or after.

    A write that fails after it was carried out is an unknown commit; everything else is unavailable.
    """

    def __init__(self, nth: int | None = None, *, is_after: bool = False) -> None:
        self.nth = nth
        self.is_after = is_after
        self.calls = 0
        self.has_fired = False

    def before(self, name: str) -> None:
        self.calls += 1
        if not self.is_after:
            self._fire(name)

    def after(self, name: str) -> None:
        if self.is_after:
            self._fire(name)

    def _fire(self, name: str) -> None:
        if self.calls == self.nth and not self.has_fired:
            self.has_fired = True
            raise CommitUnknown(name) if self.is_after and name == "append" else Unavailable(name)


class Watched:
    """Passes calls on to ``real``; notes their names, and raises what ``faults`` has queued for a name.

    ``after`` faults are raised once the call has been carried out: a lost reply.
    """

    def __init__(self, real: Any, plan: FaultPlan | None = None) -> None:
        self.real = real
        self.plan = plan or FaultPlan()
        self.calls: list[str] = []
        self.faults: dict[str, list[BaseException]] = {}
        self.after: dict[str, list[BaseException]] = {}

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.real, name)

        async def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.faults.get(name):
                raise self.faults[name].pop(0)
            self.plan.before(name)
            result = await target(*args, **options)
            self.plan.after(name)
            if self.after.get(name):
                raise self.after[name].pop(0)
            return result

        return call


@dataclass(frozen=True)
class Stored:
    uid: int
    prefix: bytes
    content: bytes

    @property
    def octets(self) -> bytes:
        return self.prefix + self.content


class Pieces:
    """An opened body."""

    def __init__(self, data: bytes, piece_bytes: int, fault_after: int | None) -> None:
        self.size_bytes = len(data)
        self._data = data
        self._piece_bytes = piece_bytes
        self._fault_after = fault_after

    async def read(self, start: int = 0, stop: int | None = None) -> bytes:
        return self._data[start:stop]

    async def stream(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        data = self._data[start:stop]
        for sent, at in enumerate(range(0, len(data), self._piece_bytes)):
            if sent == self._fault_after:
                raise StagingFull("a piece is missing")
            yield data[at : at + self._piece_bytes]


class Bodies:
    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.piece_bytes = 256 * 1024
        self.fault_after: int | None = None
        self.faults: list[Exception] = []
        self.opened = 0
        self.prefetched: list[int] = []

    async def open(self, ref: ContentRef, prefix: bytes = b"") -> Pieces:
        self.opened += 1
        if self.faults:
            raise self.faults.pop(0)
        content = b"".join(self.tables.contents[ref.id].frames)
        return Pieces(prefix + content, self.piece_bytes, self.fault_after)

    def prefetch(self, refs: Sequence[ContentRef]) -> None:
        self.prefetched += [len(refs)]


class Spool:
    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.data = bytearray()
        self.is_closed = False
        intake.open_spools += 1

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        if len(self.data) + len(data) > self.intake.room_bytes:
            raise StagingFull("no room")
        self.data += data

    def buffer(self) -> bytes:
        return bytes(self.data)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.intake.open_spools -= 1


class Intake:
    def __init__(self) -> None:
        self.room_bytes = 10**9
        self.open_spools = 0
        self.taken = 0
        self.discarded = 0
        self.faults: list[Exception] = []

    def spool(self) -> Spool:
        return Spool(self)

    async def take(self, spool: Spool) -> StagedContent:
        spool.close()
        if self.faults:
            raise self.faults.pop(0)
        self.taken += 1
        return staged(bytes(spool.data))

    async def discard(self, staged: StagedContent) -> None:
        self.discarded += 1


def staged(data: bytes) -> StagedContent:
    """Frames are the bytes as they are."""
    return StagedContent(describe(data, ContentHash(hashlib.sha256(data).digest())), (data,), None, len(data))


class Feed:
    """Remembers what was published, and tells those who follow settings."""

    def __init__(self) -> None:
        self.published: list[MailboxChanged] = []
        self.listeners: list[Callable[[MailboxChanged], None]] = []

    def publish(self, change: MailboxChanged) -> None:
        self.published.append(change)

    def subscribe(self, mailbox_id: MailboxId, listener: Callable[[MailboxChanged], None]) -> Any:
        assert mailbox_id == SETTINGS, "no mailbox is followed here"
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)


class Passwords:
    """Knows passwords by address."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Identity, bytes]] = {}
        self.faults: list[Exception] = []
        self.asked: list[tuple[str, str]] = []

    async def authenticate(
        self, protocol: str, peer: Peer, username: str, password: bytes, session_id: str = ""
    ) -> Identity:
        self.asked.append((protocol, username))
        if self.faults:
            raise self.faults.pop(0)
        identity, expected = self.known.get(username, (None, b""))
        if identity is None or password != expected:
            raise AuthenticationFailed
        return identity


class MailHost:
    """Accounts ann@example.test (password ``secret``) and bob@example.test, empty INBOXes."""

    def __init__(self) -> None:
        self.tables = Tables(lambda: NOW)
        self.store = MemoryMailStore(self.tables)
        self.mail = Watched(self.store)
        self.account_store = MemoryAccountStore(
            self.tables.provision, self.tables.usage, lambda: NOW, active_script=self.tables.active_script
        )
        self.scripts = MemoryScriptStore(self.tables)
        self.send_log = MemorySendLog(self.tables)
        self.accounts = Watched(self.account_store)
        self.bodies = Bodies(self.tables)
        self.intake = Intake()
        self.feed = Feed()
        self.passwords = Passwords()
        self.services = Services(
            mail=self.mail,
            accounts=self.accounts,
            bodies=self.bodies,
            intake=self.intake,
            feed=self.feed,
            authenticator=self.passwords,
            handovers=self.send_log,
        )

    async def add_account(self, address: str, password: bytes = b"secret") -> Identity:
        account = await self.account_store.create_account(address, "")
        identity = Identity(account.id, address, address)
        self.passwords.known[address] = (identity, password)
        (await self._inbox(address)).uidvalidity = UidValidity(7)
        return identity

    async def add_alias(self, primary: str, address: str) -> None:
        await self.account_store.add_credential(primary, address, "")

    async def _inbox(self, address: str) -> StoredMailbox:
        recipient = await self.account_store.recipient(address)
        assert recipient is not None
        return self.tables.mailboxes[recipient.inbox_id]

    async def inbox_id(self, address: str = "ann@example.test") -> MailboxId:
        return (await self._inbox(address)).id

    async def inbox(self, address: str = "ann@example.test") -> list[Stored]:
        """What is in it, by uid."""
        return [
            Stored(uid, message.prefix, b"".join(self.tables.contents[message.content_id].frames))
            for uid, message in (await self._inbox(address)).messages.items()
        ]

    async def put(self, *contents: bytes, address: str = "ann@example.test", prefix: bytes = b"") -> None:
        inbox_id = await self.inbox_id(address)
        for content in contents:
            await self.store.append(staged(content), [NewMessage(inbox_id, prefix=prefix)])

    async def take_out(self, uid: int, address: str = "ann@example.test") -> None:
        """As another session would."""
        await self.store.remove(await self.inbox_id(address), [Uid(uid)])

    async def drop_inbox(self, address: str) -> None:
        (await self._inbox(address)).deleted_at = NOW

    def damage_bodies(self) -> None:
        for content in self.tables.contents.values():
            content.frames = []

    def fail(self, nth: int, *, is_after: bool) -> FaultPlan:
        """From now on the ``nth`` call of any store fails, once."""
        self.mail.plan = self.accounts.plan = FaultPlan(nth, is_after=is_after)
        return self.mail.plan


async def mail_host() -> MailHost:
    host = MailHost()
    await host.add_account("ann@example.test")
    await host.add_account("bob@example.test")
    return host


__all__ = ["NOW", "MailHost", "Stored", "Watched", "mail_host"]
