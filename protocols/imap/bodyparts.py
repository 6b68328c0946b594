"""BODY[…], RFC822 and BINARY of one message: which octets, from where, and in which form.

Offsets: everything scanned counts from the start of the content; a stored message has its prefix (trace
fields of delivery) before that. ``BODY[]``, the size, and the message's own header include the prefix,
all other sections lie behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from storage.errors import Corrupt
from storage.mime.headers import cut_fields, empty_line
from storage.mime.sections import Section, find_part, locate
from storage.mime.structure import MAX_HEADER_BYTES, Part, decode_structure
from storage.mime.text import decode_transfer

from .items import FIELDS, BinaryItem, BinarySizeItem, BodyItem
from .render import literal
from .responses import NIL

if TYPE_CHECKING:
    from protocols.memory import SessionMemory
    from storage.api import Body, BodySource
    from storage.model import MessageRow

# What one response may hold in memory; larger pieces go from the body to the socket as they come.
HELD_BYTES: Final = 1024 * 1024
_FIELD_NAME = re.compile(rb"[!-9;-~]+")
_IDENTITY = frozenset({b"7BIT", b"8BIT", b"BINARY"})
_DECODED = frozenset({b"BASE64", b"QUOTED-PRINTABLE"})
EMPTY: Final = b'""'


class UnknownEncoding(Exception):
    """A part's Content-Transfer-Encoding cannot be undone (RFC 3516 §4.3)."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A literal to be written piece by piece."""

    body: Body
    start: int
    stop: int
    mark: bytes = b""  # ``~`` for a literal8


class MessageReader:
    """Cuts one message. Opens its body and decodes its structure at most once, and only when needed."""

    def __init__(self, bodies: BodySource, row: MessageRow, memory: SessionMemory) -> None:
        self._bodies = bodies
        self._memory = memory
        self._charged = 0
        self.row = row
        self._body: Body | None = None
        self._root: Part | None = None
        self._held = 0

    def begin(self) -> None:
        """A new response: nothing is held for it yet."""
        self._held = 0

    def give_back(self) -> None:
        """The response is written, and what it was made of forgotten."""
        self._memory.refund(self._charged)
        self._charged = 0

    def _charge(self, size_bytes: int) -> None:
        self._memory.charge(size_bytes)
        self._charged += size_bytes

    def is_before_end(self, item: BodyItem | BinaryItem | BinarySizeItem) -> bool:
        """Whether a partial item ends before the message does, so that more may be asked for."""
        if isinstance(item, BinarySizeItem) or item.partial is None:
            return False
        return sum(item.partial) < len(self.row.prefix) + self.row.ref.size_bytes

    async def value(self, item: BodyItem | BinaryItem | BinarySizeItem) -> bytes | Streamed:
        """The value of an item: an encoded string or number, or a literal to be streamed.

        Raises Unavailable, NotFound, Corrupt, UnknownEncoding, OverMemory.
        """
        if isinstance(item, BodyItem):
            return await self._section(item)
        part = find_part(self.root, item.path)
        if isinstance(item, BinarySizeItem):
            return await self._decoded_size(item, part)
        if part is None:
            return NIL
        return await self._binary(item, part)

    @property
    def root(self) -> Part:
        if self._root is None:
            self._root = decode_structure(self.row.structure)
        return self._root

    async def _open(self) -> Body:
        if self._body is None:
            self._body = await self._bodies.open(self.row.ref, self.row.prefix)
        return self._body

    async def _read(self, start: int, stop: int) -> bytes:
        """Exactly these octets of the message."""
        if start >= stop:
            return b""
        self._charge(stop - start)
        data = await (await self._open()).read(start, stop)
        if len(data) != stop - start:
            raise Corrupt(f"body of content {self.row.ref.id} is shorter than its size says")
        return data

    # --- BODY[…] ---

    async def _section(self, item: BodyItem) -> bytes | Streamed:
        section = item.section
        if item.is_of_header and has_whole_header(self.row):
            return string(cut(own_header(self.row, section), item.partial))
        span = self._span(section)
        if span is None:
            return NIL
        if section.text in FIELDS:
            return string(cut(select_fields(await self._read(*span), section), item.partial))
        return await self._octets(*clip(span, item.partial))

    def _span(self, section: Section) -> tuple[int, int] | None:
        """In octets of the whole message."""
        shift = len(self.row.prefix)
        if not section.part and section.text is None:
            return 0, shift + self.row.ref.size_bytes
        found = locate(self.root, section)
        if found is None:
            return None
        if not section.part and section.text != "TEXT":  # the message's own header
            return 0, shift + found.stop
        return shift + found.start, shift + found.stop

    async def _octets(self, start: int, stop: int) -> bytes | Streamed:
        size = stop - start
        if self._held + size > HELD_BYTES:
            return Streamed(await self._open(), start, stop)
        self._held += size
        return string(await self._read(start, stop))

    # --- BINARY ---

    async def _binary(self, item: BinaryItem, part: Part) -> bytes | Streamed:
        start, stop, encoding = self._binary_span(item.path, part)
        if encoding in _IDENTITY:
            start, stop = clip((start, stop), item.partial)
            if stop - start > HELD_BYTES:
                return Streamed(await self._open(), start, stop, b"~")  # there may be NUL octets in it
            return binary(await self._read(start, stop))
        return binary(cut(await self._decoded(start, stop, encoding), item.partial))

    async def _decoded_size(self, item: BinarySizeItem, part: Part | None) -> bytes:
        """A number in every case, as there is no NIL in its grammar."""
        if part is None:
            return b"0"
        start, stop, encoding = self._binary_span(item.path, part)
        if encoding in _IDENTITY:
            return b"%d" % (stop - start)
        return b"%d" % len(await self._decoded(start, stop, encoding))

    async def _decoded(self, start: int, stop: int, encoding: bytes) -> bytes:
        raw = await self._read(start, stop)
        self._charge(len(raw))
        return decode_transfer(raw, encoding)

    def _binary_span(self, path: tuple[int, ...], part: Part) -> tuple[int, int, bytes]:
        """Without a part number: the message as it is (RFC 3516 §4.2), as a whole has no encoding."""
        shift = len(self.row.prefix)
        if not path:
            return 0, shift + self.row.ref.size_bytes, b"BINARY"
        encoding = b"BINARY" if part.is_multipart or part.is_message else part.encoding
        if encoding not in _IDENTITY and encoding not in _DECODED:
            raise UnknownEncoding(encoding.decode("ascii", "replace"))
        return shift + part.body_start, shift + part.body_end, encoding


