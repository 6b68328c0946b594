"""What the RPC relies on, of the fake agent that its tests use and of the one over a running engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cluster.effects import Effect, QueryAnswered, UserEvent
from cluster.rpc import Agent, AgentRefused
from tests.support.gossipnode import GossipNode
from tests.support.waiting import until

from .agents import FakeAgent

KEY = bytes(range(32))


@pytest.fixture(params=["fake", "gossip"])
async def agent(request: pytest.FixtureRequest) -> AsyncIterator[Agent]:
    if request.param == "fake":
        yield FakeAgent()
        return
    async with GossipNode("a1", "127.0.0.1", KEY, tags={"role": "a"}) as node:
        await until(lambda: node.told, "started")
        yield node.agent


async def ask(agent: Agent, name: str = "uptime") -> int:
    return await agent.ask(name, b"?", timeout_s=0.2, nodes=(), tags={}, wants_ack=True)


async def test_this_node_is_among_its_members(agent: Agent) -> None:
    assert agent.name in [member.name for member in await agent.members()]


async def test_events_are_heard_here_until_nobody_listens(agent: Agent) -> None:
    told: list[Effect] = []
    unsubscribe = agent.subscribe(told.append)
    await agent.send_event("e", b"1", may_coalesce=True)
    await until(lambda: told, "heard")
    (event,) = told
    assert isinstance(event, UserEvent)
    assert (event.name, event.payload, event.may_coalesce) == ("e", b"1", True)
    unsubscribe()
    unheard = agent.subscribe(lambda effect: None)
    await agent.send_event("e", b"2", may_coalesce=True)
    await asyncio.sleep(0)
    unheard()
    assert told == [event]


async def test_a_number_is_known_before_its_first_answer(agent: Agent) -> None:
    told: list[Effect] = []
    agent.subscribe(told.append)
    number = await ask(agent)
    assert not [effect for effect in told if isinstance(effect, QueryAnswered)]
    await until(lambda: any(isinstance(one, QueryAnswered) and one.is_over for one in told), "over")
    answers = [effect for effect in told if isinstance(effect, QueryAnswered)]
    assert {answer.query for answer in answers} == {number}
    assert [answer.is_over for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert ("a1", None) in [(answer.node, answer.payload) for answer in answers]


async def test_numbers_differ(agent: Agent) -> None:
    assert await ask(agent) != await ask(agent)


async def test_tags_are_dropped_then_set(agent: Agent) -> None:
    await agent.change_tags({"zone": "z"}, ["role", "absent"])
    own = next(member for member in await agent.members() if member.name == agent.name)
    assert own.tags["zone"] == "z"
    assert "role" not in own.tags
    await agent.change_tags({}, [])
    again = next(member for member in await agent.members() if member.name == agent.name)
    assert again.tags == own.tags


async def test_what_does_not_work_is_refused_in_words(agent: Agent) -> None:
    with pytest.raises(AgentRefused, match="No pending"):
        await agent.respond(987_654, b"")
    with pytest.raises(AgentRefused, match=r"too long|512 bytes"):
        await agent.send_event("e", bytes(5000), may_coalesce=False)


async def test_a_stranger_is_not_made_to_leave(agent: Agent) -> None:
    assert await agent.force_leave("stranger", prune=False) is False


async def test_coordinates_of_this_node_and_of_nobody(agent: Agent) -> None:
    assert await agent.coordinate(agent.name) is not None
    assert await agent.coordinate("nobody") is None


async def test_figures_are_numbers(agent: Agent) -> None:
    figures = await agent.figures()
    assert figures
    assert all(isinstance(value, int | float) for value in figures.values())


# --- over the engine ---


async def test_nodes_join_and_a_join_that_fails_says_where() -> None:
    async with GossipNode("a", "127.0.0.1", KEY) as one, GossipNode("b", "127.0.0.1", KEY) as two:
        assert await one.agent.join([str(two.address)]) == 1
        await until(lambda: len([m for m in one.told if "JOINED" in str(m)]) >= 2, "joined")
        with pytest.raises(AgentRefused, match="none of these"):
            await one.agent.join([str(one.address)])
        with pytest.raises(AgentRefused, match="not an address"):
            await one.agent.join(["[::"])


async def test_another_key_is_no_member() -> None:
    async with GossipNode("a", "127.0.0.1", KEY) as one, GossipNode("b", "127.0.0.1", bytes(32)) as two:
        with pytest.raises(AgentRefused, match=str(two.address.port)):
            await one.agent.join([str(two.address)])


async def test_without_its_thread_everything_is_refused() -> None:
    node = GossipNode("a", "127.0.0.1", KEY)
    async with node:
        pass
    for refused in (node.agent.members(), node.agent.figures(), ask(node.agent), node.agent.leave()):
        with pytest.raises(AgentRefused, match="not available"):
            await refused
