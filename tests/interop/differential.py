"""What a second server makes of the same mail, and every difference from it that is meant.

Dovecot is an independent reading of the same RFCs. ``DIFFERENCES`` lists, in one place, where the two may
differ and why; each row takes the difference out of a value (``normal``), and what remains must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.support.imapraw import NIL, Atom, ImapRaw, Reply

# --- normal forms ---------------------------------------------------------------------------------


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """``change`` to every leaf."""
    if isinstance(value, list):
        return [_each(item, change) for item in value]
    return change(value)


def _anything(_value: Any) -> Any:
    return None


def _blanks(value: Any) -> Any:
    return _each(value, lambda leaf: leaf if isinstance(leaf, Atom) else b" ".join(leaf.split()))


def _placeholders(value: Any) -> Any:
    names = {b"MISSING_MAILBOX", b"MISSING_DOMAIN", b"SYNTAX_ERROR"}
    return _each(value, lambda leaf: b"" if leaf in names else leaf)


def _upper(value: Any) -> Any:
    return _each(value, lambda leaf: type(leaf)(leaf.upper()))


def _no_default_charset(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if value == [b"CHARSET", b"US-ASCII"]:
        return NIL
    return [_no_default_charset(item) for item in value]


def _no_nuls(value: Any) -> Any:
    return _each(value, lambda leaf: leaf.replace(b"\0", b"\x80"))


def _nothing_there(value: Any) -> Any:
    return b"" if value == NIL and isinstance(value, Atom) else value


def _no_trailing_line_end(value: Any) -> Any:
    return value if isinstance(value, list | Atom) else value.removesuffix(b"\r\n")


def _without(*names: str) -> Callable[[Any], Any]:
    return lambda found: found - set(names)


def _no_selectability(rows: Any) -> Any:
    return {name: flags - {b"\\noselect", b"\\nonexistent"} for name, flags in rows.items()}


# --- the table ------------------------------------------------------------------------------------


class Difference(NamedTuple):
    area: str
    where: str  # searched for in "message: item", or in what was asked
    why: str
    rfc: str
    normal: Callable[[Any], Any] = _anything


_DATELESS = (
    "no from",
    "only sender",
    "encoded words",
    "blank before colon",
    "quotes and backslashes",
    "brackets",
    "tabs",
    "trailing blanks",
    "nil words",
    "empty subject",
    "no header at all",
    "utf8 header",
    "long subject",
    "many addressees",
    "no header",
    "no body",
    "no final line end",
    "nul bytes",
    "8-bit header",
    "long line",
    "long header",
    "dots",
    "bare carriage returns",
    "no boundary",
    "unclosed multipart",
    "empty multipart",
    "bad encoding name",
    "bad base64",
)
_STRUCTURED = (
    "alternative in mixed",
    "no boundary",
    "empty multipart",
    "unclosed multipart",
    "bad encoding name",
    "bad base64",
    "bad type",
    "empty type",
    "partial message",
    "external body",
)

DIFFERENCES: tuple[Difference, ...] = (
    # FETCH
    Difference(
        "fetch",
        r"(BODY|BINARY)\S*\[",
        "a part that is not there: NIL here, an empty string there",
        "RFC 9051 §6.4.5 allows both",
        _nothing_there,
    ),
    Difference(
        "fetch",
        r"BODYSTRUCTURE|BODY$",
        "types and parameter names compare without case",
        "RFC 2045 §5.1",
        _upper,
    ),
    Difference(
        "fetch",
        r"BODYSTRUCTURE|BODY$",
        "Dovecot adds the default charset where a type is given without one; we tell what is written",
        "RFC 2045 §5.2",
        _no_default_charset,
    ),
    Difference(
        "fetch",
        r"(type alone|bad type|empty type): BODY",
        "what a type that is none counts as",
        "RFC 2045 §5.2: treat as text/plain",
    ),
    Difference(
        "fetch",
        r"parameter without value: BODY",
        "Dovecot drops what follows a broken parameter",
        "RFC 2045 §5.1 leaves broken syntax open",
    ),
    Difference(
        "fetch",
        r"disposition with nothing: BODYSTRUCTURE",
        "an empty disposition has no type: NIL",
        "RFC 9051 §9 body-fld-dsp",
    ),
    Difference(
        "fetch",
        r"bad (encoding name|base64): BODY",
        "Dovecot hides a transfer encoding that it cannot undo as 7BIT",
        "RFC 9051 §7.5.2: the encoding as given",
    ),
    Difference(
        "fetch",
        r"(no boundary|empty multipart): (BODY|BINARY)",
        "a multipart without parts shows its text",
        "RFC 2046 §5.1.1 leaves it open",
    ),
    Difference(
        "fetch",
        r"(nested|ten thousand)",
        "depth and number of parts that are told are limited differently",
        "none: no server must recurse without end",
    ),
    Difference(
        "fetch",
        r"(prefix boundaries|rfc3501 section example|alternative in mixed): (BODY|BINARY)\S*\[",
        "the line end before a delimiter belongs to the delimiter, also behind an inner multipart; Dovecot "
        "leaves it to the part",
        "RFC 2046 §5.1.1",
        _no_trailing_line_end,
    ),
    Difference(
        "fetch",
        r"rfc3501 section example: BODY(STRUCTURE)?$",
        "as above: two octets and a line",
        "RFC 2046 §5.1.1",
        lambda value: _each(value, lambda leaf: Atom(b"n") if leaf.isdigit() else leaf),
    ),
    Difference(
        "fetch", r"ENVELOPE", "placeholders for missing halves of addresses", "RFC 9051 §7.5.2", _placeholders
    ),
    Difference(
        "fetch",
        r"ENVELOPE",
        "unfolding removes line ends and keeps blanks; Dovecot makes them one",
        "RFC 5322 §2.2.3",
        _blanks,
    ),
    Difference(
        "fetch",
        r"commas: ENVELOPE",
        "empty members of a list are no addresses",
        "RFC 5322 §4.4",
        lambda value: [
            [a for a in item if a[2:] not in ([b"", b""], [b"MISSING_MAILBOX", b"MISSING_DOMAIN"])]
            if isinstance(item, list)
            else item
            for item in value
        ],
    ),
    Difference(
        "fetch",
        r"(semicolons|missing bracket|two ats): ENVELOPE",
        "repair of broken address lists",
        "RFC 5322 leaves broken syntax open",
    ),
    Difference(
        "fetch",
        r"repeated fields: ENVELOPE",
        "of a field that may occur once the first counts; Dovecot joins or takes the last",
        "RFC 5322 §3.6",
    ),
    Difference(
        "fetch",
        r"garbage line: BODY\S*HEADER.FIELDS.NOT",
        "a line that is no field is in neither subset",
        "RFC 9051 §6.4.5.1 speaks of fields",
    ),
    Difference(
        "fetch",
        r"empty parts: BODY\S*MIME",
        "whether the line end before a delimiter ends the header too",
        "RFC 2046 §5.1.1 leaves it open",
    ),
    Difference(
        "fetch",
        r"(no body separator|no body): BODY\S*HEADER.FIELDS",
        "no empty line where the message has none; Dovecot adds one when it answers from its cache",
        "RFC 9051 §6.4.5.1",
        lambda value: value.rstrip(b"\r\n"),
    ),
    Difference(
        "fetch",
        r"nul bytes",
        "Dovecot stores NUL as another octet; we return what we were given",
        "RFC 9051 §4.3.1",
        _no_nuls,
    ),
    Difference(
        "fetch",
        r"\[[0-9.]*\.1(\.MIME)?\]$",
        "a part that is no multipart has no part 1 of its own",
        "RFC 9051 §6.4.5.1",
        lambda value: None,
    ),
    Difference(
        "fetch",
        r"bad base64: BINARY",
        "what can be decoded is returned; Dovecot refuses the part",
        "RFC 3516 §4.3 names unknown encodings only",
    ),
    # SEARCH
    Difference(
        "search",
        r"SENT",
        "no Date field: the internal date counts here, 1970 there",
        "RFC 9051 §6.4.4 is silent",
        _without(*_DATELESS),
    ),
    Difference(
        "search",
        r"BODY|TEXT",
        "which parts of structured mail are text: headers of embedded messages are, "
        "tags and part headers are not",
        "RFC 9051 §6.4.4 leaves it open",
        _without(*_STRUCTURED),
    ),
    Difference(
        "search",
        r"HEADER Subject",
        "a run of blanks in a field counts as one; Dovecot does so for SUBJECT but not for HEADER Subject",
        "RFC 9051 §6.4.4 is silent",
        _without("folded everything"),
    ),
    Difference(
        "search",
        r"\((SMALLER|LARGER) \d+ (SMALLER|LARGER) \d+\)",
        "Dovecot 2.3 makes one key of two in a group, the wrong one",
        "RFC 9051 §6.4.4",
    ),
    Difference(
        "search",
        r"\b(TO|CC|HEADER To) [^ ]*\r\n@",
        "an address without halves has no @",
        "RFC 9051 §6.4.4",
        _without("null address", "commas", "bare word", "words without address"),
    ),
    # refused commands
    Difference(
        "refusal",
        r"^(NAMESPACE|NOOP|CAPABILITY|UNSELECT|CLOSE|EXPUNGE|CHECK) x$|^SEARCH  ALL$|^SEARCH ALL $",
        "text and blanks that the grammar does not have",
        "RFC 9051 §9 (2): exactly one space",
    ),
    Difference(
        "refusal",
        r"^(ENABLE|ID|STORE 1 FLAGS|FETCH 1 BODY\[\]<5>|ID \(\"a\"\))$",
        "missing arguments",
        "RFC 9051 §9, RFC 2971 §3.1",
    ),
    Difference(
        "refusal",
        r"^(FETCH 1:5 FLAGS|SEARCH 5|SEARCH 5:6)$",
        "numbers beyond the last message: a range is cut at the end, anything else is BAD",
        "RFC 9051 §9 seq-number: should be BAD",
    ),
    Difference("refusal", r"^CREATE a&b$", "a name that is not modified UTF-7", "RFC 3501 §5.1.3"),
    Difference("refusal", r"^SUBSCRIBE nowhere$", "names need not exist", "RFC 9051 §6.3.7: MAY validate"),
    Difference("refusal", r"^XLIST", "no such command is announced", "RFC 6154 has superseded it"),
    # LIST
    Difference(
        "list",
        r"SUBSCRIBED",
        "children are told unasked",
        "RFC 5258 §4 allows it",
        lambda rows: {name: flags - {b"\\haschildren", b"\\hasnochildren"} for name, flags in rows.items()},
    ),
    Difference(
        "list", r'^LIST ".+" ""$', "the root of a name that is not rooted", "RFC 9051 §6.3.9: MAY be empty"
    ),
    Difference(
        "list",
        r"",
        "a name that is only a parent: both attributes here, one there",
        "RFC 9051 §7.3.1: \\NonExistent implies \\Noselect",
        _no_selectability,
    ),
    # annotations
    Difference(
        "metadata",
        r"SETMETADATA box \(\): status",
        "a list of changes without any",
        "RFC 5464 §5 entry-values: one at least",
    ),
)


class Judge:
    """Compares answers of one area and remembers which rows of the table were needed."""

    def __init__(self, area: str) -> None:
        self.rows = [row for row in DIFFERENCES if row.area == area]
        self.used: set[Difference] = set()
        self.problems: list[str] = []
        self.compared = 0

    def compare(self, where: str, ours: Any, theirs: Any) -> None:
        self.compared += 1
        if _is_same(ours, theirs):
            return
        left, right = ours, theirs
        for row in self.rows:
            if left is not None and re.search(row.where, where):
                self.used.add(row)
                left, right = row.normal(left), row.normal(right)
        if isinstance(left, frozenset):
            ours, theirs = left - right, right - left
        if left is not None and not _is_same(left, right):
            self.problems.append(f"{where}\n    ours   {ours!r:.1500}\n    theirs {theirs!r:.1500}")

    def verdict(self, *, rows_are_needed: bool = True) -> None:
        assert not self.problems, f"{len(self.problems)} differences:\n" + "\n".join(self.problems[:40])
        idle = [row.why for row in self.rows if row not in self.used]
        assert not (rows_are_needed and idle), f"rows that explain nothing: {idle}"


def _is_same(one: Any, other: Any) -> bool:
    """NIL is not the string of these letters."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return type(one) is type(other) and bool(one == other)


class Pair:
    """The same commands to both."""

    def __init__(self, ours: ImapRaw, theirs: ImapRaw) -> None:
        self.ours = ours
        self.theirs = theirs

    def ok(self, *pieces: bytes) -> tuple[Reply, Reply]:
        return self.ours.ok(*pieces), self.theirs.ok(*pieces)

    def command(self, *pieces: bytes) -> tuple[Reply, Reply]:
        return self.ours.command(*pieces), self.theirs.command(*pieces)

    def append(self, mailbox: bytes, message: bytes, options: bytes = b"") -> None:
        for server in (self.ours, self.theirs):
            server.append(mailbox, message, options)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()
