"""The IMAP envelope of a header block, and the address lists in it.

Values are as they stand in the header, on one line, octets above 127 included; encoded words are not
decoded. No value contains CR, LF or NUL, so each fits an IMAP string.

References: RFC 9051 §7.5.2 (ENVELOPE), RFC 5322 §3.4 and §4.4 (addresses, obsolete addresses).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from storage.errors import Corrupt

from .headers import lowered, seek_value

# A list of thousands is a mistake or an attack; readers see this many, the header itself keeps them all.
MAX_ADDRESSES = 2000
# A subject or message id is a line; more than this is an attack on whoever lists headers.
MAX_TEXT_BYTES = 16 * 1024
# Room for MAX_ADDRESSES of 128 octets.
MAX_LIST_BYTES = 256 * 1024

_UNWANTED = b"\r\n\0"
_WORD = rb"[^\x00-\x20\"(),:;<>@\\\[\]]+"
# The usual forms: `Name <local@host>`, `"Name" <local@host>`, `local@host`; then a comma or the end.
_USUAL = re.compile(
    rb"[ \t,]*+(?:(?:\"([^\"\\]*+)\"[ \t]*+|([^\"(),:;<>@\\\[\]]*+))<(" + _WORD + rb")@(" + _WORD + rb")>"
    rb"|(" + _WORD + rb")@(" + _WORD + rb"))[ \t]*+(?:,|$)"
)
_TOKEN = re.compile(
    rb"(?P<blank>[\x00-\x20]++)"
    rb"|(?P<word>=\?[^?\s]++\?[BbQq]\?[^?\s]*+\?=|\[[^\[\]\\]*+\]|" + _WORD + rb")"
    rb"|(?P<quoted>\"([^\"\\]*+(?:\\.[^\"\\]*+)*+)\")"
    rb"|(?P<mark>.)",
    re.DOTALL,
)
_PAREN = re.compile(rb"\\.|[()]", re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


class Address(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member of an address list, RFC 9051 §7.5.2.

    ``host`` None marks group syntax: the start of the group named by ``mailbox``, or its end where that
    is None as well. An address whose half is missing in the header has it empty, never None.
    """

    name: bytes | None
    adl: bytes | None  # source route
    mailbox: bytes | None
    host: bytes | None


GROUP_END = Address(None, None, None, None)


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What FETCH ENVELOPE tells. Absent fields are None or empty; sender and reply_to fall back to from."""

    date: bytes | None = None
    subject: bytes | None = None
    from_: list[Address] = []
    sender: list[Address] = []
    reply_to: list[Address] = []
    to: list[Address] = []
    cc: list[Address] = []
    bcc: list[Address] = []
    in_reply_to: bytes | None = None
    message_id: bytes | None = None


_decoder = msgspec.msgpack.Decoder(Envelope)
_encoder = msgspec.msgpack.Encoder()


def parse_envelope(header: bytes) -> Envelope:
    """The first field of each name counts. Linear; never raises."""
    index = lowered(header)

    def text(name: bytes) -> bytes | None:
        span = seek_value(index, name)
        if span is None:
            return None
        raw = header[span[0] : min(span[1], span[0] + MAX_TEXT_BYTES)]
        return raw.translate(None, _UNWANTED).strip(b" \t")

    def addresses(name: bytes) -> list[Address]:
        span = seek_value(index, name)
        if span is None:
            return []
        return parse_addresses(header[span[0] : min(span[1], span[0] + MAX_LIST_BYTES)])

    from_ = addresses(b"from")
    return Envelope(
        date=text(b"date"),
        subject=text(b"subject"),
        from_=from_,
        sender=addresses(b"sender") or from_,
        reply_to=addresses(b"reply-to") or from_,
        to=addresses(b"to"),
        cc=addresses(b"cc"),
        bcc=addresses(b"bcc"),
        in_reply_to=text(b"in-reply-to"),
        message_id=text(b"message-id"),
    )


def encode_envelope(envelope: Envelope) -> bytes:
    return _encoder.encode(envelope)


def decode_envelope(data: bytes) -> Envelope:
    """Raises Corrupt."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise Corrupt(f"stored envelope cannot be read: {error}") from error


def parse_addresses(raw: bytes) -> list[Address]:
    """At most MAX_ADDRESSES of an address list, groups with their markers. Never raises."""
    value = raw.translate(None, _UNWANTED).rstrip(b" \t,")
    found: list[Address] = []
    pos, stop = 0, len(value)
    while pos < stop and len(found) < MAX_ADDRESSES:
        match = _USUAL.match(value, pos)
        if match is None:
            found.extend(_ListReader(value, pos).read(MAX_ADDRESSES - len(found)))
            break
        quoted, phrase, local, host, bare_local, bare_host = match.groups()
        if bare_local is not None:
            found.append(Address(None, None, bare_local, bare_host))
        else:
            found.append(Address(_phrase(quoted or phrase), None, local, host))
        pos = match.end()
    return found


def _phrase(text: bytes | None) -> bytes | None:
    return (text and b" ".join(text.split())) or None


