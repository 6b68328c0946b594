"""Which replica may answer a read, so that everyone sees at least their own writes.

Theory: time is cut into numbered *epochs* by a prober (about one a second). A write that finishes in
epoch ``e`` notes ``e`` under its keys (account, mailbox): no round trip, no LSN asked for. At the end of an
epoch the prober asks the primary for its WAL position, which covers every write that had finished in that
epoch or before, and asks each replica what it has replayed. A replica that has replayed the position of
epoch ``e`` is *fresh to* ``e`` and may answer for every key whose last write is no later.

Invariants: the noted epoch is never smaller than that of the last write, so an error is always on the
side of the primary. Memory is bounded: when a key is evicted, the floor below which no replica may
answer for unknown keys rises to its epoch.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable

MAX_KEYS = 50_000
MAX_POSITIONS = 600  # epochs whose position is remembered; a replica further behind is not used


class Freshness:
    """Pure bookkeeping; WAL positions are byte offsets."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self.epoch = 1
        self._max_keys = max_keys
        self._written: OrderedDict[Hashable, int] = OrderedDict()
        self._floor = 0
        self._positions: deque[tuple[int, int]] = deque(maxlen=MAX_POSITIONS)

    def wrote(self, keys: Iterable[Hashable]) -> None:
        """A write that concerns these keys finished just now."""
        for key in keys:
            self._written[key] = self.epoch
            self._written.move_to_end(key)
        while len(self._written) > self._max_keys:
            _, epoch = self._written.popitem(last=False)
            self._floor = max(self._floor, epoch)

    def wrote_unknown(self) -> None:
        """A write finished, or may have, and nobody can say what it concerned."""
        self._floor = self.epoch

    def needed(self, keys: Iterable[Hashable]) -> int:
        """The epoch a replica must be fresh to."""
        return max(self._floor, *(self._written.get(key, 0) for key in keys), 0)

    def turn(self) -> int:
        """End the epoch; returns its number, to be handed to ``learn`` with a position read after this."""
        ended = self.epoch
        self.epoch += 1
        return ended

    def learn(self, epoch: int, position: int) -> None:
        """The primary's WAL position, asked for after ``epoch`` ended."""
        if self._positions and position < self._positions[-1][1]:
            self._positions.clear()  # a new primary on another timeline: positions start over
        self._positions.append((epoch, position))

    def fresh_to(self, replayed: int) -> int:
        """The last epoch all of whose writes are contained in ``replayed``."""
        for epoch, position in reversed(self._positions):
            if position <= replayed:
                return epoch
        return 0
