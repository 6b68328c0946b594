"""An LZW encoder as Go's ``compress/lzw`` has it, to make input for the decoder."""

from __future__ import annotations

import msgpack

CLEAR, END, FULL = 256, 257, 4095


def compress(plain: bytes) -> bytes:
    """Least significant bits first, 8-bit literals; clears the table when it would reach 4095."""
    codes: list[tuple[int, int]] = [(CLEAR, 9)]
    table: dict[bytes, int] = {}
    width, newest, run = 9, END, b""
    for byte in plain:
        longer = run + bytes((byte,))
        if not run or longer in table:
            run = longer
            continue
        codes.append((table.get(run, run[0]), width))
        newest += 1
        if newest == 1 << width:
            width += 1
        if newest == FULL:
            codes.append((CLEAR, width))
            table.clear()
            width, newest = 9, END
        else:
            table[longer] = newest
        run = bytes((byte,))
    if run:
        codes.append((table.get(run, run[0]), width))
        newest += 1
        if newest == 1 << width:
            width += 1
        if newest == FULL:
            codes.append((CLEAR, width))
            width = 9
    codes.append((END, width))
    return packed(codes)


def packed(codes: list[tuple[int, int]]) -> bytes:
    """(code, width) one after another."""
    bits = held = 0
    out = bytearray()
    for code, width in codes:
        bits |= code << held
        held += width
        while held >= 8:
            out.append(bits & 0xFF)
            bits >>= 8
            held -= 8
    if held:
        out.append(bits)
    return bytes(out)


def message(plain: bytes, *, algorithm: int = 0) -> bytes:
    """A compress message of memberlist."""
    fields = {"Algo": algorithm, "Buf": compress(plain)}
    return b"\x09" + msgpack.packb(fields, use_bin_type=False)
