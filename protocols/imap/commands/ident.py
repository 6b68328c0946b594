"""ID and NAMESPACE: who we are, and where mailboxes are to be found."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from storage.model import DELIMITER

from .. import responses
from ..grammar import Cursor
from ..registry import ANY, AUTHENTICATED, Command, Ok, ParseContext, parse_nothing

if TYPE_CHECKING:
    from ..session import ImapSession

log = logging.getLogger("sora.imap")

MAX_FIELDS: Final = 30  # RFC 2971 §3.3


def parse_id(cursor: Cursor, _context: ParseContext) -> dict[bytes, bytes]:
    cursor.space()
    fields: dict[bytes, bytes] = {}
    if cursor.accept(b"NIL"):
        cursor.end()
        return fields
    cursor.expect(b"(")
    while not cursor.accept(b")"):
        if fields:
            cursor.space()
        if len(fields) == MAX_FIELDS:
            raise cursor.error("Too many fields")
        name = cursor.string().lower()
        cursor.space()
        fields[name] = cursor.nstring() or b""
    cursor.end()
    return fields


def run_id(session: ImapSession, fields: dict[bytes, bytes]) -> Ok:
    told = {_word(key, 30): _word(value, 200) for key, value in fields.items()}
    if told:
        log.info("client %r", told, extra=session.connection.log_extra)
        name, version = told.get("name", ""), told.get("version", "")
        session.services.sessions.client_named(session.connection.session_id, name, version)
        session.learn(name=name, version=version)
    words = b" ".join(responses.quote(word) for pair in session.presentation.identity for word in pair)
    session.send(b"* ID (%b)\r\n" % words)
    return Ok("Pleased to meet you")


def _word(raw: bytes, limit: int) -> str:
    return raw.decode("utf-8", "replace")[:limit]


def run_namespace(session: ImapSession, _args: None) -> Ok:
    """All are personal: what is in them is the user's own. Clients that know of one only take the first."""
    prefixes = ["", *(namespace.root + DELIMITER for namespace in session.services.namespaces)]
    told = b"".join(
        b"(%b %b)" % (responses.mailbox(prefix, utf8=session.utf8), responses.quote(DELIMITER.encode()))
        for prefix in prefixes
    )
    session.send(b"* NAMESPACE (%b) NIL NIL\r\n" % told)
    return Ok("One personal namespace" if len(prefixes) == 1 else "Personal namespaces only")


ID = Command(b"ID", ANY, parse_id, run_id, "RFC 2971 §3.1", capabilities=(b"ID",))
NAMESPACE = Command(
    b"NAMESPACE",
    AUTHENTICATED,
    parse_nothing,
    run_namespace,
    "RFC 9051 §6.3.10",
    capabilities=(b"NAMESPACE",),
)
