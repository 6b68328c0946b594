"""ENABLE (RFC 9051 §6.3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .. import responses
from ..grammar import Cursor
from ..registry import AUTHENTICATED, Command, Ok, ParseContext

if TYPE_CHECKING:
    from ..session import ImapSession

# What changes the server's behaviour when it is enabled, and the name it is answered with.
KNOWN: Final = {b"CONDSTORE": b"CONDSTORE", b"IMAP4REV2": b"IMAP4rev2", b"UTF8=ACCEPT": b"UTF8=ACCEPT"}


def parse_enable(cursor: Cursor, _context: ParseContext) -> list[bytes]:
    names: list[bytes] = []
    while not cursor.at_end or not names:
        cursor.space()
        names.append(cursor.keyword())
    return names


def run_enable(session: ImapSession, names: list[bytes]) -> Ok:
    """Unknown names, and what is on already, are passed over."""
    announced = {name.upper() for name in session.capabilities()}
    fresh = [name for name in dict.fromkeys(names) if name in KNOWN and name in announced]
    fresh = [name for name in fresh if name not in session.enabled]
    session.enable(*fresh)
    if b"CONDSTORE" in fresh:
        session.enable_condstore()
    session.send(responses.enabled([KNOWN[name] for name in fresh]))
    return Ok("Enabled")


ENABLE = Command(
    b"ENABLE", AUTHENTICATED, parse_enable, run_enable, "RFC 9051 §6.3.1", capabilities=(b"ENABLE",)
)
