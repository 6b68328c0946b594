from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cluster.address import Address
from cluster.effects import Change, MemberChanged, QueryAsked, UserEvent
from cluster.rpc import RpcServer
from cluster.serf.keyqueries import KeyAnswer
from tests.support.ipv6 import needs_ipv6
from tests.support.ports import LOOPBACK6
from tests.support.waiting import until

from .agents import Client, FakeAgent, connected, member, serving

KEY = base64.b64encode(bytes(32)).decode()


def ok(seq: int) -> dict[str, Any]:
    return {"Seq": seq, "Error": ""}


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def client(agent: FakeAgent) -> AsyncIterator[Client]:
    async with serving(agent) as (_, address), connected(address) as client:
        yield client


async def test_members(client: Client) -> None:
    assert await client.call(1, "members") == ok(1)
    listed = (await client.read())["Members"]
    assert [(one["Name"], one["Status"]) for one in listed] == [
        ("a1", "alive"),
        ("b2", "alive"),
        ("b3", "failed"),
        ("c4", "left"),
        ("c5", "leaving"),
    ]
    assert listed[0] == {
        "Name": "a1",
        "Addr": b"\x0a\x00\x00\x01",
        "Port": 7946,
        "Tags": {"role": "a"},
        "Status": "alive",
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 5,
    }


async def test_members_filtered(client: Client) -> None:
    assert await client.call(
        1, "members-filtered", {"Tags": {"role": "b"}, "Status": None, "Name": ""}
    ) == ok(1)
    assert [one["Name"] for one in (await client.read())["Members"]] == ["b2", "b3"]
    reply = await client.call(2, "members-filtered", {"Name": "("})
    assert reply["Error"]
    assert await client.read() == {}


async def test_stats_are_texts(client: Client) -> None:
    assert await client.call(1, "stats") == ok(1)
    stats = await client.read()
    assert stats["agent"] == {"name": "a1"}
    assert stats["tags"] == {"role": "a"}
    assert stats["serf"] == {
        "encrypted": "true",
        "members": "5",
        "alive": "2",
        "leaving": "1",
        "left": "1",
        "failed": "1",
        "packets_sent": "7",
        "round_trip_s": "0.00123457",
    }


@pytest.mark.parametrize(
    ("command", "body", "done", "reply"),
    [
        ("event", {"Name": "e", "Payload": b"x", "Coalesce": True}, ("event", "e", b"x", True), None),
        ("event", {"Name": "e", "Payload": None}, ("event", "e", b"", False), None),
        ("event", {"Name": "e", "Payload": "text"}, ("event", "e", b"text", False), None),
        ("join", {"Existing": ["a", "b:1"], "Replay": False}, ("join", ["a", "b:1"]), {"Num": 2}),
        ("force-leave", {"Node": "b3", "Prune": True}, ("force-leave", "b3", True), None),
        ("leave", None, ("leave",), None),
        ("tags", {"Tags": {"a": "b"}, "DeleteTags": ["c"]}, ("tags", {"a": "b"}, ["c"]), None),
        ("tags", {"Tags": None, "DeleteTags": None}, ("tags", {}, []), None),
    ],
)
async def test_commands_reach_the_agent(
    client: Client, agent: FakeAgent, command: str, body: object, done: tuple[object, ...], reply: object
) -> None:
    assert await client.call(5, command, body) == ok(5)
    assert agent.done == [done]
    if reply is not None:
        assert await client.read() == reply
    assert await client.call(6, "stop", {"Stop": 99}) == ok(6)  # nothing else was said


@pytest.mark.parametrize(
    ("command", "body", "has_body"),
    [
        ("event", {"Name": "e"}, False),
        ("join", {"Existing": ["a"]}, True),
        ("leave", None, False),
        ("query", {"Name": "q"}, False),
        ("list-keys", None, True),
    ],
)
async def test_what_the_agent_refuses_is_told(
    client: Client, agent: FakeAgent, command: str, body: object, has_body: bool
) -> None:
    agent.refusal = "not now"
    assert await client.call(5, command, body) == {"Seq": 5, "Error": "not now"}
    if has_body:
        assert isinstance(await client.read(), dict)
    assert await client.call(6, "stop", {"Stop": 99}) == ok(6)


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("event", {"Name": 5}),
        ("event", {"Name": "e", "Coalesce": "yes"}),
        ("tags", {"Tags": ["x"]}),
        ("tags", {"DeleteTags": {"x": "y"}}),
        ("tags", {"Tags": {"x": 5}}),
        ("query", {"Name": "q", "Timeout": -1}),
        ("stream", {"Type": "nope"}),
        ("monitor", {"LogLevel": "loud"}),
        ("event", {"Name": "e" * 3000}),
    ],
)
async def test_wrong_arguments_are_errors_and_the_connection_goes_on(
    client: Client, agent: FakeAgent, command: str, body: object
) -> None:
    assert (await client.call(5, command, body))["Error"]
    assert agent.done == []
    assert await client.call(6, "stop", {"Stop": 99}) == ok(6)