def has_whole_header(row: MessageRow) -> bool:
    """The stored header block is cut at a size that no honest message reaches."""
    return len(row.header) < MAX_HEADER_BYTES


def own_header(row: MessageRow, section: Section) -> bytes:
    """HEADER, HEADER.FIELDS or HEADER.FIELDS.NOT of the message itself."""
    header = row.prefix + row.header
    return header if section.text not in FIELDS else select_fields(header, section)


def select_fields(header: bytes, section: Section) -> bytes:
    """The fields that HEADER.FIELDS or HEADER.FIELDS.NOT names, and the empty line.

    Same as ``cut_fields``, in half the time for the former, which listings of a mailbox ask for.
    """
    if section.text == "HEADER.FIELDS.NOT":
        return cut_fields(header, section.fields, inverted=True)
    pattern = _fields_pattern(section.fields)
    found = b"" if pattern is None else b"".join(pattern.findall(header))
    return found + empty_line(header)


@lru_cache(maxsize=256)
def _fields_pattern(names: tuple[bytes, ...]) -> re.Pattern[bytes] | None:
    """Whole fields with their continuation lines; None when no name can be one of a field."""
    usable = [re.escape(name) for name in names if _FIELD_NAME.fullmatch(name)]
    if not usable:
        return None
    line = rb"^(?:%b)[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+\n?+" % b"|".join(usable)
    return re.compile(line, re.IGNORECASE | re.MULTILINE)


def clip(span: tuple[int, int], partial: tuple[int, int] | None) -> tuple[int, int]:
    """The part of a span that ``<offset.count>`` names; empty when it begins behind it."""
    if partial is None:
        return span
    start = min(span[0] + partial[0], span[1])
    return start, min(start + partial[1], span[1])


def cut(data: bytes, partial: tuple[int, int] | None) -> bytes:
    if partial is None:
        return data
    start, stop = clip((0, len(data)), partial)
    return data[start:stop]


def string(data: bytes) -> bytes:
    """Mail as a literal, verbatim."""
    return literal(data) if data else EMPTY


def binary(data: bytes) -> bytes:
    """literal8 where there are NUL octets (RFC 9051 §4.3.1)."""
    return b"~" + literal(data) if b"\0" in data else string(data)
