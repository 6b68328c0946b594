"""The permission to order: a lease in the database that is renewed while an order runs.

Whoever holds it may lose it at any moment, by a pause or a cut, so every step at the CA asks first; and what
was published by one who had lost it carries a lower fence, so readers pass it over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

from storage.errors import Unavailable
from storage.leases import Lease, Leases

from ..ports import Failure, IssuingFailed

log = logging.getLogger("sora.tls.renewing")

LEASE: Final = "certificates"  # one for all: a cluster orders one certificate at a time
TTL_S: Final = 120.0
RENEW_EVERY_S: Final = 30.0


class Hold(Protocol):
    """``fence``: of what is published under it."""

    @property
    def fence(self) -> int: ...

    async def check(self) -> None:
        """Raises IssuingFailed(FENCED) when it is lost."""
        ...


class LeaseHold:
    """``clock``: monotonic."""

    def __init__(self, leases: Leases, lease: Lease, clock: Callable[[], float]) -> None:
        self._leases = leases
        self._lease = lease
        self._clock = clock
        self._good_until = clock() + TTL_S
        self._is_lost = False

    @property
    def fence(self) -> int:
        return self._lease.fence

    async def check(self) -> None:
        """Asks the database; while that is away the time to live that was granted last counts."""
        asked = self._clock()
        try:
            is_ours = not self._is_lost and await self._leases.renew(self._lease, TTL_S)
        except Unavailable as error:
            if self._clock() < self._good_until:
                return
            raise IssuingFailed(
                Failure.FENCED, f"the lease ran out while the database was away: {error}"
            ) from error
        if not is_ours:
            self._is_lost = True
            raise IssuingFailed(Failure.FENCED, "another node has taken the lease")
        self._good_until = asked + TTL_S

    async def keep(self) -> None:
        """Until cancelled, or lost."""
        with suppress(IssuingFailed):
            while True:
                await asyncio.sleep(RENEW_EVERY_S)
                await self.check()


class BareHold:
    """Of a leader whose database is away in an emergency: ``is_fit`` says whether it still may."""

    def __init__(self, fence: int, is_fit: Callable[[], bool]) -> None:
        self.fence = fence
        self._is_fit = is_fit

    async def check(self) -> None:
        if not self._is_fit():
            raise IssuingFailed(Failure.FENCED, "this node no longer leads a majority of the nodes")


@asynccontextmanager
async def holding(leases: Leases, holder: str, clock: Callable[[], float]) -> AsyncIterator[LeaseHold | None]:
    """None: another node has it. Raises Unavailable."""
    lease = await leases.take(LEASE, holder, TTL_S)
    if lease is None:
        yield None
        return
    hold = LeaseHold(leases, lease, clock)
    keeping = asyncio.create_task(hold.keep())
    try:
        yield hold
    finally:
        keeping.cancel()
        try:
            await leases.release(lease)
        except Unavailable as error:
            log.warning("the lease %s cannot be given back and runs out by itself: %s", LEASE, error)
