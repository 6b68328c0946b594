"""What a FETCH asks for: syntax of the data items, and the records they become.

Items fall in three kinds by what they need, which is how ``commands/fetch.py`` plans its reads: the view
(``ViewItem``), columns of the message row (``RowItem``, and header sections), or the body.

References: RFC 9051 §6.4.5, RFC 3501 §6.4.5 (RFC822 forms), RFC 3516 (BINARY), RFC 7162 §3.1.4 (MODSEQ).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TypeAlias

from storage.mime.sections import Section, SectionText
from storage.mime.structure import MAX_DEPTH

from .grammar import Cursor
from .render import astring

MAX_ITEMS = 100  # clients ask for a handful
MAX_FIELD_NAMES = 200
MAX_PATH = MAX_DEPTH  # components of a part number

# --- records --------------------------------------------------------------------------------------


class ViewItem(enum.Enum):
    """Answered from memory."""

    FLAGS = b"FLAGS"
    UID = b"UID"
    INTERNALDATE = b"INTERNALDATE"
    SIZE = b"RFC822.SIZE"
    MODSEQ = b"MODSEQ"


class RowItem(enum.Enum):
    """Answered from what was computed at delivery."""

    ENVELOPE = b"ENVELOPE"
    BODY = b"BODY"
    BODYSTRUCTURE = b"BODYSTRUCTURE"


@dataclass(frozen=True, slots=True)
class BodyItem:
    """``BODY[section]<offset.count>`` and its RFC822 forms."""

    label: bytes  # the name in the response
    section: Section
    partial: tuple[int, int] | None = None  # offset, count
    peek: bool = False

    @property
    def is_partial(self) -> bool:
        return self.partial is not None

    @property
    def is_of_header(self) -> bool:
        """Whether the stored header block suffices."""
        return not self.section.part and self.section.text in ("HEADER", *FIELDS)


@dataclass(frozen=True, slots=True)
class BinaryItem:
    """``BINARY[part]<offset.count>``: the part with its transfer encoding undone."""

    label: bytes
    path: tuple[int, ...] = ()
    partial: tuple[int, int] | None = None
    peek: bool = False

    @property
    def is_partial(self) -> bool:
        return self.partial is not None


@dataclass(frozen=True, slots=True)
class BinarySizeItem:
    label: bytes
    path: tuple[int, ...] = ()

    @property
    def is_partial(self) -> bool:
        return False


Item: TypeAlias = ViewItem | RowItem | BodyItem | BinaryItem | BinarySizeItem

# --- syntax ---------------------------------------------------------------------------------------

_FAST = (ViewItem.FLAGS, ViewItem.INTERNALDATE, ViewItem.SIZE)
_MACROS: dict[bytes, tuple[Item, ...]] = {
    b"FAST": _FAST,
    b"ALL": (*_FAST, RowItem.ENVELOPE),
    b"FULL": (*_FAST, RowItem.ENVELOPE, RowItem.BODY),
}
_ITEMS: dict[bytes, Item] = {
    **{item.value: item for item in ViewItem},
    **{item.value: item for item in RowItem},
    b"RFC822": BodyItem(b"RFC822", Section()),
    b"RFC822.HEADER": BodyItem(b"RFC822.HEADER", Section((), "HEADER"), peek=True),
    b"RFC822.TEXT": BodyItem(b"RFC822.TEXT", Section((), "TEXT")),
}
FIELDS: tuple[SectionText, ...] = ("HEADER.FIELDS", "HEADER.FIELDS.NOT")
_NAME = re.compile(rb"[A-Za-z0-9.]+")
_PATH = re.compile(rb"([1-9][0-9]{0,5}(?:\.[1-9][0-9]{0,5})*)(\.(?=[A-Za-z]))?")
_TEXTS: dict[bytes, SectionText] = {
    b"HEADER": "HEADER",
    b"HEADER.FIELDS": "HEADER.FIELDS",
    b"HEADER.FIELDS.NOT": "HEADER.FIELDS.NOT",
    b"TEXT": "TEXT",
    b"MIME": "MIME",
}
_PARTIAL = re.compile(rb"<([0-9]{1,19})\.([0-9]{1,19})>")
_OPEN, _BRACKET = b"(["


def parse_items(cursor: Cursor) -> tuple[Item, ...]:
    """A macro, one item, or items in parentheses; macros too, as nothing else can be meant by them.

    Raises ParseError.
    """
    if cursor.peek() != _OPEN:
        return _item(cursor)
    cursor.expect(b"(")
    found = list(_item(cursor))
    while not cursor.accept(b")"):
        cursor.space()
        found.extend(_item(cursor))
        if len(found) > MAX_ITEMS:
            raise cursor.error("Too many data items")
    return tuple(dict.fromkeys(found))


def _item(cursor: Cursor) -> tuple[Item, ...]:
    match = cursor.take(_NAME)
    if match is None:
        raise cursor.error("Expected a data item")
    name = match[0].upper()
    if cursor.peek() == _BRACKET:
        return (_sectioned(cursor, name),)
    if name in _ITEMS:
        return (_ITEMS[name],)
    if name in _MACROS:
        return _MACROS[name]
    raise cursor.error("Unknown data item")


def _sectioned(cursor: Cursor, name: bytes) -> Item:
    cursor.expect(b"[")
    if name in (b"BODY", b"BODY.PEEK"):
        return _body(cursor, peek=name == b"BODY.PEEK")
    if name not in (b"BINARY", b"BINARY.PEEK", b"BINARY.SIZE"):
        raise cursor.error("Unknown data item")
    path, shown = _path(cursor)
    cursor.expect(b"]")
    if name == b"BINARY.SIZE":
        return BinarySizeItem(b"BINARY.SIZE[%b]" % shown, path)
    partial, suffix = _partial(cursor)
    return BinaryItem(b"BINARY[%b]%b" % (shown, suffix), path, partial, peek=name == b"BINARY.PEEK")


def _body(cursor: Cursor, *, peek: bool) -> BodyItem:
    path, shown = _path(cursor, dotted=True)
    text: SectionText | None = None
    names: tuple[bytes, ...] = ()
    if not path or shown.endswith(b"."):
        text, names, rest = _section_text(cursor, path)
        shown += rest
    cursor.expect(b"]")
    partial, suffix = _partial(cursor)
    section = Section(path, text, tuple(name.lower() for name in names))
    return BodyItem(b"BODY[%b]%b" % (shown, suffix), section, partial, peek)


def _section_text(
    cursor: Cursor, path: tuple[int, ...]
) -> tuple[SectionText | None, tuple[bytes, ...], bytes]:
    """The text, its field names, and how both are spelled."""
    match = cursor.take(_NAME)
    if match is None and not path:
        return None, (), b""
    spelled = match[0].upper() if match else b""
    text = _TEXTS.get(spelled)
    if text is None or (text == "MIME" and not path):  # RFC 9051 §9 section-text
        raise cursor.error("Unknown section")
    if text not in FIELDS:
        return text, (), spelled
    names = _names(cursor)
    return text, names, b"%b (%b)" % (spelled, b" ".join([astring(name) for name in names]))


def _path(cursor: Cursor, *, dotted: bool = False) -> tuple[tuple[int, ...], bytes]:
    """A part number and how it is spelled, with the dot behind it if a text may follow."""
    match = cursor.take(_PATH)
    if match is None:
        return (), b""
    if match[2] and not dotted:
        raise cursor.error("Expected a part number")
    path = tuple(map(int, match[1].split(b".")))
    if len(path) > MAX_PATH:
        raise cursor.error("Part number is too deep")
    return path, match[0]


def _names(cursor: Cursor) -> tuple[bytes, ...]:
    cursor.space()
    cursor.expect(b"(")
    names = [cursor.astring()]
    while not cursor.accept(b")"):
        cursor.space()
        names.append(cursor.astring())
        if len(names) > MAX_FIELD_NAMES:
            raise cursor.error("Too many field names")
    return tuple(names)


def _partial(cursor: Cursor) -> tuple[tuple[int, int] | None, bytes]:
    match = cursor.take(_PARTIAL)
    if match is None:
        return None, b""
    offset, count = int(match[1]), int(match[2])
    if count == 0:  # nz-number64, RFC 9051 §9 partial
        raise cursor.error("Partial count must be at least 1")
    return (offset, count), b"<%d>" % offset
