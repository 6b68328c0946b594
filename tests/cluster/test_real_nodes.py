"""Three whole nodes on real sockets of the loopback, each in its gossip thread."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cluster.address import Address
from cluster.api import Settings
from cluster.effects import (
    Effect,
    FactChanged,
    MemberChanged,
    NoticeHeard,
    QueryAnswered,
    QueryAsked,
    UserEvent,
)
from cluster.engine import Engine
from cluster.facts import Kind, NoticeKind
from cluster.profile import Profile
from cluster.sockets import bind
from cluster.thread import GossipThread
from tests.support.ipv6 import needs_ipv6
from tests.support.ports import LOOPBACK6
from tests.support.waiting import until

KEY = bytes(range(32))
# Nobody is declared dead for being slow.
PATIENT = Profile(
    probe_interval_s=0.2,
    probe_timeout_s=0.08,
    ping_again_s=(0.04,),
    nack_after_s=0.06,
    gossip_interval_s=0.02,
    stream_timeout_s=60.0,
    suspicion_mult=300,
    rejoin_interval_s=0.5,
)
QUICK = replace(PATIENT, suspicion_mult=2)


class Node:
    def __init__(
        self, name: str, ip: str, peers: Sequence[str], key: bytes = KEY, profile: Profile = PATIENT
    ) -> None:
        self.name = name
        self.told: list[Effect] = []
        sockets = bind(Address(ip, 0))
        settings = Settings(
            name,
            sockets.address,
            (key,),
            tags={"version": "1"},
            profile=profile,
            epoch=random.getrandbits(32),
            accepts_loopback=True,
        )
        self.thread = GossipThread(
            lambda: Engine(settings, rng=random.Random(), nonce=lambda: os.urandom(12)),
            sockets,
            on_effects=self.told.extend,
            on_crash=lambda fault: self.told.append(fault),  # type: ignore[arg-type]
            peers=peers,
        )

    async def states(self) -> dict[str, str]:
        return {each.name: each.state.name for each in await self.thread.members()}

    def of(self, kind: type[Effect]) -> list[Effect]:
        return [each for each in self.told if type(each) is kind]

    def changes(self, name: str) -> list[str]:
        return [
            each.change.value
            for each in self.told
            if isinstance(each, MemberChanged) and each.member.name == name
        ]


@asynccontextmanager
async def running(count: int, ip: str = "127.0.0.", profile: Profile = PATIENT) -> AsyncIterator[list[Node]]:
    nodes: list[Node] = []
    try:
        for i in range(count):
            peers = [str(n.thread.address) for n in nodes[:1]]
            node = Node(f"n{i}", f"{ip}{i + 2}" if "." in ip else ip, peers, profile=profile)
            await node.thread.start()
            nodes.append(node)
        await eventually(nodes, lambda states: list(states.values()) == ["ALIVE"] * count)
        yield nodes
    finally:
        for node in nodes:
            await node.thread.stop()


async def eventually(
    nodes: Sequence[Node], holds: Callable[[dict[str, str]], bool], within_s: float = 60.0
) -> None:
    states: list[dict[str, str]] = []
    try:
        async with asyncio.timeout(within_s):
            while not states or not all(map(holds, states)):
                states = [await node.states() for node in nodes]
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {within_s} s: {states}") from None


@pytest.mark.parametrize("ip", ["127.0.0.", pytest.param(LOOPBACK6, marks=needs_ipv6)])
async def test_three_nodes_share_what_one_says(ip: str) -> None:
    async with running(3, ip) as nodes:
        one, *others = nodes
        assert await one.thread.put(Kind.BLOCK, b"203.0.113.9", b"until", 600.0)
        await one.thread.send_event("deployed", b"v2")
        await one.thread.tell(NoticeKind.MAILBOX, b"ann/INBOX/7")
        for node in others:
            await until(lambda node=node: all(node.of(k) for k in (FactChanged, UserEvent, NoticeHeard)))  # type: ignore[misc]
            (fact,) = node.of(FactChanged)
            assert isinstance(fact, FactChanged)
            assert (fact.origin, fact.key, fact.value) == ("n0", b"203.0.113.9", b"until")
        assert (await one.thread.figures())["engine_faults"] == 0

        async def all_alive() -> bool:  # who is slow may be suspected for a moment
            return (await one.thread.figures())["members_alive"] == 3

        await until(all_alive)


async def test_a_query_is_answered_by_another_node() -> None:
    async with running(2) as (asking, answering):
        number = await asking.thread.ask("uptime", b"", timeout_s=60.0, nodes=["n1"])
        await until(lambda: answering.of(QueryAsked))
        (asked,) = answering.of(QueryAsked)
        assert isinstance(asked, QueryAsked)
        await answering.thread.respond(asked.token, b"an hour")
        await until(lambda: asking.of(QueryAnswered))
        answer = asking.of(QueryAnswered)[0]
        assert answer == QueryAnswered(number, "n1", b"an hour")


async def test_one_leaves_another_vanishes() -> None:
    async with running(3, profile=QUICK) as nodes:
        first, leaving, vanishing = nodes
        assert await leaving.thread.leave(60.0)
        await leaving.thread.stop()
        await eventually([first, vanishing], lambda states: states["n1"] == "LEFT")
        await vanishing.thread.stop()
        await eventually([first], lambda states: states["n2"] == "DEAD")
        assert first.changes("n1")[-1] == "left"
        assert first.changes("n2")[-2:] == ["suspected", "failed"]


async def test_a_crashed_thread_comes_back_under_its_name() -> None:
    async with running(2) as (staying, crashing):

        def crash() -> None:
            raise MemoryError

        crashing.thread.post(lambda engine, at: asyncio.get_running_loop().call_soon(crash))
        await until(lambda: not crashing.thread.is_running)
        await crashing.thread.start()
        await eventually([staying, crashing], lambda states: list(states.values()) == ["ALIVE", "ALIVE"])


async def test_another_key_stays_outside_and_is_counted() -> None:
    async with running(2) as nodes:
        alien = Node("alien", "127.0.0.9", [str(nodes[0].thread.address)], key=bytes(32))
        await alien.thread.start()
        try:
            async with asyncio.timeout(60):
                while not (await nodes[0].thread.figures())["rejected_key"]:
                    await asyncio.sleep(0.01)
            assert await alien.states() == {"alien": "ALIVE"}
            assert "alien" not in await nodes[0].states()
        finally:
            await alien.thread.stop()
