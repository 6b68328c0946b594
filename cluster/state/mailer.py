"""Sending: our heading on every message, a datagram when it fits and a stream when not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from ..delegate import Outlet, part_of
from ..instant import Instant
from .codec import HEADER_BYTES, Body, Delta, Lane, Page, encode, range_of
from .peers import Peers

MAX_DATAGRAM_BYTES: Final = 1_300


class Mailer:
    """``epoch``: ours, for the heading."""

    def __init__(self, name: str, epoch: int, outlet: Outlet, peers: Peers, counted: Counter[str]) -> None:
        self.name = name
        self.epoch = epoch
        self._outlet = outlet
        self._peers = peers
        self._counted = counted
        self.room = MAX_DATAGRAM_BYTES - self.heading_bytes

    @property
    def heading_bytes(self) -> int:
        return HEADER_BYTES + len(self.name.encode())

    def heading(self, at: Instant) -> tuple[str, int, int]:
        return self.name, self.epoch, max(int(at.wall * 1000.0), 0)

    def delta(self, found: Sequence[Page], lane: Lane, at: Instant) -> bytes:
        return encode(Delta(*self.heading(at), lane, [range_of(page, at.now) for page in found]))

    def send(self, to: str, body: Body, *, by_stream: bool = False) -> int:
        return self.send_raw(to, encode(body), by_stream=by_stream)

    def send_raw(self, to: str, raw: bytes, *, by_stream: bool = False) -> int:
        """Bytes sent: 0 when there is no such member. ``by_stream``: however short it is."""
        address = self._peers.address(to)
        if address is None:
            return 0
        if len(raw) <= MAX_DATAGRAM_BYTES and not by_stream:
            self._outlet.send(address, (part_of(raw),), node=to, piggyback=False)
            self._counted["datagrams"] += 1
        else:
            self._outlet.open_stream(address, part_of(raw), wants_reply=False)
            self._counted["streams"] += 1
        self._counted["bytes"] += len(raw)
        return len(raw)
