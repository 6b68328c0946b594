"""What a node expects of gossip, of the one in tests and of the real engine in its thread alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from cluster.address import Address
from cluster.api import Settings
from cluster.effects import (
    Change,
    Effect,
    FactChanged,
    KeysChanged,
    MemberChanged,
    NoticeHeard,
    QueryAsked,
    UserEvent,
)
from cluster.facts import Kind, NoticeKind
from cluster.sockets import bind
from node.clustering.engine import real_engine
from node.clustering.gossip import Gossip
from node.clustering.thread import ThreadGossip
from tests.support.fakecluster import FakeCluster
from tests.support.waiting import until

KEY, NEW_KEY = bytes(range(32)), bytes(range(1, 33))
SOON_S = 60.0


@dataclass
class Node:
    gossip: Gossip
    heard: list[Effect] = field(default_factory=list)

    def facts(self, kind: Kind) -> list[tuple[str, bytes, bytes | None]]:
        facts = [each for each in self.heard if isinstance(each, FactChanged) and each.kind == kind]
        return [(each.origin, each.key, each.value) for each in facts]

    def of(self, effect: type[Effect]) -> list[Effect]:
        return [each for each in self.heard if isinstance(each, effect)]


class Fakes:
    def __init__(self) -> None:
        self._cluster = FakeCluster(time.monotonic)

    async def add(self, name: str) -> Node:
        gossip = self._cluster.add(name, f"10.0.0.{len(self._cluster.nodes) + 1}")
        node = Node(gossip)
        gossip.listener = node.heard.append
        gossip.catch_up()
        return node

    async def close(self) -> None:
        """Nothing is open."""


class Reals:
    """On loopback addresses of their own."""

    def __init__(self) -> None:
        self._exit = AsyncExitStack()
        self._addresses: list[Address] = []
        self.gossips: list[ThreadGossip] = []

    async def add(self, name: str) -> Node:
        sockets = bind(Address(f"127.0.63.{len(self._addresses) + 1}", 0))
        settings = Settings(
            name, sockets.address, (KEY,), epoch=time.time_ns() // 1_000_000, accepts_loopback=True
        )
        peers = [str(each) for each in self._addresses]
        gossip = ThreadGossip(name, lambda: real_engine(settings), sockets, peers)
        node = Node(gossip)
        gossip.listener = node.heard.append
        self._addresses.append(sockets.address)
        self.gossips.append(gossip)
        self._exit.push_async_callback(gossip.close)
        await gossip.start()
        return node

    async def close(self) -> None:
        await self._exit.aclose()


Cluster = Fakes | Reals


@pytest_asyncio.fixture(params=["fake", "real"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    made: Cluster = Fakes() if request.param == "fake" else Reals()
    yield made
    await made.close()


async def three(cluster: Cluster) -> tuple[Node, Node, Node]:
    nodes = (await cluster.add("a"), await cluster.add("b"), await cluster.add("c"))
    for node in nodes:
        async with asyncio.timeout(SOON_S):
            while len(await node.gossip.members()) < 3:
                await asyncio.sleep(0.01)
    return nodes


async def test_entries_are_heard_by_the_others_until_they_are_removed(cluster: Cluster) -> None:
    first, second, third = await three(cluster)
    first.gossip.put(Kind.CONNECTIONS, {b"one": b"1", b"two": b"2"}, 60)
    for node in (second, third):
        await until(lambda node=node: len(node.facts(Kind.CONNECTIONS)) == 2)
        assert sorted(node.facts(Kind.CONNECTIONS)) == [("a", b"one", b"1"), ("a", b"two", b"2")]
    first.gossip.put(Kind.CONNECTIONS, {b"one": b"3"}, 60)
    await until(lambda: second.facts(Kind.CONNECTIONS)[-1] == ("a", b"one", b"3"))
    first.gossip.remove(Kind.CONNECTIONS, [b"one"])
    await until(lambda: second.facts(Kind.CONNECTIONS)[-1] == ("a", b"one", None))
    assert first.facts(Kind.CONNECTIONS) == []
    assert [each.key for each in await second.gossip.entries(Kind.CONNECTIONS)] == [b"two"]


async def test_the_same_again_is_not_told_again(cluster: Cluster) -> None:
    first, second, _ = await three(cluster)
    for _ in range(5):
        first.gossip.put(Kind.SESSIONS, {b"x": b""}, 3600)
    first.gossip.put(Kind.BLOCK, {b"last": b""}, 60)
    await until(lambda: second.facts(Kind.BLOCK) and second.facts(Kind.SESSIONS))
    assert second.facts(Kind.SESSIONS) == [("a", b"x", b"")]


async def test_who_comes_later_hears_of_what_holds(cluster: Cluster) -> None:
    first, second, _ = await three(cluster)
    first.gossip.put(Kind.BLOCK, {b"x": b"1"}, 60)
    second.gossip.put(Kind.FAILURES, {b"y": b"2"}, 60)
    late = await cluster.add("d")
    await until(lambda: late.facts(Kind.BLOCK) == [("a", b"x", b"1")])
    await until(lambda: late.facts(Kind.FAILURES) == [("b", b"y", b"2")])


async def test_an_urgent_entry_says_how_much_of_its_time_is_left(cluster: Cluster) -> None:
    first, second, _ = await three(cluster)
    first.gossip.put(Kind.KICK, {b"x": b"1"}, 60)
    await until(lambda: second.facts(Kind.KICK))
    (fact,) = [each for each in second.of(FactChanged) if each.kind == Kind.KICK]  # type: ignore[union-attr]
    assert isinstance(fact, FactChanged)
    assert 50 < fact.ttl_s <= 60


async def test_notices_reach_whom_they_are_for(cluster: Cluster) -> None:
    first, second, third = await three(cluster)
    first.gossip.tell(NoticeKind.MAILBOX, b"for b", ["b"])
    first.gossip.tell(NoticeKind.MAILBOX, b"for c", ["c"])
    await until(lambda: second.of(NoticeHeard) and third.of(NoticeHeard))
    assert second.of(NoticeHeard) == [NoticeHeard(NoticeKind.MAILBOX, "a", b"for b")]
    assert third.of(NoticeHeard) == [NoticeHeard(NoticeKind.MAILBOX, "a", b"for c")]


def answering(node: Node, answer: bytes) -> None:
    def hear(effect: Effect) -> None:
        node.heard.append(effect)
        if isinstance(effect, QueryAsked):
            node.gossip.respond(effect.token, answer)

    node.gossip.listener = hear


async def test_questions_are_answered_by_those_who_are_asked(cluster: Cluster) -> None:
    first, second, third = await three(cluster)
    answering(second, b"from b")
    answering(third, b"from c")

    async def ask(*names: str) -> dict[str, bytes]:
        answers = await first.gossip.ask("sora.test", b"?", timeout_s=1.5, nodes=names)
        assert answers.keys() <= set(names)
        return answers

    async def all_answer() -> bool:  # who is slow may miss a question
        return await ask("b", "c") == {"b": b"from b", "c": b"from c"}

    async def one_answers() -> bool:
        return await ask("c") == {"c": b"from c"}

    await until(all_answer)
    await until(one_answers)


async def test_members_and_their_tags(cluster: Cluster) -> None:
    first, second, _ = await three(cluster)
    assert [each.name for each in await first.gossip.members()] == ["a", "b", "c"]
    first.gossip.set_tags({"eligible": "no"})
    await until(
        lambda: any(
            isinstance(each, MemberChanged) and each.change is Change.UPDATED and each.member.name == "a"
            for each in second.heard
        )
    )
    (member,) = [each for each in await second.gossip.members() if each.name == "a"]
    assert member.tags["eligible"] == "no"
    assert "sora" in member.tags
    first.gossip.set_tags({})
    async with asyncio.timeout(SOON_S):
        while "eligible" in next(e for e in await second.gossip.members() if e.name == "a").tags:
            await asyncio.sleep(0.01)


async def test_who_leaves_takes_with_it_what_does_not_last(cluster: Cluster) -> None:
    first, second, third = await three(cluster)
    first.gossip.put(Kind.BLOCK, {b"x": b"1"}, 60)
    first.gossip.put(Kind.SESSIONS, {b"y": b""}, 60)
    await until(lambda: second.facts(Kind.BLOCK) and second.facts(Kind.SESSIONS))
    await first.gossip.leave(SOON_S)
    for node in (second, third):
        await until(
            lambda node=node: any(
                isinstance(each, MemberChanged) and each.change is Change.LEFT for each in node.heard
            )
        )
    await until(lambda: second.facts(Kind.SESSIONS)[-1] == ("a", b"y", None))
    assert second.facts(Kind.BLOCK) == [("a", b"x", b"1")]


async def test_keys_and_events_are_heard(cluster: Cluster) -> None:
    first, second, _ = await three(cluster)
    first.gossip.set_keys([KEY, NEW_KEY])
    await until(lambda: first.of(KeysChanged) == [KeysChanged((KEY, NEW_KEY))])
    first.gossip.send_event("deploy", b"1")
    await until(lambda: second.of(UserEvent))
    assert await first.gossip.figures()


async def test_a_thread_that_crashed_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.clustering.thread.FIRST_BACKOFF_S", 0.01)
    reals = Reals()
    try:
        node = await reals.add("a")
        other = await reals.add("b")
        gossip = reals.gossips[0]
        is_restored = asyncio.Event()
        gossip.restored = is_restored.set
        gossip._on_effects([])
        gossip.thread.post(lambda _engine, _at: asyncio.get_running_loop().call_soon(fail))
        async with asyncio.timeout(SOON_S):
            await is_restored.wait()
        assert gossip.restarts == 1
        gossip.join([other.gossip.thread.address])  # type: ignore[attr-defined]
        gossip.put(Kind.BLOCK, {b"x": b"1"}, 60)
        await until(lambda: ("a", b"x", b"1") in other.facts(Kind.BLOCK))
        assert node.gossip.name == "a"
    finally:
        await reals.close()


async def test_a_thread_that_crashed_after_it_left_does_not_join_again() -> None:
    reals = Reals()
    try:
        await reals.add("a")
        gossip = reals.gossips[0]
        await gossip.leave(1.0)
        gossip.thread.post(lambda _engine, _at: asyncio.get_running_loop().call_soon(fail))
        await until(lambda: not gossip.thread.is_running)
        assert gossip._restarting is None
    finally:
        await reals.close()


def fail() -> None:
    raise RuntimeError("for the test")


async def test_what_cannot_be_handled_takes_nothing_with_it(caplog: pytest.LogCaptureFixture) -> None:
    reals = Reals()
    try:
        await reals.add("a")
        gossip, heard = reals.gossips[0], []

        def hear(effect: Effect) -> None:
            if isinstance(effect, UserEvent):
                raise RuntimeError("for the test")
            heard.append(effect)

        gossip.listener = hear
        gossip._on_effects(
            [UserEvent(1, "x", b"", may_coalesce=False), KeysChanged((KEY,))],
        )
        assert heard == [KeysChanged((KEY,))]
        assert gossip.faults == 1
        assert "UserEvent could not be handled" in caplog.text
    finally:
        await reals.close()
