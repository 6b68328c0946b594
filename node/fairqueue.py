"""A queue in which every origin gets its turn, however much another one has queued."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

T = TypeVar("T")
LATE_EVERY: Final = 4  # turns: who comes later comes all the same

Ring = OrderedDict[int, "deque[T]"]


class FairQueue(Generic[T]):
    """Round robin over origins, first in first out within one. What is put in as late gets one turn of
    ``LATE_EVERY`` while there is anything else."""

    def __init__(self) -> None:
        self._prompt: Ring[T] = OrderedDict()
        self._late: Ring[T] = OrderedDict()
        self._contended = 0  # turns that somebody late could have had
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, origin: int, item: T, *, is_late: bool = False) -> None:
        ring = self._late if is_late else self._prompt
        ring.setdefault(origin, deque()).append(item)
        self._length += 1

    def pop(self) -> T:
        """The next. Raises IndexError when there is none."""
        if not self._length:
            raise IndexError("empty")
        ring = self._prompt or self._late
        if self._prompt and self._late:
            self._contended += 1
            if self._contended % LATE_EVERY == 0:
                ring = self._late
        origin, line = ring.popitem(last=False)
        item = line.popleft()
        self._length -= 1
        if line:
            ring[origin] = line
        return item

    def yield_to(self, origin: int) -> T | None:
        """Take out the latest item of the longest line to make room for ``origin``.

        None when its own line would then be the longest: who fills the queue is who waits. O(origins).
        """
        lines = [*self._late.values(), *self._prompt.values()]
        longest = max(lines, key=len, default=None)
        own = max(len(ring.get(origin, ())) for ring in (self._late, self._prompt))
        if longest is None or len(longest) <= own + 1:
            return None
        self._length -= 1
        return longest.pop()
