"""Lamport clocks: an order of what nodes say, without agreeing on the time of day.

A clock starts at 1. What a node says is stamped with the value, what it hears moves the clock beyond it.
"""

from __future__ import annotations

from typing import Final

from ..errors import PacketRejected, Reason

# Nobody gets this far by counting. Without these limits one forged stamp would bring all clocks to their end,
# and nothing newer could be said.
_MAX_LTIME: Final = 1 << 62
_MAX_JUMP: Final = 1 << 32


class LamportClock:
    __slots__ = ("time",)

    def __init__(self) -> None:
        self.time = 1

    def stamp(self) -> int:
        """The value for one message of our own; the next will have a greater one."""
        now = self.time
        self.time += 1
        return now

    def witness(self, ltime: int) -> None:
        """Raises PacketRejected when it is too far ahead to be true."""
        if ltime < self.time:
            return
        if ltime >= _MAX_LTIME or ltime - self.time > _MAX_JUMP:
            raise PacketRejected(Reason.STALE, "Lamport time far ahead")
        self.time = ltime + 1
