"""The tokens of IMAP commands, read by a cursor over the bytes of one whole command.

The machine has already put the command together: literals stand inline, as ``{n}`` CRLF and n octets.
Every method either takes its token and moves on, or raises ``ParseError``, whose text becomes the
tagged BAD. Nothing here reads past the command or knows what the tokens mean.

References: RFC 9051 §9 and RFC 3501 §9 (formal syntax), RFC 7888 (non-synchronizing literals),
RFC 3516 §4.4 (literal8).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Final

from protocols.errors import PeerError
from storage.model import INBOX, Flags, SystemFlag

from . import mutf7
from .seqset import SAVED, SavedResult, SeqSet, UidSet, parse_parts

MAX_KEYWORD_BYTES: Final = 100  # keywords are stored with every message; longer ones are no names
MAX_KEYWORDS: Final = 64  # in one command; clients use a handful
MAX_NUMBER: Final = 2**32 - 1
MAX_NUMBER64: Final = 2**63 - 1
NO_NAME: Final = "\0"  # a pattern that no mailbox name matches

# atom-specials: ( ) { SP CTL % * " \ ]  and nothing above ASCII
_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_ASTRING_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')
_LIST_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){"\\]+')
# The same with UTF-8 let through, for clients that enabled it (RFC 6855 §3, RFC 9051 §9)
_ASTRING_ATOM_UTF8 = re.compile(rb'[^\x00-\x20\x7f(){%*"\\]+')
_LIST_ATOM_UTF8 = re.compile(rb'[^\x00-\x20\x7f(){"\\]+')
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\x00]|\\["\\])*)"')
_UNQUOTE = re.compile(rb'\\(["\\])')
_LITERAL = re.compile(rb"~?\{([0-9]{1,19})\+?\}\r\n")
_NUMBER = re.compile(rb"[0-9]{1,19}(?![0-9])")
_FLAG = re.compile(rb'\\?[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_SET = re.compile(rb"[0-9:*,]+")
_DATE = re.compile(rb"([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})")
_DATETIME = re.compile(
    rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"'
)
_MONTHS: Final = {
    name: number + 1 for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split())
}
SYSTEM_FLAGS: Final = {
    b"\\seen": SystemFlag.SEEN,
    b"\\answered": SystemFlag.ANSWERED,
    b"\\flagged": SystemFlag.FLAGGED,
    b"\\deleted": SystemFlag.DELETED,
    b"\\draft": SystemFlag.DRAFT,
}


class ParseError(PeerError):
    """The command breaks the grammar; answered with a tagged BAD."""


class Cursor:
    """A position in the arguments of one command; ``data`` begins right after the command's name."""

    __slots__ = ("data", "position", "utf8")

    def __init__(self, data: bytes, *, utf8: bool = False) -> None:
        self.data = data
        self.position = 0
        self.utf8 = utf8  # names and strings are UTF-8 (after ENABLE UTF8=ACCEPT or IMAP4rev2)

    # --- single octets ---

    @property
    def at_end(self) -> bool:
        return self.position >= len(self.data)

    def peek(self) -> int:
        """The next octet; -1 at the end."""
        return self.data[self.position] if self.position < len(self.data) else -1

    def accept(self, token: bytes) -> bool:
        """Take ``token`` if it comes next; letters compare without regard to case."""
        end = self.position + len(token)
        if self.data[self.position : end].upper() != token.upper():
            return False
        self.position = end
        return True

    def expect(self, token: bytes) -> None:
        if not self.accept(token):
            raise self.error(f"Expected {token.decode('ascii', 'replace')!r}")

    def space(self) -> None:
        if self.peek() != 0x20:
            raise self.error("Missing argument" if self.at_end else "Expected a space")
        self.position += 1

    def end(self) -> None:
        """Nothing may follow."""
        if not self.at_end:
            raise self.error("Unexpected text after the arguments")

    def error(self, text: str) -> ParseError:
        return ParseError(f"{text} at position {self.position + 1}" if self.position else text)

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Match ``pattern`` here and move behind it; for tokens that only one command has."""
        match = pattern.match(self.data, self.position)
        if match is not None:
            self.position = match.end()
        return match

    def _need(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        match = self.take(pattern)
        if match is None:
            raise self.error(f"Expected {what}")
        return match

    # --- words and strings ---

    def atom(self) -> bytes:
        return self._need(_ATOM, "an atom")[0]

    def keyword(self) -> bytes:
        """An atom in upper case, for words of the protocol."""
        return self._need(_ATOM, "a keyword")[0].upper()

    def string(self) -> bytes:
        """A quoted string or literal."""
        match = self.take(_QUOTED)
        if match is not None:
            raw = match[1]
            if not self.utf8 and not raw.isascii():
                raise self.error("8-bit characters in a quoted string")
            return _UNQUOTE.sub(rb"\1", raw) if b"\\" in raw else raw
        return self.literal()

    def literal(self) -> bytes:
        match = self._need(_LITERAL, "a string")
        end = match.end() + int(match[1])
        if end > len(self.data):
            raise self.error("Literal is cut short")
        self.position = end
        return self.data[match.end() : end]

    def astring(self) -> bytes:
        match = self.take(_ASTRING_ATOM_UTF8 if self.utf8 else _ASTRING_ATOM)
        return match[0] if match is not None else self.string()

    def nstring(self) -> bytes | None:
        return None if self.accept(b"NIL") else self.string()

    # --- numbers and sets ---

    def _number(self, maximum: int) -> int:
        value = int(self._need(_NUMBER, "a number")[0])
        if value > maximum:
            raise self.error("Number is too large")
        return value

    def number(self) -> int:
        """0 .. 2**32 - 1."""
        return self._number(MAX_NUMBER)

    def number64(self) -> int:
        """0 .. 2**63 - 1 (RFC 9051 §9 number64, RFC 7162 §7 mod-sequence)."""
        return self._number(MAX_NUMBER64)

    def _set_parts(self) -> tuple[tuple[int, int], ...]:
        match = self._need(_SET, "a message set")
        try:
            return parse_parts(match[0])
        except ValueError as error:
            raise self.error(str(error)) from error

    def seqset(self) -> SeqSet | SavedResult:
        return SAVED if self.accept(b"$") else SeqSet(self._set_parts())

    def uidset(self) -> UidSet | SavedResult:
        return SAVED if self.accept(b"$") else UidSet(self._set_parts())

    # --- mailboxes ---

    def mailbox(self) -> str:
        """A mailbox name, decoded; INBOX in any case becomes ``INBOX``, also as a first component."""
        name = self._decode_name(self.astring())
        if name[:5].upper() == INBOX and (len(name) == 5 or name[5] == "/"):
            return INBOX + name[5:]
        return name

    def list_mailbox(self) -> str:
        """A mailbox pattern with its wildcards, decoded; NO_NAME where that is not possible."""
        match = self.take(_LIST_ATOM_UTF8 if self.utf8 else _LIST_ATOM)
        raw = match[0] if match is not None else self.string()
        try:
            return self._decode_name(raw)
        except ParseError:  # RFC 9051 §6.3.9: a pattern that is not accepted is ignored in silence
            return NO_NAME

    def _decode_name(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8") if self.utf8 else mutf7.decode(raw)
        except ValueError:
            form = "UTF-8" if self.utf8 else "modified UTF-7"
            raise self.error(f"Mailbox name is not valid {form}") from None

    # --- flags ---

    def flag_list(self) -> Flags:
        """Flags in parentheses. ``\\Recent`` is read over: clients copy it from FETCH, nobody may set it."""
        self.expect(b"(")
        flags = Flags() if self.peek() == 0x29 else self._flags()
        self.expect(b")")
        return flags

    def flags(self) -> Flags:
        """As STORE takes them: a flag list, or flags without parentheses (RFC 9051 §9 store-att-flags)."""
        return self.flag_list() if self.peek() == 0x28 else self._flags()

    def _flags(self) -> Flags:
        system = SystemFlag.NONE
        keywords: dict[str, str] = {}
        while True:
            raw = self._need(_FLAG, "a flag")[0]
            folded = raw.lower()
            if folded in SYSTEM_FLAGS:
                system |= SYSTEM_FLAGS[folded]
            elif folded != b"\\recent":
                keywords.setdefault(folded.decode(), self._check_keyword(raw))
            if not self.accept(b" "):
                break
        if len(keywords) > MAX_KEYWORDS:
            raise self.error("Too many keywords")
        return Flags(system, frozenset(keywords.values()))

    def _check_keyword(self, raw: bytes) -> str:
        if raw.startswith(b"\\"):
            raise self.error(f"Unknown system flag {raw.decode()}")
        if raw.upper() == b"NIL" or len(raw) > MAX_KEYWORD_BYTES:
            raise self.error(f"Not a usable keyword: {raw[:MAX_KEYWORD_BYTES].decode()}")
        return raw.decode()

    # --- dates ---

    def date(self) -> date:
        """``1-Feb-1994``, with or without quotes."""
        quoted = self.accept(b'"')
        match = self._need(_DATE, "a date such as 1-Feb-1994")
        if quoted:
            self.expect(b'"')
        try:
            return date(int(match[3]), _MONTHS.get(match[2].lower(), 0), int(match[1]))
        except ValueError:
            raise self.error("No such date") from None

    def datetime(self) -> datetime:
        """``"17-Jul-1996 02:44:25 -0700"``, aware."""
        match = self._need(_DATETIME, 'a date-time such as "17-Jul-1996 02:44:25 -0700"')
        day, month, year, hour, minute, second = match.group(1, 2, 3, 4, 5, 6)
        offset = timedelta(hours=int(match[8]), minutes=int(match[9]))
        try:
            zone = timezone(-offset if match[7] == b"-" else offset)
            when = datetime(
                int(year),
                _MONTHS.get(month.lower(), 0),
                int(day),
                int(hour),
                int(minute),
                min(int(second), 59),  # a leap second is not a reason to refuse a message
                tzinfo=zone,
            )
            when.astimezone(UTC)  # representable in UTC too
        except (ValueError, OverflowError):
            raise self.error("No such date and time") from None
        return when
