"""What sessions hold in large buffers: charged before they are allocated, given back afterwards.

Theory: two ledgers, one of the session and one of the node. A charge that fits into both is written into
both; one that does not is refused, and the command with it. What is bounded by itself is not charged
(lines, small literals, one piece of a body on its way): those bounds times the number of connections are
what ``max_connections`` is for.

Invariant: the node holds what its sessions hold together, and nothing of a session that is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .errors import LimitReached


class OverMemory(LimitReached):
    """Too much at once, for this session or for the node; nothing was allocated."""

    def __init__(self) -> None:
        super().__init__("That needs too much memory at once, ask for less or try again later")


class NodeMemory:
    """Of all sessions of a process. ``total_bytes`` None: no limit."""

    def __init__(self, total_bytes: int | None = None) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self.refused = 0


class SessionMemory:
    """Of one session. ``limit_bytes`` 0: only the node's limit."""

    __slots__ = ("_limit_bytes", "_node", "used_bytes")

    def __init__(self, node: NodeMemory, limit_bytes: int = 0) -> None:
        self._node = node
        self._limit_bytes = limit_bytes
        self.used_bytes = 0

    def charge(self, size_bytes: int) -> None:
        """Before allocating. Raises OverMemory."""
        node = self._node
        is_over = self._limit_bytes and self.used_bytes + size_bytes > self._limit_bytes
        if is_over or (node.total_bytes is not None and node.used_bytes + size_bytes > node.total_bytes):
            node.refused += 1
            raise OverMemory
        self.note(size_bytes)

    def note(self, size_bytes: int) -> None:
        """What turned out to be there already, whether it fits or not."""
        self.used_bytes += size_bytes
        self._node.used_bytes += size_bytes
        self._node.peak_bytes = max(self._node.peak_bytes, self._node.used_bytes)

    def refund(self, size_bytes: int) -> None:
        self.note(-min(size_bytes, self.used_bytes))

    def close(self) -> None:
        """The session is gone, and all it held. Idempotent."""
        self.refund(self.used_bytes)

    @contextlib.contextmanager
    def hold(self, size_bytes: int) -> Iterator[Held]:
        """Charged now, given back at the end of the block. Raises OverMemory before it begins."""
        self.charge(size_bytes)
        held = Held(self, size_bytes)
        try:
            yield held
        finally:
            self.refund(held.size_bytes)


class Held:
    """A charge whose true size shows later."""

    __slots__ = ("_memory", "size_bytes")

    def __init__(self, memory: SessionMemory, size_bytes: int) -> None:
        self._memory = memory
        self.size_bytes = size_bytes

    def becomes(self, size_bytes: int) -> None:
        """What was estimated is this large; never refused, as it is there."""
        self._memory.note(size_bytes - self.size_bytes)
        self.size_bytes = size_bytes
