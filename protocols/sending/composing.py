"""Mail of our own, from text that users and strangers wrote. Pure.

Whatever goes in, what comes out is a message: CRLF line ends and no other CR or LF, no NUL, lines of at most
998 octets, and no header field that was not asked for. Header fields are ASCII but for addresses that are
not (RFC 6532). Python's ``email`` is not used: it folds long message ids into encoded words, which no client
finds again.

References: RFC 5322 §2.1.1 and §3.6 (lines, fields), RFC 2045 §6, RFC 2047 §5, RFC 3834 §3.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Final

from protocols.relay.content import address_for_wire
from storage.addresses import BadAddress, canonical

MAX_NAME_CHARS: Final = 200  # of a person in an address
MAX_TEXT_CHARS: Final = 1_000  # of an unstructured field
MAX_ADDRESS_OCTETS: Final = 500
MAX_REFERENCES: Final = 20
FOLDED_CHARS: Final = 76  # RFC 2047 §2, for lines with encoded words
_LONGEST_WORD: Final = 900
_WORD_OCTETS: Final = 39  # base64 of so many, with its frame, fits behind a field name

_BREAKS = re.compile("[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")
_LOCAL = re.compile(r"[^\x00-\x20\x7f-\x9f()<>@,;:\\\"\[\]\ud800-\udfff]+")
_DOMAIN = re.compile(r"[^\x00-\x20\x7f-\x9f()<>@,;:\\\"\[\]\ud800-\udfff]+|\[[A-Za-z0-9.:-]+\]")
_MESSAGE_ID = re.compile(rb"<[!-;=?-~]{1,500}>")


@dataclass(frozen=True, slots=True)
class Letter:
    """``header`` without the empty line that follows it."""

    header: bytes
    body: bytes

    @property
    def octets(self) -> list[bytes]:
        return [self.header + b"\r\n", self.body]


# --- values ---------------------------------------------------------------------------------------


def one_line(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """Without controls and line ends, blanks in their place."""
    return _BREAKS.sub(" ", text[: 2 * limit]).strip()[:limit]


def checked_address(address: str) -> str:
    """One that may stand in a header field and in an envelope, its domain in A-labels where that makes it
    ASCII. Raises BadAddress."""
    canonical(address)
    local, _, domain = address.strip().rpartition("@")
    is_long = len(address.encode("utf-8", "replace")) > MAX_ADDRESS_OCTETS
    if is_long or not _DOMAIN.fullmatch(domain) or not _is_local(local):
        raise BadAddress(f"{address!r} is not an address that mail can be sent to")
    return address_for_wire(f"{local}@{domain}")


def _is_local(local: str) -> bool:
    if _LOCAL.fullmatch(local):
        return True
    return bool(re.fullmatch(r'"(?:[ !#-\[\]-~]|\\[ -~])*"', local))


# --- fields ---------------------------------------------------------------------------------------


def text_field(name: str, text: str) -> bytes:
    """An unstructured field (RFC 5322 §3.6.5), encoded where it is not ASCII."""
    return _folded(name, _words(one_line(text)))


def raw_field(name: str, value: str) -> bytes:
    """A value of this program's own: ASCII, short, and what the field wants."""
    return f"{name}: {value}\r\n".encode("ascii")


def date_field(at: datetime) -> bytes:
    return raw_field("Date", format_datetime(at))


def id_field(name: bytes, hostname: str) -> bytes:
    """Message-ID (RFC 5322 §3.6.4). ``name``: what names the message among those of this host."""
    whole = address_for_wire(f"{name.hex()[:32]}@{_BREAKS.sub('', hostname)}")
    return raw_field("Message-ID", f"<{whole}>" if whole.isascii() else f"<{name.hex()}@localhost>")


def address_field(name: str, addresses: Sequence[tuple[str, str]]) -> bytes:
    """``addresses``: names (may be empty) and addresses. Raises BadAddress."""
    tokens: list[str] = []
    for number, (person, address) in enumerate(addresses, 1):
        spec = checked_address(address)
        comma = "," if number < len(addresses) else ""
        phrase = _phrase(one_line(person, MAX_NAME_CHARS))
        tokens += [*phrase, f"<{spec}>{comma}"] if phrase else [f"{spec}{comma}"]
    return _folded(name, tokens)


def ids_field(name: str, ids: Sequence[bytes]) -> bytes:
    """Message ids, nothing when there are none."""
    return _folded(name, [each.decode("ascii") for each in ids]) if ids else b""


def message_ids(value: bytes) -> list[bytes]:
    """Those in a field value that can be repeated."""
    return _MESSAGE_ID.findall(value)


def references(ids: Sequence[bytes]) -> list[bytes]:
    """Of a long thread the first and the last."""
    return [*ids[:1], *ids[1 - MAX_REFERENCES :]] if len(ids) > MAX_REFERENCES else list(ids)


def _words(text: str) -> list[str]:
    words = text.split(" ")
    if text.isascii() and "=?" not in text and all(len(each) <= _LONGEST_WORD for each in words):
        return words
    return _encoded(text)


def _encoded(text: str) -> list[str]:
    """RFC 2047 §5; no character is split."""
    pieces: list[bytes] = [b""]
    for char in text:
        octets = char.encode("utf-8", "replace")
        if len(pieces[-1]) + len(octets) > _WORD_OCTETS:
            pieces.append(b"")
        pieces[-1] += octets
    return [f"=?utf-8?b?{base64.b64encode(piece).decode()}?=" for piece in pieces]


def _phrase(person: str) -> list[str]:
    """RFC 5322 §3.2.5: atoms, else quoted, else encoded."""
    if not person:
        return []
    if not person.isascii() or "=?" in person:
        return _encoded(person)
    if _ATOMS.fullmatch(person):
        return person.split(" ")
    escaped = person.replace("\\", "\\\\").replace('"', '\\"')
    return [f'"{escaped}"']


def _folded(name: str, tokens: Sequence[str]) -> bytes:
    """The first token stays with the name: some clients take a first line without a value for the end."""
    lines, line = [], f"{name}:"
    for number, token in enumerate(tokens):
        if number and len(line) + 1 + len(token) > FOLDED_CHARS and line.strip():
            lines.append(line)
            line = ""
        line = f"{line} {token}"
    return "\r\n".join([*lines, line, ""]).encode("utf-8", "replace")
