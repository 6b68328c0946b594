"""Mail that must be sent, once: queued first, claimed then, relayed last.

Each attempt queues a copy under a name of its own, which is held back. The claim in the database settles
which copy goes, of several attempts on whatever nodes, at once or after crashes; the others are dropped.
A process that dies before it has claimed, or before it could release, leaves a copy that is claimed by who
empties the queue when its time is over (``protocols.relay.runner``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from protocols.ports import Outbox
from storage.errors import StorageError

from .means import Means
from .occasion import Occasion

log = logging.getLogger("sora.sieve")

# Longer than a claim takes, so that little but what crashed is claimed twice (which does no harm).
HELD_S = 20.0


class Handover:
    """For one occasion."""

    def __init__(self, means: Means, outbox: Outbox, occasion: Occasion) -> None:
        self._log = means.handovers
        self._account_id = occasion.account_id
        self.outbox = outbox
        self._queued: dict[bytes, str] = {}

    async def unsent(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those that no attempt before has sent. Raises StorageError."""
        known = await self._log.handed_over(self._account_id, keys)
        return [key for key in keys if key not in known]

    def queued(self, key: bytes, name: str) -> None:
        """It was submitted with this key, held for HELD_S."""
        self._queued[key] = name

    async def finish(self) -> None:
        """Claim and release. Raises StorageError: nothing of what nobody else sends is lost, the next attempt
        goes on."""
        if not self._queued:
            return
        won = await self._log.claim_handover(self._account_id, self._queued)
        for key, name in self._queued.items():
            await (self.outbox.release(name) if key in won else self.outbox.withdraw(name))

    async def finish_if_possible(self) -> None:
        """Before trouble is told: what is queued goes all the same."""
        try:
            await self.finish()
        except StorageError as error:
            log.warning("what was queued before a failure goes when its time is over: %s", error)
