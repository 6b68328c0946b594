"""A database whose users take turns: each statement waits until a test lets it go on.

``orders`` are all ways to interleave the statements of two actors. An actor that waits for a lock of the
other one gives its turn up until the lock is free, as on any server.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import combinations, islice
from math import comb
from typing import cast

from storage.postgres.pool import Database, Record, Transaction

from .postgres import waiters

EVERY = bool(os.environ.get("SORA_EVERY_ORDER"))
WAITS_AT_MOST_S = 120.0


def orders(first: int, second: int, at_most: int) -> Iterator[tuple[int, ...]]:
    """Orders of ``first`` steps of actor 0 and ``second`` steps of actor 1: every one, or where that
    is more than ``at_most`` so many, evenly spread. With SORA_EVERY_ORDER in the environment every one."""
    every = comb(first + second, second)
    step = 1 if EVERY else -(-every // at_most)
    for places in islice(combinations(range(first + second), second), 0, None, step):
        yield tuple(int(place in places) for place in range(first + second))


class Gate:
    """Of one actor."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self._here = asyncio.Event()
        self._go = asyncio.Event()
        self.is_open = False

    async def step(self, name: str) -> None:
        self.steps.append(name)
        if self.is_open:
            return
        self._here.set()
        await self._go.wait()
        self._go.clear()

    def let_go(self) -> None:
        self._here.clear()
        self._go.set()

    @property
    def is_waiting(self) -> bool:
        return self._here.is_set()

    def open(self) -> None:
        self.is_open = True
        self.let_go()


class _SteppedTransaction:
    def __init__(self, real: Transaction, gate: Gate) -> None:
        self._real = real
        self._gate = gate

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        await self._gate.step(_short(sql))
        return await self._real.fetch(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        await self._gate.step(_short(sql))
        return await self._real.execute(sql, *args)


class SteppedDatabase:
    """What one actor sees of ``real``. A write that commits by itself is a statement and a commit, so that
    others come in between; a read outside of transactions is a step with ``reads``."""

    def __init__(self, real: Database, gate: Gate, *, reads: bool = False) -> None:
        self._real = real
        self._gate = gate
        self._reads = reads

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    async def read(self, sql: str, *args: object, **_names: object) -> list[Record]:
        if self._reads:
            await self._gate.step(_short(sql))
        return await self._real.read(sql, *args)

    async def write(self, sql: str, *args: object, **_names: object) -> list[Record]:
        async with self.transaction() as transaction:
            return await transaction.fetch(sql, *args)

    @asynccontextmanager
    async def transaction(self, **_names: object) -> AsyncIterator[_SteppedTransaction]:
        async with self._real.transaction() as transaction:
            yield _SteppedTransaction(transaction, self._gate)
            await self._gate.step("COMMIT")

    def as_database(self) -> Database:
        return cast("Database", self)


def _short(sql: str) -> str:
    return " ".join(sql.split())[:60]


Actor = Callable[[Gate], Awaitable[None]]


async def count_steps(actor: Actor) -> int:
    """Run it alone."""
    gate = Gate()
    gate.is_open = True
    await actor(gate)
    return len(gate.steps)


async def interleave(database: Database, actors: Sequence[Actor], order: Iterable[int]) -> None:
    """Run the actors; ``order`` says whose next statement comes. Raises what an actor raises."""
    gates = [Gate() for _ in actors]
    tasks = [asyncio.ensure_future(actor(gate)) for actor, gate in zip(actors, gates, strict=True)]
    async with asyncio.timeout(WAITS_AT_MOST_S):
        for gate, task in zip(gates, tasks, strict=True):
            await _until_it_stops(database, gate, task)
        for who in order:
            if gates[who].is_waiting:
                gates[who].let_go()
            for gate, task in zip(gates, tasks, strict=True):
                await _until_it_stops(database, gate, task)
        for gate in gates:
            gate.open()
        await asyncio.gather(*tasks)


async def _until_it_stops(database: Database, gate: Gate, task: asyncio.Future[None]) -> None:
    """At its next statement, at its end, or at a lock."""
    turns = 0
    while not gate.is_waiting and not task.done():
        await asyncio.sleep(0)
        turns += 1
        if turns % 20 == 0 and await waiters(database):
            return
