"""Notices: said once to those it concerns, not kept; dropped when heard before.

Each has a number of its sender; a receiver remembers the last ``WINDOW`` numbers of a sender as bits.
"""

from __future__ import annotations

from math import inf
from typing import Final

from ..effects import NoticeHeard
from ..errors import PacketRejected, Reason
from ..facts import MAX_VALUE_BYTES, NoticeKind
from ..instant import Instant
from .codec import Notice, Notices, encode
from .mailer import Mailer
from .peers import Peers
from .urgent import TokenBucket

WINDOW: Final = 8_192
MAX_SENDERS: Final = 4_096
GATHER_S: Final = 0.005
RATE_PER_S: Final = 2_000.0  # datagrams; mailbox changes are looked for anyway, only later
BURST: Final = 2_000.0
_NOTICE_BYTES: Final = 1 + 9 + 2 + 3


class Outgoing:
    """Gathered for each member for a few milliseconds."""

    def __init__(self, mailer: Mailer, peers: Peers) -> None:
        self._mailer = mailer
        self._peers = peers
        self._bucket = TokenBucket(RATE_PER_S, BURST)
        self._number = 0
        self._waiting: dict[str, list[Notice]] = {}
        self._due = inf
        self.dropped = 0

    def next_time(self) -> float:
        return self._due

    def add(self, kind: NoticeKind, payload: bytes, to: list[str], at: Instant) -> None:
        """Raises ValueError when the payload is too long."""
        if len(payload) > MAX_VALUE_BYTES:
            raise ValueError(f"a notice has at most {MAX_VALUE_BYTES} bytes")
        self._number += 1
        notice = Notice(self._number, kind, payload)
        for name in to:
            if name in self._peers:
                self._waiting.setdefault(name, []).append(notice)
                self._due = min(self._due, at.now + GATHER_S)

    def tick(self, at: Instant) -> None:
        if self._due > at.now:
            return
        self._due = inf
        waiting, self._waiting = self._waiting, {}
        for name, notices in waiting.items():
            self._send(name, notices, at)

    def _send(self, name: str, notices: list[Notice], at: Instant) -> None:
        while notices:
            count, left = 0, self._mailer.room
            for notice in notices:
                left -= len(notice.payload) + _NOTICE_BYTES
                if left < 0 and count:
                    break
                count += 1
            if self._bucket.take(1, at.now):
                self._mailer.send_raw(name, encode(Notices(*self._mailer.heading(at), notices[:count])))
            else:
                self.dropped += count
            notices = notices[count:]


class Incoming:
    """What was heard, of each sender in its present epoch."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, int, int]] = {}  # epoch, highest number, bits below it
        self.duplicates = 0

    def take(self, message: Notices) -> list[NoticeHeard]:
        """Those not heard before. Raises PacketRejected for what comes from an earlier life of the sender."""
        epoch, highest, bits = self._heard.pop(message.sender, (message.epoch, 0, 0))
        if message.epoch < epoch:
            self._heard[message.sender] = (epoch, highest, bits)
            raise PacketRejected(Reason.STALE, f"notice of an earlier epoch of {message.sender}")
        if message.epoch > epoch:
            highest, bits = 0, 0
        found = []
        for notice in message.notices:
            behind = highest - notice.number
            if behind < 0:
                bits = (bits << min(-behind, WINDOW) | 1) & (1 << WINDOW) - 1
                highest = notice.number
            elif behind >= WINDOW or bits >> behind & 1:
                self.duplicates += 1
                continue
            else:
                bits |= 1 << behind
            if (kind := _KINDS.get(notice.kind)) is not None:
                found.append(NoticeHeard(kind, message.sender, notice.payload))
        if len(self._heard) >= MAX_SENDERS:
            del self._heard[next(iter(self._heard))]  # the one heard longest ago
        self._heard[message.sender] = (message.epoch, highest, bits)
        return found


_KINDS: Final[dict[int, NoticeKind]] = {int(kind): kind for kind in NoticeKind}
