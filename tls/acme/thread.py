"""A worker thread for one talk with a CA, and the way from it into the loop.

The thread is a daemon of its own and not one of the loop's executor: a CA that never answers must not keep a
process from ending.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..ports import Failure, IssuingFailed

log = logging.getLogger("sora.tls.acme")

GRACE_S = 2.0  # how long a cancelled caller waits for the thread to come to its end
WITHDRAW_S = 5.0  # what cleaning up may take after the deadline

T = TypeVar("T")


class Stopped(Exception):
    """Nobody waits for this work any more."""


class Talk:
    """What a worker thread may still do: until its deadline, and until its caller goes away."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        self._loop = loop
        self._stopped = threading.Event()
        self._deadline = time.monotonic() + limit_s
        self.limit_s = limit_s

    def stop(self) -> None:
        """Thread-safe; the thread ends at its next step."""
        self._stopped.set()

    def left_s(self) -> float:
        """Raises Stopped, and IssuingFailed(TIMEOUT) when nothing is left."""
        if self._stopped.is_set():
            raise Stopped
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise IssuingFailed(Failure.TIMEOUT, f"not done in {self.limit_s:.0f} s")
        return left

    def pause(self, seconds: float) -> None:
        self._stopped.wait(min(seconds, self.left_s()))
        self.left_s()

    def run(self, step: Callable[[], Awaitable[T]]) -> T:
        """A step in the loop, waited for."""
        return self._run(step, self.left_s())

    def run_anyway(self, step: Callable[[], Awaitable[T]]) -> T:
        """One that is right even when time is over or the caller has gone, for WITHDRAW_S."""
        return self._run(step, WITHDRAW_S)

    def say(self, say: Callable[[str], None], text: str) -> None:
        self._loop.call_soon_threadsafe(say, text)

    def _run(self, step: Callable[[], Awaitable[T]], limit_s: float) -> T:
        async def call() -> T:
            return await step()

        future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            return future.result(limit_s)
        except TimeoutError as error:
            if future.done():
                raise  # the step's own
            future.cancel()
            raise IssuingFailed(Failure.TIMEOUT, "a step of our own took too long") from error


async def in_thread(name: str, limit_s: float, work: Callable[[Talk], T]) -> T:
    """Run ``work`` in a thread. Raises what it raises, and IssuingFailed(TIMEOUT) soon after ``limit_s``.

    When the caller is cancelled the thread is told to stop, and waited for at most GRACE_S.
    """
    loop = asyncio.get_running_loop()
    talk = Talk(loop, limit_s)
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # an abandoned one is no news
    threading.Thread(target=_work, args=(loop, future, work, talk), name=f"acme {name}", daemon=True).start()
    try:
        done, _ = await asyncio.wait({future}, timeout=limit_s + WITHDRAW_S)
        if done:
            return future.result()
    except asyncio.CancelledError:
        talk.stop()
        await asyncio.wait({future}, timeout=GRACE_S)
        raise
    talk.stop()
    raise IssuingFailed(Failure.TIMEOUT, f"not done in {limit_s:.0f} s")


def _work(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], work: Callable[[Talk], T], talk: Talk
) -> None:
    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    result: T | None = None
    failure: BaseException | None = None
    try:
        result = work(talk)
    except BaseException as error:  # the driver of the thread: all of it goes to who waits
        failure = error
    try:
        loop.call_soon_threadsafe(deliver, result, failure)
    except RuntimeError:
        log.debug("the loop ended before a talk with a CA", exc_info=failure)
