"""Sets of sequence numbers and of uids: two types, so that one cannot be taken for the other.

A set keeps its ranges as written; ``*`` gets its value when the set meets a mailbox (``ranges``).
References: RFC 9051 §9 (sequence-set), RFC 5182 §2.1 (``$``).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# A client that lists its uids one by one reaches the command size limit first; this bounds the work.
MAX_RANGES: Final = 20_000
STAR: Final = 0  # the value of "*" in ``parts``; 0 is never a valid number
_MAX_NUMBER: Final = 2**32 - 1
_SET = re.compile(rb"(?:\*|[1-9][0-9]{0,9})(?::(?:\*|[1-9][0-9]{0,9}))?\Z")


class SavedResult(enum.Enum):
    """``$``: the uids that the last SEARCH RETURN (SAVE) remembered (RFC 5182)."""

    SAVED = "$"


SAVED: Final = SavedResult.SAVED


@dataclass(frozen=True, slots=True)
class _NumberSet:
    parts: tuple[tuple[int, int], ...]

    def ranges(self, maximum: int) -> list[tuple[int, int]]:
        """Ascending, disjoint ``(low, high)`` with ``*`` read as ``maximum``; not clamped to it.

        With ``maximum`` 0 (an empty mailbox) ``*`` names nothing, so a part that has it is left out.
        """
        pairs = []
        for first, last in self.parts:
            low, high = first or maximum, last or maximum
            if low and high:
                pairs.append((low, high) if low <= high else (high, low))
        if len(pairs) < 2:
            return pairs
        pairs.sort()
        merged = [pairs[0]]
        for low, high in pairs[1:]:
            if low <= merged[-1][1] + 1:
                if high > merged[-1][1]:
                    merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        return merged


@dataclass(frozen=True, slots=True)
class SeqSet(_NumberSet):
    """Message sequence numbers."""


@dataclass(frozen=True, slots=True)
class UidSet(_NumberSet):
    """Unique identifiers."""


def parse_parts(data: bytes) -> tuple[tuple[int, int], ...]:
    """The ranges of a set without ``$``. Raises ValueError with a text fit for the client."""
    pieces = data.split(b",", MAX_RANGES)
    if len(pieces) > MAX_RANGES:
        raise ValueError("Too many ranges in the set")
    parts: list[tuple[int, int]] = []
    for piece in pieces:
        if not _SET.match(piece):
            raise ValueError("Invalid message set")
        first, colon, last = piece.partition(b":")
        low = STAR if first == b"*" else int(first)
        high = low if not colon else STAR if last == b"*" else int(last)
        if low > _MAX_NUMBER or high > _MAX_NUMBER:
            raise ValueError("Number in message set is too large")
        parts.append((low, high))
    return tuple(parts)


def format_uids(uids: Iterable[int]) -> bytes:
    """The uids, in the order given, as a compact set: runs of consecutive numbers become ranges.

    The order is kept because COPYUID pairs two sets position by position (RFC 4315 §3).
    """
    pieces: list[bytes] = []
    low = high = 0
    for uid in uids:
        if low and uid == high + 1:
            high = uid
            continue
        if low:
            pieces.append(b"%d" % low if low == high else b"%d:%d" % (low, high))
        low = high = uid
    if low:
        pieces.append(b"%d" % low if low == high else b"%d:%d" % (low, high))
    return b",".join(pieces)
