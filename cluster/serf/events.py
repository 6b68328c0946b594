"""User events: each is told once and forwarded once; push/pull brings the recent ones to who missed them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Final

from ..delegate import Outlet
from ..effects import UserEvent
from ..instant import Instant
from .clocks import LamportClock
from .codec import encode
from .messages import Happening
from .seen import Seen

MAX_EVENT_BYTES: Final = 512  # name and payload, and encoded; checked by who sends, as agents do
_RECENT_S: Final = 120.0  # four push/pulls of an agent
_MAX_RECENT: Final = 64
_MAX_RECENT_BYTES: Final = 512  # longer ones are not repeated in push/pull


class Events:
    def __init__(self, outlet: Outlet, forward: Callable[[bytes], None]) -> None:
        self._outlet = outlet
        self._forward = forward
        self._seen = Seen()
        self._recent: deque[tuple[float, Happening]] = deque(maxlen=_MAX_RECENT)
        self.clock = LamportClock()
        self.heard = 0
        self.repeated = 0

    def send(self, name: str, payload: bytes, at: Instant, *, may_coalesce: bool) -> None:
        """Raises ValueError when it is too long."""
        event = Happening(self.clock.time, name, payload, may_coalesce)
        raw = encode(event)
        if len(name.encode()) + len(payload) > MAX_EVENT_BYTES or len(raw) > MAX_EVENT_BYTES:
            raise ValueError(
                f"a user event has at most {MAX_EVENT_BYTES} bytes with its frame, not {len(raw)}"
            )
        self.clock.stamp()
        self.receive(event, raw, at)

    def receive(self, event: Happening, raw: bytes, at: Instant) -> None:
        """Raises PacketRejected."""
        if self._take(event, at):
            self._forward(raw)

    def replay(self, event: Happening, at: Instant) -> None:
        """From a push/pull: not forwarded. Raises PacketRejected."""
        self._take(event, at)

    def skip_until(self, ltime: int) -> None:
        """What was before a node came is not told to it."""
        self._seen.oldest = max(self._seen.oldest, ltime)

    def recent(self, at: Instant) -> tuple[Happening, ...]:
        """For push/pull."""
        while self._recent and self._recent[0][0] < at.now - _RECENT_S:
            self._recent.popleft()
        return tuple(event for _, event in self._recent)

    def _take(self, event: Happening, at: Instant) -> bool:
        self.clock.witness(event.ltime)
        if not self._seen.is_new(event.ltime, _digest(event), self.clock.time):
            self.repeated += 1
            return False
        self.heard += 1
        if len(event.name) + len(event.payload) <= _MAX_RECENT_BYTES:
            self._recent.append((at.now, event))
        self._outlet.emit(UserEvent(event.ltime, event.name, event.payload, event.may_coalesce))
        return True


def _digest(event: Happening) -> bytes:
    name = event.name.encode()
    return hashlib.blake2b(len(name).to_bytes(2) + name + event.payload, digest_size=16).digest()
