"""MessagePack as memberlist and Serf write it in gossip: structs as maps, and one family of strings.

Text and bytes are both written in the old *raw* family (fixraw, raw16, raw32). What uses the newer forms
(str 8, bin) for a text is silently dropped by go-msgpack, so ``pack`` never does; ``unpack`` takes all.
The agent's RPC speaks the newer dialect and is not served from here.

Fields are read with ``uint``, ``text`` and the others: an absent field is the default that is given, and
without a default an absent field is refused. Unknown keys are of no interest to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgpack

from .errors import PacketRejected, Reason

U8: Final = 0xFF
U16: Final = 0xFFFF
U32: Final = 0xFFFF_FFFF
U64: Final = 0xFFFF_FFFF_FFFF_FFFF

# Of one array or map in a datagram. The unpacker reserves what an array promises, at each of 1,024 levels.
MAX_ITEMS: Final = 64
MAX_NAME_BYTES: Final = 128  # Serf's own limit for the name of a node

Fields = Mapping[bytes, Any]

_REFUSED_BY_UNPACKER = (ValueError, TypeError, OverflowError, msgpack.UnpackException)


def pack(value: object) -> bytes:
    """``value``: of None, bool, int, float, str, bytes, list, tuple and dict."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def unpack(raw: bytes | memoryview, *, max_items: int = MAX_ITEMS) -> Any:
    """One value that takes all of ``raw``; texts come as bytes, arrays as tuples.

    Raises:
        PacketRejected: TRUNCATED, or MALFORMED for everything else, a map with the same key twice included.
    """
    try:
        return msgpack.unpackb(
            raw,
            raw=True,
            use_list=False,
            strict_map_key=False,
            object_pairs_hook=_map_of,
            max_array_len=max_items,
            max_map_len=max_items,
        )
    except _REFUSED_BY_UNPACKER as error:
        raise _refusal(error) from None


def unpack_map(raw: bytes | memoryview, *, max_items: int = MAX_ITEMS) -> Fields:
    """The same for a struct."""
    return as_map(unpack(raw, max_items=max_items))


class Sequence:
    """Several values one after another, then whatever is left."""

    def __init__(self, raw: bytes | memoryview, *, max_items: int = MAX_ITEMS) -> None:
        self._raw = raw
        self._unpacker = msgpack.Unpacker(
            raw=True,
            use_list=False,
            strict_map_key=False,
            object_pairs_hook=_map_of,
            max_array_len=max_items,
            max_map_len=max_items,
            max_buffer_size=len(raw) or 1,
        )
        self._unpacker.feed(raw)

    def next_map(self) -> Fields:
        """Raises PacketRejected."""
        try:
            return as_map(self._unpacker.unpack())
        except _REFUSED_BY_UNPACKER as error:
            raise _refusal(error) from None

    def next_raw(self) -> bytes:
        """The next value, not unpacked. Raises PacketRejected: TRUNCATED, or MALFORMED where that shows."""
        start = self._unpacker.tell()
        try:
            self._unpacker.skip()
        except _REFUSED_BY_UNPACKER as error:
            raise _refusal(error) from None
        return bytes(self._raw[start : self._unpacker.tell()])

    def rest(self) -> bytes:
        return bytes(self._raw[self._unpacker.tell() :])


def _map_of(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same key twice")
    return found


def _refusal(error: Exception) -> PacketRejected:
    # ``unpackb`` says only "incomplete input" for what ends too early
    is_short = isinstance(error, msgpack.OutOfData) or "incomplete" in str(error)
    return PacketRejected(Reason.TRUNCATED if is_short else Reason.MALFORMED, f"MessagePack: {error}"[:200])


# --- fields -------------------------------------------------------------------------------------------


def malformed(what: str) -> PacketRejected:
    return PacketRejected(Reason.MALFORMED, what)


def as_map(value: object) -> Fields:
    if type(value) is dict:
        return value
    raise malformed("not a map")


def uint(fields: Fields, key: bytes, limit: int, default: int | None = None) -> int:
    """0 to ``limit``."""
    value = fields.get(key, default)
    if type(value) is int and 0 <= value <= limit:
        return value
    raise malformed(f"{key!r} is not 0 to {limit}")


def flag(fields: Fields, key: bytes) -> bool:
    """False when absent."""
    value = fields.get(key, False)
    if type(value) is bool:
        return value
    raise malformed(f"{key!r} is not a boolean")


def blob(fields: Fields, key: bytes, limit: int, default: bytes | None = b"") -> bytes:
    """At most ``limit`` bytes. Nil is empty; an array of small numbers is what some senders make of bytes."""
    value = fields.get(key, default)
    if value is None and key in fields:
        return b""
    if type(value) is tuple:
        value = _bytes_of(value)
    if type(value) is not bytes:
        raise malformed(f"{key!r} is not bytes")
    if len(value) > limit:
        raise PacketRejected(Reason.OVERSIZED, f"{key!r}: {len(value)} bytes")
    return value


def _bytes_of(items: tuple[Any, ...]) -> bytes | None:
    if all(type(item) is int and 0 <= item <= U8 for item in items):
        return bytes(items)
    return None


def text(fields: Fields, key: bytes, limit: int, default: bytes | None = b"") -> str:
    """At most ``limit`` bytes of UTF-8."""
    try:
        return blob(fields, key, limit, default).decode()
    except UnicodeDecodeError:
        raise malformed(f"{key!r} is not UTF-8") from None


def name(fields: Fields, key: bytes) -> str:
    """Of a node: 1 to 128 bytes of printable text."""
    value = fields.get(key)
    if type(value) is not bytes:
        raise malformed(f"{key!r} is not a name")
    return name_of(value)


def optional_name(fields: Fields, key: bytes) -> str:
    """The same, or "" when it is absent or empty."""
    return name(fields, key) if fields.get(key) else ""


@lru_cache(maxsize=8192)
def name_of(raw: bytes) -> str:
    """Raises PacketRejected for what is not the name of a node."""
    if not 0 < len(raw) <= MAX_NAME_BYTES:
        raise PacketRejected(Reason.OVERSIZED if raw else Reason.MALFORMED, f"a name of {len(raw)} bytes")
    try:
        found = raw.decode()
    except UnicodeDecodeError:
        raise malformed("a name that is not UTF-8") from None
    if not found.isprintable():  # it goes into logs, metrics and tables
        raise malformed("a name that cannot be printed")
    return found
