"""APPEND: a message of any size, streamed into the spool.

Whether the mailbox is there and the size is allowed is checked before the literal is asked for, so a
client that waits for the continuation sends nothing in vain.

References: RFC 9051 §6.3.12, RFC 4315 §3 (APPENDUID), RFC 7889 (APPENDLIMIT), RFC 6855 §4 (UTF8).
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from protocols.messageevents import Cause
from protocols.ports import MailboxChanged
from storage.errors import CommitUnknown, NotFound, ReadOnly, StorageError
from storage.model import Appended, Flags, Mailbox, NewMessage, StagedContent

from .. import events, responses
from ..grammar import Cursor
from ..machine import AppendStarted
from ..registry import AUTHENTICATED, Bad, Command, No, Ok, Outcome, ParseContext, Tagged

if TYPE_CHECKING:
    from storage.api import Spool

    from ..session import ImapSession

log = logging.getLogger("sora.imap")

_NO_TARGET: Final = No("There is no such mailbox; create it first", b"TRYCREATE")


@dataclass(frozen=True, slots=True)
class AppendArgs:
    """What stands before the message literal."""

    name: str
    flags: Flags
    internaldate: datetime | None
    closing: bytes  # what must follow the literal
    is_binary: bool = False  # the literal is a literal8


def parse_append(cursor: Cursor, _context: ParseContext) -> AppendArgs:
    """The cursor ends where the literal's announcement was."""
    cursor.space()
    name = cursor.mailbox()
    cursor.space()
    flags, internaldate, closing = Flags(), None, b""
    if cursor.peek() == 0x28:
        flags = cursor.flag_list()
        cursor.space()
    if cursor.peek() == 0x22:
        internaldate = cursor.datetime()
        cursor.space()
    if cursor.accept(b"UTF8 ("):
        closing = b")"
    cursor.end()
    return AppendArgs(name, flags, internaldate, closing)


def run_append(_session: ImapSession, _args: AppendArgs) -> Outcome:
    """Only a command without a literal comes here; those with one are started."""
    return Bad("Expected a message literal")


async def start_append(
    session: ImapSession, args: AppendArgs, event: AppendStarted
) -> AppendTransfer | Tagged:
    if event.size_bytes > session.policy.max_message_bytes:
        return No(f"Messages may have {session.policy.max_message_bytes} octets", b"TOOBIG")
    if event.size_bytes == 0:
        return No("The message is empty", b"CANNOT")
    try:
        mailbox = await session.services.mail.get_mailbox(session.user.account_id, args.name)
    except NotFound:
        return _NO_TARGET
    if mailbox.is_read_only:
        raise ReadOnly("nothing can be appended there")
    return AppendTransfer(session, args, mailbox, session.services.intake.spool())


class AppendTransfer:
    """One message on its way in; ``registry.Transfer``."""

    def __init__(self, session: ImapSession, args: AppendArgs, mailbox: Mailbox, spool: Spool) -> None:
        self._session = session
        self._args = args
        self._mailbox = mailbox
        self._spool: Spool | None = spool
        self._failure: StorageError | None = None

    def write(self, data: bytes) -> None:
        """After a failure the rest of the literal is read over."""
        if self._spool is None or self._failure is not None:
            return
        try:
            self._spool.write(data)
        except StorageError as error:
            self._failure = error

    def close(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.close()

    async def finish(self, rest: bytes) -> Outcome:
        if rest != self._args.closing:
            return Bad("Unexpected text after the message")
        if self._failure is not None:
            raise self._failure
        spool, self._spool = self._spool, None
        assert spool is not None
        session = self._session
        staged = await session.services.intake.take(spool)
        try:
            appended = await self._append(staged)
        except NotFound:  # deleted since we asked
            return _NO_TARGET
        session.policy.instruments.message_in(staged.content.size_bytes)
        if appended is None:
            return Ok("Appended")
        modseq = appended.modseq
        session.services.feed.publish(MailboxChanged(self._mailbox.account_id, self._mailbox.id, modseq))
        if await events.is_watched(session, self._mailbox):
            await events.arrived(session, Cause.APPEND, self._mailbox, [(appended.uid, self._args.flags)])
        if session.selected is not None and session.selected.mailbox.id == self._mailbox.id:
            await session.views.refresh(self._mailbox.id, modseq)  # EXISTS before the reply
        if not session.shows(b"UIDPLUS"):
            return Ok("Appended")
        return Ok("Appended", responses.code_appenduid(appended.uidvalidity, appended.uid))

    async def _append(self, staged: StagedContent) -> Appended | None:
        """None: it was stored, but where cannot be told."""
        key = secrets.token_bytes(32)  # finds this very append again, should its commit get lost
        message = NewMessage(
            self._mailbox.id,
            flags=self._args.flags,
            internaldate=self._args.internaldate,
            delivery_key=key,
        )
        mail = self._session.services.mail
        try:
            [appended] = await mail.append(staged, [message])
        except CommitUnknown:
            if await mail.delivered(self._mailbox.id, key):
                return None
            raise
        except StorageError:
            await self._session.services.intake.discard(staged)
            raise
        return appended


APPEND = Command(
    b"APPEND",
    AUTHENTICATED,
    parse_append,
    run_append,
    "RFC 9051 §6.3.12, RFC 6855 §4",
    capabilities=(b"UTF8=ACCEPT",),  # the rest of it is ENABLE, and what Cursor and responses do
    start=start_append,
)
