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

# Python sorts combining marks in quadratic time. No language needs more (UAX #15, stream-safe text).
MAX_MARKS = 30

_SUSPECT = re.compile(rf"[^\w\s\x00-\x7f]{{{MAX_MARKS},}}")  # may hold too many marks
_WORD = re.compile(rb"=\?([^?\s]{1,100})\?([BbQq])\?([^?]*)\?=")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64 = bytes(octet for octet in range(256) if octet not in _BASE64)
_TAG = re.compile(r"<!--|<(/?[A-Za-z]++|!|\?)[^<>]*+>")
_COMMENT_END = re.compile(r"-->")
# What ends the comment, script or style that a tag begins.
_HIDING = {
    "<!--": _COMMENT_END,
    "script": re.compile(r"</script(?![a-z])[^<>]*+>", re.IGNORECASE | re.ASCII),
    "style": re.compile(r"</style(?![a-z])[^<>]*+>", re.IGNORECASE | re.ASCII),
}

# Octets or characters that one call of the slower functions of the library gets. They keep the interpreter to
# themselves, at up to 400 ns each, so a large part at once would hold up everything else in the process.
STRIDE = 64 * 1024


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
    """An unknown charset is taken for UTF-8 when that fits, else for Windows-1252; so is ASCII, which
    8-bit mail likes to claim. Octets the charset does not have become U+FFFD."""
    name = charset.decode("ascii", "replace") if isinstance(charset, bytes) else charset
    codec = _codec(name) if name else None
    if codec is not None and codec != "ascii":
        return _decode(data, codec)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _decode(data, "cp1252")


def _decode(data: bytes, codec: str) -> str:
    if len(data) <= STRIDE:
        return data.decode(codec, "replace")
    decoder = codecs.getincrementaldecoder(codec)("replace")
    try:
        pieces = [decoder.decode(data[at : at + STRIDE]) for at in range(0, len(data), STRIDE)]
        return "".join([*pieces, decoder.decode(b"", final=True)])
    except UnicodeError:  # those of ISO 2022 do not go on behind some octets
        return data.decode(codec, "replace")


def decode_words(raw: bytes) -> str:
    """A header value with its encoded words decoded; blanks between adjacent words go, RFC 2047 §6.2.

    Adjacent words of one charset are decoded together: some mailers split characters between them.
    """
    value = unfold(raw)
    if b"=?" not in value:
        return decode_charset(value, None)
    pieces: list[str] = []
    held: list[bytes] = []  # octets of adjacent words of one charset
    charset, pos = b"", 0
    for match in _WORD.finditer(value):
        between = value[pos : match.start()]
        is_adjacent = pos > 0 and not between.strip()
        name = match[1].split(b"*", 1)[0].lower()  # RFC 2231 §5: a language may follow
        if held and (name != charset or not is_adjacent):
            pieces.append(decode_charset(b"".join(held), charset))
            held = []
        if not is_adjacent:
            pieces.append(decode_charset(between, None))
        held.append(_word_bytes(match[2], match[3]))
        charset, pos = name, match.end()
    pieces.append(decode_charset(b"".join(held), charset))
    pieces.append(decode_charset(value[pos:], None))
    return "".join(pieces)


def _word_bytes(encoding: bytes, text: bytes) -> bytes:
    if encoding in b"Bb":
        return decode_base64(text)
    return binascii.a2b_qp(text, header=True)


def decode_base64(data: bytes) -> bytes:
    """As much as can be read: foreign octets are skipped, missing padding is added."""
    digits = data.translate(None, _NOT_BASE64)
    digits = digits[: len(digits) - (len(digits) % 4 == 1)]
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def decode_transfer(data: bytes, encoding: bytes) -> bytes:
    """Undo a Content-Transfer-Encoding (upper case); unknown ones, and uuencode, are left as they are."""
    if encoding == b"BASE64":
        return decode_base64(data)
    if encoding == b"QUOTED-PRINTABLE":
        return binascii.a2b_qp(data)
    return data


def part_text(part: Part, data: bytes | mmap.mmap, limit: int = MAX_PART_BYTES) -> str:
    """Decoded text of the first ``limit`` octets of a text part."""
    raw = data[part.body_start : min(part.body_end, part.body_start + limit)]
    return decode_charset(decode_transfer(raw, part.encoding), parameter(part.params, b"CHARSET"))


def search_text(root: Part, data: bytes | mmap.mmap, limit: int) -> Iterator[str]:
    """Readable text of all text parts, reports and headers of embedded messages, in order, for SEARCH.

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
        elif part.is_readable:
            text = part_text(part, data, min(limit, MAX_PART_BYTES))
            limit -= part.size_bytes
            yield strip_tags(text) if part.subtype == b"HTML" else text
        stack.extend(reversed(part.children))


def header_text(header: bytes) -> str:
    """A header block for searching: unfolded, encoded words decoded, one field a line."""
    lines = re.sub(rb"\r?\n(?=[ \t])", b"", header).splitlines()
    return "\n".join(decode_words(line) for line in lines)


def strip_tags(text: str) -> str:
    """HTML without tags, comments, scripts and styles, entities decoded. Crude, but linear."""
    pieces: list[str] = []
    markup, pos = _Markup(text), 0
    while (tag := markup.find(_TAG, pos)) is not None:
        pieces.append(text[pos : tag.start()])
        pos = tag.end()
        ending = _HIDING.get((tag[1] or tag[0]).lower())
        if ending is not None:
            end = markup.find(ending, pos)
            pos = len(text) if end is None else end.end()
    pieces.append(text[pos:])
    return html.unescape(" ".join(pieces).replace("-->", " "))


class _Markup:
    """Looks for tags in strides, from places that only grow. A stride ends before a ``<``, which no tag has
    inside; what is behind its limit up to there costs next to nothing."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._stop = 0  # of the stride

    def find(self, pattern: re.Pattern[str], pos: int) -> re.Match[str] | None:
        """The first match from ``pos`` on."""
        text = self._text
        while pos < len(text):
            if pos >= self._stop:
                stop = text.find("<", pos + STRIDE)
                self._stop = len(text) if stop < 0 else stop
            match = pattern.search(text, pos, self._stop)
            if match is not None:
                return match
            pos = self._stop
        return None


def fold(text: str) -> str:
    """The form in which two texts are compared without case, near to i;unicode-casemap (RFC 5051).

    Decomposed and case-folded, so accents count, however they are composed. Of a run of combining marks
    only the first MAX_MARKS are kept.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFD", _SUSPECT.sub(_few_marks, text))
    text = text.casefold()
    return text if text.isascii() else unicodedata.normalize("NFD", text)


def _few_marks(match: re.Match[str]) -> str:
    kept: list[str] = []
    run = 0
    for char in match[0]:
        run = run + 1 if unicodedata.combining(char) else 0
        if run <= MAX_MARKS:
            kept.append(char)
    return "".join(kept)
