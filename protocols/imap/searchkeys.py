"""SEARCH syntax: bytes to a tree of plain records.

Every key of RFC 9051 §6.4.4 and RFC 3501 §6.4.4 becomes one of a dozen record types; what is merely
the opposite or a special case of another key (UNSEEN, OLD, NEW, FROM) is written with that one. To add
a key: a row in ``_FLAGS``, ``_HEADERS``, ``_DATES`` or ``_KEYS``, and for a new type its meaning in
``searching``.
"""

from __future__ import annotations

import codecs
import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TypeAlias

from storage.model import SystemFlag

from .grammar import Cursor, ParseError
from .seqset import SavedResult, SeqSet, UidSet

# The evaluation recurses: a chain of OR keys of a long address list is deep, not wide.
MAX_DEPTH = 150
MAX_KEYS = 5_000  # one for each set, string or date of a 64 KiB line is far below


@dataclass(frozen=True, slots=True)
class And:
    """All of these; of none of them: every message."""

    keys: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Or:
    left: Key
    right: Key


@dataclass(frozen=True, slots=True)
class Not:
    key: Key


@dataclass(frozen=True, slots=True)
class HasFlag:
    flag: SystemFlag


@dataclass(frozen=True, slots=True)
class HasKeyword:
    """Compared without regard to case, as all flags are (RFC 9051 §2.3.2)."""

    keyword: str


@dataclass(frozen=True, slots=True)
class IsRecent:
    """Of this session (RFC 3501 §2.3.2)."""


@dataclass(frozen=True, slots=True)
class InSeqSet:
    numbers: SeqSet | SavedResult


@dataclass(frozen=True, slots=True)
class InUidSet:
    numbers: UidSet | SavedResult


@dataclass(frozen=True, slots=True)
class SizeAbove:
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SizeBelow:
    size_bytes: int


class When(enum.Enum):
    BEFORE = "before"
    ON = "on"
    SINCE = "since"


@dataclass(frozen=True, slots=True)
class InternalDate:
    """By the calendar day of the internal date as FETCH shows it (UTC)."""

    when: When
    day: date


@dataclass(frozen=True, slots=True)
class SentDate:
    """By the calendar day written in the Date field, its zone disregarded."""

    when: When
    day: date


@dataclass(frozen=True, slots=True)
class Younger:
    """RFC 5032: internal date within the last ``seconds``; OLDER is its opposite."""

    seconds: int


@dataclass(frozen=True, slots=True)
class ModSeqFrom:
    """RFC 7162 §3.1.5."""

    modseq: int


@dataclass(frozen=True, slots=True)
class HeaderHas:
    """A field of that name contains the text; of an empty text: there is such a field."""

    name: str  # lower case
    text: str


@dataclass(frozen=True, slots=True)
class BodyHas:
    text: str


@dataclass(frozen=True, slots=True)
class TextHas:
    """Header or body."""

    text: str


Key: TypeAlias = (
    And
    | Or
    | Not
    | HasFlag
    | HasKeyword
    | IsRecent
    | InSeqSet
    | InUidSet
    | SizeAbove
    | SizeBelow
    | InternalDate
    | SentDate
    | Younger
    | ModSeqFrom
    | HeaderHas
    | BodyHas
    | TextHas
)


class Return(enum.Flag):
    """RFC 9051 §6.4.4 result options."""

    NONE = 0
    MIN = enum.auto()
    MAX = enum.auto()
    ALL = enum.auto()
    COUNT = enum.auto()
    SAVE = enum.auto()


@dataclass(frozen=True, slots=True)
class Program:
    """One SEARCH command. ``options`` is None for the plain form without RETURN."""

    key: Key
    options: Return | None = None
    is_charset_known: bool = True
    has_charset: bool = False
    has_modseq: bool = False  # a MODSEQ key occurs: the reply tells the highest mod-sequence


