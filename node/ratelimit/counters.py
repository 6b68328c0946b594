"""Counts in bounded memory: packed records in tables that forget the least recently touched first.

A record is a few dozen bytes in one ``bytes`` object: a million addresses fit, and the garbage collector has
nothing to walk through. Times are whole seconds of the epoch.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

V = TypeVar("V")

_HEAD = struct.Struct("<HII")
MAX_COUNT = 0xFFFF
MARK_BYTES = 4


class Recent(Generic[V]):
    """A bounded mapping. Everything is O(1) but ``sweep``, which stops at the first record to keep."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._records: OrderedDict[int, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: int) -> V | None:
        return self._records.get(key)

    def put(self, key: int, record: V) -> None:
        """Touches ``key``; may push out the oldest."""
        self._records[key] = record
        self._records.move_to_end(key)
        if len(self._records) > self.limit:
            self._records.popitem(last=False)

    def drop(self, key: int) -> V | None:
        return self._records.pop(key, None)

    def sweep(self, is_over: Callable[[V], bool], most: int) -> int:
        """Drop from the old end what is over, at most so many; how many."""
        for dropped in range(most):
            if not self._records or not is_over(next(iter(self._records.values()))):
                return dropped
            self._records.popitem(last=False)
        return most


class Counter(NamedTuple):
    """``failures`` since ``start``; ``touched`` and ``marks`` are the owner's.

    Marks are short digests: enough to recognise a repetition, too short to tell what it was of.
    """

    failures: int = 0
    start: int = 0
    touched: int = 0
    marks: bytes = b""

    def within(self, window_s: float, now: float) -> Counter:
        """Without the failures of a window that is over. A clock that was set back ends it too."""
        if 0 <= now - self.start < window_s:
            return self
        return self._replace(failures=0, start=int(now))

    def has_mark(self, mark: bytes) -> bool:
        marks = self.marks
        return any(marks[at : at + MARK_BYTES] == mark for at in range(0, len(marks), MARK_BYTES))

    def pack(self) -> bytes:
        return _HEAD.pack(min(self.failures, MAX_COUNT), self.start, self.touched) + self.marks


def unpack(record: bytes | None) -> Counter:
    if record is None:
        return Counter()
    failures, start, touched = _HEAD.unpack_from(record)
    return Counter(failures, start, touched, record[_HEAD.size :])


def failures_within(record: bytes | None, window_s: float, now: float) -> int:
    """``unpack(record).within(window_s, now).failures``, for the hot path."""
    if record is None:
        return 0
    failures, start, _ = _HEAD.unpack_from(record)
    return failures if 0 <= now - start < window_s else 0
