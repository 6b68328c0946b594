"""Taking a node out of service: no new connections, not ready, and the end when the last session has gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from .control import Arguments, ControlRefused, Handler, seconds_argument
from .health import Finding, State
from .sockets import ListenFailed

if TYPE_CHECKING:
    from .checks import Checker

log = logging.getLogger("sora.node")

WITHIN_S: Final = 600.0
LOOK_EVERY_S: Final = 0.25


class Drained(Protocol):
    """A node; of one process or of several."""

    async def stop_accepting(self) -> None: ...

    async def resume_accepting(self) -> None: ...

    def session_count(self) -> int: ...


class Drain:
    """``stop`` ends the node in order, which says goodbye to whoever is left."""

    def __init__(self, node: Drained, stop: Callable[[], None]) -> None:
        self._node = node
        self._stop = stop
        self._waiting: asyncio.Task[None] | None = None

    def table(self) -> dict[str, Handler]:
        return {"drain": self._command, "drain.undo": self._undo}

    async def _command(self, arguments: Arguments) -> object:
        within_s = seconds_argument(arguments, "within_s") or WITHIN_S
        await self.begin(within_s)
        return {"sessions": self._node.session_count(), "within_s": within_s}

    async def _undo(self, _arguments: Arguments) -> object:
        if self._waiting is None:
            raise ControlRefused("not_found", "this node is not draining")
        if self._waiting.done():
            raise ControlRefused("busy", "too late, the node is stopping already")
        try:
            await self._node.resume_accepting()
        except ListenFailed as error:
            raise ControlRefused("busy", f"the node goes on draining: {error}") from error
        if self._waiting.done():
            raise ControlRefused("busy", "too late, the last session has just gone and the node stops")
        self._waiting.cancel()
        self._waiting = None
        log.info("the drain was taken back: connections are accepted again")
        return {"sessions": self._node.session_count()}

    async def begin(self, within_s: float) -> None:
        """Nothing is accepted any more when it returns. Asked again, only the time changes."""
        log.info("draining: no new connections, the end in %.0f s at the latest", within_s)
        await self._node.stop_accepting()
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = asyncio.create_task(self._wait(within_s))

    async def _wait(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                while self._node.session_count():
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            log.info("draining: %d sessions are left and get their goodbye", self._node.session_count())
        self._stop()


def unready(checker: Checker) -> None:
    """Load balancers send nobody any more. Idempotent."""
    if any(each.name == "drain" for each in checker.board):
        return
    checker.add("drain", _draining, is_critical=True)


def ready(checker: Checker) -> None:
    """Undo ``unready``. Idempotent."""
    checker.remove("drain")


async def _draining() -> Finding:
    return Finding(State.DOWN, "this node is taken out of service")
