"""LZW as Go's ``compress/lzw`` writes it for memberlist: least significant bits first, 8-bit literals.

Only decoding: compression is the sender's choice, and what we send is small. Codes: 256 clears the table,
257 ends the data, 258 is the first new one. Codes have 9 bits, and one more as soon as the next new code
would not fit, up to 12; a full table that is not cleared stays as it is.
Cost: 0.3 to 0.4 us a code, whatever it stands for, so codes are limited beside the output; the table below
holds at most 8 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .dialect import blob, uint, unpack_map
from .errors import PacketRejected, Reason

CLEAR: Final = 256
END: Final = 257
FIRST_BITS: Final = 9
MAX_BITS: Final = 12
_FIRST_TABLE: Final = [bytes((byte,)) for byte in range(256)] + [b"", b""]


@dataclass(frozen=True, slots=True)
class Limit:
    """``octets`` of the result, ``codes`` read for it."""

    octets: int
    codes: int


DATAGRAM: Final = Limit(64 * 1024, 1 << 14)  # 7 ms; what agents send has 1,400 octets, 1,250 codes
STREAM: Final = Limit(2 * 1024 * 1024, 1 << 18)  # 0.1 s; the members of 4,000 agents
_LZW: Final = 0  # the only algorithm there is


def open_message(raw: bytes, *, limit: Limit) -> bytes:
    """What a compress message holds. ``raw`` with its type byte.

    Raises:
        PacketRejected: COMPRESSION, OVERSIZED, or what the map around it deserves.
    """
    fields = unpack_map(memoryview(raw)[1:])
    if uint(fields, b"Algo", 255) != _LZW:
        raise PacketRejected(Reason.COMPRESSION, f"algorithm {fields[b'Algo']}")
    opened = decompress(blob(fields, b"Buf", len(raw)), limit=limit)
    if not opened:
        raise PacketRejected(Reason.COMPRESSION, "nothing in it")
    return opened


def decompress(packed: bytes, *, limit: Limit) -> bytes:
    """Raises PacketRejected: COMPRESSION, OVERSIZED."""
    if len(packed) > limit.codes * MAX_BITS // 8 + 64:  # no need to read what must be too much
        raise PacketRejected(Reason.OVERSIZED, f"{len(packed)} bytes of LZW")
    pieces: list[bytes] = []
    room = limit.octets
    table = _FIRST_TABLE[:]
    width, last = FIRST_BITS, b""  # last: what the code before gave; empty after a clear
    bits = held = position = 0
    for _ in range(limit.codes):
        if held < width:
            chunk = packed[position : position + 8]
            bits |= int.from_bytes(chunk, "little") << held
            held += 8 * len(chunk)
            position += len(chunk)
            if held < width:
                raise PacketRejected(Reason.COMPRESSION, "no end")
        code = bits & ((1 << width) - 1)
        bits >>= width
        held -= width
        if code == CLEAR:
            del table[END + 1 :]
            width, last = FIRST_BITS, b""
            continue
        if code == END:
            return b"".join(pieces)
        if code < len(table):
            piece = table[code]
        elif code == len(table) and last:
            piece = last + last[:1]
        else:
            raise PacketRejected(Reason.COMPRESSION, f"code {code} of {len(table)}")
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            raise PacketRejected(Reason.OVERSIZED, f"more than {limit.octets} bytes when unpacked")
        if last and len(table) < 1 << MAX_BITS:
            table.append(last + piece[:1])
        last = piece
        if len(table) >= 1 << width and width < MAX_BITS:
            width += 1
    raise PacketRejected(Reason.OVERSIZED, f"more than {limit.codes} codes of LZW")
