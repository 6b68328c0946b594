"""What was heard already, so that it is told and forwarded once: a ring of the last 512 Lamport times."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from ..errors import PacketRejected, Reason

SLOTS: Final = 512
_MAX_PER_SLOT: Final = 256  # of the same Lamport time; more are not by chance
_EMPTY: Final[tuple[int, set[Hashable]]] = (-1, set())  # of no time, so that nothing is ever put into it


class Seen:
    """Bounded: 512 times 256 small keys."""

    def __init__(self) -> None:
        self._slots: list[tuple[int, set[Hashable]]] = [_EMPTY] * SLOTS
        self.oldest = 0  # what is stamped earlier counts as heard

    def is_new(self, ltime: int, key: Hashable, clock: int) -> bool:
        """Whether it is; then it is so no more. ``clock``: the present Lamport time.

        Raises:
            PacketRejected: it is older than the ring, or there is too much of one time.
        """
        if ltime < self.oldest:
            return False
        if ltime + SLOTS < clock:
            raise PacketRejected(Reason.STALE, "older than the last 512")
        held, keys = self._slots[ltime % SLOTS]
        if held != ltime:
            if held > ltime:
                raise PacketRejected(Reason.STALE, "older than the last 512")
            keys = set()
            self._slots[ltime % SLOTS] = (ltime, keys)
        if key in keys:
            return False
        if len(keys) >= _MAX_PER_SLOT:
            raise PacketRejected(Reason.OVERLOAD, "of one Lamport time")
        keys.add(key)
        return True