def parse_program(cursor: Cursor) -> Program:
    """``[RETURN (…)] [CHARSET name] key …`` up to the end of the line; the cursor is before the space.

    Raises ParseError. An unknown charset is not an error of syntax: it is told in the result.
    """
    cursor.space()
    options, word = None, _word(cursor)
    if word == "RETURN":
        options = _options(cursor)
        cursor.space()
        word = _word(cursor)
    decode: Callable[[bytes], str] | None = _decode_utf8
    has_charset = word == "CHARSET"
    if has_charset:
        cursor.space()
        decode = decoder_for(cursor.astring())
        cursor.space()
        word = _word(cursor)
    parser = _Parser(cursor, decode or _decode_nothing)
    key = parser.keys(word)
    cursor.end()
    return Program(key, options, decode is not None, has_charset, parser.has_modseq)


def _options(cursor: Cursor) -> Return:
    """``()`` means ALL (RFC 9051 §6.4.4)."""
    cursor.space()
    cursor.expect(b"(")
    found = Return.NONE
    while not cursor.accept(b")"):
        if found is not Return.NONE:
            cursor.space()
        name = _word(cursor)
        if name not in Return.__members__ or name == "NONE":
            raise ParseError("Unknown SEARCH result option")
        found |= Return[name]
    return found or Return.ALL


# --- keys -----------------------------------------------------------------------------------------

_FLAGS = {
    "ANSWERED": SystemFlag.ANSWERED,
    "DELETED": SystemFlag.DELETED,
    "DRAFT": SystemFlag.DRAFT,
    "FLAGGED": SystemFlag.FLAGGED,
    "SEEN": SystemFlag.SEEN,
}
_FIXED: dict[str, Key] = {
    "ALL": And(),
    "RECENT": IsRecent(),
    "OLD": Not(IsRecent()),
    "NEW": And((IsRecent(), Not(HasFlag(SystemFlag.SEEN)))),
    **{name: HasFlag(flag) for name, flag in _FLAGS.items()},
    **{f"UN{name}": Not(HasFlag(flag)) for name, flag in _FLAGS.items()},
}
_HEADERS = {"BCC": "bcc", "CC": "cc", "FROM": "from", "SUBJECT": "subject", "TO": "to"}
_DATES: dict[str, Callable[[date], Key]] = {
    "BEFORE": lambda day: InternalDate(When.BEFORE, day),
    "ON": lambda day: InternalDate(When.ON, day),
    "SINCE": lambda day: InternalDate(When.SINCE, day),
    "SENTBEFORE": lambda day: SentDate(When.BEFORE, day),
    "SENTON": lambda day: SentDate(When.ON, day),
    "SENTSINCE": lambda day: SentDate(When.SINCE, day),
}
_TEXTS: dict[str, Callable[[str], Key]] = {
    "BODY": BodyHas,
    "TEXT": TextHas,
    **{name: partial(HeaderHas, field) for name, field in _HEADERS.items()},
}
_NUMBERS: dict[str, Callable[[int], Key]] = {
    "LARGER": SizeAbove,
    "SMALLER": SizeBelow,
    "YOUNGER": Younger,
    "OLDER": lambda seconds: Not(Younger(seconds)),
}
_OPEN, _CLOSE, _QUOTE = b'()"'
_SET_START = frozenset(b"0123456789*$")