# --- streams ---


async def test_stream_of_events(client: Client, agent: FakeAgent) -> None:
    assert await client.call(7, "stream", {"Type": "member-failed,user:deploy,query"}) == ok(7)
    for name in ("other", "deploy"):
        agent.tell(UserEvent(3, name, b"\xff", True))
    agent.tell(MemberChanged(Change.JOINED, agent.held[0]))
    agent.tell(MemberChanged(Change.FAILED, agent.held[2]))
    agent.tell(MemberChanged(Change.SUSPECTED, agent.held[2]))
    agent.tell(QueryAsked(41, "uptime", b"?", "b2", 9.0, 8))
    assert await client.read() == ok(7)
    assert await client.read() == {
        "Event": "user", "LTime": 3, "Name": "deploy", "Payload": b"\xff", "Coalesce": True,
    }  # fmt: skip
    assert await client.read() == ok(7)
    event = await client.read()
    assert (event["Event"], [one["Name"] for one in event["Members"]]) == ("member-failed", ["b3"])
    assert await client.read() == ok(7)
    assert await client.read() == {"Event": "query", "ID": 41, "LTime": 8, "Name": "uptime", "Payload": b"?"}
    assert await client.call(8, "respond", {"ID": 41, "Payload": b"42"}) == ok(8)
    assert agent.done == [("respond", 41, b"42")]
    assert (await client.call(9, "respond", {"ID": 41, "Payload": b"42"}))[
        "Error"
    ] == "No pending queries matching ID"


async def test_a_stopped_stream_says_no_more(client: Client, agent: FakeAgent) -> None:
    await client.call(7, "stream", {"Type": "*"})
    assert (await client.call(7, "stream", {"Type": "*"}))["Error"] == "Stream with given sequence exists"
    assert await client.call(8, "stop", {"Stop": 7}) == ok(8)
    agent.tell(UserEvent(3, "e", b"", True))
    assert await client.call(9, "stop", {"Stop": 7}) == ok(9)


async def test_streams_are_bounded(client: Client) -> None:
    for seq in range(16):
        assert await client.call(seq + 10, "stream", {"Type": "*"}) == ok(seq + 10)
    assert "16 streams" in (await client.call(99, "stream", {"Type": "*"}))["Error"]


async def test_queries_are_streamed_to_their_end(client: Client, agent: FakeAgent) -> None:
    body = {
        "Name": "uptime", "Payload": b"?", "Timeout": 2_500_000_000, "RequestAck": True, "RelayFactor": 2,
        "FilterNodes": ["b2"], "FilterTags": {"role": "b"},
    }  # fmt: skip
    assert await client.call(3, "query", body) == ok(3)
    assert agent.done == [("ask", "uptime", b"?", 2.5, ["b2"], {"role": "b"}, True)]
    records = []
    for _ in range(7):
        assert await client.read() == ok(3)
        record = await client.read()
        records.append((record["Type"], record["From"], record["Payload"]))
    assert records[:2] == [("ack", "a1", None), ("response", "a1", b"from a1")]
    assert records[-1] == ("done", "", None)


async def test_queries_of_serf_itself_are_not_for_clients_but_ping(client: Client, agent: FakeAgent) -> None:
    assert "prefix" in (await client.call(3, "query", {"Name": "_serf_use-key"}))["Error"]
    assert await client.call(4, "query", {"Name": "_serf_ping"}) == ok(4)
    assert [done[1] for done in agent.done] == ["_serf_ping"]


async def test_monitor(client: Client) -> None:
    assert await client.call(3, "monitor", {"LogLevel": "warn"}) == ok(3)
    assert (await client.call(4, "monitor", {"LogLevel": "warn"}))["Error"] == "Monitor already exists"
    logger = logging.getLogger("sora.cluster")
    logger.info("too quiet")
    logger.warning("n%d is gone", 3)
    assert await client.read() == ok(3)
    line = (await client.read())["Log"]
    assert line.endswith("[WARN] cluster: n3 is gone")
    assert await client.call(5, "stop", {"Stop": 3}) == ok(5)
    logger.error("nobody listens")
    assert await client.call(6, "stop", {"Stop": 3}) == ok(6)


async def test_a_monitor_ends_with_its_client(agent: FakeAgent) -> None:
    before = list(logging.getLogger("sora").handlers)
    async with serving(agent) as (_, address):
        async with connected(address) as client:
            await client.call(3, "monitor", {"LogLevel": "debug"})
            assert len(agent.listeners) == 1
        await until(lambda: not agent.listeners)
        assert logging.getLogger("sora").handlers == before


# --- keys ---


