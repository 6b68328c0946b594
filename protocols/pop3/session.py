"""One POP3 conversation: login, the maildrop, messages on their way out, removal at QUIT."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from protocols.errors import (
    AuthenticationFailed,
    AuthenticationUnavailable,
    LimitReached,
    PeerError,
    TooManySessions,
)
from protocols.memory import SessionMemory
from protocols.ports import (
    Connection,
    Goodbye,
    Identity,
    Machine,
    MailboxChanged,
    MaildropLock,
    ServerPolicy,
    Services,
    Session,
    SessionFactory,
)
from protocols.sasl import Challenge, Exchange, Plain, decode_initial, decode_response
from protocols.starttls import start_tls
from protocols.timelimit import OverTime, within
from protocols.xclient import ATTRIBUTES, ToldClient
from storage.errors import CommitUnknown, StorageError
from storage.model import INBOX, Uid

from . import replies
from .machine import (
    Auth,
    Capa,
    Dele,
    GiveUp,
    List,
    Pass,
    Pop3Machine,
    Quit,
    Retr,
    Rset,
    SaslLine,
    Stat,
    Stls,
    Top,
    Uidl,
    User,
    XClient,
)
from .maildrop import Maildrop
from .reader import MessageReader
from .replies import Err, Ok, error_reply

log = logging.getLogger("sora.pop3")

# RFC 1939 §3: an autologout timer of at least 10 minutes. Deviation: only after login, because a connection
# that never logs in deserves less.
MIN_IDLE_S = 600.0
LINES_PER_WRITE = 1000
_NAMES: Mapping[type, bytes] = {
    **{
        each: each.__name__.upper().encode()
        for each in (User, Pass, Auth, Stls, XClient, Capa, Stat, List, Uidl, Retr, Top, Dele, Rset, Quit)
    },
    SaslLine: b"AUTH",
}


def pop3_sessions(services: Services, policy: ServerPolicy, locks: MaildropLock) -> SessionFactory:
    """The factory of one POP3 server. Servers that open the same accounts share ``locks``."""

    def make(connection: Connection) -> tuple[Machine, Session]:
        machine = Pop3Machine(takes_xclient=policy.trusts(connection.peer))
        return machine, Pop3Session(connection, machine, services, policy, locks)

    return make


class Pop3Session:
    """Runs the machine's events."""

    __slots__ = (
        "_client",
        "_connection",
        "_exchange",
        "_locks",
        "_machine",
        "_maildrop",
        "_memory",
        "_policy",
        "_reader",
        "_release",
        "_services",
        "_trusts",
        "_username",
    )

    _maildrop: Maildrop  # from login on
    _reader: MessageReader

    def __init__(
        self,
        connection: Connection,
        machine: Pop3Machine,
        services: Services,
        policy: ServerPolicy,
        locks: MaildropLock,
    ) -> None:
        self._connection = connection
        self._machine = machine
        self._services = services
        self._policy = policy
        self._locks = locks
        self._memory = SessionMemory(services.memory, policy.session_memory_bytes)
        self._trusts = policy.trusts(connection.peer)
        self._client = ToldClient(connection, services.sessions)
        self._username: str | None = None
        self._exchange: Exchange | None = None
        self._release: Callable[[], None] | None = None

    # --- the driver's calls ---

    def on_connect(self) -> None:
        self._connection.set_deadline(self._policy.auth_idle_timeout_s)
        self._machine.announce(replies.GREETING)

    def handle(self, event: object) -> Awaitable[None] | None:
        waiting = self._HANDLERS[type(event)](self, event)
        if waiting is not None:
            return self._wait(event, waiting)
        self._measure(event)
        return None

    async def _wait(self, event: object, waiting: Awaitable[None]) -> None:
        limit_s = self._policy.command_limits_s.get(type(event).__name__.upper())
        try:
            await within(limit_s, self._connection, waiting)
        except OverTime as error:
            self._refuse_late(event, error)
        self._measure(event)

    def _refuse_late(self, event: object, error: OverTime) -> None:
        if isinstance(event, Quit):
            self._leave(replies.NOT_REMOVED)
        elif self._machine.owes_reply:
            self._machine.send(Err(error.reply, "SYS/TEMP"))
        else:  # in the middle of a message: without the final dot nobody takes it for whole
            self._connection.close()

    def _measure(self, event: object) -> None:
        """A challenge does not end its command."""
        reply, name = self._machine.answer, _NAMES.get(type(event))
        if reply is not None and name is not None:
            status = b"OK" if isinstance(reply, Ok) else b"ERR"
            self._policy.instruments.command_ended(name, status, self._connection.take_work_s())

    def on_wake(self) -> None:
        """Nothing wakes a POP3 session."""

    def on_timeout(self) -> None:
        # RFC 1939 §3: no reply, and nothing is removed
        self._connection.close()

    def on_bug(self, error: Exception) -> None:
        self._machine.announce(replies.server_bug(self._connection.session_id))

    def on_goodbye(self, why: Goodbye) -> None:
        self._machine.announce(replies.GOODBYES[why])
        self._connection.close()

    def on_close(self) -> None:
        self._unlock()
        self._memory.close()

    def _unlock(self) -> None:
        if self._release is not None:
            self._release()
            self._release = None

    # --- authorization state ---

    def _capa(self, event: Capa) -> None:
        names = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"]
        if self._policy.allows_passwords(self._connection):
            names += ["USER", "SASL PLAIN"]
        if self._policy.offers_starttls(self._connection):
            names.append("STLS")
        if self._trusts:
            names.append(f"XCLIENT {' '.join(ATTRIBUTES)}")
        self._machine.send_lines(replies.CAPABILITIES, [*names, "EXPIRE NEVER", "IMPLEMENTATION Sora"])

    def _stls(self, event: Stls) -> Awaitable[None] | None:
        return start_tls(
            self._policy, self._connection, self._shake_hands, self._machine.send, replies.TLS_REFUSALS
        )

    async def _shake_hands(self) -> None:
        self._username = self._exchange = None
        self._client.forget()
        self._machine.send(replies.TLS_READY)
        await self._connection.start_tls()
        self._client.secured()
        self._machine.tls_started()

    def _xclient(self, event: XClient) -> None:
        if self._client.tell(event.values):
            self._username = None
            self._machine.send(replies.GREETING)
        else:
            self._machine.send(replies.PROXY_LOOP)

    def _user(self, event: User) -> None:
        if not self._policy.allows_passwords(self._connection):
            self._machine.send(replies.NEEDS_TLS)
            return
        # every name is taken: which ones exist is nobody's business
        self._username = event.name
        self._machine.send(replies.SEND_PASSWORD)

    def _pass(self, event: Pass) -> Awaitable[None] | None:
        username, self._username = self._username, None
        if username is None:
            self._machine.send(replies.NEEDS_USER)
            return None
        return self._log_in(username, event.password)

    def _auth(self, event: Auth) -> Awaitable[None] | None:
        if not self._policy.allows_passwords(self._connection):
            self._machine.send(replies.NEEDS_TLS)
        elif event.mechanism != "PLAIN":
            self._machine.send(replies.UNKNOWN_MECHANISM)
        else:
            self._exchange = Plain()
            return self._step(decode_initial, event.initial)
        return None

    def _sasl_line(self, event: SaslLine) -> Awaitable[None] | None:
        return self._step(decode_response, event.line)

    def _step(self, decode: Callable[[bytes], bytes], raw: bytes | None) -> Awaitable[None] | None:
        assert self._exchange is not None
        try:
            outcome = self._exchange.step(None if raw is None else decode(raw))
        except PeerError as error:
            self._exchange = None
            self._machine.send(Err(error.reply))
            return None
        if isinstance(outcome, Challenge):
            self._machine.challenge(outcome.data)
            return None
        self._exchange = None
        return self._log_in(outcome.username, outcome.password)

    async def _log_in(self, username: str, password: bytes) -> None:
        try:
            identity = await self._services.authenticator.authenticate(
                *("pop3", self._connection.peer, username, password, self._connection.session_id)
            )
        except AuthenticationFailed:
            self._machine.send(replies.LOGIN_FAILED)
        except AuthenticationUnavailable:
            self._machine.send(replies.LOGIN_UNAVAILABLE)
        else:
            await self._open_maildrop(identity)

    async def _open_maildrop(self, identity: Identity) -> None:
        self._release = await self._locks.acquire(identity.account_id)
        if self._release is None:
            self._machine.send(replies.IN_USE)
            return
        try:
            view = await self._services.mail.load_named_view(identity.account_id, INBOX)
            await self._services.sessions.logged_in(self._connection.session_id, identity)
        except StorageError as error:
            self._unlock()
            self._machine.send(error_reply(error))
            return
        except TooManySessions as error:
            self._unlock()
            self._machine.send(Err(error.reply, "IN-USE"))
            return
        self._maildrop = Maildrop(view)
        self._reader = MessageReader(self._services, self._maildrop, self._memory)
        self._services.warm_up(identity)
        self._machine.logged_in()
        self._connection.user = identity.address
        log.info("logged in", extra=self._connection.log_extra)
        self._connection.set_deadline(max(MIN_IDLE_S, self._policy.command_timeout_s))
        self._machine.send(Ok(self._summary()))

    # --- transaction state ---

    def _summary(self) -> str:
        return f"{len(self._maildrop)} messages ({self._maildrop.size_bytes} octets)"

    def _stat(self, event: Stat) -> None:
        self._machine.send(Ok(f"{len(self._maildrop)} {self._maildrop.size_bytes}"))

    def _list(self, event: List) -> Awaitable[None] | None:
        return self._scan(event.number, lambda number: f"{number} {self._maildrop.size(number)}")

    def _uidl(self, event: Uidl) -> Awaitable[None] | None:
        return self._scan(event.number, lambda number: f"{number} {self._maildrop.unique_id(number)}")

    def _scan(self, number: int | None, render: Callable[[int], str]) -> Awaitable[None] | None:
        """One line for one message, or one for each."""
        if number is not None:
            known = self._maildrop.has(number)
            self._machine.send(Ok(render(number)) if known else replies.NO_SUCH_MESSAGE)
            return None
        if len(self._maildrop) > LINES_PER_WRITE:
            return self._scan_all(render)
        self._machine.send_lines(Ok(self._summary()), map(render, self._maildrop.numbers()))
        return None

    async def _scan_all(self, render: Callable[[int], str]) -> None:
        self._machine.send(Ok(self._summary()))
        block: list[str] = []
        for number in self._maildrop.numbers():
            block.append(f"{render(number)}\r\n")
            if len(block) == LINES_PER_WRITE:
                await self._write("".join(block).encode())
                block.clear()
        await self._write(("".join(block) + ".\r\n").encode())

    async def _write(self, data: bytes) -> None:
        self._connection.write(data)
        await self._connection.drain()

    def _retr(self, event: Retr) -> Awaitable[None] | None:
        return self._fetch(event.number, body_lines=None)

    def _top(self, event: Top) -> Awaitable[None] | None:
        return self._fetch(event.number, body_lines=event.lines)

    def _fetch(self, number: int, *, body_lines: int | None) -> Awaitable[None] | None:
        if not self._maildrop.has(number):
            self._machine.send(replies.NO_SUCH_MESSAGE)
            return None
        return self._send_message(number, body_lines)

    async def _send_message(self, number: int, body_lines: int | None) -> None:
        """Status line once the first piece is at hand; nothing may fail visibly behind it.

        A body that breaks off later ends the connection: without the final dot no client takes the message
        for whole.
        """
        text = "Top of message follows" if body_lines is not None else f"{self._maildrop.size(number)} octets"
        async with aclosing(self._reader.pieces(number, body_lines)) as pieces:
            try:
                first = await anext(pieces)
            except StorageError as error:
                self._machine.send(error_reply(error))
                return
            except LimitReached as error:
                self._machine.send(Err(error.reply, "SYS/TEMP"))
                return
            self._machine.send(Ok(text))
            await self._write(first)
            await self._write_rest(pieces)

    async def _write_rest(self, pieces: AsyncIterator[bytes]) -> None:
        try:
            async for piece in pieces:
                await self._write(piece)
        except StorageError as error:
            log.warning("a message broke off: %s", error, extra=self._connection.log_extra)
            self._connection.close()

    def _dele(self, event: Dele) -> None:
        if not self._maildrop.has(event.number):
            self._machine.send(replies.NO_SUCH_MESSAGE)
            return
        self._maildrop.mark(event.number)
        self._machine.send(Ok(f"Message {event.number} marked for removal"))

    def _rset(self, event: Rset) -> None:
        self._maildrop.unmark_all()
        self._machine.send(Ok(self._summary()))

    # --- the end ---

    def _quit(self, event: Quit) -> Awaitable[None] | None:
        if self._release is not None and (marked := self._maildrop.marked):
            return self._update(marked)
        self._leave(replies.GOODBYE)
        return None

    async def _update(self, uids: list[Uid]) -> None:
        """RFC 1939 §6: remove what is marked, let go of the maildrop, then answer."""
        reply: Ok | Err = replies.GOODBYE
        try:
            await self._remove(uids)
        except StorageError:
            reply = replies.NOT_REMOVED
        self._leave(reply)

    async def _remove(self, uids: list[Uid]) -> None:
        maildrop = self._maildrop
        try:
            removed = await self._services.mail.remove(maildrop.mailbox_id, uids)
        except CommitUnknown:
            # removing what is gone does nothing, so the second attempt tells what became of the first
            removed = await self._services.mail.remove(maildrop.mailbox_id, uids)
        self._services.feed.publish(
            MailboxChanged(maildrop.account_id, maildrop.mailbox_id, removed.highestmodseq)
        )

    def _leave(self, reply: Ok | Err) -> None:
        self._unlock()  # before the reply: the client may be back at once
        self._machine.send(reply)
        self._connection.close()

    def _give_up(self, event: GiveUp) -> None:
        self._connection.close()

    _HANDLERS: ClassVar[dict[type, Callable[[Pop3Session, Any], Awaitable[None] | None]]] = {
        User: _user,
        Pass: _pass,
        Auth: _auth,
        SaslLine: _sasl_line,
        Stls: _stls,
        XClient: _xclient,
        Capa: _capa,
        Stat: _stat,
        List: _list,
        Uidl: _uidl,
        Retr: _retr,
        Top: _top,
        Dele: _dele,
        Rset: _rset,
        Quit: _quit,
        GiveUp: _give_up,
    }
