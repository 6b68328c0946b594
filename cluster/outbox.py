"""What the parts of an engine send and say: packed, sealed, and kept in order until the owner takes it.

A datagram is filled up with what is to be told to everyone: what membership has first, then Serf and the
shared state. It has at most ``Profile.udp_bytes``, unless a single message is longer by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from . import framing, streams
from .address import Address
from .api import Settings
from .delegate import part_of
from .effects import Effect, OpenStream, SendDatagram
from .keyring import KeyRing

_PART: Final = framing.COMPOUND_OVERHEAD
_USER_PART: Final = _PART + 1  # with the type byte of memberlist


class Queue(Protocol):
    """``Swim.broadcasts``: encoded messages for at most ``room`` bytes, each with ``overhead`` more."""

    def __call__(self, room: int, overhead: int) -> list[bytes]: ...


class UserQueue(Protocol):
    """``Delegate.broadcasts``."""

    def __call__(self, room: int, overhead: int, to: str) -> list[bytes]: ...


class Outbox:
    """Implements ``delegate.Outlet``; ``attach`` it before the first ``send``. ``nonce``: 12 bytes, never the
    same twice while the keys are in use."""

    def __init__(self, settings: Settings, ring: KeyRing, nonce: Callable[[], bytes]) -> None:
        self._ring = ring
        self._nonce = nonce
        self._label_text = settings.label
        self._label = framing.checked_label(settings.label)
        self._room = framing.room_for_parts(settings.profile.udp_bytes, self._label)
        self._stream_timeout_s = settings.profile.stream_timeout_s
        self._effects: list[Effect] = []
        self._last_ticket = 0
        self._open: dict[int, Address] = {}
        self.datagrams = self.datagram_bytes = self.streams = self.messages = 0

    def attach(self, membership: Queue, users: UserQueue) -> None:
        self._membership = membership
        self._users = users

    def take(self) -> list[Effect]:
        """All since the last call."""
        taken, self._effects = self._effects, []
        return taken

    # --- Outlet ---

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def send(self, to: Address, parts: Sequence[bytes], *, node: str = "", piggyback: bool = True) -> None:
        """See ``delegate.Outlet``."""
        whole = list(parts)
        if piggyback:
            room = self._room - sum(len(part) + _PART for part in whole)
            if room < 0:  # of more datagrams than one the last is filled up
                room = self._room - sum(len(part) + _PART for part in list(self._groups(whole))[-1])
            if room > 0:
                whole += self._broadcasts(room, node)
        for group in self._groups(whole):
            self._seal(to, group)

    def _broadcasts(self, room: int, node: str) -> list[bytes]:
        found = self._membership(room, _PART)
        room -= sum(len(part) + _PART for part in found)
        if room > 0:
            found += map(part_of, self._users(room, _USER_PART, node))
        return found

    def _groups(self, parts: Sequence[bytes]) -> Iterator[list[bytes]]:
        group: list[bytes] = []
        used = 0
        for part in parts:
            size = len(part) + _PART
            if group and (used + size > self._room or len(group) == framing.MAX_PARTS):
                yield group
                group, used = [], 0
            group.append(part)
            used += size
        if group:
            yield group

    def _seal(self, to: Address, parts: list[bytes]) -> None:
        data = framing.seal(framing.compound(parts), self._ring, self._nonce(), self._label)
        self.messages += len(parts)
        self.datagrams += 1
        self.datagram_bytes += len(data)
        self._effects.append(SendDatagram(to, data))

    def open_stream(self, to: Address, message: bytes, *, wants_reply: bool) -> int:
        """See ``delegate.Outlet``. A user message is given as in a datagram."""
        self._last_ticket += 1
        self.streams += 1
        data = streams.encode_request(message, self._ring, self._nonce(), self._label_text)
        self._effects.append(OpenStream(self._last_ticket, to, data, self._stream_timeout_s, wants_reply))
        self._open[self._last_ticket] = to
        return self._last_ticket

    def settle(self, ticket: int) -> Address | None:
        """A stream is over: where it went, None when it was over before."""
        return self._open.pop(ticket, None)

    def reply(self, message: bytes) -> bytes:
        """``message`` as the reply to a request."""
        return streams.encode_reply(message, self._ring, self._nonce(), self._label_text)
