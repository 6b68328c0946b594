"""Services for sessions under test: stores that count their calls and fail on demand."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from protocols.errors import AuthenticationFailed
from protocols.ports import Identity, MailboxChanged, Peer, Services
from storage.errors import NotFound, StagingFull
from storage.memory.accounts import MemoryAccountStore
from storage.model import (
    AccountId,
    Appended,
    Content,
    ContentHash,
    ContentId,
    ContentRef,
    Expunged,
    Mailbox,
    MailboxId,
    MessageRow,
    ModSeq,
    NewMessage,
    StagedContent,
    Uid,
    UidValidity,
    Wanted,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Watched:
    """Passes calls on to ``real``; notes their names, and raises what ``faults`` has queued for a name.

    ``after`` faults are raised once the call has been carried out: a lost reply.
    """

    def __init__(self, real: Any) -> None:
        self.real = real
        self.calls: list[str] = []
        self.faults: dict[str, list[BaseException]] = {}
        self.after: dict[str, list[BaseException]] = {}

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.real, name)

        async def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.faults.get(name):
                raise self.faults[name].pop(0)
            result = await target(*args, **options)
            if self.after.get(name):
                raise self.after[name].pop(0)
            return result

        return call


@dataclass
class Stored:
    uid: int
    prefix: bytes
    content: bytes

    @property
    def octets(self) -> bytes:
        return self.prefix + self.content


@dataclass
class MailboxRows:
    id: int
    account_id: int
    uidvalidity: int = 7
    uidnext: int = 1
    modseq: int = 1
    messages: list[Stored] = field(default_factory=list)


@dataclass
class View:
    mailbox: Mailbox
    uids: Sequence[int]
    sizes: Sequence[int]
    modseqs: Sequence[int] = ()
    flags: Sequence[int] = ()
    internaldates: Sequence[int] = ()
    keywords: Mapping[int, frozenset[str]] = field(default_factory=dict)


class Mail:
    """INBOXes and what delivery and POP3 do to them."""

    def __init__(self) -> None:
        self.rows: dict[int, MailboxRows] = {}
        self.keys: set[tuple[int, bytes]] = set()
        self.bodies: dict[int, bytes] = {}  # by content id

    def provision(self, account_id: AccountId) -> MailboxId:
        box = MailboxRows(len(self.rows) + 101, account_id)
        self.rows[box.id] = box
        return MailboxId(box.id)

    def content_id(self, content: bytes) -> ContentId:
        number = int.from_bytes(hashlib.sha256(content).digest()[:6], "big")
        self.bodies[number] = content
        return ContentId(number)

    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        if any(message.mailbox_id not in self.rows for message in messages):
            raise NotFound("mailbox")
        return [self._append(b"".join(staged.frames), message) for message in messages]

    def _append(self, content: bytes, message: NewMessage) -> Appended:
        box = self.rows[message.mailbox_id]
        validity = UidValidity(box.uidvalidity)
        if message.delivery_key is not None:
            if (box.account_id, message.delivery_key) in self.keys:
                return Appended(message.mailbox_id, validity, Uid(0), ModSeq(box.modseq), duplicate=True)
            self.keys.add((box.account_id, message.delivery_key))
        self.content_id(content)
        uid, box.uidnext, box.modseq = box.uidnext, box.uidnext + 1, box.modseq + 1
        box.messages.append(Stored(uid, message.prefix, content))
        return Appended(message.mailbox_id, validity, Uid(uid), ModSeq(box.modseq))

    async def delivered(self, mailbox_id: MailboxId, key: bytes) -> bool:
        return mailbox_id in self.rows and (self.rows[mailbox_id].account_id, key) in self.keys

    async def modseqs(self, mailbox_ids: Sequence[MailboxId]) -> dict[MailboxId, ModSeq]:
        return {each: ModSeq(self.rows[each].modseq) for each in mailbox_ids if each in self.rows}

    async def load_named_view(self, account_id: AccountId, name: str) -> View:
        box = next((box for box in self.rows.values() if box.account_id == account_id), None)
        if box is None or name != "INBOX":
            raise NotFound(name)
        sizes = [len(message.octets) for message in box.messages]
        mailbox = Mailbox(
            id=MailboxId(box.id),
            account_id=account_id,
            name=name,
            uidvalidity=UidValidity(box.uidvalidity),
            uidnext=Uid(box.uidnext),
            highestmodseq=ModSeq(box.modseq),
            messages=len(sizes),
            unseen=0,
            deleted=0,
            size_bytes=sum(sizes),
            special_use=None,
            recent_uid=Uid(1),
        )
        return View(mailbox, [message.uid for message in box.messages], sizes)

    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        assert len(uids) <= 1000
        rows = []
        for message in self.rows[mailbox_id].messages:
            if message.uid in uids:
                head, gap, _ = message.content.partition(b"\r\n\r\n")
                ref = ContentRef(
                    self.content_id(message.content),
                    ContentHash(hashlib.sha256(message.content).digest()),
                    len(message.content),
                    is_stored=True,
                    staged_node=None,
                )
                header = head + gap if wanted & Wanted.HEADER else b""
                rows.append(MessageRow(Uid(message.uid), message.prefix, ref, header=header))
        return rows

    async def remove(self, mailbox_id: MailboxId, uids: Sequence[Uid]) -> Expunged:
        box = self.rows[mailbox_id]
        gone = tuple(Uid(message.uid) for message in box.messages if message.uid in uids)
        box.messages = [message for message in box.messages if message.uid not in uids]
        box.modseq += 1
        return Expunged(gone, ModSeq(box.modseq))


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
    def __init__(self, mail: Mail) -> None:
        self.mail = mail
        self.piece_bytes = 256 * 1024
        self.fault_after: int | None = None
        self.faults: list[Exception] = []
        self.opened = 0
        self.prefetched: list[int] = []

    async def open(self, ref: ContentRef, prefix: bytes = b"") -> Pieces:
        self.opened += 1
        if self.faults:
            raise self.faults.pop(0)
        return Pieces(prefix + self.mail.bodies[ref.id], self.piece_bytes, self.fault_after)

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
        data = bytes(spool.data)
        head, gap, _ = data.partition(b"\r\n\r\n")
        digest = ContentHash(hashlib.sha256(data).digest())
        content = Content(digest, len(data), head + gap, b"", b"")
        return StagedContent(content, (data,), None, len(data))

    async def discard(self, staged: StagedContent) -> None:
        self.discarded += 1


class Feed:
    def __init__(self) -> None:
        self.published: list[MailboxChanged] = []

    def publish(self, change: MailboxChanged) -> None:
        self.published.append(change)

    def subscribe(self, mailbox_id: MailboxId, listener: Callable[[MailboxChanged], None]) -> Any:
        raise AssertionError("nothing here subscribes")


class Passwords:
    """Knows passwords by address."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Identity, bytes]] = {}
        self.faults: list[Exception] = []
        self.asked: list[tuple[str, str]] = []

    async def authenticate(self, protocol: str, peer: Peer, username: str, password: bytes) -> Identity:
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
        self.rows = Mail()
        self.mail = Watched(self.rows)
        self._accounts = MemoryAccountStore(self.rows.provision, lambda _account: (0, 0), lambda: NOW)
        self.accounts = Watched(self._accounts)
        self.bodies = Bodies(self.rows)
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
        )

    async def add_account(self, address: str, password: bytes = b"secret") -> Identity:
        account = await self._accounts.create_account(address, "")
        identity = Identity(account.id, address, address)
        self.passwords.known[address] = (identity, password)
        return identity

    async def add_alias(self, primary: str, address: str) -> None:
        await self._accounts.add_credential(primary, address, "")

    async def inbox(self, address: str = "ann@example.test") -> list[Stored]:
        recipient = await self._accounts.recipient(address)
        assert recipient is not None
        return self.rows.rows[recipient.inbox_id].messages

    async def put(self, *contents: bytes, address: str = "ann@example.test") -> None:
        recipient = await self._accounts.recipient(address)
        assert recipient is not None
        for content in contents:
            staged = StagedContent(
                Content(ContentHash(b""), len(content), b"", b"", b""), (content,), None, len(content)
            )
            await self.rows.append(staged, [NewMessage(recipient.inbox_id)])


async def mail_host() -> MailHost:
    host = MailHost()
    await host.add_account("ann@example.test")
    await host.add_account("bob@example.test")
    return host


__all__ = ["NOW", "MailHost", "Stored", "Watched", "mail_host"]
