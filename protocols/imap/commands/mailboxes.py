"""CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from protocols.ports import MailboxChanged
from storage.errors import AlreadyExists, NotFound
from storage.model import DELIMITER, INBOX, MailboxId, ModSeq, SpecialUse

from ..grammar import Cursor
from ..registry import AUTHENTICATED, Command, No, Ok, Outcome, ParseContext
from ..responses import SPECIAL_USE_NAMES

if TYPE_CHECKING:
    from ..session import ImapSession

_SPECIAL_USES: Final = {name.upper(): use for use, name in SPECIAL_USE_NAMES.items()}


def parse_name(cursor: Cursor, _context: ParseContext) -> str:
    cursor.space()
    name = cursor.mailbox()
    cursor.end()
    return name


def _publish_structure(session: ImapSession, mailbox_id: MailboxId) -> None:
    session.services.feed.publish(MailboxChanged(session.user.account_id, mailbox_id, ModSeq(0)))
    _forget_names(session)


def _forget_names(session: ImapSession) -> None:
    """Scripts of this process find mailboxes by their new names at once."""
    if session.services.filter is not None:
        session.services.filter.names.forget(session.user.account_id)


# --- CREATE ---


@dataclass(frozen=True, slots=True)
class CreateArgs:
    name: str
    special_use: SpecialUse | None
    is_unknown_use: bool = False


def parse_create(cursor: Cursor, _context: ParseContext) -> CreateArgs:
    cursor.space()
    name = cursor.mailbox()
    uses: list[bytes] = []
    if not cursor.at_end:
        cursor.space()
        cursor.expect(b"(USE (")  # RFC 6154 §3
        while not cursor.accept(b")"):
            if uses:
                cursor.space()
            cursor.expect(b"\\")
            uses.append(b"\\" + cursor.keyword())
        cursor.expect(b")")
        cursor.end()
    known = [_SPECIAL_USES[use] for use in uses if use in _SPECIAL_USES]
    return CreateArgs(name, known[0] if known else None, len(known) < len(uses) or len(known) > 1)


async def run_create(session: ImapSession, args: CreateArgs) -> Outcome:
    # RFC 9051 §6.3.4: a trailing delimiter only says that children are meant to come
    name = args.name.removesuffix(DELIMITER)
    if args.is_unknown_use:
        return No("This special use, or this combination, is not supported", b"USEATTR")
    account_id = session.user.account_id
    try:
        created = await session.services.mail.create_mailbox(account_id, name, args.special_use)
    except AlreadyExists:
        if args.special_use is not None and await _is_taken(session, args.special_use):
            return No("Another mailbox has this special use", b"USEATTR")
        return No("The mailbox exists already", b"ALREADYEXISTS")
    _publish_structure(session, created.id)
    if session.rev2 and created.name != name:  # stored in another spelling
        session.write_listing(created, name)
    return Ok("Created")


async def _is_taken(session: ImapSession, use: SpecialUse) -> bool:
    listed = await session.services.mail.list_mailboxes(session.user.account_id)
    return any(mailbox.special_use is use for mailbox in listed.mailboxes)


# --- DELETE, RENAME ---


async def run_delete(session: ImapSession, name: str) -> Outcome:
    if name == INBOX:
        return No("INBOX cannot be deleted", b"CANNOT")
    mail, account_id = session.services.mail, session.user.account_id
    mailbox = await mail.get_mailbox(account_id, name)
    await mail.delete_mailbox(account_id, name)
    if session.selected is not None and session.selected.mailbox.id == mailbox.id:
        session.selected.shared.mark_gone()
    _publish_structure(session, mailbox.id)
    return Ok("Deleted")


@dataclass(frozen=True, slots=True)
class RenameArgs:
    old: str
    new: str


def parse_rename(cursor: Cursor, _context: ParseContext) -> RenameArgs:
    cursor.space()
    old = cursor.mailbox()
    cursor.space()
    new = cursor.mailbox()
    cursor.end()
    return RenameArgs(old, new.removesuffix(DELIMITER))


async def run_rename(session: ImapSession, args: RenameArgs) -> Outcome:
    mail, account_id = session.services.mail, session.user.account_id
    try:
        await mail.rename_mailbox(account_id, args.old, args.new)
    except NotFound:
        return No("There is no such mailbox", b"NONEXISTENT")
    except AlreadyExists:
        return No("A mailbox of the new name exists already", b"ALREADYEXISTS")
    _forget_names(session)
    if args.old == INBOX:  # its messages have moved
        for name in (INBOX, args.new):
            mailbox = await mail.get_mailbox(account_id, name)
            session.services.feed.publish(MailboxChanged(account_id, mailbox.id, mailbox.highestmodseq))
    elif session.rev2:
        with contextlib.suppress(NotFound):  # a name that only has children
            session.write_listing(await mail.get_mailbox(account_id, args.new), args.old)
    return Ok("Renamed")


# --- subscriptions ---


async def run_subscribe(session: ImapSession, name: str) -> Outcome:
    await session.services.mail.set_subscribed(session.user.account_id, name, subscribed=True)
    return Ok("Subscribed")


async def run_unsubscribe(session: ImapSession, name: str) -> Outcome:
    await session.services.mail.set_subscribed(session.user.account_id, name, subscribed=False)
    return Ok("Unsubscribed")


CREATE = Command(
    b"CREATE",
    AUTHENTICATED,
    parse_create,
    run_create,
    "RFC 9051 §6.3.4",
    capabilities=(b"CREATE-SPECIAL-USE",),
)
DELETE = Command(b"DELETE", AUTHENTICATED, parse_name, run_delete, "RFC 9051 §6.3.5")
RENAME = Command(b"RENAME", AUTHENTICATED, parse_rename, run_rename, "RFC 9051 §6.3.6")
SUBSCRIBE = Command(b"SUBSCRIBE", AUTHENTICATED, parse_name, run_subscribe, "RFC 9051 §6.3.7")
UNSUBSCRIBE = Command(b"UNSUBSCRIBE", AUTHENTICATED, parse_name, run_unsubscribe, "RFC 9051 §6.3.8")
