"""Two loops: the owner's, in which the test runs, and the one of the thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import uvloop

from cluster import thread as thread_module
from cluster.address import Address
from cluster.effects import Effect, Joined, NoticeHeard, QueryAnswered
from cluster.instant import Instant
from cluster.sockets import bind
from cluster.thread import GossipThread, GossipUnavailable
from tests.support.waiting import PATIENCE_S, until

from .toyengine import ToyEngine

ANY = Address("127.0.0.1", 0)


class Owner:
    def __init__(self) -> None:
        sockets = bind(ANY)
        self.engines: list[ToyEngine] = []
        self.told: list[Effect] = []
        self.batches: list[int] = []
        self.crashes: list[BaseException] = []
        self.prepare: Callable[[ToyEngine], None] = lambda engine: None
        self.thread = GossipThread(
            self.make,
            sockets,
            on_effects=self.hear,
            on_crash=self.crashes.append,
            make_loop=uvloop.new_event_loop,
        )

    def make(self) -> ToyEngine:
        engine = ToyEngine(self.thread.address)
        self.prepare(engine)
        self.engines.append(engine)
        return engine

    def hear(self, effects: Sequence[Effect]) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.told += effects
        self.batches.append(len(effects))


@asynccontextmanager
async def running() -> AsyncIterator[Owner]:
    owner = Owner()
    await owner.thread.start()
    try:
        yield owner
    finally:
        assert await owner.thread.stop()


async def test_commands_run_in_the_thread_and_return_here() -> None:
    async with running() as owner:
        where: list[str] = []
        owner.engines[0].on["tags"] = lambda tags: where.append(threading.current_thread().name)
        await owner.thread.set_tags({"a": "b"})
        assert where == ["gossip"]
        await owner.thread.join([ANY])
        await until(lambda: owner.told)
        assert owner.told == [Joined(ANY, "")]
        assert (await owner.thread.figures())["effects_waiting"] == 0


async def test_what_the_engine_refuses_is_raised_here() -> None:
    def fail(tags: object) -> None:
        raise ValueError("more than 512 bytes")

    async with running() as owner:
        owner.engines[0].on["tags"] = fail
        with pytest.raises(ValueError, match="512"):
            await owner.thread.set_tags({})
        assert owner.thread.is_running


async def test_100_000_effects_arrive_in_order_and_in_batches() -> None:
    async with running() as owner:
        many = [QueryAnswered(i, "n", b"") for i in range(100_000)]
        for i in range(0, len(many), 1_000):
            assert owner.thread.post(lambda engine, at, i=i: engine.queue.extend(many[i : i + 1_000]))  # type: ignore[misc,attr-defined]
        await until(lambda: len(owner.told) == len(many))
        assert owner.told == many
        assert max(owner.batches) <= thread_module.BATCH


async def test_only_notices_are_dropped_when_the_owner_is_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "MAX_NOTICES", 10)
    async with running() as owner:
        mixed: list[Effect] = []
        for i in range(50):
            mixed += [NoticeHeard(1, "n", b"%d" % i), Joined(ANY, str(i))]
        owner.thread.post(lambda engine, at: engine.queue.extend(mixed))  # type: ignore[attr-defined]
        await until(lambda: len(owner.told) == 60)
        assert [e for e in owner.told if isinstance(e, Joined)] == [e for e in mixed if isinstance(e, Joined)]
        assert owner.told[:20] == mixed[:20]
        assert (await owner.thread.figures())["notices_lost"] == 40


async def test_an_answer_is_told_after_its_question_has_a_number() -> None:
    def answer_at_once(name: str, payload: bytes, at: Instant) -> int:
        owner.engines[0].queue.append(QueryAnswered(17, "n", b"answer"))
        return 17

    async with running() as owner:
        owner.engines[0].on["ask"] = answer_at_once
        for _ in range(100):
            owner.told.clear()
            number = await owner.thread.ask("q", b"")
            assert not owner.told
            await until(lambda: owner.told)
            assert owner.told[0] == QueryAnswered(number, "n", b"answer")


async def test_the_engine_runs_while_the_owner_is_busy() -> None:
    async with running() as owner:
        engine = owner.engines[0]
        ticks: list[float] = []

        def tick(at: Instant) -> None:
            ticks.append(at.now)
            engine.deadline = at.now + 0.02

        engine.on["tick"] = tick
        await owner.thread.call(lambda _, at: setattr(engine, "deadline", at.now))
        before, begin = len(ticks), time.monotonic()
        while len(ticks) < before + 5:  # this loop does nothing else
            sum(range(1_000))
            assert time.monotonic() < begin + PATIENCE_S


async def test_a_crash_is_told_and_the_thread_can_be_started_again() -> None:
    async with running() as owner:
        await owner.thread.join([ANY])
        address = owner.thread.address

        def crash() -> None:
            raise MemoryError("no more")

        await owner.thread.call(lambda engine, at: asyncio.get_running_loop().call_soon(crash))
        await until(lambda: owner.crashes)
        assert isinstance(owner.crashes[0], MemoryError)
        assert not owner.thread.is_running
        assert owner.told == [Joined(ANY, "")]
        with pytest.raises(GossipUnavailable):
            await owner.thread.members()
        await owner.thread.start()
        assert len(owner.engines) == 2
        assert owner.thread.address == address
        await owner.thread.join([ANY])
        await until(lambda: len(owner.told) == 2)


async def test_who_waits_when_it_crashes_is_told() -> None:
    async with running() as owner:
        waiting = asyncio.create_task(owner.thread.leave(30.0))
        await until(lambda: owner.engines[0].of("leave"))

        def crash() -> None:
            raise MemoryError

        owner.thread.post(lambda engine, at: asyncio.get_running_loop().call_soon(crash))
        with pytest.raises(GossipUnavailable):
            await waiting


async def test_what_fails_at_start_is_raised_there() -> None:
    owner = Owner()

    def fail(engine: ToyEngine) -> None:
        raise ValueError("a key has 32 bytes")

    owner.prepare = fail
    with pytest.raises(ValueError, match="32"):
        await owner.thread.start()
    assert not owner.thread.is_running
    assert not owner.crashes
    owner.prepare = lambda engine: None
    await owner.thread.start()
    assert await owner.thread.stop()


async def test_a_thread_that_hangs_does_not_hang_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "COMMAND_TIMEOUT_S", 0.1)
    release = threading.Event()
    async with running() as owner:
        owner.thread.post(lambda engine, at: release.wait(20.0))
        with pytest.raises(GossipUnavailable, match="does not answer"):
            await owner.thread.members()
        run = owner.thread._run
        assert run is not None
        assert not await run.stop(0.05)
        release.set()


async def test_leaving_and_stopping() -> None:
    owner = Owner()
    await owner.thread.start()
    owner.engines[0].on["leave"] = lambda at: setattr(owner.engines[0], "has_left", True)
    assert await owner.thread.leave()
    assert await owner.thread.stop()
    assert await owner.thread.stop()
    assert not owner.crashes
    assert not owner.thread.post(lambda engine, at: None)
    assert [each.name for each in threading.enumerate() if each.name == "gossip"] == []


async def test_peers_that_are_no_addresses_are_refused_and_the_old_ones_stay() -> None:
    async with running() as owner:
        await owner.thread.set_peers(["127.0.0.9:7000"])
        with pytest.raises(ValueError):
            await owner.thread.set_peers(["a:b:c:d"])
        await until(lambda: owner.engines[0].of("peers")[-1] == ((Address("127.0.0.9", 7000),),))
