"""The body of mail of our own, with the fields that describe it: plain text, or a MIME entity that the author
of a script wrote (RFC 5230 §4.4). Pure.

A MIME entity is user input: of its fields only those about the content are taken, each once, and what no
server has to carry (long lines, octets above 127) is encoded, or mended where it cannot be.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from storage.mime.headers import iter_fields, parameter, parse_parameters, split_header, unfold

MAX_LINE_OCTETS: Final = 998
PLAIN: Final = b"text/plain; charset=utf-8"
_ENDS = re.compile("\r\n|\r|\n")
_AS_THEY_ARE: Final = (b"", b"7bit", b"8bit", b"binary")
# Beyond this share of octets above 127, base64 is shorter to read and to send than quoted-printable.
_FOREIGN_SHARE: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Entity:
    """``fields`` with their line ends, MIME-Version among them. ``notes`` for who wrote the text."""

    fields: bytes
    body: bytes
    notes: tuple[str, ...] = ()


def text_entity(text: str) -> Entity:
    body = _octets(text)
    if _is_plain(body):
        return _entity({b"content-type": b"text/plain; charset=us-ascii"}, body)
    encoding, coded = _coded(body, is_text=True)
    return _entity({b"content-type": PLAIN, b"content-transfer-encoding": encoding}, coded)


def mime_entity(text: str) -> Entity:
    """``text``: fields, an empty line, and the content. Text that does not begin so is sent as text."""
    octets = _octets(text)
    fields, start = _content_fields(octets)
    if start is None:
        plain = text_entity(text)
        return Entity(plain.fields, plain.body, (":mime text without header fields is sent as plain text",))
    body = octets[start:]
    head, params = parse_parameters(fields.setdefault(b"content-type", PLAIN))
    is_composite = head.lower().startswith((b"multipart/", b"message/"))
    if is_composite:
        return _composite(fields, body)
    is_text = head.lower().startswith(b"text/")
    return _leaf(fields, body, is_text=is_text, charset=parameter(params, b"CHARSET"))


def _composite(fields: dict[bytes, bytes], body: bytes) -> Entity:
    """Its parts were encoded by the author, and no encoding of the whole is allowed (RFC 2045 §6.4)."""
    fields.pop(b"content-transfer-encoding", None)
    if not body.isascii():
        fields[b"content-transfer-encoding"] = b"8bit"
    return _entity(fields, *_shortened(body))


def _leaf(fields: dict[bytes, bytes], body: bytes, *, is_text: bool, charset: bytes | None) -> Entity:
    if fields.get(b"content-transfer-encoding", b"").lower() not in _AS_THEY_ARE:
        short, notes = _shortened(body)
        if not short.isascii():
            notes = (*notes, ":mime text has octets that its encoding does not allow")
            short = bytes(octet if octet < 128 else 63 for octet in short)
        return _entity(fields, short, notes)
    fields.pop(b"content-transfer-encoding", None)
    if is_text and not body.isascii() and (charset or b"us-ascii").lower() == b"us-ascii":
        kind, _, _ = fields[b"content-type"].partition(b";")
        fields[b"content-type"] = kind.strip() + b"; charset=utf-8"
    if not _is_plain(body):
        fields[b"content-transfer-encoding"], body = _coded(body, is_text=is_text)
    return _entity(fields, body)


def _content_fields(octets: bytes) -> tuple[dict[bytes, bytes], int | None]:
    """Values of Content-* fields by name, and where the content begins; None: there is no header."""
    if octets.startswith(b"\r\n"):
        return {}, 2
    end = split_header(octets)
    found = list(iter_fields(octets[:end]))
    if not found or found[0].start != 0:
        return {}, None
    fields: dict[bytes, bytes] = {}
    for each in found:
        value = unfold(octets[each.value_start : each.end]).strip(b" \t")
        if each.name.lower().startswith(b"content-"):
            fields.setdefault(each.name.lower(), bytes(octet if 31 < octet < 127 else 63 for octet in value))
    return fields, end


def _octets(text: str) -> bytes:
    """With CRLF line ends, also behind the last line."""
    lines = _ENDS.split(text.replace("\0", ""))
    if lines[-1] == "":
        lines.pop()
    return b"".join(line.encode("utf-8", "replace") + b"\r\n" for line in lines)


def _is_plain(body: bytes) -> bool:
    return body.isascii() and _longest(body) <= MAX_LINE_OCTETS


def _longest(body: bytes) -> int:
    return max(map(len, body.split(b"\r\n")))


def _coded(body: bytes, *, is_text: bool) -> tuple[bytes, bytes]:
    """The name of the encoding, and the body in it."""
    foreign = sum(octet > 127 for octet in body)
    if is_text and foreign <= len(body) * _FOREIGN_SHARE:
        quoted = binascii.b2a_qp(body.replace(b"\r\n", b"\n"))
        return b"quoted-printable", quoted.replace(b"\n", b"\r\n")
    coded = base64.b64encode(body)
    return b"base64", b"".join(coded[at : at + 76] + b"\r\n" for at in range(0, len(coded), 76))


def _shortened(body: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Long lines broken. A character may be broken too: it is no line that any server would carry."""
    if _longest(body) <= MAX_LINE_OCTETS:
        return body, ()
    lines = (
        line[at : at + MAX_LINE_OCTETS]
        for line in body.split(b"\r\n")
        for at in range(0, max(len(line), 1), MAX_LINE_OCTETS)
    )
    return b"\r\n".join(lines), (
        f":mime text has lines of more than {MAX_LINE_OCTETS} octets; they are broken",
    )


def _entity(fields: dict[bytes, bytes], body: bytes, notes: tuple[str, ...] = ()) -> Entity:
    lines = [b"MIME-Version: 1.0\r\n"]
    for name, value in fields.items():
        lines.append(_spelled(name) + b": " + _folded(value) + b"\r\n")
    return Entity(b"".join(lines), body, notes)


def _spelled(name: bytes) -> bytes:
    return b"-".join(word.capitalize() for word in name.split(b"-"))[:70]


def _folded(value: bytes) -> bytes:
    """At parameters, where that keeps lines short; what is too long for a line ends there."""
    if len(value) <= 60:
        return value
    return b"\r\n ".join(piece[: MAX_LINE_OCTETS - 100] for piece in re.split(rb"(?<=;) ", value))
