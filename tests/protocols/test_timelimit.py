from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from protocols.timelimit import OverTime, within


@dataclass
class Waiting:
    peer_wait_s: float = 0.0


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_what_is_done_in_time_is_not_touched() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert await within(60, Waiting(), answer()) == 42


async def test_what_takes_longer_is_ended_and_the_task_goes_on() -> None:
    with pytest.raises(OverTime):
        await within(0.001, Waiting(), forever())
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_waiting_for_the_peer_does_not_count() -> None:
    """All the time that passes is the peer's, for twenty looks at it."""
    loop = asyncio.get_running_loop()
    began, looks = loop.time(), 0

    class Slow:
        @property
        def peer_wait_s(self) -> float:
            nonlocal looks
            looks += 1
            if looks == 20:
                done.set_result("sent")
            return loop.time() - began

    done: asyncio.Future[str] = loop.create_future()

    async def send() -> str:
        return await done

    assert await within(0.004, Slow(), send()) == "sent"


async def test_cancelling_from_outside_is_no_time_limit() -> None:
    task = asyncio.create_task(within(60, Waiting(), forever()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_pass_through() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await within(60, Waiting(), fail())
