"""Every line the server writes, as functions from values to bytes.

One place knows the spelling of responses and response codes; commands say what they mean. Functions
that return a whole line end it with CRLF; ``code_*`` return what goes between the brackets.

References: RFC 9051 §7 (responses), RFC 3501 §7, RFC 7162 §3 (modification sequences),
RFC 4315 §3 (UIDPLUS codes), RFC 5530 (response codes).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from storage.model import Flags, ModSeq, SpecialUse, SystemFlag, Uid, UidValidity

from . import mutf7
from .seqset import format_uids

CRLF: Final = b"\r\n"
NIL: Final = b"NIL"
# Longer strings go as literals: some clients read a line into a fixed buffer.
MAX_QUOTED_BYTES: Final = 1000
_UNQUOTABLE = re.compile(rb"[\x00-\x1f\x7f-\xff]")
_UNQUOTABLE_UTF8 = re.compile(rb"[\x00-\x1f\x7f]")
_SPECIALS = re.compile(rb'(["\\])')
_ENTRY_ATOM = re.compile(rb"[A-Za-z0-9/._$#@:=+-]+")
_SAFE_TEXT = re.compile(r"[^\x20-\x7e]")

FLAG_NAMES: Final = (
    (SystemFlag.ANSWERED, b"\\Answered"),
    (SystemFlag.FLAGGED, b"\\Flagged"),
    (SystemFlag.DELETED, b"\\Deleted"),
    (SystemFlag.SEEN, b"\\Seen"),
    (SystemFlag.DRAFT, b"\\Draft"),
)
SPECIAL_USE_NAMES: Final = {
    SpecialUse.ARCHIVE: b"\\Archive",
    SpecialUse.DRAFTS: b"\\Drafts",
    SpecialUse.JUNK: b"\\Junk",
    SpecialUse.SENT: b"\\Sent",
    SpecialUse.TRASH: b"\\Trash",
}


# --- strings ---


def quote(data: bytes, *, utf8: bool = False) -> bytes:
    """A string: quoted where that is allowed, else a literal."""
    unquotable = _UNQUOTABLE_UTF8 if utf8 else _UNQUOTABLE
    if len(data) > MAX_QUOTED_BYTES or unquotable.search(data):
        return b"{%d}\r\n%b" % (len(data), data)
    if b'"' in data or b"\\" in data:
        data = _SPECIALS.sub(rb"\\\1", data)
    return b'"%b"' % data


def nstring(data: bytes | None, *, utf8: bool = False) -> bytes:
    return NIL if data is None else quote(data, utf8=utf8)


def mailbox(name: str, *, utf8: bool) -> bytes:
    """A mailbox name as a string: UTF-8 for clients that enabled it, else modified UTF-7."""
    return quote(name.encode("utf-8") if utf8 else mutf7.encode(name), utf8=utf8)


def text(value: str) -> bytes:
    """Human-readable text, kept on one line and in ASCII whatever was put into it."""
    return _SAFE_TEXT.sub("?", value).encode("ascii")


# --- status responses ---


def _status(label: bytes, status: bytes, words: str, code: bytes | None) -> bytes:
    if code is None:
        return b"%b %b %b\r\n" % (label, status, text(words))
    return b"%b %b [%b] %b\r\n" % (label, status, code, text(words))


def tagged(tag: bytes, status: bytes, words: str, code: bytes | None = None) -> bytes:
    return _status(tag, status, words, code)


def ok(words: str, code: bytes | None = None) -> bytes:
    return _status(b"*", b"OK", words, code)


def no(words: str, code: bytes | None = None) -> bytes:
    return _status(b"*", b"NO", words, code)


def bad(words: str, code: bytes | None = None) -> bytes:
    return _status(b"*", b"BAD", words, code)


def bye(words: str, code: bytes | None = None) -> bytes:
    return _status(b"*", b"BYE", words, code)


def continuation(data: bytes = b"OK") -> bytes:
    return b"+ %b\r\n" % data


# --- response codes ---


def code_capability(names: Iterable[bytes]) -> bytes:
    return b"CAPABILITY " + b" ".join(names)


def code_permanentflags(flags: Sequence[bytes]) -> bytes:
    return b"PERMANENTFLAGS (%b)" % b" ".join(flags)


def code_uidvalidity(value: UidValidity) -> bytes:
    return b"UIDVALIDITY %d" % value


def code_uidnext(value: Uid) -> bytes:
    return b"UIDNEXT %d" % value


def code_unseen(seq: int) -> bytes:
    return b"UNSEEN %d" % seq


def code_highestmodseq(value: ModSeq) -> bytes:
    return b"HIGHESTMODSEQ %d" % value


def code_appenduid(uidvalidity: UidValidity, uid: Uid) -> bytes:
    return b"APPENDUID %d %d" % (uidvalidity, uid)


def code_copyuid(uidvalidity: UidValidity, pairs: Sequence[tuple[Uid, Uid]]) -> bytes:
    """``pairs`` must not be empty."""
    sources = format_uids(source for source, _ in pairs)
    return b"COPYUID %d %b %b" % (uidvalidity, sources, format_uids(target for _, target in pairs))


def code_modified(numbers: Iterable[int]) -> bytes:
    """RFC 7162 §3.1.3: sequence numbers after STORE, uids after UID STORE."""
    return b"MODIFIED " + format_uids(numbers)


# --- mailbox data ---


def capability(names: Iterable[bytes]) -> bytes:
    return b"* CAPABILITY %b\r\n" % b" ".join(names)


def enabled(names: Iterable[bytes]) -> bytes:
    return b"* %b\r\n" % b" ".join((b"ENABLED", *names))


def exists(count: int) -> bytes:
    return b"* %d EXISTS\r\n" % count


def recent(count: int) -> bytes:
    return b"* %d RECENT\r\n" % count


def expunge(seq: int) -> bytes:
    return b"* %d EXPUNGE\r\n" % seq


def flags(names: Sequence[bytes]) -> bytes:
    return b"* FLAGS (%b)\r\n" % b" ".join(names)


def search(numbers: Iterable[int], modseq: ModSeq | None = None) -> bytes:
    """The IMAP4rev1 SEARCH response, with the highest modseq of the result if asked (RFC 7162 §3.1.5)."""
    words = b"".join([b" %d" % number for number in numbers])
    if modseq is not None:
        words += b" (MODSEQ %d)" % modseq
    return b"* SEARCH%b\r\n" % words


def listing(
    kind: bytes,
    attributes: Iterable[bytes],
    name: str,
    *,
    utf8: bool,
    extended: bytes = b"",
    delimiter: bytes = b'"/"',
) -> bytes:
    """A LIST or LSUB line; ``extended`` is what follows the name (RFC 5258 §4)."""
    return b"* %b (%b) %b %b%b\r\n" % (
        kind,
        b" ".join(attributes),
        delimiter,
        mailbox(name, utf8=utf8),
        b" " + extended if extended else b"",
    )


def special_use(use: SpecialUse | None) -> tuple[bytes, ...]:
    """As attributes of a LIST response (RFC 6154 §2)."""
    return () if use is None else (SPECIAL_USE_NAMES[use],)


def oldname(name: str, *, utf8: bool) -> bytes:
    """Extended data of a LIST response: another name of it, given or former (RFC 9051 §6.3.9.7)."""
    return b'("OLDNAME" (%b))' % mailbox(name, utf8=utf8)


def status(name: str, items: Iterable[tuple[bytes, int]], *, utf8: bool) -> bytes:
    values = b" ".join([b"%b %d" % item for item in items])
    return b"* STATUS %b (%b)\r\n" % (mailbox(name, utf8=utf8), values)


def metadata(name: str, items: Iterable[tuple[str, bytes | None]], *, utf8: bool) -> bytes:
    """Annotations with their values (RFC 5464 §4.4.1)."""
    values = b" ".join([b"%b %b" % (_entry(entry), _annotation(value)) for entry, value in items])
    return b"* METADATA %b (%b)\r\n" % (mailbox(name, utf8=utf8), values)


def _entry(name: str) -> bytes:
    data = name.encode("ascii")
    return data if _ENTRY_ATOM.fullmatch(data) else quote(data)


def _annotation(value: bytes | None) -> bytes:
    """A literal8 where there are NULs; eight-bit octets in a quoted string are not for every client."""
    if value is not None and b"\0" in value:
        return b"~{%d}\r\n%b" % (len(value), value)
    return nstring(value)


# --- messages ---


@lru_cache(maxsize=64)
def _system_flags(bits: int) -> bytes:
    return b" ".join([name for flag, name in FLAG_NAMES if bits & flag])


def flag_list(value: Flags, *, recent: bool = False) -> bytes:
    """``(\\Seen $Forwarded)``, in a stable order."""
    words = _system_flags(value.system)
    if value.keywords:
        extra = " ".join(sorted(value.keywords)).encode("ascii", "replace")
        words = words + b" " + extra if words else extra
    if recent:
        words = words + b" \\Recent" if words else b"\\Recent"
    return b"(%b)" % words


def fetch(seq: int, items: Iterable[bytes]) -> bytes:
    """``items`` alternate or are joined names and values, already encoded."""
    return b"* %d FETCH (%b)\r\n" % (seq, b" ".join(items))


def fetch_flags(
    seq: int,
    value: Flags,
    *,
    recent: bool = False,
    uid: Uid | None = None,
    modseq: ModSeq | None = None,
) -> bytes:
    """The unsolicited FETCH after a flag change; with UID and MODSEQ where the session wants them."""
    head = b"* %d FETCH (" % seq
    if uid is not None:
        head += b"UID %d " % uid
    tail = b" MODSEQ (%d))\r\n" % modseq if modseq is not None else b")\r\n"
    return b"%bFLAGS %b%b" % (head, flag_list(value, recent=recent), tail)
