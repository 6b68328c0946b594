"""Header blocks as bytes: where fields lie, what they say, and cutting them out.

Theory: a line ends with LF, a CR before it belongs to the ending, and a CR alone is an ordinary octet.
The header block ends after the first empty line. A field is a line ``name:value`` and the lines after
it that begin with a blank. Lines that are no field (an mbox ``From `` line, garbage) are skipped
together with their continuation lines; they never end the block.

Names are given in lower case to every function here. All functions are linear in the block.

References: RFC 5322 §2.2 (fields), RFC 2045 §5.1 (parameters), RFC 2231 §3 (continuations).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

Parameters: TypeAlias = list[tuple[bytes, bytes]]

# Long RFC 2231 names come in some ten pieces; a field of a megabyte must not become 100,000 pairs.
MAX_PARAMETERS = 128

EMPTY_LINE = re.compile(rb"\n\r?\n")
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:[ \t]*")
_COLON = re.compile(rb"[ \t]*:[ \t]*")
# Possessive: no backtracking, so a field of 100,000 continuation lines costs no stack or memory.
_LOGICAL_LINE = re.compile(rb"[^\n]*+(?:\n[ \t][^\n]*+)*+\n?+")
_SEPARATORS = re.compile(rb"[; \t]*+")
_PARAMETER = re.compile(
    rb"([^\s=;()\"]++)[ \t]*+=[ \t]*+(?:\"([^\"\\]*+(?:\\.[^\"\\]*+)*+)\"?|([^;]*+))", re.DOTALL
)
_TRAILING_COMMENT = re.compile(rb"[ \t]\([^()]*+\)[ \t]*+$")
_PIECE = re.compile(rb"([^*]+)\*(0|[1-9][0-9]{0,2})(\*?)")  # RFC 2231 §3
_ESCAPED = re.compile(rb"\\([\\\"])")


class HeaderField(NamedTuple):
    """One field; offsets into the block. ``end`` is after its last line ending."""

    name: bytes  # as spelled
    start: int
    end: int
    value_start: int  # after the colon and blanks


def split_header(data: bytes) -> int:
    """Offset of the body: after the first empty line (CRLF or LF), or the length when there is none."""
    if data[:1] == b"\n":
        return 1
    if data[:2] == b"\r\n":
        return 2
    match = EMPTY_LINE.search(data)
    return match.end() if match else len(data)


def iter_fields(header: bytes) -> Iterator[HeaderField]:
    """All fields in order, up to the empty line or the end."""
    pos, stop = 0, len(header)
    while pos < stop:
        name = _NAME.match(header, pos)
        line = _LOGICAL_LINE.match(header, pos)
        assert line is not None  # it matches the empty string too
        end = line.end()
        if name is not None:
            yield HeaderField(name[1], pos, end, name.end())
        elif header[pos:end] in (b"\n", b"\r\n"):
            return
        pos = end


def unfold(raw: bytes) -> bytes:
    """The value on one line. Blanks of the folding stay, RFC 5322 §2.2.3."""
    return raw.translate(None, b"\r\n")


def lowered(header: bytes) -> bytes:
    """The block in the form ``seek_value`` searches: lower case, behind one line feed."""
    return b"\n" + header.lower()


def seek_value(index: bytes, name: bytes, pos: int = 0) -> tuple[int, int] | None:
    """(start, stop) in the header of the raw value of the first field ``name`` from ``pos`` on.

    ``index`` is ``lowered(header)``. Several times faster than walking all fields.
    """
    key = b"\n" + name
    at = index.find(key, pos)
    while at >= 0:
        colon = _COLON.match(index, at + len(key))
        if colon is not None:
            line = _LOGICAL_LINE.match(index, colon.end())
            assert line is not None
            return colon.end() - 1, line.end() - 1
        at = index.find(key, at + len(key))
    return None


def first_value(header: bytes, name: bytes) -> bytes | None:
    """Unfolded, stripped value of the first field of that name."""
    span = seek_value(lowered(header), name)
    return None if span is None else unfold(header[span[0] : span[1]]).strip(b" \t")


def all_values(header: bytes, name: bytes) -> list[bytes]:
    """Unfolded, stripped values of all fields of that name, in order."""
    index, found, pos = lowered(header), [], 0
    while (span := seek_value(index, name, pos)) is not None:
        found.append(unfold(header[span[0] : span[1]]).strip(b" \t"))
        pos = span[1]  # of the index this is the line feed that ends the value
    return found


def cut_fields(header: bytes, names: Collection[bytes], *, inverted: bool) -> bytes:
    """The raw fields whose lower case name is in ``names`` (``inverted``: is not), and the empty line.

    HEADER.FIELDS and HEADER.FIELDS.NOT of RFC 9051 §6.4.5.1. Lines that are no field are in neither.
    """
    wanted = frozenset(names)
    found = b"".join(
        header[field.start : field.end]
        for field in iter_fields(header)
        if (field.name.lower() in wanted) is not inverted
    )
    return found + empty_line(header)


def empty_line(header: bytes) -> bytes:
    """The line that ends the block; nothing where the message ends with its header (RFC 9051 §6.4.5.1)."""
    return b"\r\n" if header.endswith((b"\n\r\n", b"\n\n")) or header in (b"\r\n", b"\n") else b""


def parse_parameters(value: bytes) -> tuple[bytes, Parameters]:
    """An unfolded ``head; name=value; ...`` to its head and its parameters, names in upper case.

    The pieces of RFC 2231 §3 become one parameter, as BODYSTRUCTURE should show it (RFC 9051 §7.5.2), still
    encoded where one of them was: ``FILENAME*0*`` and ``FILENAME*1`` are ``FILENAME*``. Values without quotes
    may contain blanks; a quote never closed runs to the end.
    """
    head, _, _ = value.partition(b";")
    pairs: Parameters = []
    pos = len(head)
    while pos < len(value) and len(pairs) < MAX_PARAMETERS:
        separators = _SEPARATORS.match(value, pos)
        assert separators is not None
        pos = separators.end()
        match = _PARAMETER.match(value, pos)
        if match is not None:
            pairs.append((match[1].upper(), _parameter_value(match)))
            pos = match.end()
        pos = value.find(b";", pos)
        if pos < 0:
            break
    return head.strip(b" \t"), _whole(pairs) if b"*" in value else pairs


def _whole(pairs: Parameters) -> Parameters:
    """Continuations put together, where the first of them was; those behind a gap stay as they are."""
    pieces: dict[bytes, dict[int, tuple[bytes, bytes]]] = {}  # by name and number: value, "*" if extended
    for name, value in pairs:
        if (match := _PIECE.fullmatch(name)) is not None:
            pieces.setdefault(match[1], {}).setdefault(int(match[2]), (value, match[3]))
    whole: Parameters = []
    done: set[bytes] = set()
    for name, value in pairs:
        match = _PIECE.fullmatch(name)
        numbered = {} if match is None else pieces[match[1]]
        run = next(number for number in range(len(numbered) + 1) if number not in numbered)
        if match is None or int(match[2]) >= run:
            whole.append((name, value))
        elif match[1] not in done:
            done.add(match[1])
            whole.append(_joined_piece(match[1], [numbered[number] for number in range(run)]))
    return whole


def _joined_piece(name: bytes, pieces: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    if not any(mark for _, mark in pieces):
        return name, b"".join(value for value, _ in pieces)
    special = b"%" if pieces[0][1] else b"%'"  # else apostrophes would be taken for those around the language
    values = (value if mark else _escaped(value, special) for value, mark in pieces)
    return name + b"*", b"".join(values)


def _escaped(value: bytes, special: bytes) -> bytes:
    return b"".join(b"%%%02X" % octet if octet in special else bytes((octet,)) for octet in value)


def _parameter_value(match: re.Match[bytes]) -> bytes:
    quoted: bytes | None = match[2]
    if quoted is not None:
        return _ESCAPED.sub(rb"\1", quoted) if b"\\" in quoted else quoted
    token: bytes = match[3]
    return (_TRAILING_COMMENT.sub(b"", token) if b"(" in token else token).strip(b" \t")


def parameter(pairs: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Value of ``name`` (upper case), its RFC 2231 pieces joined, unquoted and without their charset."""
    pieces: dict[bytes, tuple[bytes, bool]] = {}
    for spelled, value in pairs:
        if spelled == name:
            return value
        if spelled.startswith(name + b"*"):
            number = spelled[len(name) + 1 :]
            extended = number.endswith(b"*") or not number
            pieces.setdefault(number.removesuffix(b"*") or b"0", (value, extended))
    if b"0" not in pieces:
        return None
    return b"".join(_joined(pieces))


def _joined(pieces: dict[bytes, tuple[bytes, bool]]) -> Iterator[bytes]:
    for number in range(len(pieces)):
        piece = pieces.get(b"%d" % number)
        if piece is None:
            return
        value, extended = piece
        if extended and number == 0 and value.count(b"'") >= 2:
            value = value.split(b"'", 2)[2]
        yield unquote_to_bytes(value) if extended else value
