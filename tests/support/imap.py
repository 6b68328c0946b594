"""An IMAP server in memory: one account, any number of connections, calls to the store counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from protocols.annotations import Annotations
from protocols.errors import AuthenticationFailed
from protocols.imap.commands import COMMANDS
from protocols.imap.dispatcher import Dispatcher
from protocols.imap.machine import ImapMachine
from protocols.imap.registry import CommandTable
from protocols.imap.session import ImapSession
from protocols.imap.views import ViewRegistry
from protocols.ports import (
    ChangeFeed,
    Connection,
    Identity,
    Machine,
    MailboxChanged,
    Peer,
    ServerPolicy,
    Services,
    Session,
)
from storage.annotations import AnnotationLimits
from storage.errors import StorageError
from storage.memory.annotations import MemoryAnnotationStore
from storage.memory.mail import MemoryMailStore
from storage.memory.tables import StoredMailbox, Tables
from storage.mime.message import describe
from storage.model import (
    INBOX,
    AccountId,
    ContentRef,
    FlagChange,
    Flags,
    Mailbox,
    MailboxId,
    ModSeq,
    NewMessage,
    StagedContent,
    SystemFlag,
    Uid,
)

from .mailhost import Watched
from .wire import Wire

T = TypeVar("T")
ACCOUNT = AccountId(1)
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DELIVERED_AT = datetime.fromtimestamp(1_000_000_000, UTC)
BODY = b"Subject: x\r\n\r\nhi\r\n"
NO_FLAGS = Flags()
DELETED = Flags(SystemFlag.DELETED)


def done(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine of the memory store; they never wait."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


class MemoryMail:
    """The store of one account, and what happens to it behind the sessions' back."""

    def __init__(self) -> None:
        self.tables = Tables(lambda: NOW)
        self.tables.provision(ACCOUNT)
        self.store = MemoryMailStore(self.tables)

    def box(self, name: str = INBOX) -> StoredMailbox:
        return self.tables.of_account(ACCOUNT)[name]

    def mailbox(self, name: str = INBOX) -> Mailbox:
        return self.box(name).snapshot()

    def deliver(self, name: str = INBOX, flags: Flags = NO_FLAGS, body: bytes = BODY) -> Uid:
        staged = StagedContent(describe(body), (body,), None, len(body))
        message = NewMessage(self.mailbox(name).id, flags=flags, internaldate=DELIVERED_AT)
        return done(self.store.append(staged, [message]))[0].uid

    def flag(self, uid: int, flags: Flags, name: str = INBOX, change: FlagChange = FlagChange.ADD) -> None:
        done(self.store.store_flags(self.mailbox(name).id, [Uid(uid)], change, flags))

    def expunge(self, *uids: int, name: str = INBOX) -> None:
        for uid in uids:
            self.flag(uid, DELETED, name)
        done(self.store.expunge(self.mailbox(name).id, [Uid(uid) for uid in uids]))

    def rows(self, name: str = INBOX) -> dict[int, Flags]:
        view = done(self.store.load_view(self.mailbox(name).id))
        return {state.uid: state.flags for state in view.states()}


class MemorySpool:
    def __init__(self) -> None:
        self.data = bytearray()
        self.is_closed = False
        self.fault: StorageError | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        self.data += data

    def close(self) -> None:
        self.is_closed = True


class MemoryIntake:
    def __init__(self) -> None:
        self.spools: list[MemorySpool] = []
        self.fault: StorageError | None = None  # of the next spool
        self.discarded = 0

    def spool(self) -> MemorySpool:
        self.spools.append(MemorySpool())
        self.spools[-1].fault, self.fault = self.fault, None
        return self.spools[-1]

    async def take(self, spool: Any) -> StagedContent:
        body = bytes(spool.data)
        spool.close()
        return StagedContent(describe(body), (body,), None, len(body))

    async def discard(self, staged: StagedContent) -> None:
        self.discarded += 1


