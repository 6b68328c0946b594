"""The layers of a datagram, from the outside: label, encryption, checksum, compression, compound, messages.

Sent: compound and encryption, and the label when there is one. Compression costs more than it saves at our
sizes, and the checksum says nothing that the encryption does not.
Taken: each layer in that order only. Compounds may hold compounds, at most three deep; a checksum or
compression inside of a compound is refused, so that one datagram unpacks once.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from . import codec, compression
from .errors import PacketRejected, Reason
from .keyring import OVERHEAD, KeyRing
from .messages import MessageType

MAX_DATAGRAM_BYTES: Final = 65_507  # what UDP over IPv4 can carry
MAX_LABEL_BYTES: Final = 255
MAX_NESTING: Final = 3
MAX_MESSAGES: Final = 1024  # of one datagram
COMPOUND_OVERHEAD: Final = 2  # of the whole, and again of each part
MAX_PARTS: Final = 255
_LABEL: Final = MessageType.LABEL
_COMPOUND: Final = MessageType.COMPOUND
_WRAPPERS: Final = frozenset((MessageType.COMPRESS, MessageType.CRC, MessageType.ENCRYPT, MessageType.LABEL))
_TYPES: Final = frozenset(MessageType)
_CRC_BYTES: Final = 5


class Unwrapped(NamedTuple):
    """``messages``: each with its type byte. ``refusals``: of parts that are none."""

    messages: list[bytes]
    refusals: list[PacketRejected]


# --- label --------------------------------------------------------------------------------------------


def checked_label(label: str) -> bytes:
    """Raises ValueError above 255 bytes."""
    raw = label.encode()
    if len(raw) > MAX_LABEL_BYTES:
        raise ValueError(f"a label has at most {MAX_LABEL_BYTES} bytes, not {len(raw)}")
    return raw


def label_header(label: bytes) -> bytes:
    return bytes((_LABEL, len(label))) + label if label else b""


def without_label(data: bytes, label: bytes) -> bytes:
    """What follows the label. Raises PacketRejected: LABEL for another one, or none where one is due."""
    header = label_header(label)
    if not data.startswith(header) or (not header and data[:1] == bytes((_LABEL,))):
        raise PacketRejected(Reason.LABEL)
    return data[len(header) :]


# --- datagrams ----------------------------------------------------------------------------------------


def seal(plain: bytes, ring: KeyRing, nonce: bytes, label: bytes) -> bytes:
    """One datagram."""
    return label_header(label) + ring.seal(plain, nonce, label)


def open_datagram(data: bytes, ring: KeyRing, label: bytes) -> bytes:
    """Label and encryption taken off.

    Raises:
        PacketRejected: OVERSIZED, LABEL, TRUNCATED, VERSION, KEY, or PLAINTEXT for what was never encrypted.
    """
    if len(data) > MAX_DATAGRAM_BYTES:
        raise PacketRejected(Reason.OVERSIZED, f"{len(data)} bytes")
    sealed = without_label(data, label)
    try:
        return ring.open(sealed, label)
    except PacketRejected as refusal:
        if sealed and is_plaintext(sealed):
            raise PacketRejected(Reason.PLAINTEXT) from None
        raise refusal


def is_plaintext(raw: bytes) -> bool:
    """Whether this looks like a packet without encryption. Cheap: anybody can make us ask."""
    if raw[0] > MessageType.INDIRECT_PING:  # no encryption has such a version
        return raw[0] in _TYPES
    try:
        codec.decode(raw)
    except PacketRejected:
        return False
    return True


# --- checksum, compression, compound ------------------------------------------------------------------


def compound(parts: Sequence[bytes]) -> bytes:
    """One to 255 messages as one; a single one is itself."""
    if len(parts) == 1:
        return parts[0]
    lengths = b"".join(len(part).to_bytes(2, "big") for part in parts)
    return b"".join((bytes((_COMPOUND, len(parts))), lengths, *parts))


def unwrap(plain: bytes) -> Unwrapped:
    """The messages of a datagram that was opened. Raises PacketRejected when there is none to be had."""
    if plain[:1] == bytes((MessageType.CRC,)):
        plain = _without_checksum(plain)
    if plain[:1] == bytes((MessageType.COMPRESS,)):
        plain = compression.open_message(plain, limit=compression.DATAGRAM)
    if not plain:
        raise PacketRejected(Reason.TRUNCATED, "an empty packet")
    found = Unwrapped([], [])
    _split(plain, found, 0)
    return found


def _without_checksum(plain: bytes) -> bytes:
    if len(plain) <= _CRC_BYTES:
        raise PacketRejected(Reason.TRUNCATED, "checksum")
    if int.from_bytes(plain[1:_CRC_BYTES], "big") != zlib.crc32(memoryview(plain)[_CRC_BYTES:]):
        raise PacketRejected(Reason.CHECKSUM)
    return plain[_CRC_BYTES:]


def _split(part: bytes, found: Unwrapped, depth: int) -> None:
    if part[0] == _COMPOUND:
        if depth == MAX_NESTING:
            found.refusals.append(PacketRejected(Reason.NESTING, f"more than {MAX_NESTING} compounds"))
        else:
            _split_compound(part, found, depth + 1)
    elif part[0] in _WRAPPERS:
        found.refusals.append(PacketRejected(Reason.NESTING, f"type {part[0]} is not for inside"))
    elif len(found.messages) >= MAX_MESSAGES:
        found.refusals.append(PacketRejected(Reason.OVERSIZED, f"more than {MAX_MESSAGES} messages"))
    else:
        found.messages.append(part)


def _split_compound(part: bytes, found: Unwrapped, depth: int) -> None:
    count = part[1] if len(part) > 1 else 0
    position = COMPOUND_OVERHEAD + 2 * count
    if not count or len(part) < position:
        found.refusals.append(PacketRejected(Reason.TRUNCATED, "the lengths of a compound"))
        return
    for at in range(COMPOUND_OVERHEAD, COMPOUND_OVERHEAD + 2 * count, 2):
        end = position + int.from_bytes(part[at : at + 2], "big")
        if end > len(part):  # whole parts before it count all the same
            found.refusals.append(PacketRejected(Reason.TRUNCATED, "a part of a compound"))
            return
        if end == position:
            found.refusals.append(PacketRejected(Reason.TRUNCATED, "an empty part"))
        else:
            _split(part[position:end], found, depth)
        position = end


def room_for_parts(udp_bytes: int, label: bytes) -> int:
    """Bytes of a datagram of ``udp_bytes`` that messages may take, each with two more for its length."""
    return udp_bytes - COMPOUND_OVERHEAD - OVERHEAD - len(label_header(label))
