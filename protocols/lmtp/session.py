"""One LMTP conversation: recipients, the spool, and what delivery made of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from protocols.delivery import deliver
from protocols.envelope import Destination, Envelope, MailLoop, Outcome, Refused, Returned
from protocols.ports import Connection, Goodbye, Machine, ServerPolicy, Services, Session, SessionFactory
from protocols.sending.sending import Sending
from protocols.sending.srs import BadSrs
from protocols.settings import follow_settings
from protocols.starttls import start_tls
from protocols.timelimit import OverTime, within
from protocols.xclient import ATTRIBUTES, ToldClient
from storage.addresses import BadAddress, canonical
from storage.api import Spool
from storage.errors import StorageError

from . import replies
from .events import (
    Content,
    DataRequested,
    Ends,
    GiveUp,
    Lhlo,
    MailFrom,
    Quit,
    RcptTo,
    StartTls,
    TransactionDropped,
    XClient,
)
from .machine import LmtpMachine
from .recipients import RecipientDirectory
from .replies import Reply, error_reply

T = TypeVar("T")

log = logging.getLogger("sora.lmtp")

# RFC 5321 §4.5.3.1.8 asks for at least 100; one transaction of this many stays a short one.
MAX_RECIPIENTS = 1000
_NAMES: Mapping[type, bytes] = {
    Lhlo: b"LHLO",
    MailFrom: b"MAIL",
    RcptTo: b"RCPT",
    TransactionDropped: b"RSET",
    StartTls: b"STARTTLS",
    XClient: b"XCLIENT",
    Quit: b"QUIT",
}
_CONTENT_NAMES: Mapping[Ends, bytes | None] = {
    Ends.NOTHING: None,
    Ends.CHUNK: b"BDAT",
    Ends.MESSAGE: b"DATA",
}
_STATUSES = (b"", b"", b"2XX", b"3XX", b"4XX", b"5XX")


def lmtp_sessions(
    services: Services,
    policy: ServerPolicy,
    *,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> SessionFactory:
    """The factory of one LMTP server; its sessions share the recipients they know."""
    directory = RecipientDirectory(services.accounts, clock=clock)
    follow_settings(services.feed, directory)

    def make(connection: Connection) -> tuple[Machine, Session]:
        machine = LmtpMachine(
            takes_xclient=policy.trusts(connection.peer), takes_dsn=services.outbox is not None
        )
        return machine, LmtpSession(connection, machine, services, policy, directory, now)

    return make


class LmtpSession:
    """Runs the machine's events."""

    __slots__ = (
        "_client",
        "_connection",
        "_destinations",
        "_directory",
        "_helo",
        "_machine",
        "_mail",
        "_now",
        "_policy",
        "_refusal",
        "_services",
        "_spool",
        "_trusts",
    )

    def __init__(
        self,
        connection: Connection,
        machine: LmtpMachine,
        services: Services,
        policy: ServerPolicy,
        directory: RecipientDirectory,
        now: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._machine = machine
        self._services = services
        self._policy = policy
        self._directory = directory
        self._now = now
        self._helo = ""
        self._trusts = policy.trusts(connection.peer)
        self._client = ToldClient(connection, services.sessions)
        self._mail: MailFrom | None = None
        self._destinations: list[Destination | Returned] = []
        self._spool: Spool | None = None
        self._refusal: Reply | None = None  # of the message that is coming in

    # --- the driver's calls ---

    def on_connect(self) -> None:
        self._connection.set_deadline(self._policy.command_timeout_s)
        self._machine.greet(self._greeting())

    def _greeting(self) -> Reply:
        return Reply(220, "", f"{self._policy.hostname} LMTP Sora")

    def handle(self, event: object) -> Awaitable[None] | None:
        waiting = self._HANDLERS[type(event)](self, event)
        if waiting is not None:
            return self._wait(event, waiting)
        self._measure(event)
        return None

    async def _wait(self, event: object, waiting: Awaitable[None]) -> None:
        await waiting
        self._measure(event)

    def _measure(self, event: object) -> None:
        """DATA ends with its message; of its replies the worst counts."""
        name = _CONTENT_NAMES[event.ends] if type(event) is Content else _NAMES.get(type(event))
        reply = self._machine.answer
        if name is not None and reply is not None:
            status = _STATUSES[reply.code // 100]
            self._policy.instruments.command_ended(name, status, self._connection.take_work_s())

    def on_wake(self) -> None:
        """Nothing wakes an LMTP session."""

    def on_timeout(self) -> None:
        self._say_and_close(replies.IDLE_TOO_LONG)

    def on_bug(self, error: Exception) -> None:
        self._machine.greet(replies.server_bug(self._connection.session_id))

    def on_goodbye(self, why: Goodbye) -> None:
        self._say_and_close(replies.GOODBYES[why])

    def on_close(self) -> None:
        self._drop_transaction()

    def _say_and_close(self, reply: Reply) -> None:
        self._machine.greet(reply)
        self._connection.close()

    # --- commands ---

    def _lhlo(self, event: Lhlo) -> None:
        self._drop_transaction()
        self._helo = event.name
        keywords = [
            self._policy.hostname,
            "PIPELINING",
            "ENHANCEDSTATUSCODES",
            "8BITMIME",
            "BINARYMIME",
            "CHUNKING",
            "SMTPUTF8",
            f"SIZE {self._policy.max_message_bytes}",
            f"LIMITS RCPTMAX={MAX_RECIPIENTS}",  # RFC 9422 §4
        ]
        if self._services.outbox is not None:
            keywords.append("DSN")
        if self._policy.offers_starttls(self._connection):
            keywords.append("STARTTLS")
        if self._trusts:
            keywords.append(f"XCLIENT {' '.join(ATTRIBUTES)}")
        self._machine.send(Reply(250, "", "\n".join(keywords)))

    def _mail_from(self, event: MailFrom) -> None:
        if (event.size_bytes or 0) > self._policy.max_message_bytes:
            self._machine.send(replies.MESSAGE_TOO_BIG)
            return
        self._drop_transaction()
        self._mail = event
        self._machine.send(replies.SENDER_OK)

    def _rcpt_to(self, event: RcptTo) -> Awaitable[None] | None:
        if len(self._destinations) >= MAX_RECIPIENTS:
            self._machine.send(replies.TOO_MANY_RECIPIENTS)
            return None
        sending = self._services.sending
        if sending is not None and sending.takes_back(event.path.address):
            self._take_back(sending, event.path.address)
            return None
        try:
            address = canonical(self._qualified(event.path.address))
        except BadAddress:
            self._machine.send(replies.NO_SUCH_USER)
            return None
        known = self._directory.remembered(address)
        if known is None:
            return self._look_up(address, event)
        self._accept(known, event)
        return None

    def _take_back(self, sending: Sending, address: str) -> None:
        """A report about mail that we sent on, for its sender. Nothing but reports goes this way: others
        could use it to send under our name."""
        assert self._mail is not None
        if self._mail.path.raw:
            self._machine.send(replies.ONLY_REPORTS)
            return
        try:
            original = sending.original_of(address)
        except BadSrs as error:
            log.info("a report came for a sender that is none of ours: %s", error)
            self._machine.send(replies.NO_SUCH_USER)
            return
        self._destinations.append(Returned(original))
        self._machine.send(replies.RECIPIENT_OK)

    def _qualified(self, address: str) -> str:
        """``<postmaster>`` may come without a domain, nobody else (RFC 5321 §4.1.1.3); it is ours then."""
        return f"{address}@{self._policy.hostname}" if address.lower() == "postmaster" else address

    async def _look_up(self, address: str, event: RcptTo) -> None:
        try:
            found = await self._within("RCPT", self._directory.look_up(address))
        except OverTime:
            self._machine.send(replies.TOOK_TOO_LONG)
            return
        except StorageError as error:
            self._machine.send(error_reply(error))
            return
        if found is None:
            self._machine.send(replies.NO_SUCH_USER)
        else:
            self._accept(found, event)

    def _accept(self, destination: Destination, event: RcptTo) -> None:
        self._destinations.append(replace(destination, dsn=event.dsn))
        self._machine.send(replies.RECIPIENT_OK)

    def _data(self, event: DataRequested) -> None:
        self._machine.send(replies.SEND_DATA)

    def _content(self, event: Content) -> Awaitable[None] | None:
        if event.data and self._refusal is None:
            self._store(event.data)
        if event.ends is Ends.MESSAGE:
            return self._deliver()
        if event.ends is Ends.CHUNK:
            self._machine.send(self._refusal or replies.OK)
            if self._refusal is not None:
                self._drop_transaction()
        return None

    def _store(self, data: bytes) -> None:
        """Into the spool; the first trouble decides the message, the rest of it is only read."""
        if self._spool is None:
            self._spool = self._services.intake.spool()
        try:
            if self._spool.size_bytes + len(data) > self._policy.max_message_bytes:
                self._refusal = replies.MESSAGE_TOO_BIG
            else:
                self._spool.write(data)
        except StorageError as error:
            self._refusal = error_reply(error)
        if self._refusal is not None:
            self._close_spool()

    async def _deliver(self) -> None:
        destinations, refusal = self._destinations, self._refusal
        if refusal is not None:
            answers = [refusal] * len(destinations)
        else:
            # a message may be empty
            spool = self._spool or self._services.intake.spool()
            self._spool = None
            answers = await self._deliver_spool(spool, destinations)
        for answer in answers:
            self._policy.instruments.delivered(f"{answer.code // 100}xx")
        self._drop_transaction()
        self._machine.send_each(answers)

    async def _deliver_spool(self, spool: Spool, destinations: list[Destination | Returned]) -> list[Reply]:
        size_bytes = spool.size_bytes
        look_up = self._directory.look_up
        delivering = deliver(self._services, self._envelope(), spool, destinations, look_up)
        try:
            outcomes = await self._within("DATA", delivering)
        except OverTime:  # should it have been written, the next attempt finds it
            return [replies.TOOK_TOO_LONG] * len(destinations)
        if any(outcome is None for outcome in outcomes):
            self._policy.instruments.message_in(size_bytes)
        return [_outcome_reply(outcome) for outcome in outcomes]

    def _within(self, command: str, running: Awaitable[T]) -> Awaitable[T]:
        return within(self._policy.command_limits_s.get(command), self._connection, running)

    def _envelope(self) -> Envelope:
        assert self._mail is not None
        utf8 = "UTF8" if self._mail.has_smtputf8 else ""
        return Envelope(
            reverse_path=self._mail.path.raw,
            helo=self._client.told.helo or self._helo,
            client_ip=self._connection.peer.ip,
            hostname=self._policy.hostname,
            protocol=f"{utf8}LMTP{'S' if self._connection.has_tls else ''}",
            session_id=self._connection.session_id,
            received_at=self._now(),
            client_name=self._client.told.client_name,
            dsn=self._mail.dsn,
        )

    def _transaction_dropped(self, event: TransactionDropped) -> None:
        self._drop_transaction()

    def _start_tls(self, event: StartTls) -> Awaitable[None] | None:
        return start_tls(
            self._policy, self._connection, self._shake_hands, self._machine.send, replies.TLS_REFUSALS
        )

    async def _shake_hands(self) -> None:
        self._begin_anew()
        self._client.forget()
        self._machine.send(replies.TLS_READY)
        await self._connection.start_tls()
        self._client.secured()
        self._machine.tls_started()

    def _xclient(self, event: XClient) -> None:
        if self._client.tell(event.values):
            self._begin_anew()
            self._machine.send(self._greeting())
        else:
            self._machine.send(replies.PROXY_LOOP)

    def _begin_anew(self) -> None:
        self._drop_transaction()
        self._helo = ""

    def _quit(self, event: Quit) -> None:
        self._machine.send(replies.GOODBYE)
        self._connection.close()

    def _give_up(self, event: GiveUp) -> None:
        self._connection.close()

    def _drop_transaction(self) -> None:
        self._close_spool()
        self._mail = self._refusal = None
        self._destinations = []

    def _close_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    _HANDLERS: ClassVar[dict[type, Callable[[LmtpSession, Any], Awaitable[None] | None]]] = {
        Lhlo: _lhlo,
        MailFrom: _mail_from,
        RcptTo: _rcpt_to,
        DataRequested: _data,
        Content: _content,
        TransactionDropped: _transaction_dropped,
        StartTls: _start_tls,
        XClient: _xclient,
        Quit: _quit,
        GiveUp: _give_up,
    }


def _outcome_reply(outcome: Outcome) -> Reply:
    if outcome is None:
        return replies.DELIVERED
    if isinstance(outcome, MailLoop):
        return replies.MAIL_LOOP
    if isinstance(outcome, Refused):
        return replies.refusal(outcome.reason, is_utf8=outcome.is_utf8)
    return error_reply(outcome)
