from __future__ import annotations

import asyncio

from node.gathering import Gathered


async def test_calls_of_a_moment_are_one_and_the_next_is_another() -> None:
    told = 0
    done = asyncio.Event()

    def tell() -> None:
        nonlocal told
        told += 1
        done.set()

    gathered = Gathered(tell, 0.0)
    for turn in range(2):
        for _ in range(5):
            gathered()
        assert told == turn
        async with asyncio.timeout(60):
            await done.wait()
        done.clear()
    assert told == 2
