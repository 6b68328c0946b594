"""FETCH values as bytes: flags, dates, envelopes and body structures.

Strings of an envelope or structure never hold CR, LF or NUL (``storage.mime`` removed them), so each can
be sent; what a quoted string may not hold (8-bit octets without UTF-8) goes as a literal.

References: RFC 9051 §7.5.2 (FETCH response), §9 (envelope, body), RFC 3501 §7.4.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from storage.mime.envelope import Address, Envelope

from .responses import MAX_QUOTED_BYTES, NIL, nstring, quote

if TYPE_CHECKING:
    from storage.mime.description import Disposition
    from storage.mime.headers import Parameters
    from storage.mime.structure import Part

DAY_S = 86_400
_EPOCH_ORDINAL = 719_163  # date(1970, 1, 1).toordinal()
_LAST_DAY = 3_652_059 - _EPOCH_ORDINAL  # 31-Dec-9999
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


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


# --- strings --------------------------------------------------------------------------------------

# Most envelopes and structures hold nothing that quoting would have to look at. So all strings are first
# put between line feeds, which no value contains; one look at the whole then tells whether the line feeds
# may simply become quotes. That is twice as fast as looking at each of some thirty strings.
Text: TypeAlias = Callable[[bytes | None], bytes]
_PLAIN = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\') + b"\n"


def _marked(value: bytes | None) -> bytes:
    return NIL if value is None else b"\n%b\n" % value


def _quoted(marked: bytes) -> bytes | None:
    """None when some string needs more than quotes around it."""
    if marked.translate(None, _PLAIN):
        return None
    if len(marked) > MAX_QUOTED_BYTES and max(map(len, marked.split(b"\n"))) > MAX_QUOTED_BYTES:
        return None
    return marked.replace(b"\n", b'"')


def _utf8_text(value: bytes | None) -> bytes:
    """UTF-8 may stand in a quoted string then (RFC 6855 §3), other 8-bit octets may not."""
    if value is None:
        return NIL
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return quote(value)
    return quote(value, utf8=True)


def _exact(*, utf8: bool) -> Text:
    return _utf8_text if utf8 else nstring


# --- envelopes ------------------------------------------------------------------------------------


def envelope(value: Envelope, *, utf8: bool = False) -> bytes:
    """Ten fields in parentheses."""
    return _quoted(_envelope(value, _marked)) or _envelope(value, _exact(utf8=utf8))


def _envelope(value: Envelope, text: Text) -> bytes:
    senders = _addresses(value.from_, text)
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        text(value.date),
        text(value.subject),
        senders,
        senders if value.sender == value.from_ else _addresses(value.sender, text),
        senders if value.reply_to == value.from_ else _addresses(value.reply_to, text),
        _addresses(value.to, text),
        _addresses(value.cc, text),
        _addresses(value.bcc, text),
        text(value.in_reply_to),
        text(value.message_id),
    )


def _addresses(values: Sequence[Address], text: Text) -> bytes:
    """NIL when there are none: the empty list is not in the grammar."""
    if not values:
        return NIL
    return b"(%b)" % b"".join(
        [
            b"(%b %b %b %b)" % (text(value.name), text(value.adl), text(value.mailbox), text(value.host))
            for value in values
        ]
    )


# --- body structures ------------------------------------------------------------------------------


def body(part: Part, *, extended: bool, utf8: bool = False) -> bytes:
    """BODY, or BODYSTRUCTURE with its extension data. Recurses at most ``structure.MAX_DEPTH`` deep."""
    return _quoted(_body(part, _marked, extended=extended)) or _body(
        part, _exact(utf8=utf8), extended=extended
    )


def _body(part: Part, text: Text, *, extended: bool) -> bytes:
    if part.is_multipart:
        return _multipart(part, text, extended=extended)
    fields = [
        text(part.type),
        text(part.subtype),
        _parameters(part.params, text),
        text(part.content_id),
        text(part.description),
        text(part.encoding),
        b"%d" % part.size_bytes,
    ]
    if part.envelope is not None:
        fields.append(_envelope(part.envelope, text))
        fields.append(_body(part.children[0], text, extended=extended))
        fields.append(b"%d" % part.lines)
    elif part.is_text:
        fields.append(b"%d" % part.lines)
    if extended:
        fields.append(text(part.md5))
        fields.append(_extension(part, text))
    return b"(%b)" % b" ".join(fields)


def _multipart(part: Part, text: Text, *, extended: bool) -> bytes:
    children = b"".join([_body(child, text, extended=extended) for child in part.children])
    if not extended:
        return b"(%b %b)" % (children, text(part.subtype))
    params = _parameters(part.params, text)
    return b"(%b %b %b %b)" % (children, text(part.subtype), params, _extension(part, text))


def _extension(part: Part, text: Text) -> bytes:
    """Disposition, language and location."""
    if part.disposition is None and part.location is None and not part.language:
        return b"NIL NIL NIL"
    return b"%b %b %b" % (
        _disposition(part.disposition, text),
        b"(%b)" % b" ".join(map(text, part.language)) if part.language else NIL,
        text(part.location),
    )


def _parameters(pairs: Parameters, text: Text) -> bytes:
    if not pairs:
        return NIL
    return b"(%b)" % b" ".join([text(word) for pair in pairs for word in pair])


def _disposition(value: Disposition | None, text: Text) -> bytes:
    if value is None:
        return NIL
    return b"(%b %b)" % (text(value[0]), _parameters(value[1], text))


# --- sections -------------------------------------------------------------------------------------

_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')


def astring(value: bytes) -> bytes:
    """As an atom where that is possible; field names are echoed so."""
    return value if _ATOM.fullmatch(value) else quote(value)


def literal(data: bytes) -> bytes:
    """Any octets but NUL are allowed in it; stored mail with NUL is returned as it is."""
    return b"{%d}\r\n%b" % (len(data), data)
