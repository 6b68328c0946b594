"""The first message of a TLS client, read before anybody answers it (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2).

``scan`` finds the message in the records of a connection's first bytes; ``parse`` reads it. Both are pure and
total: any bytes give a result. Nothing here decides whether a handshake succeeds, OpenSSL does.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

RECORD_HEAD: Final = 5
HANDSHAKE_RECORD: Final = 22
CLIENT_HELLO: Final = 1
MAX_RECORD: Final = 16640  # 2^14 + 256; plaintext of at most 2^14 in practice
MAX_HELLO: Final = 131_396  # OpenSSL takes no longer message
# A real client needs nine records for the longest hello; without a bound one-byte records would make us look
# at the same bytes a hundred thousand times.
MAX_RECORDS: Final = 64

SERVER_NAME, SIGNATURE_ALGORITHMS, ALPN, SUPPORTED_VERSIONS = 0x0000, 0x000D, 0x0010, 0x002B
MAX_SNI: Final = 255
_EXTENSION_HEAD: Final = struct.Struct("!HH").unpack_from  # type, length


class Refused(enum.Enum):
    """Why these bytes start no handshake."""

    NOT_TLS = "not_tls"
    TOO_LARGE = "hello_too_large"


@dataclass(frozen=True, slots=True)
class ClientHello:
    """Everything in the order of the client, GREASE values (RFC 8701) included."""

    version: int  # legacy_version
    ciphers: tuple[int, ...]
    extensions: tuple[int, ...]
    sni: str = ""  # lower case, without the trailing dot; "" when not sent or not usable
    is_sni_bad: bool = False  # there is a name, and it is not one
    alpn: tuple[bytes, ...] = ()
    supported_versions: tuple[int, ...] = ()
    signature_algorithms: tuple[int, ...] = ()


def scan(data: bytes) -> bytes | int | Refused:
    """The handshake message without its four octets of type and length, joined from its records; a number
    is how many bytes have to be seen, counted from the start."""
    message, position, records = bytearray(), 0, 0
    while True:
        head = data[position : position + RECORD_HEAD]
        if not _may_be_record(head):
            return Refused.NOT_TLS
        if len(head) < RECORD_HEAD:
            return position + RECORD_HEAD
        length = int.from_bytes(head[3:5], "big")
        if not 0 < length <= MAX_RECORD:
            return Refused.NOT_TLS
        records += 1
        if records > MAX_RECORDS:
            return Refused.TOO_LARGE
        position += RECORD_HEAD
        message += data[position : position + length]
        position += length
        if message[:1] and message[0] != CLIENT_HELLO:
            return Refused.NOT_TLS
        size = int.from_bytes(message[1:4], "big") if len(message) >= 4 else 0
        if size > MAX_HELLO:
            return Refused.TOO_LARGE
        if len(data) < position:
            return position
        if len(message) >= 4 and len(message) >= 4 + size:
            return bytes(message[4 : 4 + size])


def _may_be_record(head: bytes) -> bool:
    return (not head[:1] or head[0] == HANDSHAKE_RECORD) and (not head[1:2] or head[1] == 3)


class _Malformed(Exception):
    pass


class _Reader:
    """Takes numbers and vectors off the front."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    @property
    def is_at_end(self) -> bool:
        return self._position == len(self._data)

    def take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise _Malformed
        taken, self._position = self._data[self._position : end], end
        return taken

    def number(self, octets: int) -> int:
        return int.from_bytes(self.take(octets), "big")

    def vector(self, length_octets: int) -> bytes:
        return self.take(self.number(length_octets))


def parse(body: bytes) -> ClientHello | None:
    """None when the structure is broken."""
    try:
        return _parse(_Reader(body))
    except _Malformed:
        return None


def _parse(reader: _Reader) -> ClientHello:
    version = reader.number(2)
    reader.take(32)  # random
    reader.vector(1)  # session id
    ciphers = _numbers(reader.vector(2))
    reader.vector(1)  # compression methods
    extensions = {} if reader.is_at_end else _extensions(reader.vector(2))
    if not reader.is_at_end:
        raise _Malformed
    sni = _server_name(extensions[SERVER_NAME]) if SERVER_NAME in extensions else ""
    return ClientHello(
        version,
        ciphers,
        tuple(extensions),
        sni or "",
        sni is None,
        _protocols(extensions.get(ALPN)),
        _listed(extensions.get(SUPPORTED_VERSIONS), 1),
        _listed(extensions.get(SIGNATURE_ALGORITHMS), 2),
    )


def _numbers(data: bytes) -> tuple[int, ...]:
    if len(data) % 2:
        raise _Malformed
    return struct.unpack(f"!{len(data) // 2}H", data)


def _extensions(data: bytes) -> dict[int, bytes]:
    """By type, in the order of the client. Without a reader: this loop is most of the work."""
    found, position, end = {}, 0, len(data)
    while position < end:
        if end - position < 4:
            raise _Malformed
        kind, length = _EXTENSION_HEAD(data, position)
        position += 4
        if kind in found or length > end - position:  # RFC 8446 §4.2: not more than one of the same type
            raise _Malformed
        found[kind] = data[position : position + length]
        position += length
    return found


def _listed(data: bytes | None, length_octets: int) -> tuple[int, ...]:
    if data is None:
        return ()
    reader = _Reader(data)
    numbers = _numbers(reader.vector(length_octets))
    if not reader.is_at_end:
        raise _Malformed
    return numbers


def _protocols(data: bytes | None) -> tuple[bytes, ...]:
    if data is None:
        return ()
    reader, names = _Reader(data), []
    inner = _Reader(reader.vector(2))
    while not inner.is_at_end:
        names.append(inner.vector(1))
    if not reader.is_at_end:
        raise _Malformed
    return tuple(names)


def _server_name(data: bytes) -> str | None:
    """The host name of RFC 6066 §3; None when it is none."""
    reader = _Reader(data)
    inner = _Reader(reader.vector(2))
    while not inner.is_at_end:
        kind, name = inner.number(1), inner.vector(2)
        if kind == 0:
            is_word = 0 < len(name) <= MAX_SNI and all(0x21 <= octet <= 0x7E for octet in name)
            return (name.decode("ascii").lower().removesuffix(".") or None) if is_word else None
    return ""
