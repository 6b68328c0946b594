"""What a search knows of one message's text: its header at once, its body when it has been read.

Texts are compared folded: encoded words and transfer encodings undone, without case
(``storage.mime.text.fold``). Of the body, text parts and reports count, as RFC 9051 §6.4.4 lets a server
choose; TEXT looks at the headers of all parts and embedded messages too, so it finds attachments by name.
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

    __slots__ = ("_body", "_fields", "_header", "_header_text", "_part_headers", "row")

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
        self._part_headers: list[str] = []

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

    def text_has(self, of_header: str, needle: str) -> bool | None:
        """In any header, those of parts and embedded messages included, or in the body (RFC 9051 §6.4.4).

        ``of_header`` comes from ``fold_field``. None until the body is there and needed.
        """
        if self.header_has(of_header):
            return True
        found = self.body_has(needle)
        return any(of_header in text for text in self._part_headers) if found is False else found

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
            header, text = await _read_part(part, reader, with_header=part is not root)
            await breathe()
            left -= len(header) + len(text)
            if part is not root:
                self._part_headers.append(self.fold_field(header_text(header)))
            if part.is_readable:
                alone = msgspec.structs.replace(part, body_start=0, body_end=len(text))
                texts.append(fold("".join(search_text(alone, text, MAX_PART_BYTES))))
        self._body = texts


class _Ranges:
    """Ranges of a content, out of one read where it is small."""

    def __init__(self, body: Body, shift: int) -> None:
        self._body = body
        self._shift = shift
        self._whole: bytes | None = None

    async def read(self, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        start, stop = start + self._shift, stop + self._shift
        if self._body.size_bytes > WHOLE_BYTES:
            return await self._body.read(start, stop)
        if self._whole is None:
            self._whole = await self._body.read()
        return self._whole[start:stop]


def _parts(root: Part) -> Iterator[Part]:
    """All parts, in order."""
    stack = [root]
    while stack:
        part = stack.pop()
        yield part
        stack.extend(reversed(part.children))


async def _read_part(part: Part, reader: _Ranges, *, with_header: bool) -> tuple[bytes, bytes]:
    """Header and, where it is text, body, as far as they are searched; one read for both."""
    start = max(part.header_start, part.body_start - MAX_HEADER_BYTES) if with_header else part.body_start
    stop = min(part.body_end, part.body_start + MAX_PART_BYTES) if part.is_readable else part.body_start
    raw = await reader.read(start, stop)
    return raw[: part.body_start - start], raw[part.body_start - start :]
