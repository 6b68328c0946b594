"""Bytes of the messages between Sora nodes: 0x53, one byte for the message, its fields as a msgpack array.

Fields are append-only: more of them than we know are skipped. Every message begins with who sends it, in
which epoch, and what its wall clock says; the owner of an entry is in its range, as others pass it on.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from ..errors import PacketRejected, Reason
from ..facts import MAX_KEY_BYTES, MAX_VALUE_BYTES
from .clock import MAX_STAMP
from .digest import SUMMARY_BYTES
from .known import MAX_AHEAD
from .records import EpochMap, Record

TYPE: Final = 0x53
MAX_NAME_BYTES: Final = 255
MAX_EPOCH: Final = 2**62
HEADER_BYTES: Final = 2 + 1 + 3 + 9 + 9 + 2 + 3  # beside the name, at most; with the count of ranges
RANGE_BYTES: Final = 1 + 3 + 9 + 9 + 9 + 3  # beside the name, at most; with the count of items

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]
Epoch = Annotated[int, Meta(ge=0, le=MAX_EPOCH)]
Number = Annotated[int, Meta(ge=0, le=2**62)]
Stamp = Annotated[int, Meta(ge=0, le=MAX_STAMP)]
Mask = Annotated[int, Meta(ge=0)]  # msgpack has no larger ones than 64 bits
Octet = Annotated[int, Meta(ge=0, le=255)]
ItemKey = Annotated[bytes, Meta(max_length=MAX_KEY_BYTES)]
Value = Annotated[bytes, Meta(max_length=MAX_VALUE_BYTES)]


class Lane(enum.IntEnum):
    """How a delta came, and so what its receiver does with what is new to it."""

    FULL = 0  # sent to everyone at once: gossip it
    PUSH = 1  # sent to some at once: send it on to some at once, and gossip it
    GOSSIP = 2  # gossip it
    REPAIR = 3  # asked for: nothing


class Item(Struct, array_like=True, frozen=True, gc=False):
    """``ttl_ms``, ``shadow_ms``: what is left of them, see ``Record``. ``value`` None: removed."""

    kind: Octet
    seq: Number
    key: ItemKey
    value: Value | None
    stamp: Stamp
    ttl_ms: Number
    shadow_ms: Number


class Range(Struct, array_like=True, frozen=True):
    """All that ``owner`` wrote in ``epoch`` and numbered in (after, upto], as far as it still matters."""

    owner: Name
    epoch: Epoch
    after: Number
    upto: Number
    items: list[Item]


class Element(Struct, array_like=True, frozen=True):
    """What the sender knows of a map: all up to ``known``, and the ranges ``ahead``, in order."""

    owner: Name
    epoch: Epoch
    known: Number
    ahead: Annotated[list[tuple[Number, Number]], Meta(max_length=MAX_AHEAD)] = []


class Heading(Struct, array_like=True, frozen=True, gc=False):
    """What all messages begin with."""

    sender: Name
    epoch: Epoch
    wall_ms: Number


class Delta(Heading, frozen=True):
    lane: Octet  # a ``Lane``
    ranges: list[Range]


class Summary(Heading, frozen=True):
    """The digests of all buckets, for the answer of a ``Vector`` of those that differ."""

    buckets: Annotated[bytes, Meta(min_length=SUMMARY_BYTES, max_length=SUMMARY_BYTES)]


class Vector(Heading, frozen=True):
    """How far the sender knows every map in the buckets of ``mask``."""

    mask: Mask
    elements: list[Element]


class Want(Heading, frozen=True):
    """Send what comes after these."""

    elements: list[Element]


class Notice(Struct, array_like=True, frozen=True, gc=False):
    number: Number
    kind: Octet
    payload: Value


class Notices(Heading, frozen=True):
    notices: list[Notice]


Body = Delta | Summary | Vector | Want | Notices
_NUMBERS: Final[dict[type[Body], int]] = {Delta: 1, Summary: 2, Vector: 3, Want: 4, Notices: 5}
_DECODERS: Final[dict[int, msgspec.msgpack.Decoder[Body]]] = {
    number: msgspec.msgpack.Decoder(kind) for kind, number in _NUMBERS.items()
}
_PREFIXES: Final = {kind: bytes((TYPE, number)) for kind, number in _NUMBERS.items()}
_encoder = msgspec.msgpack.Encoder()


def encode(body: Body) -> bytes:
    return _PREFIXES[type(body)] + _encoder.encode(body)


def decode(raw: bytes) -> Body:
    """Raises PacketRejected."""
    decoder = _DECODERS.get(raw[1]) if len(raw) > 1 and raw[0] == TYPE else None
    if decoder is None:
        raise PacketRejected(Reason.UNKNOWN_TYPE, f"state {raw[:2].hex()}")
    try:
        body = decoder.decode(memoryview(raw)[2:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PacketRejected(Reason.MALFORMED, f"state: {error}") from None
    if type(body) is Delta:
        _check_order(body)
    return body


def _check_order(delta: Delta) -> None:
    """Numbers rise within a range and stay in it."""
    for part in delta.ranges:
        last = part.after
        for item in part.items:
            if not last < item.seq <= part.upto:
                raise PacketRejected(Reason.MALFORMED, "entry outside its range")
            last = item.seq
        if part.upto < part.after:
            raise PacketRejected(Reason.MALFORMED, "range ends before it begins")


def item_of(record: Record, now: float) -> Item:
    """What ran out travels as a tombstone."""
    left = record.deadline - now
    shade = record.shadow - now
    return Item(
        record.kind,
        record.seq,
        record.key,
        record.value if left > 0 else None,
        record.stamp,
        int(left * 1000.0) + 1 if left > 0 else 0,
        int(shade * 1000.0) + 1 if shade > max(left, 0.0) else 0,
    )


def range_of(page: Page, now: float) -> Range:
    home, after, upto, records = page
    return Range(home.owner.name, home.epoch, after, upto, [item_of(record, now) for record in records])


Page = tuple[EpochMap, int, int, list[Record]]


def page_bytes(page: Page) -> int:
    """At most, as a range of a delta."""
    home, _, _, records = page
    return RANGE_BYTES + len(home.prefix) - 9 + sum([record.size for record in records])


def pages(home: EpochMap, after: int, upto: int, room: int) -> list[Page]:
    """Cut (after, upto] so that each range takes at most ``room`` bytes, but has one entry at least."""
    found: list[Page] = []
    if after >= upto:
        return found
    room -= RANGE_BYTES + len(home.prefix) - 9
    records: list[Record] = []
    used = 0
    for record in home.between(after, upto):
        if records and used + record.size > room:
            found.append((home, after, records[-1].seq, records))
            after, records, used = records[-1].seq, [], 0
        records.append(record)
        used += record.size
    found.append((home, after, upto, records))
    return found
