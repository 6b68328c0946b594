"""EXPUNGE and UID EXPUNGE (RFC 4315 §2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ports import MailboxChanged
from storage.model import ModSeq, Uid

from ..grammar import Cursor
from ..registry import SELECTED, Command, Ok, Outcome, ParseContext
from ..replies import refusal_to_change
from ..seqset import SavedResult, UidSet

if TYPE_CHECKING:
    from ..session import ImapSession


def parse_expunge(cursor: Cursor, context: ParseContext) -> UidSet | SavedResult | None:
    if not context.uid:
        cursor.end()
        return None
    cursor.space()
    uids = cursor.uidset()
    cursor.end()
    return uids


async def run_expunge(session: ImapSession, among: UidSet | SavedResult | None) -> Outcome:
    """The EXPUNGE lines are written on the way out, like all others."""
    if (refusal := refusal_to_change(session.view)) is not None:
        return refusal
    uids = None if among is None else [uid for _, uid in session.view.resolve(among)]
    if uids is None or uids:
        await expunge_deleted(session, uids)
    return Ok("Expunged")


async def expunge_deleted(session: ImapSession, uids: list[Uid] | None) -> None:
    """One statement. The views of this process know at once, all others by the feed."""
    view = session.view
    mailbox_id = view.mailbox.id
    expunged = await session.services.mail.expunge(mailbox_id, uids)
    if expunged.uids:
        announce_expunged(session, expunged.uids, expunged.highestmodseq)


def announce_expunged(session: ImapSession, uids: tuple[Uid, ...], modseq: ModSeq) -> None:
    view = session.view
    view.shared.apply_own((), uids, modseq, view)
    session.services.feed.publish(MailboxChanged(session.user.account_id, view.mailbox.id, modseq))


EXPUNGE = Command(
    b"EXPUNGE",
    SELECTED,
    parse_expunge,
    run_expunge,
    "RFC 9051 §6.4.3, RFC 4315 §2.1",
    capabilities=(b"UIDPLUS",),
    has_uid_form=True,
)
