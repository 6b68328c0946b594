"""An IMAP server in memory: one account, any number of connections, calls to the store counted."""

from __future__ import annotations

from typing import Any, cast

from protocols.imap.commands import COMMANDS
from protocols.imap.machine import ImapMachine
from protocols.imap.registry import CommandTable
from protocols.imap.session import ImapSession
from protocols.imap.views import ViewRegistry
from protocols.ports import (
    ChangeFeed,
    Connection,
    Machine,
    MailboxChanged,
    ServerPolicy,
    Services,
    Session,
)
from storage.model import AccountId, MailboxId, ModSeq

from .mailfake import FakeAuthenticator, FakeBodies, FakeIntake, FakeMail
from .wire import Wire


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


class ImapLab:
    """``lab.client()`` is a connection that has read its greeting; make it inside a running loop."""

    def __init__(self, **policy: Any) -> None:
        self.mail = FakeMail()
        self.intake = FakeIntake()
        self.feed = MemoryFeed()
        self.authenticator = FakeAuthenticator()
        self.services = Services(
            mail=cast("Any", self.mail),
            accounts=cast("Any", None),
            bodies=cast("Any", FakeBodies(self.mail)),
            intake=cast("Any", self.intake),
            feed=cast("ChangeFeed", self.feed),
            authenticator=self.authenticator,
        )
        self.policy = ServerPolicy(
            name="imap", hostname="mail.example.org", **{"insecure_auth": True, **policy}
        )
        self.views = ViewRegistry(cast("Any", self.mail), cast("ChangeFeed", self.feed))
        self.table = CommandTable(COMMANDS)
        self.sessions: list[ImapSession] = []

    def factory(self, connection: Connection) -> tuple[Machine, Session]:
        machine = ImapMachine()
        session = ImapSession(connection, machine, self.services, self.policy, self.views, self.table)
        self.sessions.append(session)
        return machine, session

    def announce(self, name: str = "INBOX") -> None:
        """Publish what happened to a mailbox behind the sessions' back."""
        box = self.mail.box(name)
        self.feed.publish(MailboxChanged(AccountId(1), MailboxId(box.id), ModSeq(box.modseq)))

    async def connect(self, **options: Any) -> Wire:
        wire = Wire(self.factory, **options)
        await wire.greeting()
        return wire

    async def log_in(self, mailbox: str | None = None, command: str = "SELECT") -> Wire:
        wire = await self.connect()
        assert b"l OK" in await wire.send(b"l LOGIN ann@example.org secret\r\n")
        if mailbox is not None:
            assert b"s OK" in await wire.send(f"s {command} {mailbox}\r\n".encode())
        self.mail.calls.clear()
        return wire
