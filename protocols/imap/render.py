"""FETCH values as bytes: flags, dates, envelopes and body structures.

Strings of an envelope or structure never hold CR, LF or NUL (``storage.mime`` removed them), so each can
be sent; what a quoted string may not hold (8-bit octets without UTF-8) goes as a literal.

References: RFC 9051 §7.5.2 (FETCH response), §9 (envelope, body), RFC 3501 §7.4.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

from storage.mime.envelope import Address, Envelope

from .responses import NIL, quote

if TYPE_CHECKING:
    from storage.mime.description import Disposition
    from storage.mime.headers import Parameters
    from storage.mime.structure import Part

DAY_S = 86_400
_EPOCH_ORDINAL = 719_163  # date(1970, 1, 1).toordinal()
_LAST_DAY = 3_652_059 - _EPOCH_ORDINAL  # 31-Dec-9999
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
# Anything that quoting would have to look at; most envelopes have none.
_SPECIAL = re.compile(rb'[^\x20-\x7e]|["\\]')


# --- dates ----------------------------------------------------------------------------------------


def internaldate(seconds: int) -> bytes:
    """``"17-Jul-1996 02:44:25 +0000"``; times outside the calendar are shown as its ends."""
    days, rest = divmod(seconds, DAY_S)
    minutes, second = divmod(rest, 60)
    return b'"%b %02d:%02d:%02d +0000"' % (_day(days), *divmod(minutes, 60), second)


@lru_cache(maxsize=4096)
def _day(days: int) -> bytes:
    day = date.fromordinal(min(max(days, 1 - _EPOCH_ORDINAL), _LAST_DAY) + _EPOCH_ORDINAL)
    return b"%2d-%b-%04d" % (day.day, _MONTHS[day.month - 1], day.year)


# --- envelopes ------------------------------------------------------------------------------------


def envelope(value: Envelope, *, utf8: bool = False) -> bytes:
    """Ten fields in parentheses."""
    senders = addresses(value.from_, utf8=utf8)
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        text(value.date, utf8=utf8),
        text(value.subject, utf8=utf8),
        senders,
        senders if value.sender == value.from_ else addresses(value.sender, utf8=utf8),
        senders if value.reply_to == value.from_ else addresses(value.reply_to, utf8=utf8),
        addresses(value.to, utf8=utf8),
        addresses(value.cc, utf8=utf8),
        addresses(value.bcc, utf8=utf8),
        text(value.in_reply_to, utf8=utf8),
        text(value.message_id, utf8=utf8),
    )


def text(value: bytes | None, *, utf8: bool) -> bytes:
    """An nstring."""
    if value is None:
        return NIL
    if _SPECIAL.search(value) is None and len(value) < 1000:
        return b'"%b"' % value
    if utf8 and not _is_utf8(value):
        utf8 = False
    return quote(value, utf8=utf8)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def addresses(values: Sequence[Address], *, utf8: bool) -> bytes:
    """NIL when there are none: the empty list is not in the grammar."""
    if not values:
        return NIL
    return b"(%b)" % b"".join([_address(value, utf8=utf8) for value in values])


def _address(value: Address, *, utf8: bool) -> bytes:
    return b"(%b %b %b %b)" % (
        text(value.name, utf8=utf8),
        text(value.adl, utf8=utf8),
        text(value.mailbox, utf8=utf8),
        text(value.host, utf8=utf8),
    )


# --- body structures ------------------------------------------------------------------------------


def body(part: Part, *, extended: bool, utf8: bool = False) -> bytes:
    """BODY, or BODYSTRUCTURE with its extension data. Recurses at most ``structure.MAX_DEPTH`` deep."""
    if part.is_multipart:
        return _multipart(part, extended=extended, utf8=utf8)
    fields = [
        text(part.type, utf8=utf8),
        text(part.subtype, utf8=utf8),
        _parameters(part.params, utf8=utf8),
        text(part.content_id, utf8=utf8),
        text(part.description, utf8=utf8),
        text(part.encoding, utf8=utf8),
        b"%d" % part.size_bytes,
    ]
    if part.envelope is not None:
        fields.append(envelope(part.envelope, utf8=utf8))
        fields.append(body(part.children[0], extended=extended, utf8=utf8))
        fields.append(b"%d" % part.lines)
    elif part.is_text:
        fields.append(b"%d" % part.lines)
    if extended:
        fields.append(text(part.md5, utf8=utf8))
        fields += _extension(part, utf8=utf8)
    return b"(%b)" % b" ".join(fields)


def _multipart(part: Part, *, extended: bool, utf8: bool) -> bytes:
    children = b"".join([body(child, extended=extended, utf8=utf8) for child in part.children])
    fields = [children, text(part.subtype, utf8=utf8)]
    if extended:
        fields.append(_parameters(part.params, utf8=utf8))
        fields += _extension(part, utf8=utf8)
    return b"(%b)" % b" ".join(fields)


def _extension(part: Part, *, utf8: bool) -> list[bytes]:
    return [
        _disposition(part.disposition, utf8=utf8),
        _languages(part.language, utf8=utf8),
        text(part.location, utf8=utf8),
    ]


def _parameters(pairs: Parameters, *, utf8: bool) -> bytes:
    if not pairs:
        return NIL
    words = [text(word, utf8=utf8) for pair in pairs for word in pair]
    return b"(%b)" % b" ".join(words)


def _disposition(value: Disposition | None, *, utf8: bool) -> bytes:
    if value is None:
        return NIL
    return b"(%b %b)" % (text(value[0], utf8=utf8), _parameters(value[1], utf8=utf8))


def _languages(values: Sequence[bytes], *, utf8: bool) -> bytes:
    if not values:
        return NIL
    return b"(%b)" % b" ".join([text(value, utf8=utf8) for value in values])


# --- sections -------------------------------------------------------------------------------------

_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')


def astring(value: bytes) -> bytes:
    """As an atom where that is possible; field names are echoed so."""
    return value if _ATOM.fullmatch(value) else quote(value)


def literal(data: bytes) -> bytes:
    """Any octets but NUL are allowed in it; stored mail with NUL is returned as it is."""
    return b"{%d}\r\n%b" % (len(data), data)
