"""Waiting for a certificate that is configured and not there."""

from __future__ import annotations

import asyncio

from tls.demand import MAX_WAITING, Demand
from tls.unserved import Unserved

NAME = "mail.example.com"


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_who_waits_goes_on_when_the_certificate_is_there() -> None:
    signals: list[str] = []
    demand = Demand(signals.append)
    waiting = [asyncio.create_task(demand.wait(NAME)) for _ in range(3)]
    other = asyncio.create_task(demand.wait("other.example"))
    await settle()
    assert signals == [NAME, "other.example"]
    assert demand.waiting(NAME) == 3
    demand.satisfy(lambda name: name == NAME)
    assert await asyncio.gather(*waiting) == [None] * 3
    assert not other.done()
    demand.satisfy(lambda _name: True)
    assert await other is None
    assert demand.waiting(NAME) == demand.waiting("other.example") == 0


async def test_waiting_has_an_end() -> None:
    demand = Demand(lambda _name: None)
    demand.wait_s = 0.01
    assert await demand.wait(NAME) is Unserved.NOT_IN_TIME
    assert demand.waiting(NAME) == 0


async def test_only_so_many_wait_for_a_name() -> None:
    signals: list[str] = []
    demand = Demand(signals.append)
    waiting = [asyncio.create_task(demand.wait(NAME)) for _ in range(MAX_WAITING)]
    await settle()
    assert await demand.wait(NAME) is Unserved.CROWDED
    assert signals == [NAME]  # once a second, however many
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert demand.waiting(NAME) == MAX_WAITING - 1
    demand.satisfy(lambda _name: True)
    await asyncio.gather(*waiting[1:])
