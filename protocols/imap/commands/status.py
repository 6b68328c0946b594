"""STATUS, and its items, which LIST RETURN (STATUS ...) has too (RFC 5819)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from storage.model import Mailbox

from .. import responses
from ..grammar import Cursor
from ..registry import AUTHENTICATED, Command, Ok, Outcome, ParseContext

if TYPE_CHECKING:
    from ..session import ImapSession

HIGHESTMODSEQ: Final = b"HIGHESTMODSEQ"


def recent_estimate(mailbox: Mailbox) -> int:
    """Messages no session was told of; too many by those of them that were expunged since."""
    return max(0, min(mailbox.messages, mailbox.uidnext - mailbox.recent_uid))


ITEMS: Final[Mapping[bytes, Callable[[Mailbox], int]]] = {
    b"MESSAGES": lambda mailbox: mailbox.messages,
    b"UIDNEXT": lambda mailbox: mailbox.uidnext,
    b"UIDVALIDITY": lambda mailbox: mailbox.uidvalidity,
    b"UNSEEN": lambda mailbox: mailbox.unseen,
    b"RECENT": recent_estimate,
    b"DELETED": lambda mailbox: mailbox.deleted,
    b"SIZE": lambda mailbox: mailbox.size_bytes,  # RFC 8438
    HIGHESTMODSEQ: lambda mailbox: mailbox.highestmodseq,
}


def parse_items(cursor: Cursor) -> tuple[bytes, ...]:
    """The list in parentheses, each item once."""
    cursor.expect(b"(")
    items = [_parse_item(cursor)]
    while not cursor.accept(b")"):
        cursor.space()
        items.append(_parse_item(cursor))
    return tuple(dict.fromkeys(items))


def _parse_item(cursor: Cursor) -> bytes:
    item = cursor.keyword()
    if item not in ITEMS and item != b"APPENDLIMIT":
        raise cursor.error(f"Unknown status item {item.decode('ascii')}")
    return item


def write_status(session: ImapSession, mailbox: Mailbox, items: tuple[bytes, ...]) -> None:
    values = [
        (item, ITEMS[item](mailbox) if item in ITEMS else session.policy.max_message_bytes) for item in items
    ]
    session.send(responses.status(mailbox.name, values, utf8=session.utf8))


@dataclass(frozen=True, slots=True)
class StatusArgs:
    name: str
    items: tuple[bytes, ...]


def parse_status(cursor: Cursor, _context: ParseContext) -> StatusArgs:
    cursor.space()
    name = cursor.mailbox()
    cursor.space()
    items = parse_items(cursor)
    cursor.end()
    return StatusArgs(name, items)


async def run_status(session: ImapSession, args: StatusArgs) -> Outcome:
    mailbox = await session.services.mail.get_mailbox(session.user.account_id, args.name)
    if HIGHESTMODSEQ in args.items:
        session.enable_condstore()  # RFC 7162 §3.1
    write_status(session, mailbox, args.items)
    return Ok("Done")


STATUS = Command(
    b"STATUS", AUTHENTICATED, parse_status, run_status, "RFC 9051 §6.3.11", capabilities=(b"STATUS=SIZE",)
)
