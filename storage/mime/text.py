"""Mail as readable text: encoded words, transfer encodings, charsets. Nothing here ever raises on input.

References: RFC 2045 §6 (transfer encodings), RFC 2047 (encoded words), RFC 5051 (i;unicode-casemap).
"""

from __future__ import annotations

import binascii
import codecs
import html
import mmap
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from .headers import parameter, unfold
from .structure import Part

# Names in the wild that Python's codecs do not know, or where a superset is what is meant.
CHARSET_ALIASES = {
    "ks_c_5601-1987": "cp949",
    "ks_c_5601": "cp949",
    "ks_c_5601-1989": "cp949",
    "euc-kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "iso-8859-8-i": "iso-8859-8",
    "iso-8859-8-e": "iso-8859-8",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "x-sjis": "cp932",
    "shift_jis": "cp932",
    "iso-2022-jp": "iso2022_jp_ext",
    "windows-31j": "cp932",
    "x-mac-roman": "mac_roman",
    "macintosh": "mac_roman",
    "x-euc-jp": "euc_jp",
    "unicode-1-1-utf-7": "utf-7",
    "cp-850": "cp850",
    "x-windows-949": "cp949",
    "windows-874": "cp874",
    "tis-620": "cp874",
}

# Codecs of Python's that are no charsets; some raise whatever the error handler.
_NO_CHARSETS = {"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape", "unicode-escape"}

# Decoding is for search and previews; one part does not get to fill the memory.
MAX_PART_BYTES = 16 * 1024 * 1024

_WORD = re.compile(rb"=\?([^?\s]{1,100})\?([BbQq])\?([^?]*)\?=")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
_TAG = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>|<[^<>]*>", re.IGNORECASE | re.DOTALL)


@lru_cache(maxsize=256)
def _codec(charset: str) -> str | None:
    """Python's name of a text codec for a MIME charset, None when there is none."""
    name = charset.strip().lower()
    try:
        codec = codecs.lookup(CHARSET_ALIASES.get(name, name)).name
        b"a".decode(codec)  # refuses codecs that are no text encodings
    except (LookupError, ValueError):
        return None
    return None if codec in _NO_CHARSETS else codec


def decode_charset(data: bytes, charset: bytes | str | None) -> str:
    """Unknown and wrong charsets are read as UTF-8 when that fits, else as Windows-1252 or Latin-1."""
    name = charset.decode("ascii", "replace") if isinstance(charset, bytes) else charset or ""
    codec = _codec(name)
    if codec is not None and codec != "ascii":
        return data.decode(codec, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def decode_words(raw: bytes) -> str:
    """A header value with its encoded words decoded; blanks between adjacent words go, RFC 2047 §6.2."""
    value = unfold(raw)
    if b"=?" not in value:
        return decode_charset(value, None)
    pieces: list[str] = []
    pos = 0
    held = b""
    charset = b""
    for match in _WORD.finditer(value):
        between = value[pos : match.start()]
        name = match[1].split(b"*", 1)[0].lower()  # RFC 2231 §5: a language may follow
        if pieces or held:
            adjacent = not between.strip()
        else:
            adjacent = False
        if held and (not adjacent or name != charset):
            pieces.append(decode_charset(held, charset))
            held = b""
        if not adjacent:
            pieces.append(decode_charset(between, None))
        held, charset, pos = held + _word_bytes(match[2], match[3]), name, match.end()
    pieces.append(decode_charset(held, charset))
    pieces.append(decode_charset(value[pos:], None))
    return "".join(pieces)


def _word_bytes(encoding: bytes, text: bytes) -> bytes:
    if encoding in b"Bb":
        return decode_base64(text)
    return binascii.a2b_qp(text, header=True)


def decode_base64(data: bytes) -> bytes:
    """As much as can be read: foreign octets are skipped, missing padding is added."""
    digits = _NOT_BASE64.sub(b"", data)
    digits = digits[: len(digits) - (len(digits) % 4 == 1)]
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def decode_transfer(data: bytes, encoding: bytes) -> bytes:
    """Undo a Content-Transfer-Encoding (upper case); unknown ones, and uuencode, are left as they are."""
    if encoding == b"BASE64":
        return decode_base64(data)
    if encoding == b"QUOTED-PRINTABLE":
        return binascii.a2b_qp(data)
    return data


def part_text(part: Part, data: bytes | mmap.mmap) -> str:
    """Decoded text of a text part, its first MAX_PART_BYTES."""
    raw = data[part.body_start : min(part.body_end, part.body_start + MAX_PART_BYTES)]
    return decode_charset(decode_transfer(raw, part.encoding), parameter(part.params, b"CHARSET"))


def search_text(root: Part, data: bytes | mmap.mmap, limit: int) -> Iterator[str]:
    """Readable text of all text parts and of the headers of embedded messages, in order, for SEARCH.

    At most ``limit`` octets are read. HTML loses its tags. The header of the root message is not included.
    """
    stack = [root]
    while stack and limit > 0:
        part = stack.pop()
        if part.is_message:
            inner = part.children[0]
            raw = data[inner.header_start : min(inner.body_start, inner.header_start + limit)]
            limit -= len(raw)
            yield header_text(raw)
        elif part.is_text:
            text = part_text(part, data)
            limit -= part.size_bytes
            yield strip_tags(text) if part.subtype == b"HTML" else text
        stack.extend(reversed(part.children))


def header_text(header: bytes) -> str:
    """A header block for searching: unfolded, encoded words decoded, one field a line."""
    lines = re.sub(rb"\r?\n(?=[ \t])", b"", header).splitlines()
    return "\n".join(decode_words(line) for line in lines)


def strip_tags(markup: str) -> str:
    return html.unescape(_TAG.sub(" ", markup))


def fold(text: str) -> str:
    """The form in which two texts are compared without case, near to i;unicode-casemap (RFC 5051)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
