"""The part tree of a message, found in one pass over its bytes.

Theory: a scanner stands at a line, knows which multiparts are open, and asks for the next line that is a
delimiter of any of them. Such a line ends every part opened since, whoever forgot to close it. Header
blocks are read where a part begins. Nothing is ever read twice, but for the header blocks of parts, which are
searched for delimiters and for their end; so time is linear in the message whatever it holds.

Invariants of the tree (tests keep them for arbitrary bytes):
    * ``0 <= header_start <= body_start <= body_end <= len(data)``; children lie within their parent's body.
    * A multipart has at least one child: one in which no delimiter was found has one text part that is its
      whole body, so that readers see what there is.
    * A message part (``is_message``) has exactly one child, the root of what it embeds, and an envelope.
    * All other parts have no children. No value holds CR, LF or NUL.
    * At most MAX_PARTS + 1 parts from the scan, at most MAX_DEPTH levels; what lies beyond is opaque.

References: RFC 2046 §5.1 (multipart) and §5.2 (message), RFC 9051 §7.5.2 (BODYSTRUCTURE).
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

import msgspec

from storage.errors import Corrupt

from .description import Description, Disposition, opaque, parse_description, plain_text
from .envelope import Envelope, parse_envelope
from .headers import EMPTY_LINE, Parameters, parameter

# Mail people send has fewer than ten levels. Readers of the tree may recurse: 100 levels are safe.
MAX_DEPTH = 100
# Digests have hundreds of parts. Each costs some 20 us to scan and 100 bytes to store.
MAX_PARTS = 10_000
# What is read of one header block; the largest seen in practice are trace headers of some 100 KB.
MAX_HEADER_BYTES = 1024 * 1024
# All header blocks of one message together: bounds the stored structure to a small multiple of this.
MAX_DESCRIBED_BYTES = 4 * 1024 * 1024
# RFC 2046 §5.1.1 allows 70; some mailers use more.
MAX_BOUNDARY_BYTES = 256
# A delimiter line may be padded with blanks; longer lines are text.
MAX_DELIMITER_BYTES = 1000
# Lines that begin like a delimiter and are none; each costs some 0.4 us and no real mail has thousands.
MAX_NEAR_DELIMITERS = 1_000_000

# RFC 9051 §9 media-message; RFC 6532 §3.7 for the second.
EMBEDDED = frozenset((b"RFC822", b"GLOBAL"))

_COUNT_BYTES = 1024 * 1024


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One node of the tree. Offsets count from the start of the content."""

    type: bytes  # upper case, as subtype
    subtype: bytes
    params: Parameters  # names in upper case
    content_id: bytes | None
    description: bytes | None
    encoding: bytes  # upper case
    md5: bytes | None
    disposition: Disposition | None
    language: list[bytes]
    location: bytes | None
    header_start: int
    body_start: int
    body_end: int  # before the line ending that belongs to the delimiter
    lines: int = 0  # line feeds in the body of text and message parts, 0 for others
    children: list[Part] = []
    envelope: Envelope | None = None

    @property
    def size_bytes(self) -> int:
        return self.body_end - self.body_start

    @property
    def is_multipart(self) -> bool:
        return self.type == b"MULTIPART"

    @property
    def is_message(self) -> bool:
        """An embedded message, RFC 9051 §9 media-message; other message types are opaque."""
        return self.envelope is not None

    @property
    def is_text(self) -> bool:
        return self.type == b"TEXT"

    @property
    def is_readable(self) -> bool:
        """Text, or a message type that embeds nothing, such as a delivery report (RFC 3464)."""
        return self.is_text or (self.type == b"MESSAGE" and not self.is_message)


_decoder = msgspec.msgpack.Decoder(Part)
_encoder = msgspec.msgpack.Encoder()


def encode_structure(part: Part) -> bytes:
    """For storing. Fields may be added at the end of Part and Envelope; older encodings stay readable."""
    return _encoder.encode(part)


