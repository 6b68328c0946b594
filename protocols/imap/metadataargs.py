"""The words of GETMETADATA, and of LIST RETURN (METADATA ...), which has the same options (RFC 9590)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from storage.annotations import ROOTS, checked_entry
from storage.errors import InvalidName

from .grammar import Cursor

_DEPTHS: Final[Mapping[bytes, int | None]] = {b"0": 0, b"1": 1, b"INFINITY": None}


@dataclass(frozen=True, slots=True)
class Asked:
    """``entries``: in lower case, to the spelling that the client used. ``depth`` None: all below."""

    entries: Mapping[str, str]
    depth: int | None = 0
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Names and values to tell of one place; ``longest`` is the size of the largest that was left out."""

    items: tuple[tuple[str, bytes | None], ...]
    longest: int = 0


def parse_options(cursor: Cursor) -> Asked:
    """In parentheses (RFC 5464 §4.2); no entries yet."""
    depth: int | None = 0
    max_bytes: int | None = None
    is_first = True
    cursor.expect(b"(")
    while is_first or not cursor.accept(b")"):
        if not is_first:
            cursor.space()
        is_first = False
        option = cursor.keyword()
        cursor.space()
        if option == b"MAXSIZE":
            max_bytes = cursor.number()
        elif option == b"DEPTH":
            depth = _parse_depth(cursor)
        else:
            raise cursor.error(f"Unknown option {option.decode('ascii')}")
    return Asked({}, depth, max_bytes)


def _parse_depth(cursor: Cursor) -> int | None:
    word = cursor.keyword()
    if word not in _DEPTHS:
        raise cursor.error("DEPTH is 0, 1 or infinity")
    return _DEPTHS[word]


def has_options(cursor: Cursor) -> bool:
    """Whether options stand here: no name of an entry begins with a letter."""
    following = cursor.data[cursor.position : cursor.position + 2]
    return following[:1] == b"(" and following[1:].isalpha()


def parse_entries(cursor: Cursor, options: Asked) -> Asked:
    """One name, or several in parentheses."""
    names = []
    if cursor.accept(b"("):
        names.append(_parse_asked(cursor, options))
        while not cursor.accept(b")"):
            cursor.space()
            names.append(_parse_asked(cursor, options))
    else:
        names.append(_parse_asked(cursor, options))
    return Asked(dict(names), options.depth, options.max_bytes)


def _parse_asked(cursor: Cursor, options: Asked) -> tuple[str, str]:
    spelled = parse_text(cursor)
    if options.depth != 0 and spelled.lower() in ROOTS:  # all there is
        return spelled.lower(), spelled
    return parse_name(cursor, spelled), spelled


def parse_text(cursor: Cursor) -> str:
    return cursor.astring().decode("utf-8", "replace")


def parse_name(cursor: Cursor, spelled: str) -> str:
    """Raises ParseError: a bad name is a mistake of the client's (RFC 5464 §3.2.1)."""
    try:
        return checked_entry(spelled)
    except InvalidName as error:
        raise cursor.error(str(error)) from None


def answer(asked: Asked, there: Mapping[str, bytes]) -> Answer:
    """What is told of a place. An entry that was asked for by itself and has no value is told as such."""
    items: dict[str, bytes | None] = {}
    for name, spelled in asked.entries.items():
        if name in there or asked.depth == 0:
            items.setdefault(spelled, there.get(name))
        if asked.depth != 0:
            items |= {below: there[below] for below in _below(name, asked.depth, there)}
    if asked.max_bytes is None:
        return Answer(tuple(items.items()))
    limit = asked.max_bytes
    fit = tuple((name, value) for name, value in items.items() if value is None or len(value) <= limit)
    sizes = [len(value) for value in items.values() if value is not None and len(value) > limit]
    return Answer(fit, max(sizes, default=0))


def _below(name: str, depth: int | None, there: Mapping[str, bytes]) -> Iterator[str]:
    start = name + "/"
    for each in sorted(there):
        if each.startswith(start) and (depth is None or each.count("/", len(start)) < depth):
            yield each