class MemoryBody:
    def __init__(self, data: bytes) -> None:
        self.size_bytes = len(data)
        self._data = data

    async def read(self, start: int = 0, stop: int | None = None) -> bytes:
        return self._data[start:stop]

    async def stream(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        data = self._data[start:stop]
        for at in range(0, len(data), 256 * 1024):
            yield data[at : at + 256 * 1024]


class MemoryBodies:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def open(self, ref: ContentRef, prefix: bytes = b"") -> MemoryBody:
        return MemoryBody(prefix + b"".join(self._tables.contents[ref.id].frames))

    def prefetch(self, refs: Sequence[ContentRef]) -> None:
        return None


class MemoryFeed:
    """The feed of one process."""

    def __init__(self) -> None:
        self.listeners: dict[MailboxId, list[Any]] = {}
        self.published: list[MailboxChanged] = []

    def publish(self, change: MailboxChanged) -> None:
        self.published.append(change)
        for listener in tuple(self.listeners.get(change.mailbox_id, ())):
            listener(change)

    def subscribe(self, mailbox_id: MailboxId, listener: Any) -> Any:
        self.listeners.setdefault(mailbox_id, []).append(listener)
        return lambda: self.listeners[mailbox_id].remove(listener)


class OneAccount:
    """ann@example.org, password secret."""

    def __init__(self, account: AccountId) -> None:
        self.account = account
        self.error: Exception | None = None

    async def authenticate(
        self, protocol: str, peer: Peer, username: str, password: bytes, session_id: str = ""
    ) -> Identity:
        if self.error is not None:
            raise self.error
        if (username, password) != ("ann@example.org", b"secret"):
            raise AuthenticationFailed
        return Identity(self.account, "ann@example.org", "ann@example.org")


class ImapLab:
    """Make it inside a running loop. ``mail`` is the truth, ``calls`` what sessions asked it."""

    def __init__(self, store: Any = None, account: AccountId = ACCOUNT, **policy: Any) -> None:
        """``store``: another one than ``self.mail``, which is idle then."""
        self.mail = MemoryMail()
        self.watched = Watched(store or self.mail.store)
        self.intake = MemoryIntake()
        self.feed = MemoryFeed()
        self.authenticator = OneAccount(account)
        self.services = Services(
            mail=cast("Any", self.watched),
            accounts=cast("Any", None),
            bodies=MemoryBodies(self.mail.tables),
            intake=cast("Any", self.intake),
            feed=cast("ChangeFeed", self.feed),
            authenticator=self.authenticator,
        )
        self.annotate()
        options = {"name": "imap", "hostname": "mail.example.org", "insecure_auth": True, **policy}
        self.policy = ServerPolicy(**options)
        self.views = ViewRegistry(cast("Any", self.watched), cast("ChangeFeed", self.feed))
        self.table = CommandTable(COMMANDS)
        self.sessions: list[ImapSession] = []

    def annotate(self, *, limits: AnnotationLimits = AnnotationLimits(), site: Any = None) -> None:  # noqa: B008
        """Before the first connection. Calls of the annotation store are among ``calls``."""
        self.watched_annotations = Watched(MemoryAnnotationStore(self.mail.tables))
        self.watched_annotations.calls = self.watched.calls
        store = cast("Any", self.watched_annotations)
        self.services.annotations = Annotations(store, limits, site=site)

    @property
    def calls(self) -> list[str]:
        return self.watched.calls

    def factory(self, connection: Connection) -> tuple[Machine, Session]:
        machine = ImapMachine()
        session = ImapSession(connection, machine, self.services, self.policy, self.views, self.table)
        self.sessions.append(session)
        return machine, Dispatcher(session, machine)

    def announce(self, name: str = INBOX) -> None:
        """Publish what happened to a mailbox behind the sessions' back."""
        mailbox = self.mail.mailbox(name)
        self.feed.publish(MailboxChanged(ACCOUNT, mailbox.id, ModSeq(mailbox.highestmodseq)))

    async def connect(self, **options: Any) -> Wire:
        """A connection that has read its greeting."""
        wire = Wire(self.factory, **options)
        await wire.greeting()
        return wire

    async def log_in(self, mailbox: str | None = None, command: str = "SELECT") -> Wire:
        wire = await self.connect()
        assert b"l OK" in await wire.send(b"l LOGIN ann@example.org secret\r\n")
        if mailbox is not None:
            assert b"s OK" in await wire.send(f"s {command} {mailbox}\r\n".encode())
        self.calls.clear()
        return wire
