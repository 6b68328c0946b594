"""Ending a command on which this side has worked for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from .errors import LimitReached

T = TypeVar("T")


class OverTime(LimitReached):
    """The command took longer than it may. What it was writing may or may not have been written."""

    def __init__(self) -> None:
        super().__init__("The command took too long, ask for less or try again later")


class Waits(Protocol):
    """``driver.LineConnection``, as far as it matters here."""

    @property
    def peer_wait_s(self) -> float:
        """Seconds that handlers have waited for the peer since the connection began."""
        ...


def within(limit_s: float | None, connection: Waits, running: Awaitable[T]) -> Awaitable[T]:
    """The result of ``running``. Raises OverTime once more than ``limit_s`` have been spent on it;
    with None it may take as long as it likes.

    Time in which the peer did not take our bytes does not count. The task is cancelled at the point where
    it waits, so what it shares with other sessions must be shielded there.
    """
    return running if limit_s is None else _watched(limit_s, connection, running)


async def _watched(limit_s: float, connection: Waits, running: Awaitable[T]) -> T:
    watch = _Watch(limit_s, connection)
    try:
        result = await running
    except asyncio.CancelledError:
        if watch.stop():
            raise OverTime from None
        raise
    except BaseException:
        watch.stop()
        raise
    watch.stop()
    return result


class _Watch:
    __slots__ = ("_began", "_cancelling", "_connection", "_has_fired", "_limit_s", "_loop", "_task", "_timer")

    def __init__(self, limit_s: float, connection: Waits) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._has_fired = False
        self._limit_s = limit_s
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time() - connection.peer_wait_s
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(limit_s, self._look)

    def _look(self) -> None:
        spent_s = self._loop.time() - self._connection.peer_wait_s - self._began
        if spent_s < self._limit_s - 0.001:
            self._timer = self._loop.call_later(self._limit_s - spent_s, self._look)
            return
        self._timer = None
        self._has_fired = True
        self._task.cancel()

    def stop(self) -> bool:
        """Whether a cancellation that arrives now is this watch's, and nobody else's too."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._has_fired and self._task.uncancel() <= self._cancelling