def decode_structure(data: bytes) -> Part:
    """Raises Corrupt."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise Corrupt(f"stored structure cannot be read: {error}") from error


def scan(data: bytes | bytearray | memoryview | mmap.mmap) -> Part:
    """The tree of a content. Linear in time; never raises on what the bytes say.

    A bytearray or memoryview is copied first; a mapped file is not.
    """
    return _Scanner(data if isinstance(data, bytes | mmap.mmap) else bytes(data)).scan()


class _Delimiter(NamedTuple):
    start: int
    end: int  # of the line, with its ending
    level: int  # of the multipart it belongs to
    closes: bool


class _Open:
    """A part whose end has not been seen."""

    __slots__ = (
        "body_start",
        "boundary",
        "children",
        "envelope",
        "head",
        "header_start",
        "lines_before",
        "outer_needle",
        "shadowed",
    )

    def __init__(self, head: Description, header_start: int, body_start: int) -> None:
        self.head = head
        self.header_start = header_start
        self.body_start = body_start
        self.children: list[Part] = []
        self.envelope: Envelope | None = None
        self.lines_before = 0  # message parts: line feeds of the content before the body
        self.boundary: bytes | None = None  # while its delimiters are looked for
        self.shadowed: int | None = None  # level of an outer multipart with the same boundary
        self.outer_needle: bytes | None = None


class _Scanner:
    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._stop = len(data)
        self._stack: list[_Open] = []
        self._levels: dict[bytes, int] = {}  # open boundaries; of equal ones the innermost
        self._needle: bytes | None = None  # what the delimiters of all open boundaries begin with
        self._parts = 0
        self._described_bytes = 0
        self._near_delimiters = 0
        self._empty_line = (-1, -1)  # the last one found: where the line before ends, where the body begins
        self._counted = (0, 0)  # an offset, and the line feeds before it

    def scan(self) -> Part:
        pos = self._begin(0)
        while (delimiter := self._next_delimiter(pos, self._stop)) is not None:
            self._close_above(delimiter.level, self._before(delimiter))
            pos = delimiter.end
            if delimiter.closes:
                self._unwatch(self._stack[-1])
            else:
                pos = self._begin(pos)
        self._close_above(0, self._stop)
        return self._finish(self._stack.pop(), self._stop)

    # --- where a part begins ---

    def _begin(self, start: int) -> int:
        """Open the part at ``start`` and the messages that begin with it; returns where to look on."""
        limit = self._stop
        while self._parts < MAX_PARTS and self._described_bytes <= MAX_DESCRIBED_BYTES:
            body_start = min(self._after_empty_line(start), limit)
            cut = self._next_delimiter(start, body_start)
            if cut is not None:  # the part ends within what looked like its header
                limit = body_start = max(start, self._before(cut))
            part = self._open(start, body_start)
            if part.head.type == b"MULTIPART" and limit == self._stop:
                self._watch(part)
            if not _embeds(part.head):
                return body_start
            start = body_start
        return self._give_up(start)

    def _open(self, start: int, body_start: int) -> _Open:
        header = self._data[start : min(body_start, start + MAX_HEADER_BYTES)]
        parent = self._stack[-1].head if self._stack else None
        in_digest = parent is not None and parent.subtype == b"DIGEST" and parent.type == b"MULTIPART"
        head = parse_description(header, in_digest=in_digest)
        if len(self._stack) >= MAX_DEPTH - 1 and (head.type == b"MULTIPART" or _embeds(head)):
            head = opaque()
        self._described_bytes += len(header)
        return self._push(_Open(head, start, body_start), header)

    def _push(self, part: _Open, header: bytes) -> _Open:
        if self._stack and _embeds(self._stack[-1].head):
            self._stack[-1].envelope = parse_envelope(header)
        if _embeds(part.head):
            part.lines_before = self._lines_to(part.body_start)
        self._parts += 1
        self._stack.append(part)
        return part

    def _give_up(self, start: int) -> int:
        """The rest of the message becomes one opaque part."""
        self._push(_Open(opaque(), start, start), b"")
        self._stop_looking()
        return self._stop

    def _after_empty_line(self, start: int) -> int:
        """Where the body of a header block at ``start`` begins.

        The answer is kept: many parts without an empty line must not each search the whole rest.
        """
        first = self._data[start : start + 2]
        if first[:1] == b"\n":
            return start + 1
        if first == b"\r\n":
            return start + 2
        if self._empty_line[0] < start:
            match = EMPTY_LINE.search(self._data, start)
            self._empty_line = match.span() if match else (self._stop, self._stop)
        return self._empty_line[1]

    # --- where parts end ---

    def _watch(self, part: _Open) -> None:
        boundary = (parameter(part.head.params, b"BOUNDARY") or b"").rstrip(b" \t")
        if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
            return
        part.boundary = boundary
        part.shadowed = self._levels.get(boundary)
        part.outer_needle = self._needle
        self._levels[boundary] = len(self._stack) - 1
        needle = b"\n--" + boundary
        self._needle = needle if self._needle is None else _common_prefix(self._needle, needle)

    def _unwatch(self, part: _Open) -> None:
        if part.boundary is None or self._needle is None:
            return
        if part.shadowed is None:
            self._levels.pop(part.boundary, None)
        else:
            self._levels[part.boundary] = part.shadowed
        self._needle = part.outer_needle
        part.boundary = None

    def _next_delimiter(self, pos: int, stop: int) -> _Delimiter | None:
        """The first delimiter line of any open multipart that begins in pos..stop; pos is at a line."""
        needle = self._needle
        if needle is None:
            return None
        data, levels = self._data, self._levels
        at = data.find(needle, pos - 1, stop)
        while at >= 0:
            end = data.find(b"\n", at + 1) + 1 or self._stop
            if end - at <= MAX_DELIMITER_BYTES:
                line = data[at + 3 : end].rstrip(b" \t\r\n")
                level = levels.get(line)
                if level is not None:
                    return _Delimiter(at + 1, end, level, False)
                if line.endswith(b"--") and (level := levels.get(line[:-2])) is not None:
                    return _Delimiter(at + 1, end, level, True)
            self._near_delimiters += 1
            if self._near_delimiters > MAX_NEAR_DELIMITERS:
                self._stop_looking()
                return None
            at = data.find(needle, end - 1, stop)
        return None

    def _stop_looking(self) -> None:
        """All that is open runs to the end."""
        self._levels.clear()
        self._needle = None

    def _before(self, delimiter: _Delimiter) -> int:
        """Where the body before the delimiter ends: the line ending is the delimiter's."""
        at = delimiter.start - 1
        return at - 1 if self._data[at - 1 : at] == b"\r" else at

    def _close_above(self, level: int, end: int) -> None:
        while len(self._stack) - 1 > level:
            part = self._finish(self._stack.pop(), end)
            self._stack[-1].children.append(part)

    def _finish(self, part: _Open, end: int) -> Part:
        self._unwatch(part)
        head, start, children = part.head, part.body_start, part.children
        # An empty line before the delimiter ends the header of what is inside, and stays inside.
        end = max(start, end, children[-1].body_end if children else 0)
        lines = 0
        if head.type == b"TEXT":
            lines = count_lines(self._data, start, end)
        elif part.envelope is not None:
            lines = self._lines_to(end) - part.lines_before
        elif head.type == b"MULTIPART" and not children:
            children = [Part(*plain_text(), start, start, end, count_lines(self._data, start, end))]
        return Part(*head, part.header_start, start, end, lines, children, part.envelope)

    def _lines_to(self, offset: int) -> int:
        """Line feeds of the content before ``offset``; asked in rising order, so all calls cost one pass."""
        counted, lines = self._counted
        lines += count_lines(self._data, counted, offset)
        self._counted = (offset, lines)
        return lines


def _embeds(head: Description) -> bool:
    return head.type == b"MESSAGE" and head.subtype in EMBEDDED


def _common_prefix(one: bytes, other: bytes) -> bytes:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return one[:length] if length is not None else min(one, other, key=len)


def count_lines(data: bytes | mmap.mmap, start: int, stop: int) -> int:
    if isinstance(data, bytes):
        return data.count(b"\n", start, stop)
    steps = range(start, stop, _COUNT_BYTES)  # a mapped file cannot count; slices are copies
    return sum(data[at : min(at + _COUNT_BYTES, stop)].count(b"\n") for at in steps)
