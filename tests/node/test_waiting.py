"""Held answers, with timers that fire when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from node.waiting import Turns, WaitingRoom
from protocols.errors import AuthenticationUnavailable


class Timers:
    def __init__(self) -> None:
        self.set: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, fire: Callable[[], None]) -> None:
        self.set.append((seconds, fire))

    def fire(self) -> None:
        for _, fire in self.set:
            fire()
        self.set.clear()


async def test_waiting_is_bounded_per_client_and_in_all() -> None:
    timers = Timers()
    room = WaitingRoom(3, later=timers)
    waiting = [asyncio.create_task(room.wait(key, 5, most=2)) for key in (1, 1, 2)]
    await asyncio.sleep(0)
    assert await room.wait(1, 5, most=2) is False
    assert await room.wait(3, 5, most=2) is False
    assert (len(room), room.turned_away) == (3, 2)
    assert [seconds for seconds, _ in timers.set] == [5, 5, 5]
    timers.fire()
    assert await asyncio.gather(*waiting) == [True] * 3
    assert len(room) == 0
    again = asyncio.create_task(room.wait(1, 5, most=2))
    await asyncio.sleep(0)
    assert len(room) == 1
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert len(room) == 0
    timers.fire()  # for nobody


async def test_no_time_is_no_waiting() -> None:
    assert await WaitingRoom(0).wait(1, 0, most=0) is True


async def test_turns_are_limited_per_key_and_forgotten() -> None:
    turns = Turns()
    inside: list[int] = []
    waited: list[bool] = []
    gate = asyncio.Event()

    async def go(key: int) -> None:
        async with turns.turn(key, 2) as has_waited:
            waited.append(has_waited)
            inside.append(key)
            await gate.wait()

    tasks = [asyncio.create_task(go(key)) for key in (1, 1, 1, 2)]
    await asyncio.sleep(0)
    assert inside == [1, 1, 2]
    tasks[2].cancel()
    late = asyncio.create_task(go(1))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks, late, return_exceptions=True)
    assert inside == [1, 1, 2, 1]
    assert waited == [False, False, False, True]
    assert len(turns) == 0


async def test_a_stop_lets_everybody_go() -> None:
    room = WaitingRoom(later=Timers())
    waiting = asyncio.create_task(room.wait(1, 30, most=2))
    await asyncio.sleep(0)
    room.close()
    with pytest.raises(AuthenticationUnavailable):
        await waiting
    assert await room.wait(1, 30, most=2) is False