class _ListReader:
    """The slow road: anything RFC 5322 allows, and everything else."""

    __slots__ = ("_comments_end", "_pos", "_quotes_end", "_value")

    def __init__(self, value: bytes, pos: int) -> None:
        self._value = value
        self._pos = pos
        # Once a parenthesis or quote turned out never to be closed, later ones are ordinary octets: looking
        # for the end of each would be quadratic.
        self._comments_end = True
        self._quotes_end = True

    def read(self, limit: int) -> list[Address]:
        found: list[Address] = []
        current = _Pending()
        in_group = False
        for kind, text in self._tokens():
            if len(found) >= limit - 1:  # room for the end of a group
                break
            if kind != b"mark" or text not in b",;:" or current.is_route(text):
                current.take(kind, text)
            elif text == b":" and not current.has_address and not in_group:
                found.append(Address(None, None, current.words_text(), None))
                current, in_group = _Pending(), True
            elif text != b":":
                found.extend(current.finish())
                current = _Pending()
                if text == b";" and in_group:
                    found.append(GROUP_END)
                    in_group = False
        if len(found) < limit:
            found.extend(current.finish())
        if in_group and len(found) <= limit:
            found[limit - 1 :] = [GROUP_END]
        return found

    def _tokens(self) -> Iterator[tuple[bytes, bytes]]:
        """(kind, text): word, quoted, comment or mark; blanks are dropped."""
        value, stop = self._value, len(self._value)
        while self._pos < stop:
            first = value[self._pos]
            if first == 0x28 and self._comments_end and (comment := self._comment()) is not None:
                yield b"comment", comment
                continue
            if first == 0x22 and not self._quotes_end:
                self._pos += 1
                continue
            match = _TOKEN.match(value, self._pos)
            assert match is not None
            self._pos = match.end()
            if match.lastgroup == "word":
                yield b"word", match[0]
            elif match.lastgroup == "mark":
                self._quotes_end = self._quotes_end and match[0] != b'"'
                yield b"mark", match[0]
            elif match.lastgroup != "blank":
                yield b"quoted", _ESCAPE.sub(rb"\1", match[4])

    def _comment(self) -> bytes | None:
        depth = 0
        for match in _PAREN.finditer(self._value, self._pos):
            depth += {b"(": 1, b")": -1}.get(match[0], 0)
            if depth == 0:
                text = self._value[self._pos + 1 : match.start()]
                self._pos = match.end()
                return _ESCAPE.sub(rb"\1", text)
        self._comments_end = False
        return None


class _Pending:
    """The tokens of one address so far."""

    __slots__ = ("_at", "_comment", "_local", "_route", "_words", "has_angle", "in_angle")

    def __init__(self) -> None:
        self._words: list[bytes] = []  # before an angle bracket
        self._local: list[bytes] = []  # inside it
        self._route: bytes | None = None
        self._comment: bytes | None = None
        self.has_angle = self.in_angle = False

    def take(self, kind: bytes, text: bytes) -> None:
        if kind == b"comment":
            self._comment = text
        elif kind == b"mark" and text == b"<":
            self.in_angle = self.in_angle or not self.has_angle
            self.has_angle = True
        elif kind == b"mark" and text == b">":
            self.in_angle = False
        elif kind == b"mark" and text == b":" and self.in_angle:
            self._route = b"".join(self._local)
            self._local = []
        elif self.in_angle:
            self._local.append(text)
        elif not self.has_angle:
            self._words.append(text)

    def is_route(self, mark: bytes) -> bool:
        """Whether this comma or colon belongs to a source route ``<@a,@b:local@host>``."""
        return self.in_angle and mark != b";" and self._local[:1] == [b"@"]

    @property
    def has_address(self) -> bool:
        return self.has_angle or b"@" in self._words

    def words_text(self) -> bytes:
        return b" ".join(self._words)

    def finish(self) -> list[Address]:
        if self.has_angle:
            local, host = _halves(self._local)
            return [Address(self.words_text() or self._comment or None, self._route or None, local, host)]
        if b"@" in self._words:  # `local@host`, or `Name local@host` of mailers that forgot the brackets
            first, end = _address_span(self._words)
            local, host = _halves(self._words[first:end])
            return [Address(b" ".join(self._words[:first]) or self._comment or None, None, local, host)]
        if len(self._words) > 1:
            return [Address(self.words_text(), None, b"", b"")]
        return [Address(self._comment or None, None, self._words[0], b"")] if self._words else []


def _last_at(tokens: list[bytes]) -> int:
    return len(tokens) - 1 - tokens[::-1].index(b"@")


def _address_span(words: list[bytes]) -> tuple[int, int]:
    """Where ``local@host`` lies among the words. Blanks may stand around dots (RFC 5322 §4.4)."""
    at = _last_at(words)
    first, end = max(at - 1, 0), at + 2
    while first and (words[first][:1] in b".@" or words[first - 1] in (b".", b"@")):
        first -= 1
    while end < len(words) and (words[end][:1] == b"." or words[end - 1][-1:] == b"."):
        end += 1
    return first, end


def _halves(tokens: list[bytes]) -> tuple[bytes, bytes]:
    """Local part and host around the last ``@``."""
    if b"@" not in tokens:
        return b"".join(tokens), b""
    at = _last_at(tokens)
    return b"".join(tokens[:at]), b"".join(tokens[at + 1 :])
