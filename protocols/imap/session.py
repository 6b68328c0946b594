"""One IMAP connection: who it is, what it selected, and how its commands are answered.

Each command runs alone and ends here, in one order: what is pending for the selected mailbox, then the
tagged reply. Commands write no tags and see no sockets; they ``send`` untagged lines and return an outcome.

Invariants:
* Sequence numbers change only in ``_write_pending``, which runs between commands' data and their tagged
  reply, or while the client idles.
* No EXPUNGE while FETCH, STORE or SEARCH run in their plain form (RFC 9051 §7.5.1).
* A mailbox that was deleted under the session is left with ``OK [CLOSED]``; the session lives on in the
  authenticated state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from protocols.errors import LimitReached, PeerError
from protocols.memory import SessionMemory
from protocols.ports import UNKNOWN_COMMAND, Goodbye
from protocols.timelimit import OverTime, within
from storage.errors import CommitUnknown, StorageError
from storage.model import Mailbox, ModSeq, Uid

from . import capability, governed, responses
from .grammar import Cursor
from .machine import (
    AppendStarted,
    BadInput,
    CommandReady,
    ImapMachine,
    LineReceived,
    LiteralData,
    LiteralEnded,
)
from .presentation import Client, presentation_of
from .progress import ProgressReports
from .registry import (
    AwaitLine,
    Bad,
    Command,
    CommandTable,
    No,
    Outcome,
    ParseContext,
    State,
    Tagged,
    Transfer,
)
from .replies import reply_for

if TYPE_CHECKING:
    from protocols.annotations import Annotations
    from protocols.ports import Connection, Identity, ServerPolicy, Services

    from .fetching import LastRead
    from .view import SessionView, Updates
    from .views import ViewRegistry

log = logging.getLogger("sora.imap")

IMAP4REV2: Final = b"IMAP4REV2"
UTF8_ACCEPT: Final = b"UTF8=ACCEPT"
CONDSTORE: Final = b"CONDSTORE"
# Before login a peer that sends this many lines which are no commands does not speak IMAP (HTTP sent to the
# wrong port, for instance); afterwards a client may have a bad day.
MAX_BAD_UNAUTHENTICATED: Final = 10
MAX_BAD: Final = 100
# RFC 9051 §5.4: an autologout timer is at least 30 minutes, once the client has logged in.
MIN_IDLE_S: Final = 1800.0
# Option of ``ServerPolicy``: the ManageSieve server of these mailboxes, ``sieve://host``.
SIEVE_URL: Final = "sieve_url"
NEEDS_ANNOTATIONS: Final = frozenset({b"METADATA", b"METADATA-SERVER"})
LOOK_AGAIN_S: Final = 5.0  # when storage is slow the reply must not wait for it a second time
GOODBYES: Final[Mapping[Goodbye, str]] = {
    Goodbye.SHUTDOWN: "The server is shutting down",
    Goodbye.EXPIRED: "The session has lasted too long; connect again",
    Goodbye.TOO_SLOW: "Too slow; closing",
    Goodbye.KICKED: "Closed by the administrator",
}
_SUBCOMMAND = re.compile(rb" ([A-Za-z]+)(.*)\Z", re.DOTALL)


class ImapSession:
    """What commands work on. ``send`` queues whole untagged lines; the tagged reply is the dispatcher's."""

    __slots__ = (
        "_awaiting",
        "_bad",
        "_command",
        "_contexts",
        "_filtered_for",
        "_instruments",
        "_is_uid",
        "_machine",
        "_tag",
        "_transfer",
        "client",
        "connection",
        "enabled",
        "failed_logins",
        "hidden",
        "identity",
        "is_idling",
        "is_leaving",
        "last_read",
        "memory",
        "policy",
        "presentation",
        "progress",
        "selected",
        "send",
        "services",
        "table",
        "views",
    )

    def __init__(
        self,
        connection: Connection,
        machine: ImapMachine,
        services: Services,
        policy: ServerPolicy,
        views: ViewRegistry,
        table: CommandTable,
    ) -> None:
        self.connection = connection
        self.services = services
        self.policy = policy
        self.views = views
        self.table = table
        self.presentation = presentation_of(policy)
        self.client = Client(ja4=connection.peer.ja4)
        self.hidden: frozenset[bytes] = frozenset()  # capabilities this client is not told of
        self._filtered_for: tuple[str, ...] = ()
        self.send = machine.send
        self.identity: Identity | None = None
        self.selected: SessionView | None = None
        self.enabled: set[bytes] = set()  # upper case, as ENABLE named them
        self.failed_logins = 0
        self.is_idling = False
        self.is_leaving = False  # close the connection after the tagged reply
        self.last_read: LastRead | None = None  # spares partial fetches of one message their reads
        self.memory = SessionMemory(services.memory, policy.session_memory_bytes)
        self.progress: tuple[int, int] | None = None  # of the command that runs: done, of how many
        self._machine = machine
        self._instruments = policy.instruments
        self._bad = 0
        self._tag = b"*"
        self._command: Command | None = None
        self._is_uid = False
        self._awaiting: AwaitLine | None = None
        self._transfer: Transfer | None = None
        self._contexts = self._make_contexts()
        self._filter()

    # --- facts ---

    @property
    def state(self) -> State:
        if self.identity is None:
            return State.NOT_AUTHENTICATED
        return State.AUTHENTICATED if self.selected is None else State.SELECTED

    @property
    def tag(self) -> bytes:
        """Of the command that runs, for ESEARCH, which repeats it."""
        return self._tag

    @property
    def view(self) -> SessionView:
        """The selected mailbox; only for commands that are allowed in the selected state alone."""
        assert self.selected is not None
        return self.selected

    @property
    def user(self) -> Identity:
        """Only for commands that are not allowed before login."""
        assert self.identity is not None
        return self.identity

    @property
    def annotations(self) -> Annotations:
        """Only for commands that are hidden where there are none."""
        assert self.services.annotations is not None
        return self.services.annotations

    @property
    def utf8(self) -> bool:
        """Whether names and strings are UTF-8 in both directions (RFC 6855 §3, RFC 9051 §5.1)."""
        return UTF8_ACCEPT in self.enabled or IMAP4REV2 in self.enabled

    @property
    def rev2(self) -> bool:
        """IMAP4rev2 was enabled: no RECENT, ESEARCH instead of SEARCH."""
        return IMAP4REV2 in self.enabled

    @property
    def may_authenticate(self) -> bool:
        """Whether a password may be sent on this connection as it is."""
        return self.policy.allows_passwords(self.connection)

    def capabilities(self) -> tuple[bytes, ...]:
        has_context = not self.connection.has_tls and self.policy.tls_context() is not None
        now = capability.Circumstances(
            self.state,
            has_context,
            self.may_authenticate,
            self.policy.max_message_bytes,
            self.hidden,
            self.presentation.additional,
            self._sieve_url(),
        )
        return capability.capabilities(self.table, now)

    def _sieve_url(self) -> str:
        """RFC 6785 §2.1: announced where scripts run on events and can be put by ManageSieve."""
        url = self.policy.options.get(SIEVE_URL, "")
        assert isinstance(url, str)
        return url if self.services.events is not None else ""

    # --- what commands change ---

    def enable(self, *names: bytes) -> None:
        self.enabled.update(names)
        self._contexts = self._make_contexts()

    def enable_condstore(self) -> None:
        """A CONDSTORE-enabling command was given (RFC 7162 §3.1)."""
        self.enable(CONDSTORE)
        if self.selected is not None:
            self.selected.condstore = True

    def learn(self, **facts: str) -> None:
        """More is known of the client (fields of ``presentation.Client``): filters are applied anew."""
        self.client = replace(self.client, **facts)
        before = self._filtered_for
        self._filter()
        if self._filtered_for != before:
            self._log_filters()

    def shows(self, name: bytes) -> bool:
        """Whether this client is told of a capability; if not, of what comes with it neither."""
        return name not in self.hidden

    def _filter(self) -> None:
        self.hidden, self._filtered_for = self.presentation.hidden_from(self.client)
        if self.services.annotations is None:
            self.hidden |= NEEDS_ANNOTATIONS
        if b"METADATA" in self.hidden:
            self.hidden |= {b"LIST-METADATA"}
        self._machine.takes_unasked_literals = self.shows(b"LITERAL+")

    def _log_filters(self) -> None:
        for reason in self._filtered_for:
            log.info("filtered: %s", reason or "no reason given", extra=self.connection.log_extra)

    def log_in(self, identity: Identity) -> None:
        self.identity = identity
        self._machine.is_authenticated = True
        self._bad = 0
        self.expect_commands()
        self.services.warm_up(identity)
        self.connection.user = identity.address
        log.info("logged in", extra=self.connection.log_extra)

    def begin_idle(self, keepalive_s: float) -> None:
        """The client waits for news; ``on_timeout`` is called every so often."""
        self.is_idling = True
        self.connection.begin_idle()
        self.connection.set_deadline(keepalive_s)

    def end_idle(self) -> None:
        self.is_idling = False
        self.connection.end_idle()
        self.expect_commands()

    def expect_commands(self) -> None:
        """From now on a silent client is logged out after a while."""
        self.connection.set_deadline(max(self.policy.command_timeout_s, MIN_IDLE_S))

    def select(self, view: SessionView) -> None:
        self.selected = view

    def unselect(self) -> None:
        """Leave the selected mailbox, if any. Costs nothing, tells the client nothing."""
        view, self.selected = self.selected, None
        self.last_read = None
        if view is None:
            return
        top = Uid(view.uid_at(view.count) + 1) if view.count else Uid(0)
        if not view.read_only and top > max(view.mailbox.recent_uid, view.claimed_recent):
            self.views.claim_recent(view.mailbox.id, top)
        self.views.close(view)

    def reply(self, outcome: Tagged) -> None:
        """Write the tagged reply of the current command now; its outcome must be None then."""
        self.send(responses.tagged(self._tag, outcome.status, outcome.text, outcome.code))

    # --- what the driver calls ---

    def on_connect(self) -> None:
        self._log_filters()
        self.connection.set_deadline(self.policy.auth_idle_timeout_s)
        code = responses.code_capability(self.capabilities())
        self.send(responses.ok(f"{self.policy.hostname} ready", code))

    def handle(self, event: object) -> Awaitable[None] | None:
        if type(event) is CommandReady:
            return self._on_command(event)
        if type(event) is LiteralData:
            if self._transfer is not None:
                self._transfer.write(event.data)
            return None
        if type(event) is LineReceived:
            return self._on_line(event.line)
        if type(event) is AppendStarted:
            return self._on_append(event)
        if type(event) is LiteralEnded:
            return self._end_transfer(event.rest)
        assert type(event) is BadInput
        self._tag = event.tag or b"*"
        self.reply(Bad(event.text))  # no command is in progress, so no news of the mailbox may be told
        self._measure(Bad.status)
        self._count_bad(is_bad=True)
        if event.fatal:
            self._leave("Cannot go on")
        return None

    def on_wake(self) -> None:
        if self.is_idling:
            self._leave_gone_mailbox()
            if self.selected is not None:
                self._write_pending(expunge_allowed=True, with_uid=False)
                if self.selected.pending:  # more than is written at a time
                    self.connection.wake()

    def on_timeout(self) -> None:
        if self.is_idling:
            self.send(responses.ok("Still here"))  # keeps NAT entries alive, and finds dead peers
        else:
            self._leave("Autologout; idle for too long")

    def on_bug(self, error: Exception) -> None:
        words = f"Internal error, session {self.connection.session_id}"
        if self._command is not None:
            self.reply(No(words, b"SERVERBUG"))
            self._measure(No.status)
        self.send(responses.bye(words))

    def on_goodbye(self, why: Goodbye) -> None:
        self._leave(GOODBYES[why])

    def on_close(self) -> None:
        self.memory.close()
        if self._transfer is not None:
            self._transfer.close()
        self.unselect()

    def _leave(self, words: str) -> None:
        self.send(responses.bye(words))
        self.connection.close()

    # --- commands ---

    def _make_contexts(self) -> tuple[ParseContext, ParseContext]:
        enabled = frozenset(self.enabled)
        return ParseContext(uid=False, enabled=enabled), ParseContext(uid=True, enabled=enabled)

    def _on_command(self, event: CommandReady) -> Awaitable[None] | None:
        self._tag = event.tag
        name, rest, self._is_uid = event.name, event.args, False
        if name == b"UID" and (match := _SUBCOMMAND.match(rest)) is not None:
            name, rest, self._is_uid = match[1].upper(), match[2], True
        self._leave_gone_mailbox()
        command = (self.table.uid if self._is_uid else self.table.plain).get(name)
        refusal = self._refusal(command)
        if command is None or refusal is not None:
            self._finish(refusal or Bad("Unknown command"))
            return None
        self._command = command
        try:
            cursor = Cursor(rest, utf8=UTF8_ACCEPT in self.enabled or IMAP4REV2 in self.enabled)
            args = command.parse(cursor, self._contexts[self._is_uid])
            outcome = self._hidden_form(command, args) or command.run(self, args)
        except PeerError as error:
            outcome = Bad(error.reply)
        except StorageError as error:
            outcome = self._storage_failed(error)
        return self._proceed(outcome)

    def _refusal(self, command: Command | None) -> Bad | None:
        if command is None:
            return Bad("Unknown command")
        if self.state in command.states:
            return None
        if self.identity is None:
            return Bad("Log in first")
        if State.AUTHENTICATED in command.states:
            return Bad("Not while a mailbox is selected")
        return Bad("Already logged in" if State.SELECTED not in command.states else "No mailbox is selected")

    def _hidden_form(self, command: Command, args: object) -> Bad | None:
        if not self.hidden or (name := governed.hidden_use(command.name, args, self.hidden)) is None:
            return None
        return Bad(f"{name.decode('ascii')} is not available to this client")

    def _proceed(self, outcome: Outcome | Awaitable[Outcome]) -> Awaitable[None] | None:
        """Finish at once where nothing has to be waited for: no task, no loop turn."""
        if outcome is None or isinstance(outcome, Tagged | AwaitLine):
            self._finish(outcome)
            return None
        return self._wait(outcome)

    async def _wait(self, running: Awaitable[Outcome]) -> None:
        try:
            outcome = await self._limited(running)
        except PeerError as error:
            outcome = Bad(error.reply)
        except OverTime as error:
            outcome = No(error.reply, b"LIMIT")
            await self._look_again()
        except LimitReached as error:
            outcome = No(error.reply, b"LIMIT")
        except CommitUnknown as error:
            outcome = self._storage_failed(error)
            await self._look_again()
        except StorageError as error:
            outcome = self._storage_failed(error)
        self._finish(outcome)

    def _limited(self, running: Awaitable[Outcome]) -> Awaitable[Outcome]:
        """With the time limit and the progress reports of the command, where it has them."""
        command = self._command
        if command is None:
            return running
        limit_s = self.policy.command_limits_s.get(command.name.decode("ascii"))
        running = within(limit_s, self.connection, running)
        is_reported = command.reports_progress and b"INPROGRESS" not in self.hidden
        return self._reported(running) if is_reported else running

    async def _reported(self, running: Awaitable[Outcome]) -> Outcome:
        self.progress = None
        reports = ProgressReports(self, lambda: self.progress)
        try:
            return await running
        finally:
            reports.close()

    async def _look_again(self) -> None:
        """A write may have happened: the client is told what became of the mailbox, beside the NO."""
        if self.selected is not None:
            shared = self.selected.shared
            with contextlib.suppress(StorageError, TimeoutError):  # then the safety net finds out
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self.views.refresh(shared.mailbox.id, ModSeq(shared.version + 1))

    def _storage_failed(self, error: StorageError) -> No:
        level = logging.WARNING if error.transient else logging.INFO
        log.log(level, "%s: %s", type(error).__name__, error, extra=self.connection.log_extra)
        return reply_for(error)

    def _finish(self, outcome: Outcome) -> None:
        if isinstance(outcome, AwaitLine):
            self._awaiting = outcome
            self._machine.expect_line(outcome.continuation)
            return
        if outcome is not None:
            if self.selected is not None:
                self._write_pending(expunge_allowed=self._may_expunge, with_uid=self._is_uid)
            self.reply(outcome)
            self._count_bad(is_bad=type(outcome) is Bad)
        self._measure(outcome.status if outcome is not None else Tagged.status)
        self._command = None
        if self.is_leaving:
            self.connection.close()

    def _measure(self, status: bytes) -> None:
        name = UNKNOWN_COMMAND if self._command is None else self._command.name
        self._instruments.command_ended(name, status, self.connection.take_work_s())

    @property
    def _may_expunge(self) -> bool:
        return self._is_uid or self._command is None or not self._command.withholds_expunge

    def _count_bad(self, *, is_bad: bool) -> None:
        if not is_bad:
            self._bad = 0
            return
        self._bad += 1
        if self._bad >= (MAX_BAD_UNAUTHENTICATED if self.identity is None else MAX_BAD):
            self._leave("Too many bad commands")

    def _on_line(self, line: bytes) -> Awaitable[None] | None:
        awaiting, self._awaiting = self._awaiting, None
        assert awaiting is not None
        try:
            outcome = awaiting.then(line)
        except PeerError as error:
            outcome = Bad(error.reply)
        return self._proceed(outcome)

    # --- message literals ---

    async def _on_append(self, event: AppendStarted) -> None:
        self._tag, self._is_uid = event.tag, False
        self._leave_gone_mailbox()
        command = self._command = self.table.plain[b"APPEND"]
        outcome = await self._start_transfer(command, event)
        if outcome is None:
            self._machine.accept_literal()
            return
        can_go_on = self._machine.refuse_literal()
        self._finish(outcome)
        if not can_go_on:
            self._leave("The literal is too large to be read over")

    async def _start_transfer(self, command: Command, event: AppendStarted) -> Tagged | None:
        """None: the transfer has begun."""
        refusal = self._refusal(command)
        if refusal is not None:
            return refusal
        assert command.start is not None
        try:
            args: Any = command.parse(Cursor(event.args, utf8=self.utf8), self._contexts[False])
            args = replace(args, is_binary=event.is_binary)
            hidden = self._hidden_form(command, args)
            started = hidden or await command.start(self, args, event)
        except PeerError as error:
            return Bad(error.reply)
        except StorageError as error:
            return self._storage_failed(error)
        if isinstance(started, Tagged):
            return started
        self._transfer = started
        return None

    def _end_transfer(self, rest: bytes) -> Awaitable[None] | None:
        if self._transfer is None:
            return None
        return self._finish_transfer(self._transfer, rest)

    async def _finish_transfer(self, transfer: Transfer, rest: bytes) -> None:
        try:
            await self._wait(transfer.finish(rest))
        finally:
            self._transfer = None
            transfer.close()

    # --- the selected mailbox ---

    def _leave_gone_mailbox(self) -> None:
        if self.selected is not None and self.selected.shared.is_gone:
            self.unselect()
            self.send(responses.ok("The mailbox was deleted", b"CLOSED"))

    def _write_pending(self, *, expunge_allowed: bool, with_uid: bool) -> None:
        view = self.view
        self.write_new_keywords()
        if view.pending:
            self.write_updates(view.sync(expunge_allowed=expunge_allowed), with_uid=with_uid)

    def write_new_keywords(self) -> None:
        """Before a FETCH response may name a keyword that the client has not heard of."""
        if len(self.view.shared.keyword_names) != self.view.known_keywords:
            self.write_flags()

    def write_flags(self) -> None:
        """FLAGS and PERMANENTFLAGS."""
        view = self.view
        names = [name for _, name in responses.FLAG_NAMES]
        names += [name.encode("ascii", "replace") for name in view.shared.keyword_names.values()]
        view.known_keywords = len(view.shared.keyword_names)
        self.send(responses.flags(names))
        permanent = [] if view.read_only else [*names, b"\\*"]
        words = "Read-only" if view.read_only else "Flags that are kept"
        self.send(responses.ok(words, responses.code_permanentflags(permanent)))

    def write_listing(self, mailbox: Mailbox, named: str) -> None:
        """The LIST response of SELECT, CREATE and RENAME in IMAP4rev2; ``named`` is what it was called.

        Special uses are told, children not, as that would need another read (RFC 9051 §7.3.1).
        """
        extended = b"" if named == mailbox.name else responses.oldname(named, utf8=self.utf8)
        attributes = responses.special_use(mailbox.special_use)
        self.send(responses.listing(b"LIST", attributes, mailbox.name, utf8=self.utf8, extended=extended))

    def write_updates(self, updates: Updates, *, with_uid: bool) -> None:
        """Write what ``SessionView.sync`` returned, in its order."""
        for seq in updates.expunged:
            self.send(responses.expunge(seq))
        if updates.exists is not None:
            self.send(responses.exists(updates.exists))
            if updates.recent is not None and not self.rev2:
                self.send(responses.recent(updates.recent))
        view = self.view
        with_uid = with_uid or view.condstore or self.rev2  # RFC 9051 §7.5.2
        for seq, state in updates.changed:
            self.send(
                responses.fetch_flags(
                    seq,
                    state.flags,
                    recent=view.is_recent(state.uid) and not self.rev2,
                    uid=state.uid if with_uid else None,
                    modseq=state.modseq if view.condstore else None,
                )
            )
