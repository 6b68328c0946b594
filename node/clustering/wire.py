"""Values of shared facts: msgpack arrays, read with suspicion.

Every key holder is trusted to mean well, not to run the same version: what cannot be read is skipped and
counted.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cluster.facts import MAX_KEY_BYTES, MAX_VALUE_BYTES

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder()


class Unreadable(ValueError):
    """Not what this version would write."""


def pack(value: object) -> bytes:
    return _ENCODER.encode(value)


def unpack(raw: bytes) -> Any:
    """Raises Unreadable."""
    try:
        return _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def pack_timed(word: list[object], now: float, ttl_s: float) -> bytes:
    """With what the author's clock says, and how long the entry is to live: see ``unpack_timed``."""
    return pack([now, ttl_s, word])


def unpack_timed(raw: bytes, left_s: float, now: float) -> tuple[list[object], float]:
    """The word, and how far our clock, at ``now``, is ahead of its author's. What is left of the time to live
    is known from timers, so the author wrote ``ttl_s - left_s`` ago. Raises Unreadable."""
    match unpack(raw):
        case [int() | float() as said, int() | float() as ttl_s, list() as word]:
            return word, now - (ttl_s - left_s) - said
    raise Unreadable("unknown form")


def is_key(raw: bytes) -> bool:
    return 0 < len(raw) <= MAX_KEY_BYTES


def is_value(raw: bytes) -> bool:
    return len(raw) <= MAX_VALUE_BYTES