async def test_key_commands_count_all_answers(client: Client, agent: FakeAgent) -> None:
    for seq, command in enumerate(("install-key", "use-key", "remove-key"), 1):
        assert await client.call(seq, command, {"Key": KEY}) == ok(seq)
        report = await client.read()
        assert (report["NumNodes"], report["NumResp"], report["NumErr"]) == (3, 3, 0)
    assert [done[1] for done in agent.done] == ["_serf_install-key", "_serf_use-key", "_serf_remove-key"]
    assert await client.call(9, "list-keys") == ok(9)
    report = await client.read()
    assert (report["Keys"], report["PrimaryKeys"]) == ({"S0VZ": 3}, {"S0VZ": 3})


async def test_failures_of_members_are_told_with_their_words(client: Client, agent: FakeAgent) -> None:
    agent.key_answer = KeyAnswer(False, "changed by configuration only")
    reply = await client.call(1, "install-key", {"Key": KEY})
    assert reply["Error"] == "3/3 nodes reported failure"
    report = await client.read()
    assert report["NumErr"] == 3
    assert report["Messages"] == dict.fromkeys(("a1", "b2", "c5"), "changed by configuration only")


async def test_members_that_do_not_answer_are_told(client: Client, agent: FakeAgent) -> None:
    agent.held.append(member("d6", 6))
    assert (await client.call(1, "list-keys"))["Error"] == "3/4 nodes reported success"
    assert (await client.read())["NumResp"] == 3


@pytest.mark.parametrize("key", ["", "not base64!", base64.b64encode(bytes(31)).decode()])
async def test_what_is_no_key_is_not_sent_to_anybody(client: Client, agent: FakeAgent, key: str) -> None:
    assert (await client.call(1, "install-key", {"Key": key}))["Error"]
    assert agent.done == []


# --- coordinates ---


async def test_coordinates(client: Client) -> None:
    assert await client.call(1, "get-coordinate", {"Node": "b2"}) == ok(1)
    found = await client.read()
    assert found["Ok"] is True
    assert found["Coord"]["Vec"] == [0.0] * 8
    await client.call(2, "get-coordinate", {"Node": "nobody"})
    assert (await client.read())["Ok"] is False


# --- the door ---


@pytest.mark.parametrize("ip", ["0.0.0.0", "192.0.2.1", "::"])
async def test_only_loopback_without_a_key(agent: FakeAgent, ip: str) -> None:
    with pytest.raises(ValueError, match="auth key"):
        await RpcServer(agent).start(Address(ip, 0))


async def test_with_a_key_nothing_goes_without_it(agent: FakeAgent) -> None:
    async with serving(agent, auth_key="secret") as (_, address), connected(address) as client:
        assert (await client.call(1, "members"))["Error"] == "Authentication required"
        assert (await client.call(2, "auth", {"AuthKey": "Secret"}))[
            "Error"
        ] == "Invalid authentication token"
        assert await client.call(3, "auth", {"AuthKey": "secret"}) == ok(3)
        assert await client.call(4, "members") == ok(4)


async def test_connections_are_bounded(agent: FakeAgent) -> None:
    async with serving(agent, max_connections=2) as (server, address):
        async with connected(address), connected(address), connected(address, handshake=False) as third:
            assert await third.read() is None
            assert server.refused == 1
        await until(lambda: not agent.listeners)
        async with connected(address) as fourth:
            assert await fourth.call(1, "members") == ok(1)


async def test_who_breaks_the_framing_is_closed_and_others_are_not(agent: FakeAgent) -> None:
    async with serving(agent) as (_, address), connected(address) as good:
        async with connected(address) as bad:
            await bad.send_raw(b"\xc1\xc1")
            assert await bad.read() is None
        async with connected(address, handshake=False) as early:
            assert (await early.call(1, "members"))["Error"] == "Handshake required"
            assert await early.read() is None
        assert await good.call(1, "members") == ok(1)


async def test_who_says_nothing_is_closed(agent: FakeAgent) -> None:
    silent = serving(agent, handshake_timeout_s=0.0)
    async with silent as (_, address), connected(address, handshake=False) as client:
        assert await client.read() is None


async def test_a_client_that_does_not_read_loses_records_not_our_memory(agent: FakeAgent) -> None:
    async with serving(agent) as (server, address), connected(address) as client:
        await client.call(1, "stream", {"Type": "*"})
        for number in range(30_000):
            agent.tell(UserEvent(number, "e", bytes(500), False))
        (task,) = server._tasks
        assert not task.done()
        count = 0
        while count < 100:
            assert await client.read() == ok(1)
            assert (await client.read())["LTime"] == count
            count += 1


async def test_stopping_closes_everything(agent: FakeAgent) -> None:
    server = RpcServer(agent)
    address = await server.start(Address("127.0.0.1", 0))
    async with connected(address) as client:
        await server.stop()
        assert await client.read() is None
    assert agent.listeners == []
    await server.stop()
    with pytest.raises(OSError):
        await asyncio.open_connection(address.ip, address.port)


@needs_ipv6
async def test_ipv6_loopback_is_loopback(agent: FakeAgent) -> None:
    server = RpcServer(agent)
    address = await server.start(Address(LOOPBACK6, 0))
    async with connected(address) as client:
        assert await client.call(1, "stats") == ok(1)
    await server.stop()
