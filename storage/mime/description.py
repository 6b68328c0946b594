"""What the Content-* fields of one part say, in the terms of BODYSTRUCTURE.

Values hold no CR, LF or NUL. Types, encodings and parameter names are in upper case, values as spelled.

References: RFC 2045 §5 and §6, RFC 2183 (disposition), RFC 3282 (language), RFC 2557 (location).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from .headers import Parameters, lowered, parse_parameters, seek_value

Disposition: TypeAlias = tuple[bytes, Parameters]

# Longer values are nobody's; what BODYSTRUCTURE shows of a part stays bounded.
MAX_VALUE_BYTES = 16 * 1024
MAX_LANGUAGES = 64
# Most parts of the world share a few short content types; longer ones carry boundaries or names.
CACHED_VALUE_BYTES = 64

_UNWANTED = b"\r\n\0"
_TOKEN = rb"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+"
_MEDIA_TYPE = re.compile(rb"(" + _TOKEN + rb")[ \t]*/[ \t]*(" + _TOKEN + rb")(?=[ \t;(]|$)")
_FIRST_TOKEN = re.compile(_TOKEN)
_LANGUAGE = re.compile(rb"[0-9A-Za-z-]+")


class Description(NamedTuple):
    """The describing fields of a part, in the order ``structure.Part`` has them."""

    type: bytes
    subtype: bytes
    params: Parameters
    content_id: bytes | None
    description: bytes | None
    encoding: bytes
    md5: bytes | None
    disposition: Disposition | None
    language: list[bytes]
    location: bytes | None


def plain_text() -> Description:
    """A part that says nothing of itself, RFC 2045 §5.2."""
    return Description(b"TEXT", b"PLAIN", _US_ASCII.copy(), None, None, b"7BIT", None, None, [], None)


def opaque() -> Description:
    return Description(b"APPLICATION", b"OCTET-STREAM", [], None, None, b"8BIT", None, None, [], None)


def parse_description(header: bytes, *, in_digest: bool) -> Description:
    """``in_digest``: a part that names no type is a message, RFC 2046 §5.1.5."""
    fields = _content_fields(header)
    kind, subtype, params = b"TEXT", b"PLAIN", _US_ASCII
    value = fields.get(b"type")
    if value is not None:
        kind, subtype, params = (_cached_type if len(value) <= CACHED_VALUE_BYTES else _media_type)(value)
    elif in_digest:
        kind, subtype, params = b"MESSAGE", b"RFC822", []
    encoding = fields.get(b"transfer-encoding")
    disposition = fields.get(b"disposition")
    language = fields.get(b"language")
    return Description(
        kind,
        subtype,
        params.copy(),  # the cached list is not handed out
        fields.get(b"id"),
        fields.get(b"description"),
        b"7BIT" if encoding is None else _encoding(encoding),
        fields.get(b"md5"),
        None if disposition is None else _disposition(disposition),
        [] if language is None else _LANGUAGE.findall(language)[:MAX_LANGUAGES],
        fields.get(b"location"),
    )


_US_ASCII: Parameters = [(b"CHARSET", b"US-ASCII")]
_KNOWN = (
    b"type",
    b"transfer-encoding",
    b"disposition",
    b"id",
    b"description",
    b"language",
    b"location",
    b"md5",
)
_PREFIX = b"content-"


def _content_fields(header: bytes) -> dict[bytes, bytes]:
    """Clean values of the known Content-* fields, the first of each name."""
    index = lowered(header)
    fields: dict[bytes, bytes] = {}
    at = index.find(b"\n" + _PREFIX)
    if at < 0:
        return fields
    for name in _KNOWN:
        span = seek_value(index, _PREFIX + name, at)
        if span is not None:
            raw = header[span[0] : min(span[1], span[0] + MAX_VALUE_BYTES)]
            fields[name] = raw.translate(None, _UNWANTED).strip(b" \t")
    return fields


def _media_type(value: bytes) -> tuple[bytes, bytes, Parameters]:
    match = _MEDIA_TYPE.match(value)
    if match is None:
        return b"TEXT", b"PLAIN", _US_ASCII
    return match[1].upper(), match[2].upper(), parse_parameters(value)[1]


_cached_type = lru_cache(maxsize=1024)(_media_type)


def _encoding(value: bytes) -> bytes:
    match = _FIRST_TOKEN.match(value)
    return match[0].upper() if match else b"7BIT"


def _disposition(value: bytes) -> Disposition | None:
    head, params = parse_parameters(value)
    match = _FIRST_TOKEN.match(head)
    return (match[0].upper(), params) if match else None
