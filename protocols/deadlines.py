"""One coarse timer wheel for all connections of a loop.

Theory: a timer per read would be created and cancelled for every command. Here a read only stores the
time, and the wheel asks a connection once its slot has come whether something is really due. The
answer is the next time to ask, so a busy connection is looked at once per deadline, not once per read.

Invariant: an item sits in at most one slot, and never in a later one than it asked for.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

TICK_S = 1.0  # deadlines are minutes; a second late is on time


class Timed(Protocol):
    """Something with deadlines. ``wheel_slot`` belongs to the wheel; 0 means not scheduled."""

    wheel_slot: int

    def on_due(self, now: float) -> float | None:
        """Act on what is due at ``now`` (loop time); answers when to look again, None for never."""
        ...


class DeadlineWheel:
    """Slots of ``tick_s`` seconds by absolute number; runs a loop timer only while anything is scheduled."""

    __slots__ = ("_loop", "_slots", "_timer", "tick_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tick_s: float = TICK_S) -> None:
        self.tick_s = tick_s
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def now(self) -> float:
        return self._loop.time()

    def schedule(self, item: Timed, at: float) -> None:
        """See to it that ``item`` is asked at ``at`` or before; a later ``at`` than it has is ignored."""
        slot = max(1, math.ceil(at / self.tick_s))
        if item.wheel_slot:
            if item.wheel_slot <= slot:
                return
            self.cancel(item)
        item.wheel_slot = slot
        self._slots.setdefault(slot, set()).add(item)
        if self._timer is None:
            self._timer = self._loop.call_later(self.tick_s, self._tick)

    def cancel(self, item: Timed) -> None:
        """Forget ``item``; harmless when it is not scheduled."""
        members = self._slots.get(item.wheel_slot)
        if members is not None:
            members.discard(item)
            if not members:
                del self._slots[item.wheel_slot]
        item.wheel_slot = 0

    def advance(self, now: float) -> None:
        """Ask every item whose slot has come."""
        reached = math.floor(now / self.tick_s)
        for slot in sorted(slot for slot in self._slots if slot <= reached):
            for item in self._slots.pop(slot, ()):
                item.wheel_slot = 0
                again = item.on_due(now)
                if again is not None:
                    self.schedule(item, again)

    def _tick(self) -> None:
        self._timer = None
        try:
            self.advance(self._loop.time())
        finally:
            if self._slots and self._timer is None:
                self._timer = self._loop.call_later(self.tick_s, self._tick)
