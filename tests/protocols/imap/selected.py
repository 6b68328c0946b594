"""A session with a mailbox selected, over the smallest stores that FETCH and SEARCH need.

Every call of a store is counted, every octet written is kept. ``run`` executes one command line.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

from protocols.errors import PeerError
from protocols.imap.commands.fetch import FETCH
from protocols.imap.commands.search import SEARCH
from protocols.imap.grammar import Cursor
from protocols.imap.registry import ParseContext, Tagged
from protocols.imap.view import SessionView, SharedView
from protocols.memory import NodeMemory, SessionMemory
from protocols.ports import ServerPolicy
from storage.errors import StorageError
from storage.mime.message import describe
from storage.model import (
    AccountId,
    ContentId,
    ContentRef,
    FlagChange,
    Flags,
    FlagsStored,
    Mailbox,
    MailboxId,
    MessageRow,
    MessageState,
    ModSeq,
    SystemFlag,
    Uid,
    UidValidity,
    Wanted,
)

COMMANDS = {command.name: command for command in (FETCH, SEARCH)}


@dataclass
class Stored:
    """One message as it lies in the store."""

    uid: int
    content: bytes
    prefix: bytes = b""
    flags: SystemFlag = SystemFlag.NONE
    keywords: frozenset[str] = frozenset()
    modseq: int = 1
    internaldate: int = 837596665  # 17-Jul-1996 09:44:25 UTC
    error: StorageError | None = None  # what opening the body raises

    def __post_init__(self) -> None:
        self.described = describe(self.content)
        self.whole = self.prefix + self.content

    @property
    def ref(self) -> ContentRef:
        content_hash = self.described.hash
        return ContentRef(ContentId(self.uid), content_hash, len(self.content), True, None)

    def row(self, wanted: Wanted) -> MessageRow:
        return MessageRow(
            Uid(self.uid),
            self.prefix,
            self.ref,
            self.described.header if Wanted.HEADER in wanted else b"",
            self.described.envelope if Wanted.ENVELOPE in wanted else b"",
            self.described.structure if Wanted.STRUCTURE in wanted else b"",
        )


class FakeMail:
    def __init__(self, messages: Sequence[Stored], modseq: int) -> None:
        self.by_uid = {message.uid: message for message in messages}
        self.modseq = modseq
        self.reads: list[tuple[int, Wanted]] = []  # (uids asked, columns)
        self.stores: list[tuple[tuple[Uid, ...], FlagChange]] = []

    async def fetch(self, _mailbox: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        assert 0 < len(uids) <= 1000
        self.reads.append((len(uids), wanted))
        return [self.by_uid[uid].row(wanted) for uid in sorted(uids) if uid in self.by_uid]

    async def store_flags(
        self, _mailbox: MailboxId, uids: Sequence[Uid], change: FlagChange, flags: Flags
    ) -> FlagsStored:
        self.stores.append((tuple(uids), change))
        self.modseq += 1
        changed = []
        for uid in sorted(uids):
            message = self.by_uid[uid]
            before = message.flags
            adds = change is FlagChange.ADD
            message.flags = before | flags.system if adds else before & ~flags.system
            if message.flags != before:
                message.modseq = self.modseq
                changed.append(state_of(message))
        return FlagsStored(tuple(changed), (), ModSeq(self.modseq))


def state_of(message: Stored) -> MessageState:
    flags = Flags(message.flags, message.keywords)
    size = len(message.whole)
    return MessageState(Uid(message.uid), ModSeq(message.modseq), flags, size, message.internaldate)


class FakeBody:
    """Streams in small pieces, so that streaming shows."""

    def __init__(self, data: bytes, served: list[int], *, breaks_after: int | None = None) -> None:
        self._data = data
        self._served = served
        self._breaks_after = breaks_after
        self.size_bytes = len(data)

    async def read(self, start: int = 0, stop: int | None = None) -> bytes:
        data = self._data[start:stop]
        self._served.append(len(data))
        return data

    async def stream(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        data = self._data[start:stop][: self._breaks_after]
        for at in range(0, len(data), 100_000):
            self._served.append(len(data[at : at + 100_000]))
            yield data[at : at + 100_000]


class FakeBodies:
    def __init__(self, messages: Sequence[Stored]) -> None:
        self.by_hash = {bytes(message.described.hash): message for message in messages}
        self.opened: list[int] = []  # uids
        self.served: list[int] = []  # sizes of pieces
        self.hinted: list[int] = []
        self.breaks_after: int | None = None

    async def open(self, ref: ContentRef, prefix: bytes = b"") -> FakeBody:
        message = self.by_hash[bytes(ref.hash)]
        self.opened.append(message.uid)
        if message.error is not None:
            raise message.error
        assert hashlib.sha256(message.content).digest() == ref.hash
        return FakeBody(prefix + message.content, self.served, breaks_after=self.breaks_after)

    def prefetch(self, refs: Sequence[ContentRef]) -> None:
        self.hinted += [ref.id for ref in refs]


class FakeConnection:
    session_id = "test"
    log_extra: ClassVar[dict[str, object]] = {"fields": {"session": "test"}}

    def __init__(self) -> None:
        self.queued: list[bytes] = []
        self.drains = 0
        self.largest_write = 0
        self._unflushed = 0
        self.most_unflushed = 0  # most that was written between two drains

    def write(self, data: bytes) -> None:
        self.queued.append(data)
        self.largest_write = max(self.largest_write, len(data))
        self._unflushed += len(data)
        self.most_unflushed = max(self.most_unflushed, self._unflushed)

    def take_work_s(self) -> float:
        return 0.0

    async def drain(self) -> None:
        self.drains += 1
        self._unflushed = 0

    def take(self) -> bytes:
        data = b"".join(self.queued)
        self.queued.clear()
        return data


@dataclass
class Selected:
    """What ``ImapSession`` is to the two commands."""

    view: SessionView
    services: Any
    connection: FakeConnection
    mail: FakeMail
    bodies: FakeBodies
    published: list[Any] = field(default_factory=list)
    rev2: bool = False
    utf8: bool = False
    tag: bytes = b"A1"
    last_read: Any = None
    memory: SessionMemory = field(default_factory=lambda: SessionMemory(NodeMemory()))
    policy: Any = field(default_factory=lambda: ServerPolicy("imap", "mail.example.org"))
    progress: Any = None
    enabled: set[bytes] = field(default_factory=set)

    def send(self, data: bytes) -> None:
        self.connection.write(data)

    def enable_condstore(self) -> None:
        self.enabled.add(b"CONDSTORE")
        self.view.condstore = True

    def write_new_keywords(self) -> None:
        """All keywords have been announced."""

    async def run(self, line: bytes) -> tuple[Tagged, bytes]:
        """``UID FETCH 1 FLAGS`` to its outcome and all untagged octets. Raises PeerError for BAD."""
        uid = line.startswith(b"UID ")
        name, _, args = line.removeprefix(b"UID ").partition(b" ")
        command = COMMANDS[name]
        context = ParseContext(uid, frozenset(self.enabled))
        parsed = command.parse(Cursor(b" " + args, utf8=self.utf8), context)
        outcome: Any = await command.run(self, parsed)  # type: ignore[arg-type,misc]
        return outcome, self.connection.take()

    async def text(self, line: bytes) -> bytes:
        """The untagged octets of a command that ends OK without a code."""
        outcome, data = await self.run(line)
        assert (outcome.status, outcome.code) == (b"OK", None), outcome
        return data

    async def is_bad(self, line: bytes) -> bool:
        try:
            await self.run(line)
        except PeerError:
            return True
        return False


def select(messages: Sequence[Stored], *, read_only: bool = False, recent_from: int = 2**32) -> Selected:
    states = [state_of(message) for message in messages]
    highest = max([1, *(message.modseq for message in messages)])
    uidnext = messages[-1].uid + 1 if messages else 1
    mailbox = Mailbox(
        MailboxId(7),
        AccountId(3),
        "INBOX",
        UidValidity(1),
        Uid(uidnext),
        ModSeq(highest),
        len(messages),
        0,
        0,
        sum(state.size_bytes for state in states),
        None,
        Uid(recent_from),
    )
    loaded: Any = SimpleNamespace(
        mailbox=mailbox,
        uids=[state.uid for state in states],
        modseqs=[state.modseq for state in states],
        flags=[state.flags.system.value for state in states],
        sizes=[state.size_bytes for state in states],
        internaldates=[state.internaldate for state in states],
        keywords={state.uid: state.flags.keywords for state in states if state.flags.keywords},
    )
    view = SessionView(SharedView(loaded), read_only=read_only, recent_from=Uid(recent_from), condstore=False)
    mail, bodies = FakeMail(messages, highest), FakeBodies(messages)
    published: list[Any] = []
    feed = SimpleNamespace(publish=published.append)
    services = SimpleNamespace(mail=mail, bodies=bodies, feed=feed, events=None)
    return Selected(view, services, FakeConnection(), mail, bodies, published)
