"""A queue in which every origin gets its turn, however much another one has queued."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Round robin over origins, first in first out within one."""

    def __init__(self) -> None:
        self._lines: OrderedDict[int, deque[T]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, origin: int, item: T) -> None:
        self._lines.setdefault(origin, deque()).append(item)
        self._length += 1

    def pop(self) -> T:
        """The next. Raises IndexError when there is none."""
        if not self._lines:
            raise IndexError("empty")
        origin, line = self._lines.popitem(last=False)
        item = line.popleft()
        self._length -= 1
        if line:
            self._lines[origin] = line
        return item

    def yield_to(self, origin: int) -> T | None:
        """Take out the latest item of the longest line to make room for ``origin``.

        None when its own line would then be the longest: who fills the queue is who waits. O(origins).
        """
        longest = max(self._lines.values(), key=len, default=None)
        if longest is None or len(longest) <= len(self._lines.get(origin, ())) + 1:
            return None
        self._length -= 1
        return longest.pop()
