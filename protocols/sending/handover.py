"""Mail that must be sent, once: queued first, remembered then, relayed last.

What is queued is held back until it is remembered, so that a process that dies in between leaves it in the
queue, where the next attempt finds it by its key and does not send it again. Without a next attempt on this
node it goes when the time is over.
"""

from __future__ import annotations

import logging

from protocols.ports import Outbox
from storage.errors import StorageError

from .means import REMEMBERED_S, Means
from .occasion import Occasion

log = logging.getLogger("sora.sieve")

# Longer than MTAs wait between two attempts (Postfix: 4,000 s).
HELD_S = 5_400.0


class Handover:
    """For one occasion. ``put`` may be told again what an attempt before has put."""

    def __init__(self, means: Means, outbox: Outbox, occasion: Occasion) -> None:
        self._means = means
        self._account_id = occasion.account_id
        self.outbox = outbox
        self._names: dict[bytes, str] = {}

    def queued(self, key: bytes, name: str) -> None:
        """It was submitted with this key, held for HELD_S."""
        self._names[key] = name

    async def finish(self) -> None:
        """Remember and release. Raises StorageError: nothing is relayed, it can be put again."""
        if not self._names:
            return
        await self._means.memory.remember(self._account_id, [(key, REMEMBERED_S) for key in self._names])
        for name in self._names.values():
            await self.outbox.release(name)

    async def finish_if_possible(self) -> None:
        """Before trouble is told: the next attempt should find out about these by memory."""
        try:
            await self.finish()
        except StorageError as error:
            log.warning("only the relay queue knows what was sent before a failure: %s", error)
