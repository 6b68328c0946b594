"""COPY and MOVE with their UID forms (RFC 4315 §3, RFC 6851)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from protocols.messageevents import Cause
from protocols.ports import MailboxChanged
from storage.errors import NotFound
from storage.model import Copied, Flags, Mailbox, Uid

from .. import events, responses
from ..grammar import Cursor
from ..registry import SELECTED, Command, No, Ok, Outcome, ParseContext
from ..replies import refusal_to_change
from ..seqset import SavedResult, SeqSet, UidSet
from .expunge import announce_expunged

if TYPE_CHECKING:
    from ..session import ImapSession

NO_TARGET: Final = No("There is no such mailbox; create it first", b"TRYCREATE")


@dataclass(frozen=True, slots=True)
class CopyArgs:
    numbers: SeqSet | UidSet | SavedResult
    target: str


def parse_copy(cursor: Cursor, context: ParseContext) -> CopyArgs:
    cursor.space()
    numbers = cursor.uidset() if context.uid else cursor.seqset()
    cursor.space()
    target = cursor.mailbox()
    cursor.end()
    return CopyArgs(numbers, target)


async def _prepare(session: ImapSession, args: CopyArgs) -> tuple[Mailbox | None, list[Uid]]:
    """The target, None if there is none, and what to copy."""
    uids = [uid for _, uid in session.view.resolve(args.numbers)]
    try:
        return await session.services.mail.get_mailbox(session.user.account_id, args.target), uids
    except NotFound:
        return None, uids


async def run_copy(session: ImapSession, args: CopyArgs) -> Outcome:
    target, uids = await _prepare(session, args)
    if target is None:
        return NO_TARGET
    if not uids:
        return Ok("No messages to copy")
    watched = await _watched(session, target, uids)
    try:
        copied = await session.services.mail.copy(session.view.mailbox.id, uids, target.id)
    except NotFound:
        return NO_TARGET
    if not copied.pairs:
        return No("The messages no longer exist", b"EXPUNGEISSUED")
    await _publish_target(session, target, copied)
    await _tell(session, target, copied, watched)
    await _teach(session, b"COPY", target, copied)
    return Ok("Copied", _where(session, copied))


async def run_move(session: ImapSession, args: CopyArgs) -> Outcome:
    """COPYUID comes in an untagged OK before the EXPUNGE lines (RFC 6851 §4.3)."""
    view = session.view
    if (refusal := refusal_to_change(view)) is not None:
        return refusal
    target, uids = await _prepare(session, args)
    if target is None:
        return NO_TARGET
    if not uids:
        return Ok("No messages to move")
    if target.id == view.mailbox.id:
        return No("The messages are in this mailbox already", b"CANNOT")
    watched = await _watched(session, target, uids)
    try:
        moved = await session.services.mail.move(view.mailbox.id, uids, target.id)
    except NotFound:
        return NO_TARGET
    if not moved.pairs:
        return No("The messages no longer exist", b"EXPUNGEISSUED")
    assert moved.source_modseq is not None
    announce_expunged(session, tuple(source for source, _ in moved.pairs), moved.source_modseq)
    await _publish_target(session, target, moved)
    await _tell(session, target, moved, watched)
    if (code := _where(session, moved)) is not None:
        session.send(responses.ok("Moved", code))
    await _teach(session, b"MOVE", target, moved)
    return Ok("Moved")


async def _watched(session: ImapSession, target: Mailbox, uids: list[Uid]) -> dict[Uid, Flags] | None:
    """The flags that the copies will have; None: nobody wants to know."""
    return events.flags_before(session, uids) if await events.is_watched(session, target) else None


async def _tell(
    session: ImapSession, target: Mailbox, copied: Copied, watched: dict[Uid, Flags] | None
) -> None:
    if watched is not None:
        new = [(uid, watched.get(source, events.NO_FLAGS)) for source, uid in copied.pairs]
        await events.arrived(session, Cause.COPY, target, new)


def _where(session: ImapSession, copied: Copied) -> bytes | None:
    return responses.code_copyuid(copied.uidvalidity, copied.pairs) if session.shows(b"UIDPLUS") else None


async def _publish_target(session: ImapSession, target: Mailbox, copied: Copied) -> None:
    change = MailboxChanged(session.user.account_id, target.id, copied.target_modseq)
    session.services.feed.publish(change)
    if target.id == session.view.mailbox.id:  # the client sees its own copies with the reply
        await session.views.refresh(target.id, copied.target_modseq)


async def _teach(session: ImapSession, name: bytes, target: Mailbox, copied: Copied) -> None:
    """What the user says of spam by it. The messages are where they belong already, so half of the time that
    the command may take is kept for its reply."""
    trainer = session.services.training
    if trainer is not None:
        limit_s = session.policy.command_limits_s.get(name.decode("ascii"))
        uids = [uid for _, uid in copied.pairs]
        within_s = None if limit_s is None else limit_s / 2
        await trainer.moved(session.user, session.view.mailbox, target, uids, within_s=within_s)


COPY = Command(
    b"COPY", SELECTED, parse_copy, run_copy, "RFC 9051 §6.4.7", has_uid_form=True, reports_progress=True
)
MOVE = Command(
    b"MOVE",
    SELECTED,
    parse_copy,
    run_move,
    "RFC 9051 §6.4.8, RFC 6851 §3",
    capabilities=(b"MOVE",),
    has_uid_form=True,
    reports_progress=True,
)
