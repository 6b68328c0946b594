"""An engine that does what a test tells it, for the parts that only carry bytes and effects."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from cluster.address import Address
from cluster.api import Settings
from cluster.effects import Effect, Joined, SendDatagram
from cluster.instant import Instant
from cluster.profile import Profile

KEY = bytes(32)
# Nothing times out on a busy machine; tests that wait for a timeout set a short one.
PATIENT = Profile(stream_timeout_s=60.0, rejoin_interval_s=0.05)


def frame(payload: bytes) -> bytes:
    """As far as the endpoint looks, a frame as nodes send it: its length, then sealed bytes."""
    return b"\x0a" + struct.pack(">I", len(payload)) + payload


class ToyEngine:
    """``seen`` is all that came in. ``on`` has what to do for a payload or a hook's name."""

    def __init__(self, address: Address, profile: Profile = PATIENT) -> None:
        self.settings = Settings("toy", address, (KEY,), profile=profile, accepts_loopback=True)
        self.seen: list[tuple[Any, ...]] = []
        self.queue: list[Effect] = []
        self.deadline = float("inf")
        self.on: dict[object, Callable[..., Any]] = {}
        self.has_left = False

    def _do(self, key: object, *arguments: object) -> Any:
        return self.on[key](*arguments) if key in self.on else None

    def start(self, at: Instant) -> None:
        self.seen.append(("start",))
        self._do("start", at)

    def receive_datagram(self, data: bytes, source: Address, at: Instant) -> None:
        self.seen.append(("datagram", data, source))
        self._do(data, source, at)

    def receive_stream(self, data: bytes, source: Address, at: Instant) -> bytes | None:
        self.seen.append(("stream", data, source))
        answer = self._do(data, source, at)
        return answer if isinstance(answer, bytes) else None

    def receive_stream_reply(self, ticket: int, data: bytes | None, at: Instant) -> None:
        self.seen.append(("reply", ticket, data))

    def tick(self, at: Instant) -> None:
        self.seen.append(("tick", at.now))
        if at.now >= self.deadline:
            self.deadline = float("inf")
            self._do("tick", at)

    def next_deadline(self) -> float:
        return self.deadline

    def effects(self) -> list[Effect]:
        taken, self.queue = self.queue, []
        return taken

    def loop_was_late(self, late_s: float, at: Instant) -> None:
        self.seen.append(("late", late_s))

    def join(self, addresses: Any, at: Instant) -> None:
        self.seen.append(("join", tuple(addresses)))
        self.queue += [Joined(each, "") for each in addresses]

    def set_peers(self, addresses: Any, at: Instant) -> None:
        self.seen.append(("peers", tuple(addresses)))

    def leave(self, at: Instant) -> None:
        self.seen.append(("leave",))
        self._do("leave", at)

    def ask(self, name: str, payload: bytes, at: Instant, **_: Any) -> int:
        return self._do("ask", name, payload, at) or 0

    def set_tags(self, tags: Any, at: Instant) -> None:
        self.seen.append(("tags", tags))
        self._do("tags", tags)

    def members(self) -> list[Any]:
        return self._do("members") or []

    def figures(self) -> dict[str, int | float]:
        return {"toys": 1}

    def echo(self, source: Address, at: Instant) -> None:
        self.queue.append(SendDatagram(source, b"echo"))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [each[1:] for each in self.seen if each[0] == kind]
