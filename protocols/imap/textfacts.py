"""What a search knows of one message's text: its header at once, its body when it has been read.

Texts are compared folded: encoded words and transfer encodings undone, without case
(``storage.mime.text.fold``). Of the body, text parts, reports and the headers of embedded messages count, as
RFC 9051 §6.4.4 lets a server choose; attachments are not searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from storage.mime.headers import all_values
from storage.mime.structure import MAX_HEADER_BYTES, Part, decode_structure
from storage.mime.text import MAX_PART_BYTES, decode_words, fold, header_text, search_text

from .pacing import breathe
from .sentdate import DAY_S, midnight, parse_sent_day

if TYPE_CHECKING:
    from storage.api import Body
    from storage.model import MessageRow

_BLANKS: Final = re.compile(r"[ \t]+")
# Read in one piece; of larger messages only the text parts are read.
WHOLE_BYTES: Final = 1024 * 1024
# Of one message. Beyond it there is no text that a person wrote.
MAX_SEARCHED_BYTES: Final = 32 * 1024 * 1024


class TextFacts:
    """One message."""

    __slots__ = ("_body", "_fields", "_header", "_header_text", "row")

    fold = staticmethod(fold)

    @staticmethod
    def fold_field(text: str) -> str:
        """Of header text: a run of blanks counts as one, as nobody knows where a field was folded."""
        return _BLANKS.sub(" ", fold(text))

    def __init__(self, row: MessageRow) -> None:
        self.row = row
        self._header = row.prefix + row.header
        self._fields: dict[str, list[str]] = {}
        self._header_text: str | None = None
        self._body: list[str] | None = None

    def field_has(self, name: str, needle: str) -> bool:
        """``needle`` comes from ``fold_field``, as that of ``header_has``."""
        values = self._fields.get(name)
        if values is None:
            raw = all_values(self._header, name.encode()) if name else []
            values = self._fields[name] = [self.fold_field(decode_words(value)) for value in raw]
        return any(needle in value for value in values)

    def header_has(self, needle: str) -> bool:
        if self._header_text is None:
            self._header_text = self.fold_field(header_text(self._header))
        return needle in self._header_text

    def sent_day(self, internaldate: int) -> int:
        """Midnight of the day in the Date field; of the internal date when there is none to be read."""
        values = all_values(self._header, b"date")
        day = parse_sent_day(values[0].decode("latin-1")) if values else None
        return internaldate - internaldate % DAY_S if day is None else midnight(day)

    def body_has(self, needle: str) -> bool | None:
        """None until the body is there."""
        if self._body is None:
            return None
        return any(needle in text for text in self._body) or not needle

    def set_no_body(self) -> None:
        """There is none to be had."""
        self._body = []

    async def read_body(self, body: Body) -> None:
        """Complete with the text of ``body``, the whole message. Raises Unavailable, Corrupt."""
        root = decode_structure(self.row.structure)
        reader = _Ranges(body, len(self.row.prefix))
        texts: list[str] = []
        left = MAX_SEARCHED_BYTES
        for part in _parts(root):
            if left <= 0:
                break
            text, size = await _text_of(part, reader)
            await breathe()
            left -= size
            texts.append(fold(text))
        self._body = texts


class _Ranges:
    """Ranges of a content, out of one read where it is small."""

    def __init__(self, body: Body, shift: int) -> None:
        self._body = body
        self._shift = shift
        self._whole: bytes | None = None

    async def read(self, start: int, stop: int) -> bytes:
        start, stop = start + self._shift, stop + self._shift
        if self._body.size_bytes > WHOLE_BYTES:
            return await self._body.read(start, stop)
        if self._whole is None:
            self._whole = await self._body.read()
        return self._whole[start:stop]


def _parts(root: Part) -> Iterator[Part]:
    """Text parts, reports and embedded messages, in order."""
    stack = [root]
    while stack:
        part = stack.pop()
        if part.is_message or part.is_readable:
            yield part
        stack.extend(reversed(part.children))


async def _text_of(part: Part, reader: _Ranges) -> tuple[str, int]:
    """The text, and how many octets were read for it."""
    if part.is_message:
        inner = part.children[0]
        header = await reader.read(
            inner.header_start, min(inner.body_start, inner.header_start + MAX_HEADER_BYTES)
        )
        return header_text(header), len(header)
    raw = await reader.read(part.body_start, min(part.body_end, part.body_start + MAX_PART_BYTES))
    alone = msgspec.structs.replace(part, body_start=0, body_end=len(raw))
    return "".join(search_text(alone, raw, MAX_PART_BYTES)), len(raw)
