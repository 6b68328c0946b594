"""The ``status`` command of the control socket: what a node says of itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.errors import StorageError

from .control import Arguments, Handler
from .presentation import node_version

if TYPE_CHECKING:
    from storage.model import StagingLevel

    from .loginguard import Guards

DATABASE_WITHIN_S: Final = 2.0  # who asks when the database is away wants to know the rest


class ListenerStatus(NamedTuple):
    """One listening server, over all processes."""

    name: str
    type: str
    address: str
    connections: int
    refused: int


async def _none() -> object:
    """The node is in no cluster."""
    return None


class StatusCommand:
    """``clock`` gives monotonic seconds; uptime counts from the making of this object."""

    def __init__(
        self,
        listeners: Callable[[], Awaitable[list[ListenerStatus]]],
        guards: Guards,
        staging_level: Callable[[], Awaitable[StagingLevel]],
        clock: Callable[[], float],
        processes: Callable[[], list[dict[str, object]]] = list,
        cluster: Callable[[], Awaitable[object]] = _none,
    ) -> None:
        self._listeners = listeners
        self._guards = guards
        self._staging_level = staging_level
        self._clock = clock
        self._started = clock()
        self._processes = processes
        self._cluster = cluster

    def table(self) -> dict[str, Handler]:
        return {"status": self.status}

    async def status(self, _arguments: Arguments) -> object:
        return {
            "version": node_version() or "unknown",
            "pid": os.getpid(),
            "uptime_s": round(self._clock() - self._started, 3),
            "workers": self._processes(),
            "listeners": [each._asdict() for each in await self._listeners()],
            "rate_limits": {
                "blocks": self._guards.limiter.count_blocks(self._guards.clock()),
                "records": self._guards.limiter.sizes,
                "waiting": len(self._guards.room),
                "turned_away": self._guards.room.turned_away,
            },
            "staging": await self._staging(),
            "cluster": await self._cluster(),
        }

    async def _staging(self) -> dict[str, object]:
        try:
            async with asyncio.timeout(DATABASE_WITHIN_S):
                level = await self._staging_level()
        except TimeoutError:
            return {"error": f"the database does not answer within {DATABASE_WITHIN_S:.0f} s"}
        except StorageError as error:
            return {"error": f"the database cannot be asked: {error}"}
        return {
            "staged": level.contents,
            "encoded_bytes": level.encoded_bytes,
            "oldest_age_s": round(level.oldest_age_s, 3),
        }
