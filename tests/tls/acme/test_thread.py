from __future__ import annotations

import asyncio
import threading

import pytest

from tls.acme.thread import Stopped, Talk, in_thread
from tls.ports import Failure, IssuingFailed


async def test_results_and_exceptions_come_back() -> None:
    assert await in_thread("t", 5, lambda talk: threading.current_thread().name) == "acme t"

    def fail(talk: Talk) -> None:
        raise LookupError("x")

    with pytest.raises(LookupError):
        await in_thread("t", 5, fail)


async def test_steps_run_in_the_loop_one_after_the_other() -> None:
    done: list[str] = []
    here = threading.current_thread()

    async def step() -> str:
        assert threading.current_thread() is here
        await asyncio.sleep(0)
        done.append("step")
        return "back"

    def work(talk: Talk) -> None:
        talk.say(done.append, "said before")
        done.append(talk.run(step))

    await in_thread("t", 5, work)
    assert done == ["said before", "step", "back"]


async def test_a_timeout_of_a_step_itself_is_not_ours() -> None:
    async def step() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await in_thread("t", 5, lambda talk: talk.run(step))


async def test_a_step_that_never_ends_is_cancelled_at_the_limit() -> None:
    cancelled = asyncio.Event()

    async def step() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(IssuingFailed) as failed:
        await in_thread("t", 0.05, lambda talk: talk.run(step))
    assert failed.value.failure is Failure.TIMEOUT
    await asyncio.wait_for(cancelled.wait(), 60)


async def test_a_pause_ends_at_the_limit() -> None:
    with pytest.raises(IssuingFailed) as failed:
        await in_thread("t", 0.05, lambda talk: talk.pause(60))
    assert failed.value.failure is Failure.TIMEOUT


async def test_a_cancelled_caller_stops_the_thread_in_its_pause() -> None:
    paused, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(talk: Talk) -> None:
        loop.call_soon_threadsafe(paused.set)
        try:
            talk.pause(60)
        except Stopped:
            ended.set()
            raise

    task = asyncio.create_task(in_thread("t", 60, work))
    await paused.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_what_must_be_done_is_done_for_a_caller_that_has_gone() -> None:
    """The thread is at the CA when its caller goes; what comes of it is still written down."""
    at_ca, answered, written = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    async def journal() -> None:
        await asyncio.sleep(0)
        written.append("order")

    def work(talk: Talk) -> None:
        loop.call_soon_threadsafe(at_ca.set)
        assert answered.wait(60)
        talk.run_anyway(journal)
        talk.run(journal)  # this is for callers who are there

    task = asyncio.create_task(in_thread("t", 60, work))
    await at_ca.wait()
    task.cancel()
    await asyncio.sleep(0)
    answered.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert written == ["order"]
