"""The PROXY protocol, versions 1 and 2, as the HAProxy project specifies it ("proxy-protocol.txt").

``parse`` looks at the first bytes of a connection and answers with a header, with the number of bytes it has
to see, or with an error. It keeps no state, so a caller that peeks gives it everything from the start each
time; at most 107 octets (version 1) or 16 + 4096 (version 2) are ever asked for.

A receiver is told to expect the header; it must never guess, as any client could write one.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

MAX_V1: Final = 107  # octets, CRLF included
SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V2_HEAD: Final = 16
MAX_V2_BODY: Final = 4096  # a full header with every TLV in use is far below
MAX_UNIQUE_ID: Final = 128
MAX_AUTHORITY: Final = 255
MAX_JA4: Final = 64

# TLV types; the last two are those that Sora's own proxies add, of the range for private use.
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30
JA4, SESSION_ID = 0xE0, 0xE1
_MEANINGFUL: Final = frozenset({ALPN, AUTHORITY, CRC32C, UNIQUE_ID, SSL, NETNS, JA4, SESSION_ID})
_SSL_TEXTS: Final = {0x21: "version", 0x22: "common_name", 0x23: "cipher"}

_V1_FAMILIES: Final = {b"TCP4": ipaddress.IPv4Address, b"TCP6": ipaddress.IPv6Address}
_V2_ADDRESS_BYTES: Final = {0: 0, 1: 12, 2: 36, 3: 216}  # family nibble: unspec, IPv4, IPv6, Unix
_MAX_TRANSPORT: Final = 2  # unspec, stream, datagram


class ProxyHeaderError(ValueError):
    """This is no PROXY header; nothing that follows on the connection can be trusted."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What the balancer says of the TLS that it terminated."""

    is_tls: bool
    is_verified: bool  # the client showed a certificate, and it was good
    version: str = ""
    cipher: str = ""
    common_name: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """``size`` bytes of the connection are the header. Without ``source`` the real peer counts: the balancer
    speaks for itself (a health check), or does not know, or its client came by a Unix socket."""

    size: int
    source: Endpoint | None = None
    destination: Endpoint | None = None
    is_local: bool = False
    tlvs: tuple[tuple[int, bytes], ...] = ()
    authority: str = ""  # the server name that the client asked for
    unique_id: bytes = b""
    namespace: str = ""
    tls: ClientTls | None = None
    ja4: str = ""
    session_id: str = ""  # of the session on our own proxy


def parse(data: bytes) -> Header | int:
    """The header that ``data`` starts with, or how many bytes have to be seen, counted from the start.

    Raises ProxyHeaderError.
    """
    if data[:1] == SIGNATURE[:1]:
        return _parse_v2(data)
    return _parse_v1(data)


# --- version 1 ------------------------------------------------------------------------------------

_V1_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")


def _parse_v1(data: bytes) -> Header | int:
    if not data.startswith(b"PROXY "[: len(data)]):
        raise ProxyHeaderError("no PROXY header")
    line, end, _ = data[:MAX_V1].partition(b"\r\n")
    if b"\n" in line or b"\r" in line[:-1] or (end and b"\r" in line):
        raise ProxyHeaderError("a line end that is not CRLF")
    if not end:
        if len(data) >= MAX_V1:
            raise ProxyHeaderError(f"longer than {MAX_V1} octets")
        return max(_V1_SHORTEST, len(data) + 1)
    size = len(line) + 2
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":  # anything may follow, and is ignored
        return Header(size)
    if len(words) != 6 or words[1] not in _V1_FAMILIES:
        raise ProxyHeaderError("not PROXY, family, two addresses, two ports")
    source, destination = (Endpoint(_v1_address(words[1], words[n]), _v1_port(words[n + 2])) for n in (2, 3))
    return Header(size, source, destination)


def _v1_address(family: bytes, word: bytes) -> str:
    try:
        text = word.decode("ascii")
        if "%" in text:
            raise ValueError("a zone has no meaning to us")
        return str(_V1_FAMILIES[family](text))  # refuses leading zeros and the other family
    except ValueError as error:
        raise ProxyHeaderError(f"not an address of {family.decode()}: {word!r}") from error


def _v1_port(word: bytes) -> int:
    if not (word.isdigit() and len(word) <= 5 and (word == b"0" or word[:1] != b"0") and int(word) <= 65535):
        raise ProxyHeaderError(f"not a port: {word!r}")
    return int(word)


# --- version 2 ------------------------------------------------------------------------------------


def _parse_v2(data: bytes) -> Header | int:
    if not data.startswith(SIGNATURE[: len(data)]):
        raise ProxyHeaderError("no PROXY header")
    if len(data) < V2_HEAD:
        return V2_HEAD
    version_command, family_transport = data[12], data[13]
    length = int.from_bytes(data[14:V2_HEAD], "big")
    if version_command not in (0x20, 0x21):
        raise ProxyHeaderError(f"version and command {version_command:#04x}")
    if length > MAX_V2_BODY:
        raise ProxyHeaderError(f"longer than {MAX_V2_BODY} octets")
    size = V2_HEAD + length
    is_local = version_command == 0x20
    family, transport = family_transport >> 4, family_transport & 15
    # of a LOCAL header everything that follows is to be skipped, its family included
    if not is_local and (family not in _V2_ADDRESS_BYTES or transport > _MAX_TRANSPORT):
        raise ProxyHeaderError(f"family and transport {family_transport:#04x}")
    if not is_local and length < _V2_ADDRESS_BYTES[family]:
        raise ProxyHeaderError("address block cut short")
    if len(data) < size:
        return size
    if is_local:
        return Header(size, is_local=True)
    return _proxied(data[:size], family)


