"""Names in use twice, relays, and filters of tags, together with Debian's agents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cluster.effects import NameConflict, QueryAsked
from tests.support.gossipnode import GossipNode
from tests.support.serfagent import SerfAgent
from tests.support.waiting import eventually, until

from .conftest import needs

KEY = bytes(range(11, 43))


@pytest.fixture
def agents() -> Iterator[list[SerfAgent]]:
    """Three of one cluster: agent1, agent2, agent3."""
    needs("serf")
    with ExitStack() as stack:
        found = [
            stack.enter_context(SerfAgent(f"agent{n}", f"127.0.62.{n}", KEY, tags=[f"zone=z{n}"]))
            for n in (1, 2, 3)
        ]
        for agent in found[1:]:
            agent.run("join", found[0].address)
        eventually(lambda: len(found[0].states()) == 3, what="sees all")
        yield found


def acks(output: str) -> list[str]:
    return sorted(json.loads(output)["Acks"] or ())


async def said(agent: SerfAgent, *words: str) -> str:
    return (await asyncio.to_thread(agent.run, *words)).stdout


async def test_a_name_that_an_agent_has_is_lost_to_the_newcomer(agents: list[SerfAgent]) -> None:
    async with GossipNode("agent1", "127.0.62.11", KEY) as node:
        await node.agent.join([agents[1].address])
        await until(lambda: any(c.is_lost for c in node.heard(NameConflict)), "lost")
    everybody = {f"agent{n}": "alive" for n in (1, 2, 3)}
    await asyncio.to_thread(eventually, lambda: agents[1].states() == everybody, what="undisturbed")
    assert agents[0].process is not None
    assert agents[0].process.poll() is None


async def test_an_agent_with_our_name_goes_and_we_stay(agents: list[SerfAgent]) -> None:
    async with GossipNode("ours", "127.0.62.12", KEY) as node:
        await node.agent.join([agents[0].address])
        await asyncio.to_thread(eventually, lambda: "ours" in agents[2].states(), what="ours")
        with SerfAgent("ours", "127.0.62.13", KEY) as other:
            peer = agents[2].address
            await asyncio.to_thread(other.run, "join", peer, check=False)
            assert other.process is not None
            await until(lambda: other.process is not None and other.process.poll() is not None, "gone")
        assert not any(conflict.is_lost for conflict in node.heard(NameConflict))


async def test_answers_are_relayed_by_our_node(agents: list[SerfAgent]) -> None:
    async with GossipNode("ours", "127.0.62.14", KEY) as node:
        await node.agent.join([agents[0].address])
        await asyncio.to_thread(eventually, lambda: len(agents[0].states()) == 4, what="all four")

        async def relays() -> bool:
            await said(agents[0], "query", "-relay-factor=2", "-timeout=1s", "ping")
            return (await node.agent.figures())["serf_relayed"] > 0

        await until(relays, "relayed")

        async def all_answer() -> bool:
            """In the time that they have."""
            words = ("query", "-format=json", "-relay-factor=2", "-timeout=1s", "ping")
            return acks(await said(agents[0], *words)) == ["agent1", "agent2", "agent3", "ours"]

        await until(all_answer, "answers of all")


async def test_filters_mean_the_same_on_both_sides(agents: list[SerfAgent]) -> None:
    async with GossipNode("ours", "127.0.62.15", KEY, tags={"zone": "z7"}) as node:
        await node.agent.join([agents[0].address])
        await asyncio.to_thread(eventually, lambda: len(agents[0].states()) == 4, what="all four")
        for expression, expected in {
            "z[17]": ["agent1", "ours"],
            "^z": ["agent1", "agent2", "agent3", "ours"],
            "7$": ["ours"],
            r"z(1|\d{1})$": ["agent1", "agent2", "agent3", "ours"],
            "[^7]$": ["agent1", "agent2", "agent3"],
            "(?i)Z3": ["agent3"],
        }.items():
            words = ("query", "-format=json", "-timeout=1s", "-tag", f"zone={expression}", "who")

            async def mean_the_same(words: tuple[str, ...] = words, expected: list[str] = expected) -> bool:
                """Nobody else answers; who should does, in the time that there is, now or the next time."""
                from_agent, from_ours = await asyncio.gather(said(agents[0], *words), node.serf(*words))
                both = acks(from_agent), acks(from_ours)
                assert set(both[0]) | set(both[1]) <= set(expected)
                return both == (expected, expected)

            await until(mean_the_same, expression)
        assert {asked.name for asked in node.heard(QueryAsked)} == {"who"}
