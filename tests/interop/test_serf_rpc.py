"""Debian's ``serf`` commands and the PyPI client serfclient, talking to a node of ours as to an agent."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from serfclient.client import SerfClient

from cluster.effects import Change, KeysChanged, MemberChanged, QueryAsked, UserEvent
from cluster.messages import State
from tests.support.gossipnode import GossipNode
from tests.support.serfagent import SerfAgent
from tests.support.waiting import until

from .conftest import needs

KEY = bytes(range(9, 41))
NEW_KEY = bytes(range(60, 92))


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.fixture
async def pair() -> AsyncIterator[tuple[GossipNode, GossipNode]]:
    """Two nodes of ours, one cluster."""
    needs("serf")
    async with (
        GossipNode("n1", "127.0.61.1", KEY, tags={"role": "mail"}) as one,
        GossipNode("n2", "127.0.61.2", KEY, tags={"role": "relay"}) as two,
    ):
        assert await one.agent.join([str(two.address)]) == 1
        await until(lambda: has_joined(one, "n2") and has_joined(two, "n1"), "both know both")
        yield one, two


Pair = tuple[GossipNode, GossipNode]


def has_joined(node: GossipNode, name: str) -> bool:
    joined = (effect for effect in node.heard(MemberChanged) if effect.change is Change.JOINED)
    return any(effect.member.name == name for effect in joined)


async def listed(node: GossipNode, *words: str) -> list[dict[str, Any]]:
    output = await node.serf("members", "-format=json", *words)
    found: list[dict[str, Any]] | None = json.loads(output)["members"]
    return found or []


async def answer_queries(node: GossipNode) -> None:
    answered: set[int] = set()
    while True:
        for asked in node.heard(QueryAsked):
            if asked.token not in answered:
                answered.add(asked.token)
                await node.agent.respond(asked.token, f"{asked.payload.decode()} from {node.name}".encode())
        await asyncio.sleep(0.02)


async def test_members(pair: Pair) -> None:
    one, two = pair
    assert [(m["name"], m["addr"], m["status"]) for m in await listed(one)] == [
        ("n1", str(one.address), "alive"),
        ("n2", str(two.address), "alive"),
    ]
    assert [m["name"] for m in await listed(one, "-tag", "role=rel.*")] == ["n2"]
    assert [m["name"] for m in await listed(one, "-name", "n[1x]")] == ["n1"]
    assert await listed(one, "-status", "failed") == []
    assert "Protocol Version: 5" in await one.serf("members", "-detailed")


async def test_info(pair: Pair) -> None:
    stats = json.loads(await pair[0].serf("info", "-format=json"))
    assert stats["agent"]["name"] == "n1"
    assert stats["serf"]["alive"] == "2"
    assert stats["tags"]["role"] == "mail"


async def test_event(pair: Pair) -> None:
    one, two = pair
    await one.serf("event", "-coalesce=false", "deploy", "v7")
    await until(lambda: two.heard(UserEvent), "heard by the other")
    (event,) = two.heard(UserEvent)
    assert (event.name, event.payload, event.may_coalesce) == ("deploy", b"v7", False)


async def test_query(pair: Pair) -> None:
    tasks = [asyncio.create_task(answer_queries(node)) for node in pair]
    try:

        async def said(*words: str) -> dict[str, Any]:
            found: dict[str, Any] = json.loads(
                await pair[0].serf("query", "-format=json", "-timeout=1s", *words)
            )
            return found

        async def has(key: str, wanted: object, *words: str) -> bool:
            """Nobody but them; who is later than a second is asked again."""
            return (await said(*words))[key] == wanted

        both = {"n1": "now from n1", "n2": "now from n2"}
        await until(lambda: has("Responses", both, "load", "now"))
        await until(lambda: has("Acks", ["n2"], "-node=n2", "load", "x"))
        await until(lambda: has("Responses", {"n1": "x from n1"}, "-tag=role=^m", "-no-ack", "load", "x"))
    finally:
        for task in tasks:
            task.cancel()


async def test_reachability_and_round_trip(pair: Pair) -> None:
    async def is_reached() -> bool:
        """In the time that the command gives."""
        said = await pair[0].serf("reachability", is_checked=False)
        return "Successfully contacted all live nodes" in said

    await until(is_reached)
    await until(lambda: estimate(pair[0]), "an estimate after the first probe")


async def estimate(node: GossipNode) -> bool:
    found = re.search(r"rtt: ([0-9.]+) ms", await node.serf("rtt", "n2", is_checked=False))
    return found is not None and 0 < float(found[1]) < 1000


async def test_keys_are_rotated(pair: Pair) -> None:
    one, two = pair

    async def is_done(step: str) -> bool:
        """By both, in the time that they have; to do it again changes nothing."""
        return "Success" in await one.serf("keys", step, is_checked=False)

    for step in (f"-install={text(NEW_KEY)}", f"-use={text(NEW_KEY)}", f"-remove={text(KEY)}"):
        await until(lambda step=step: is_done(step))  # type: ignore[misc]

    async def both_have_it() -> bool:
        return f"{text(NEW_KEY)} [2/2]" in " ".join((await two.serf("keys", "-list")).split())

    await until(both_have_it)
    assert text(KEY) not in await two.serf("keys", "-list")
    await until(lambda: two.heard(KeysChanged)[-1].keys == (NEW_KEY,), "the owner was told")


async def test_what_keys_refuse_is_shown(pair: Pair) -> None:
    async def both_refuse() -> bool:
        output = await pair[0].serf("keys", f"-remove={text(KEY)}", is_checked=False)
        return "primary key cannot be removed" in output and "2/2 nodes reported failure" in output

    await until(both_refuse)


async def test_keys_that_only_configuration_may_change() -> None:
    needs("serf")
    async with GossipNode("n1", "127.0.61.3", KEY, allows_remote_keys=False) as node:
        output = await node.serf("keys", f"-install={text(NEW_KEY)}", is_checked=False)
        assert "changed by its configuration only" in output


async def test_tags(pair: Pair) -> None:
    one, two = pair
    await one.serf("tags", "-set", "dc=west", "-delete", "role")

    async def is_seen() -> bool:
        return any(m["tags"].get("dc") == "west" and "role" not in m["tags"] for m in await listed(two))

    await until(is_seen, "seen by the other")
    assert all("sora" in m["tags"] for m in await listed(two))


async def test_monitor_shows_the_log(pair: Pair) -> None:
    process = await asyncio.create_subprocess_exec(
        "serf", "monitor", f"-rpc-addr={pair[0].rpc}", "-log-level=warn", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        logger = logging.getLogger("sora.test")
        async with asyncio.timeout(60):
            while True:
                logger.warning("the word is %s", "swordfish")
                try:
                    async with asyncio.timeout(0.2):
                        line = await process.stdout.readline()
                except TimeoutError:
                    continue
                if b"[WARN] test: the word is swordfish" in line:
                    break
    finally:
        process.terminate()
        await process.wait()


async def test_join_leave_and_force_leave_with_an_agent() -> None:
    needs("serf")
    with ExitStack() as stack:
        agent = stack.enter_context(SerfAgent("agent", "127.0.61.9", KEY))
        async with GossipNode("n1", "127.0.61.4", KEY) as node:
            output = await node.serf("join", agent.address)
            assert "contacting 1 nodes" in output
            await until(lambda: has_joined(node, "agent"), "joined")
            agent.kill()
            await until(lambda: state_of(node, "agent", State.DEAD), "failed")
            await node.serf("force-leave", "agent")
            await until(lambda: state_of(node, "agent", State.LEFT), "left")
            again = await asyncio.to_thread(SerfAgent, "agent", "127.0.61.9", KEY, address=agent.address)
            stack.enter_context(again)
            assert "contacting 1 nodes" in await node.serf("join", agent.address)
            await until(lambda: state_of(node, "agent", State.ALIVE), "back")
            assert "Graceful leave complete" in await node.serf("leave")
            assert await asyncio.to_thread(again.states) == {"agent": "alive", "n1": "left"}


async def state_of(node: GossipNode, name: str, state: State) -> bool:
    return any(member.name == name and member.state is state for member in await node.agent.members())


async def test_a_join_that_fails_says_why() -> None:
    needs("serf")
    async with GossipNode("n1", "127.0.61.5", KEY) as node:
        output = await node.serf("join", "127.0.61.99:1", is_checked=False)
        assert "127.0.61.99:1" in output


async def test_auth_key() -> None:
    needs("serf")
    async with GossipNode("n1", "127.0.61.6", KEY, auth_key="open sesame") as node:
        assert "Authentication required" in await node.serf("members", is_checked=False)
        assert "Invalid authentication" in await node.serf("members", "-rpc-auth=wrong", is_checked=False)
        assert "n1" in await node.serf("members", "-rpc-auth=open sesame")


# --- serfclient ---


async def test_serfclient(pair: Pair) -> None:
    one, two = pair

    def use() -> None:
        client = SerfClient(host=one.rpc.ip, port=one.rpc.port)
        members = client.members().body["Members"]
        assert [(m["Name"], m["Status"], m["Port"]) for m in members] == [
            ("n1", "alive", one.address.port),
            ("n2", "alive", two.address.port),
        ]
        assert [m["Name"] for m in client.members(tags={"role": "relay"}).body["Members"]] == ["n2"]
        assert client.stats().body["agent"]["name"] == "n1"
        assert client.event("py", "payload").head == {"Seq": 4, "Error": ""}
        assert client.force_leave("nobody").head["Error"] == ""
        assert client.join(str(two.address)).body == {"Num": 1}
        client.close()

    await asyncio.to_thread(use)
    await until(
        lambda: [event.payload for event in two.heard(UserEvent)] == [b"payload"], "heard by the other"
    )


async def test_serfclient_streams_events(pair: Pair) -> None:
    one, two = pair

    def listen() -> dict[str, Any]:
        client = SerfClient(host=one.rpc.ip, port=one.rpc.port)
        stream = client.stream("user:wanted")
        asyncio.run_coroutine_threadsafe(tell(), loop).result(60)
        found: dict[str, Any] = next(stream.body).body
        client.close()
        return found

    async def tell() -> None:
        await two.agent.send_event("other", b"", may_coalesce=False)
        await two.agent.send_event("wanted", b"\xff", may_coalesce=False)

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        record = await asyncio.to_thread(listen)
    assert (record["Event"], record["Name"], record["Payload"]) == ("user", "wanted", b"\xff")