def _proxied(header: bytes, family: int) -> Header:
    body = header[V2_HEAD:]
    source, destination = _endpoints(family, body)
    tlvs = _tlvs(body[_V2_ADDRESS_BYTES[family] :])
    known = {kind: value for kind, value in tlvs if kind in _MEANINGFUL}
    if len(known) != sum(kind in _MEANINGFUL for kind, _ in tlvs):
        raise ProxyHeaderError("a TLV twice")
    if CRC32C in known:
        _check_crc(header, known[CRC32C])
    unique_id = known.get(UNIQUE_ID, b"")
    if len(unique_id) > MAX_UNIQUE_ID:
        raise ProxyHeaderError(f"a unique id of more than {MAX_UNIQUE_ID} octets")
    return Header(
        len(header),
        source,
        destination,
        tlvs=tlvs,
        authority=_word(known.get(AUTHORITY, b""), MAX_AUTHORITY).lower().rstrip("."),
        unique_id=unique_id,
        namespace=_word(known.get(NETNS, b""), MAX_AUTHORITY),
        tls=_client_tls(known[SSL]) if SSL in known else None,
        ja4=_word(known.get(JA4, b""), MAX_JA4),
        session_id=_word(known.get(SESSION_ID, b""), MAX_UNIQUE_ID),
    )


def _endpoints(family: int, body: bytes) -> tuple[Endpoint | None, Endpoint | None]:
    if family == 1:
        source, destination, *ports = struct.unpack_from("!4s4sHH", body)
    elif family == 2:
        source, destination, *ports = struct.unpack_from("!16s16sHH", body)
    else:
        return None, None
    return tuple(  # type: ignore[return-value]
        Endpoint(_text(packed), port) for packed, port in zip((source, destination), ports, strict=True)
    )


def _text(packed: bytes) -> str:
    if len(packed) == 4:  # a fifth of the time that ipaddress takes
        return ".".join(map(str, packed))
    return str(ipaddress.IPv6Address(packed))


def _tlvs(block: bytes) -> tuple[tuple[int, bytes], ...]:
    """Type and value of each, padding left out."""
    found, position = [], 0
    while position < len(block):
        if len(block) - position < 3:
            raise ProxyHeaderError("TLV cut short")
        kind, length = struct.unpack_from("!BH", block, position)
        value = block[position + 3 : position + 3 + length]
        if len(value) < length:
            raise ProxyHeaderError("TLV longer than the header")
        position += 3 + length
        if kind != NOOP:
            found.append((kind, value))
    return tuple(found)


def _word(value: bytes, most: int) -> str:
    """One word of printable ASCII: it goes into log lines."""
    if len(value) > most or not all(0x21 <= octet <= 0x7E for octet in value):
        raise ProxyHeaderError(f"not a word of at most {most} characters: {value[:40]!r}")
    return value.decode("ascii")


def _client_tls(value: bytes) -> ClientTls:
    if len(value) < 5:
        raise ProxyHeaderError("TLS block cut short")
    client, unverified = struct.unpack_from("!BI", value)
    texts = {
        _SSL_TEXTS[kind]: text.decode("utf-8", "replace")
        for kind, text in _tlvs(value[5:])
        if kind in _SSL_TEXTS
    }
    has_certificate = bool(client & 0x06)
    return ClientTls(bool(client & 0x01), has_certificate and unverified == 0, **texts)


def _check_crc(header: bytes, value: bytes) -> None:
    """The checksum covers the whole header, with its own four octets as zeros."""
    if len(value) != 4:
        raise ProxyHeaderError("a checksum that has not four octets")
    position = _V2_ADDRESS_BYTES[header[13] >> 4] + V2_HEAD
    while header[position] != CRC32C:
        position += 3 + int.from_bytes(header[position + 1 : position + 3], "big")
    blanked = header[: position + 3] + bytes(4) + header[position + 7 :]
    if crc32c(blanked) != int.from_bytes(value, "big"):
        raise ProxyHeaderError("wrong checksum")


def _crc_table() -> tuple[int, ...]:
    table = []
    for octet in range(256):
        for _ in range(8):
            octet = octet >> 1 ^ 0x82F63B78 if octet & 1 else octet >> 1
        table.append(octet)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as RFC 3720 §B.4 defines it."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


# --- writing --------------------------------------------------------------------------------------


def encode_v1(source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """``UNKNOWN`` without addresses."""
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    family = "TCP6" if ":" in source.ip else "TCP4"
    return f"PROXY {family} {source.ip} {destination.ip} {source.port} {destination.port}\r\n".encode("ascii")


def encode_v2(
    source: Endpoint | None,
    destination: Endpoint | None,
    tlvs: tuple[tuple[int, bytes], ...] = (),
    *,
    is_local: bool = False,
    checksum: bool = False,
) -> bytes:
    """Without addresses the family is UNSPEC. ``checksum`` adds the CRC-32C as the last TLV."""
    family, block = 0x00, b""
    if source is not None and destination is not None:
        addresses = [ipaddress.ip_address(end.ip) for end in (source, destination)]
        family = 0x11 if addresses[0].version == 4 else 0x21
        block = b"".join(each.packed for each in addresses)
        block += struct.pack("!HH", source.port, destination.port)
    block += b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in tlvs)
    if checksum:
        block += struct.pack("!BHI", CRC32C, 4, 0)
    header = SIGNATURE + struct.pack("!BBH", 0x20 if is_local else 0x21, family, len(block)) + block
    return header[:-4] + struct.pack("!I", crc32c(header)) if checksum else header
