"""What a message needs of the server that is to take it, and its form on the wire. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from storage.dsn import DsnRequest, RecipientDsn, notify_words

_BARE: Final = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Needs:
    """SMTP extensions that the message asks for."""

    is_8bit: bool  # RFC 6152
    is_utf8: bool  # RFC 6531: an address or a header field is not ASCII
    has_utf8_address: bool = False  # without SMTPUTF8 there is no way to name it


def needs_of(message: bytes, addresses: Iterable[str]) -> Needs:
    """``addresses`` as they go into commands, so that domains are A-labels where that is enough.

    A header with octets that are not UTF-8 is of an age before RFC 6532 and is no mail of that kind.
    """
    is_8bit = not message.isascii()
    has_utf8_address = not all(each.isascii() for each in addresses)
    is_utf8 = has_utf8_address or (is_8bit and _has_utf8_header(message))
    return Needs(is_8bit, is_utf8, has_utf8_address)


def _has_utf8_header(message: bytes) -> bool:
    end = message.find(b"\r\n\r\n")
    header = message if end < 0 else message[:end]
    if header.isascii():
        return False
    try:
        header.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def with_crlf(message: bytes) -> bytes:
    """All line ends CRLF, also the last. A bare CR or LF might be a line end to one host and none to the
    next, which is how mail is smuggled; RFC 5321 §2.3.8 allows neither."""
    pairs = message.count(b"\r\n")
    if message.count(b"\r") != pairs or message.count(b"\n") != pairs:
        message = _BARE.sub(b"\r\n", message)
    return message if message.endswith(b"\r\n") or not message else message + b"\r\n"


def dot_stuffed(message: bytes) -> bytes:
    """As it follows DATA, the final dot included (RFC 5321 §4.5.2). ``message`` has CRLF line ends."""
    stuffed = message.replace(b"\r\n.", b"\r\n..")
    return (b"." if stuffed.startswith(b".") else b"") + stuffed + b".\r\n"


def address_for_wire(address: str) -> str:
    """The domain as A-labels when the local part is ASCII: then no server needs to know of RFC 6531."""
    local, at, domain = address.rpartition("@")
    if domain.isascii() or not local.isascii():
        return address
    try:
        return f"{local}{at}{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        return address


def mail_parameters(dsn: DsnRequest) -> list[bytes]:
    """RFC 3461 §4.3, §4.4."""
    pairs = (("RET", dsn.message.ret), ("ENVID", dsn.message.envid))
    return [f"{key}={value}".encode() for key, value in pairs if value]


def rcpt_parameters(wishes: RecipientDsn) -> list[bytes]:
    """RFC 3461 §4.1, §4.2. An address that only SMTPUTF8 could carry is left out."""
    pairs = (("NOTIFY", notify_words(wishes)), ("ORCPT", wishes.orcpt if wishes.orcpt.isascii() else ""))
    return [f"{key}={value}".encode() for key, value in pairs if value]
