"""Places shared out over workers: their sum, in any order of events."""

from __future__ import annotations

import asyncio
import random
from collections import deque

import pytest

from node.link import LinkFault
from node.places import Budgets, Leases, share

SERVER, IP = "imap", "192.0.2.7"


class Lab:
    """A control process and its workers, whose messages are delivered in order and late."""

    def __init__(self, most: int, workers: int, seed: int = 0) -> None:
        self.most, self.count = most, workers
        self.dice = random.Random(seed)
        self.leases = Leases(lambda _server, _ip: self.most, workers)
        self.workers = [FakeWorker(self) for _ in range(workers)]

    @property
    def used(self) -> int:
        return sum(worker.used for worker in self.workers)

    async def deliver_all(self) -> None:
        while any(worker.wire for worker in self.workers):
            self.deliver_one()
            await asyncio.sleep(0)

    def deliver_one(self) -> None:
        waiting = [worker for worker in self.workers if worker.wire]
        if waiting:
            self.dice.choice(waiting).wire.popleft()()


class FakeWorker:
    """Both ends of one link: a ``Holder``, and the worker behind it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.used = 0
        self.is_deaf = False
        # in one queue for both directions: stricter than two, looser than none
        self.wire: deque[object] = deque()
        self.budgets = Budgets(
            lambda _server, _ip: share(lab.most, lab.count),
            lambda _server, _ip: self.used,
            self.ask,
            lambda *given: self.wire.append(lambda: lab.leases.returned(self, *given)),
        )

    @property
    def load(self) -> int:
        return self.used

    def begin(self) -> None:
        self.lab.leases.begin(self)
        self.wire.append(self.budgets.begin)

    def grant(self, server: str, ip: str, count: int) -> None:
        self.wire.append(lambda: self.budgets.granted(server, ip, count))

    async def give_back(self, server: str, ip: str, wanted: int) -> None:
        if self.is_deaf:
            raise LinkFault("it hangs")
        done = asyncio.get_running_loop().create_future()

        def heard() -> None:
            self.budgets.give_back(server, ip, wanted)
            self.wire.append(lambda: done.done() or done.set_result(None))

        self.wire.append(heard)
        await done

    async def arrive(self) -> bool:
        try:
            is_in = self.budgets.has_room(SERVER, IP) or await self.budgets.claim(SERVER, IP)
            self.used += is_in
        finally:
            self.budgets.settle(SERVER, IP)
        return is_in

    async def ask(self, server: str, ip: str, count: int) -> bool:
        is_granted = await self.lab.leases.ask(self, server, ip, count)
        answer = asyncio.get_running_loop().create_future()
        self.wire.append(lambda: answer.done() or answer.set_result(is_granted))
        return await answer

    def leave(self) -> None:
        self.used -= 1
        self.budgets.settle(SERVER, IP)


@pytest.mark.parametrize("seed", range(60))
async def test_no_order_of_events_passes_the_limit_or_loses_a_place(seed: int) -> None:
    dice = random.Random(seed)
    lab = Lab(dice.choice([1, 2, 5, 8, 20]), dice.choice([2, 3, 4]), seed)
    tasks: list[asyncio.Task[bool]] = []
    unborn = lab.workers[1:]
    lab.workers[0].begin()
    for _ in range(400):
        worker = dice.choice(lab.workers)
        match dice.randrange(8):
            case 0 | 1:
                tasks.append(asyncio.ensure_future(worker.arrive()))
            case 2 if worker.used:
                worker.leave()
            case 3 if unborn:
                unborn.pop().begin()
            case 4 if tasks and dice.random() < 0.2:
                dice.choice(tasks).cancel()
            case _:
                lab.deliver_one()
        await asyncio.sleep(0)
        assert lab.used <= lab.most
    while unborn:
        unborn.pop().begin()
    while not all(task.done() for task in tasks):
        lab.deliver_one()
        await asyncio.sleep(0)
    await lab.deliver_all()
    for worker in lab.workers:
        while worker.used:
            worker.leave()
    await lab.deliver_all()
    assert not lab.leases
    assert not any(len(worker.budgets) for worker in lab.workers)
    # one of them can have them all, and then nobody any more
    for number in range(lab.most + 1):
        arriving = asyncio.ensure_future(lab.workers[0].arrive())
        while not arriving.done():
            lab.deliver_one()
            await asyncio.sleep(0)
        assert arriving.result() is (number < lab.most)


@pytest.mark.parametrize("seed", range(30))
async def test_a_crowd_in_one_instant_fills_every_place(seed: int) -> None:
    dice = random.Random(seed)
    lab = Lab(dice.choice([1, 3, 12]), dice.choice([2, 3]), seed)
    for worker in lab.workers:
        worker.begin()
    await lab.deliver_all()
    tasks = [asyncio.ensure_future(dice.choice(lab.workers).arrive()) for _ in range(40)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        lab.deliver_one()
        assert lab.used <= lab.most
    assert lab.used == lab.most == sum(task.result() for task in tasks)


async def test_far_from_the_limit_nobody_is_asked() -> None:
    lab = Lab(most=100, workers=4)
    for worker in lab.workers:
        worker.begin()
    await lab.deliver_all()
    for worker in lab.workers:
        for _ in range(25):
            assert await worker.arrive()
    assert not any(worker.wire for worker in lab.workers)
    assert not lab.leases


async def test_what_a_hanging_worker_has_is_lent_when_it_is_gone() -> None:
    lab = Lab(most=10, workers=2)
    one, other = lab.workers
    one.begin()
    other.begin()
    await lab.deliver_all()
    other.is_deaf = True
    assert [await one.arrive() for _ in range(5)] == [True] * 5
    assert not await lab.leases.ask(one, SERVER, IP, 1)
    lab.leases.end(other)
    assert await lab.leases.ask(one, SERVER, IP, 5)
    assert not await lab.leases.ask(one, SERVER, IP, 1)
