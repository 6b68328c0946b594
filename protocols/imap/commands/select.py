"""SELECT, EXAMINE, UNSELECT, CLOSE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.model import Mailbox, Uid

from .. import responses
from ..grammar import Cursor
from ..registry import AUTHENTICATED, SELECTED, Command, Ok, Outcome, ParseContext, parse_nothing
from .expunge import expunge_deleted

if TYPE_CHECKING:
    from ..session import ImapSession
    from ..view import SessionView


@dataclass(frozen=True, slots=True)
class SelectArgs:
    name: str
    condstore: bool


def parse_select(cursor: Cursor, _context: ParseContext) -> SelectArgs:
    cursor.space()
    name = cursor.mailbox()
    condstore = False
    if not cursor.at_end:
        cursor.space()
        cursor.expect(b"(")
        cursor.expect(b"CONDSTORE")  # RFC 7162 §3.1.8
        cursor.expect(b")")
        cursor.end()
        condstore = True
    return SelectArgs(name, condstore)


async def run_select(session: ImapSession, args: SelectArgs) -> Outcome:
    return await _open(session, args, read_only=False)


async def run_examine(session: ImapSession, args: SelectArgs) -> Outcome:
    return await _open(session, args, read_only=True)


async def _open(session: ImapSession, args: SelectArgs, *, read_only: bool) -> Outcome:
    """Two reads at most: the mailbox, and its messages unless a view is in memory."""
    if session.selected is not None:  # RFC 9051 §6.3.2: also when the new one cannot be selected
        session.unselect()
        session.send(responses.ok("The previous mailbox is closed", b"CLOSED"))
    if args.condstore:
        session.enable_condstore()
    mailbox = await session.services.mail.get_mailbox(session.user.account_id, args.name)
    condstore = b"CONDSTORE" in session.enabled
    words = "Examined" if read_only else "Selected"
    read_only = read_only or mailbox.is_read_only
    view = await session.views.open(mailbox, read_only=read_only, condstore=condstore)
    session.select(view)
    _describe(session, view)
    if session.rev2:
        session.write_listing(mailbox, args.name)
    if not read_only:
        _claim_recent(session, view, mailbox)
    return Ok(words, b"READ-ONLY" if read_only else b"READ-WRITE")


def _describe(session: ImapSession, view: SessionView) -> None:
    send, mailbox = session.send, view.mailbox
    session.write_flags()
    send(responses.exists(view.count))
    if not session.rev2:
        send(responses.recent(view.recent))
        unseen = view.shared.first_unseen()
        if unseen is not None:
            send(responses.ok("First unseen message", responses.code_unseen(unseen + 1)))
    send(responses.ok("UIDs are valid", responses.code_uidvalidity(mailbox.uidvalidity)))
    send(responses.ok("Predicted next UID", responses.code_uidnext(mailbox.uidnext)))
    if session.shows(b"CONDSTORE"):
        send(responses.ok("Highest", responses.code_highestmodseq(view.shared.version)))


def _claim_recent(session: ImapSession, view: SessionView, mailbox: Mailbox) -> None:
    """The messages are announced to this session; the store hears of it behind the reply."""
    if view.recent:
        upto = Uid(view.uid_at(view.count) + 1)
        view.claimed_recent = upto
        session.views.claim_recent(mailbox.id, upto)


def run_unselect(session: ImapSession, _args: None) -> Ok:
    session.unselect()
    return Ok("Unselected")


async def run_close(session: ImapSession, _args: None) -> Outcome:
    """Expunge without a word, then leave (RFC 9051 §6.4.1)."""
    view = session.view
    if not view.read_only:
        await expunge_deleted(session, None)
    session.unselect()
    return Ok("Closed")


SELECT = Command(
    b"SELECT", AUTHENTICATED, parse_select, run_select, "RFC 9051 §6.3.2", capabilities=(b"CONDSTORE",)
)
EXAMINE = Command(b"EXAMINE", AUTHENTICATED, parse_select, run_examine, "RFC 9051 §6.3.3")
UNSELECT = Command(
    b"UNSELECT", SELECTED, parse_nothing, run_unselect, "RFC 3691 §2", capabilities=(b"UNSELECT",)
)
CLOSE = Command(b"CLOSE", SELECTED, parse_nothing, run_close, "RFC 9051 §6.4.1")
