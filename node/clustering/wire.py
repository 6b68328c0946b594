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


def is_key(raw: bytes) -> bool:
    return 0 < len(raw) <= MAX_KEY_BYTES


def is_value(raw: bytes) -> bool:
    return len(raw) <= MAX_VALUE_BYTES
