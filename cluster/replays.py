"""The same packet twice is one packet too many: somebody has recorded it, or the network doubled it.

Every packet has a nonce of its own, so a nonce that was seen with a packet that opened is a replay. The last
thousands are remembered; what is older has to be harmless by itself, as incarnations, Lamport times and the
numbers of the shared state see to.
"""

from __future__ import annotations

from typing import Final

GENERATION: Final = 4096


class ReplayWindow:
    """Between ``GENERATION`` and twice as many nonces; O(1), about 100 bytes for each."""

    def __init__(self) -> None:
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def is_new(self, nonce: bytes) -> bool:
        """Only for packets that opened: others could fill it. Asking remembers."""
        if nonce in self._young or nonce in self._old:
            return False
        self._young.add(nonce)
        if len(self._young) >= GENERATION:
            self._old, self._young = self._young, set()
        return True
