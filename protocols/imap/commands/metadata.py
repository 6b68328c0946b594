"""GETMETADATA and SETMETADATA (RFC 5464)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from storage.annotations import Place
from storage.errors import NotPermitted, OverQuota, ReadOnly, TooBig

from .. import responses
from ..grammar import Cursor
from ..metadataargs import (
    Answer,
    Asked,
    answer,
    has_options,
    parse_entries,
    parse_name,
    parse_options,
    parse_text,
)
from ..registry import AUTHENTICATED, Command, No, Ok, Outcome, ParseContext

if TYPE_CHECKING:
    from ..session import ImapSession

SERVER: Final = ""  # the name that stands for the server


@dataclass(frozen=True, slots=True)
class GetArgs:
    name: str
    asked: Asked


def parse_get(cursor: Cursor, _context: ParseContext) -> GetArgs:
    """Options stand before the mailbox; an example of RFC 5464 §4.2.1 has them behind it."""
    options = Asked({})
    cursor.space()
    if cursor.peek() == 0x28:
        options = parse_options(cursor)
        cursor.space()
    name = cursor.mailbox()
    cursor.space()
    if has_options(cursor):
        options = parse_options(cursor)
        cursor.space()
    asked = parse_entries(cursor, options)
    cursor.end()
    return GetArgs(name, asked)


async def run_get(session: ImapSession, args: GetArgs) -> Outcome:
    there = await session.annotations.at(session.user.account_id, await _place(session, args.name))
    found = answer(args.asked, there)
    write_metadata(session, args.name, found)
    await session.connection.drain()
    return Ok("Done", long_entries(found.longest))


def long_entries(longest: int) -> bytes | None:
    return b"METADATA LONGENTRIES %d" % longest if longest else None


def write_metadata(session: ImapSession, name: str, found: Answer) -> None:
    if found.items:
        session.send(responses.metadata(name, found.items, utf8=session.utf8))


async def _place(session: ImapSession, name: str, *, is_written: bool = False) -> Place:
    if name == SERVER:
        return None
    mailbox = await session.services.mail.get_mailbox(session.user.account_id, name)
    if is_written and mailbox.is_read_only:
        raise ReadOnly("nothing can be noted there")
    return mailbox.id


@dataclass(frozen=True, slots=True)
class SetArgs:
    name: str
    changes: Mapping[str, bytes | None]


def parse_set(cursor: Cursor, _context: ParseContext) -> SetArgs:
    cursor.space()
    name = cursor.mailbox()
    cursor.space()
    cursor.expect(b"(")
    changes = dict([_parse_change(cursor)])
    while not cursor.accept(b")"):
        cursor.space()
        entry, value = _parse_change(cursor)
        changes[entry] = value
    cursor.end()
    return SetArgs(name, changes)


def _parse_change(cursor: Cursor) -> tuple[str, bytes | None]:
    entry = parse_name(cursor, parse_text(cursor))
    cursor.space()
    return entry, cursor.nstring()


async def run_set(session: ImapSession, args: SetArgs) -> Outcome:
    annotations, account_id = session.annotations, session.user.account_id
    place = await _place(session, args.name, is_written=True)
    try:
        await annotations.change(account_id, place, args.changes)
    except TooBig:
        return No("A value is too large", b"METADATA MAXSIZE %d" % annotations.limits.entry_bytes)
    except OverQuota as error:
        return No(str(error), b"METADATA TOOMANY")
    except NotPermitted as error:
        return No(str(error), b"CANNOT")
    return Ok("Done")


GETMETADATA = Command(
    b"GETMETADATA",
    AUTHENTICATED,
    parse_get,
    run_get,
    "RFC 5464 §4.2",
    capabilities=(b"METADATA", b"METADATA-SERVER"),
)
SETMETADATA = Command(b"SETMETADATA", AUTHENTICATED, parse_set, run_set, "RFC 5464 §4.3")
