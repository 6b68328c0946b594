"""How the commands of one IMAP connection are run and answered.

Each command runs alone and ends here, in one order: what is pending for the selected mailbox, then the
tagged reply.

Invariants:
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
from typing import Any, Final

from protocols.errors import LimitReached, PeerError
from protocols.ports import UNKNOWN_COMMAND, Goodbye
from protocols.timelimit import OverTime, within
from storage.errors import CommitUnknown, StorageError
from storage.model import ModSeq

from . import governed, responses
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
from .progress import ProgressReports
from .registry import AwaitLine, Bad, Command, No, Outcome, State, Tagged, Transfer
from .replies import reply_for
from .session import ImapSession

log = logging.getLogger("sora.imap")

# Before login a peer that sends this many lines which are no commands does not speak IMAP (HTTP sent to the
# wrong port, for instance); afterwards a client may have a bad day.
MAX_BAD_UNAUTHENTICATED: Final = 10
MAX_BAD: Final = 100
LOOK_AGAIN_S: Final = 5.0  # when storage is slow the reply must not wait for it a second time
GOODBYES: Final[Mapping[Goodbye, str]] = {
    Goodbye.SHUTDOWN: "The server is shutting down",
    Goodbye.EXPIRED: "The session has lasted too long; connect again",
    Goodbye.TOO_SLOW: "Too slow; closing",
    Goodbye.KICKED: "Closed by the administrator",
}
_SUBCOMMAND = re.compile(rb" ([A-Za-z]+)(.*)\Z", re.DOTALL)


class Dispatcher:
    """What the driver calls (``ports.Session``)."""

    __slots__ = (
        "_awaiting",
        "_bad",
        "_command",
        "_instruments",
        "_is_uid",
        "_machine",
        "_transfer",
        "session",
    )

    def __init__(self, session: ImapSession, machine: ImapMachine) -> None:
        self.session = session
        self._machine = machine
        self._instruments = session.policy.instruments
        self._bad = 0
        self._command: Command | None = None  # the one that runs
        self._is_uid = False
        self._awaiting: AwaitLine | None = None
        self._transfer: Transfer | None = None

    # --- what the driver calls ---

    def on_connect(self) -> None:
        session = self.session
        session.log_filters()
        session.connection.set_deadline(session.policy.auth_idle_timeout_s)
        code = responses.code_capability(session.capabilities())
        session.send(responses.ok(f"{session.policy.hostname} ready", code))

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
        self.session.tag = event.tag or b"*"
        # no command is in progress, so no news of the mailbox may be told
        self.session.reply(Bad(event.text))
        self._measure(Bad.status)
        self._count_bad(is_bad=True)
        if event.fatal:
            self.session.leave("Cannot go on")
        return None

    def on_wake(self) -> None:
        session = self.session
        if session.is_idling:
            session.leave_gone_mailbox()
            if session.selected is not None:
                session.write_pending(expunge_allowed=True, with_uid=False)
                if session.selected.pending:  # more than is written at a time
                    session.connection.wake()

    def on_timeout(self) -> None:
        if self.session.is_idling:
            self.session.send(responses.ok("Still here"))  # keeps NAT entries alive, and finds dead peers
        else:
            self.session.leave("Autologout; idle for too long")

    def on_bug(self, error: Exception) -> None:
        words = f"Internal error, session {self.session.connection.session_id}"
        if self._command is not None:
            self.session.reply(No(words, b"SERVERBUG"))
            self._measure(No.status)
        self.session.send(responses.bye(words))

    def on_goodbye(self, why: Goodbye) -> None:
        self.session.leave(GOODBYES[why])

    def on_close(self) -> None:
        self.session.memory.close()
        if self._transfer is not None:
            self._transfer.close()
        self.session.unselect()

    # --- commands ---

    def _on_command(self, event: CommandReady) -> Awaitable[None] | None:
        self.session.tag = event.tag
        name, rest, self._is_uid = event.name, event.args, False
        if name == b"UID" and (match := _SUBCOMMAND.match(rest)) is not None:
            name, rest, self._is_uid = match[1].upper(), match[2], True
        self.session.leave_gone_mailbox()
        table = self.session.table
        command = (table.uid if self._is_uid else table.plain).get(name)
        refusal = self._refusal(command)
        if command is None or refusal is not None:
            self._finish(refusal or Bad("Unknown command"))
            return None
        self._command = command
        try:
            cursor = Cursor(rest, utf8=self.session.utf8)
            args = command.parse(cursor, self.session.contexts[self._is_uid])
            outcome = self._hidden_form(command, args) or command.run(self.session, args)
        except PeerError as error:
            outcome = Bad(error.reply)
        except StorageError as error:
            outcome = self._storage_failed(error)
        return self._proceed(outcome)

    def _refusal(self, command: Command | None) -> Bad | None:
        if command is None:
            return Bad("Unknown command")
        if self.session.state in command.states:
            return None
        if self.session.identity is None:
            return Bad("Log in first")
        if State.AUTHENTICATED in command.states:
            return Bad("Not while a mailbox is selected")
        return Bad("Already logged in" if State.SELECTED not in command.states else "No mailbox is selected")

    def _hidden_form(self, command: Command, args: object) -> Bad | None:
        hidden = self.session.hidden
        if not hidden or (name := governed.hidden_use(command.name, args, hidden)) is None:
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
        limit_s = self.session.policy.command_limits_s.get(command.name.decode("ascii"))
        running = within(limit_s, self.session.connection, running)
        is_reported = command.reports_progress and b"INPROGRESS" not in self.session.hidden
        return self._reported(running) if is_reported else running

    async def _reported(self, running: Awaitable[Outcome]) -> Outcome:
        self.session.progress = None
        reports = ProgressReports(self.session, lambda: self.session.progress)
        try:
            return await running
        finally:
            reports.close()

    async def _look_again(self) -> None:
        """A write may have happened: the client is told what became of the mailbox, beside the NO."""
        if self.session.selected is not None:
            shared = self.session.selected.shared
            with contextlib.suppress(StorageError, TimeoutError):  # then the safety net finds out
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self.session.views.refresh(shared.mailbox.id, ModSeq(shared.version + 1))

    def _storage_failed(self, error: StorageError) -> No:
        level = logging.WARNING if error.transient else logging.INFO
        log.log(level, "%s: %s", type(error).__name__, error, extra=self.session.connection.log_extra)
        return reply_for(error)

    def _finish(self, outcome: Outcome) -> None:
        if isinstance(outcome, AwaitLine):
            self._awaiting = outcome
            self._machine.expect_line(outcome.continuation)
            return
        if outcome is not None:
            if self.session.selected is not None:
                self.session.write_pending(expunge_allowed=self._may_expunge, with_uid=self._is_uid)
            self.session.reply(outcome)
            self._count_bad(is_bad=type(outcome) is Bad)
        self._measure(outcome.status if outcome is not None else Tagged.status)
        self._command = None
        if self.session.is_leaving:
            self.session.connection.close()

    def _measure(self, status: bytes) -> None:
        name = UNKNOWN_COMMAND if self._command is None else self._command.name
        self._instruments.command_ended(name, status, self.session.connection.take_work_s())

    @property
    def _may_expunge(self) -> bool:
        return self._is_uid or self._command is None or not self._command.withholds_expunge

    def _count_bad(self, *, is_bad: bool) -> None:
        if not is_bad:
            self._bad = 0
            return
        self._bad += 1
        if self._bad >= (MAX_BAD_UNAUTHENTICATED if self.session.identity is None else MAX_BAD):
            self.session.leave("Too many bad commands")

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
        self.session.tag, self._is_uid = event.tag, False
        self.session.leave_gone_mailbox()
        command = self._command = self.session.table.plain[b"APPEND"]
        outcome = await self._start_transfer(command, event)
        if outcome is None:
            self._machine.accept_literal()
            return
        can_go_on = self._machine.refuse_literal()
        self._finish(outcome)
        if not can_go_on:
            self.session.leave("The literal is too large to be read over")

    async def _start_transfer(self, command: Command, event: AppendStarted) -> Tagged | None:
        """None: the transfer has begun."""
        refusal = self._refusal(command)
        if refusal is not None:
            return refusal
        assert command.start is not None
        try:
            cursor = Cursor(event.args, utf8=self.session.utf8)
            args: Any = command.parse(cursor, self.session.contexts[False])
            args = replace(args, is_binary=event.is_binary)
            hidden = self._hidden_form(command, args)
            started = hidden or await command.start(self.session, args, event)
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