class _Parser:
    """Recursive descent, bounded in depth and in number of keys."""

    def __init__(self, cursor: Cursor, decode: Callable[[bytes], str]) -> None:
        self._cursor = cursor
        self._decode = decode
        self._depth = 0
        self._count = 0
        self.has_modseq = False

    def keys(self, word: str = "") -> Key:
        """One or more keys, up to the end or a closing parenthesis; ``word`` has been read already."""
        found = [self._key(word)]
        while not self._cursor.at_end and self._cursor.peek() != _CLOSE:
            self._cursor.space()
            found.append(self._key())
        return found[0] if len(found) == 1 else And(tuple(found))

    def _key(self, word: str = "") -> Key:
        self._count += 1
        if self._depth >= MAX_DEPTH or self._count > MAX_KEYS:
            raise ParseError("Search too complex")
        self._depth += 1
        key = self._one(word or _word(self._cursor))
        self._depth -= 1
        return key

    def _one(self, word: str) -> Key:
        cursor = self._cursor
        if not word:
            return self._group() if cursor.accept(b"(") else InSeqSet(cursor.seqset())
        if word in _FIXED:
            return _FIXED[word]
        if word not in _ARGUMENTS:
            raise ParseError("Unknown SEARCH key")
        cursor.space()
        return _ARGUMENTS[word](self, word)

    def _group(self) -> Key:
        key = self.keys()
        self._cursor.expect(b")")
        return key

    def _text(self, word: str) -> Key:
        return _TEXTS[word](self._string())

    def _date(self, word: str) -> Key:
        return _DATES[word](self._cursor.date())

    def _number(self, word: str) -> Key:
        number = self._cursor.number64()
        if number == 0 and word in ("YOUNGER", "OLDER"):  # nz-number, RFC 5032 §6
            raise ParseError("Interval must be at least one second")
        return _NUMBERS[word](number)

    def _header(self, _word: str) -> Key:
        name = self._string().lower()
        self._cursor.space()
        return HeaderHas(name, self._string())

    def _keyword(self, word: str) -> Key:
        key = HasKeyword(self._cursor.atom().decode("ascii"))
        return Not(key) if word == "UNKEYWORD" else key

    def _uid(self, _word: str) -> Key:
        return InUidSet(self._cursor.uidset())

    def _not(self, _word: str) -> Key:
        return Not(self._key())

    def _or(self, _word: str) -> Key:
        left = self._key()
        self._cursor.space()
        return Or(left, self._key())

    def _modseq(self, _word: str) -> Key:
        """RFC 7162 §3.1.5; the metadata item name and type may be given and change nothing here."""
        cursor = self._cursor
        if cursor.peek() == _QUOTE:
            cursor.string()
            cursor.space()
            if cursor.keyword() not in (b"PRIV", b"SHARED", b"ALL"):
                raise ParseError("Unknown metadata entry type")
            cursor.space()
        self.has_modseq = True
        return ModSeqFrom(cursor.number64())

    def _string(self) -> str:
        try:
            return self._decode(self._cursor.astring())
        except ValueError:
            raise ParseError("String is not valid in the given charset") from None


_ARGUMENTS: dict[str, Callable[[_Parser, str], Key]] = {
    **dict.fromkeys(_TEXTS, _Parser._text),
    **dict.fromkeys(_DATES, _Parser._date),
    **dict.fromkeys(_NUMBERS, _Parser._number),
    "HEADER": _Parser._header,
    "KEYWORD": _Parser._keyword,
    "UNKEYWORD": _Parser._keyword,
    "UID": _Parser._uid,
    "NOT": _Parser._not,
    "OR": _Parser._or,
    "MODSEQ": _Parser._modseq,
}


def _word(cursor: Cursor) -> str:
    """The next keyword in upper case; empty before a set or a parenthesis."""
    following = cursor.peek()
    if following == _OPEN or following in _SET_START:
        return ""
    return cursor.keyword().decode("ascii")


# --- charsets -------------------------------------------------------------------------------------

# Python codecs that are not character sets of mail, or whose decoding does more than map characters.
_NOT_CHARSETS = frozenset(
    {"idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined", "mbcs", "oem"}
)


def decoder_for(charset: bytes) -> Callable[[bytes], str] | None:
    """A strict decoder, or None for a charset unknown here."""
    try:
        info = codecs.lookup(charset.decode("ascii"))
    except (LookupError, ValueError):
        return None
    if not info._is_text_encoding or info.name.replace("_", "-") in _NOT_CHARSETS:
        return None
    return lambda raw: info.decode(raw, "strict")[0]


def _decode_utf8(raw: bytes) -> str:
    """Without CHARSET the text is US-ASCII or, of clients that know RFC 9051, UTF-8."""
    return raw.decode("utf-8")


def _decode_nothing(raw: bytes) -> str:
    """For the rest of a command that is refused for its charset anyway."""
    return raw.decode("latin-1")
