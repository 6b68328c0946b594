"""Mail that must be sent, once: queued first, remembered then, relayed last.

What is queued is held back until it is remembered, so that a process that dies in between leaves it in the
queue, where the next attempt finds it by its key and does not send it again. Without a next attempt on this
node it goes when the time is over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from protocols.ports import Outbox
from storage.errors import StorageError

from .means import REMEMBERED_S, Means
from .occasion import Occasion

log = logging.getLogger("sora.sieve")

# Longer than MTAs wait between two attempts (Postfix: 4,000 s).
HELD_S = 5_400.0


class Handover:
    """For one occasion."""

    def __init__(self, means: Means, outbox: Outbox, occasion: Occasion) -> None:
        self._memory = means.memory
        self._account_id = occasion.account_id
        self.outbox = outbox
        self._queued: list[bytes] = []

    async def unsent(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those that no attempt before has sent. Raises StorageError."""
        known = await self._memory.seen(self._account_id, keys)
        for key in known:  # who remembered may have died before it could let go
            await self.outbox.release(key)
        return [key for key in keys if key not in known]

    def queued(self, key: bytes) -> None:
        """It was submitted with this key, held for HELD_S."""
        self._queued.append(key)

    async def finish(self) -> None:
        """Remember and release. Raises StorageError: nothing is relayed, the next attempt goes on."""
        if not self._queued:
            return
        await self._memory.remember(self._account_id, [(key, REMEMBERED_S) for key in self._queued])
        for key in self._queued:
            await self.outbox.release(key)

    async def finish_if_possible(self) -> None:
        """Before trouble is told: the next attempt should find out about these by memory."""
        try:
            await self.finish()
        except StorageError as error:
            log.warning("only the relay queue knows what was sent before a failure: %s", error)
