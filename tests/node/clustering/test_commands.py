"""What the control socket answers about the cluster."""

from __future__ import annotations

import asyncio
import base64
import socket
from typing import Any

import pytest

from cluster.address import Address
from cluster.effects import Change, Joined, MemberChanged, NameConflict
from cluster.facts import Kind
from cluster.messages import State
from cluster.serf.keyqueries import KeyAnswer, encode_key_answer
from node.clustering import report
from node.clustering.commands import cluster_commands
from node.clustering.keyfile import key_name
from node.clustering.lately import LATELY_S
from node.clustering.others import OtherNodes
from node.clustering.service import CONFLICT_LASTS_S
from node.clustering.wire import pack
from node.config import Config
from node.control import ControlRefused
from node.controlconnections import connection_commands, kick_for_others, matching_sessions, rows_for_others
from protocols.ports import Goodbye
from tests.support.ipv6 import needs_ipv6

from .cluster import Member, Nodes

OLD = bytes(32)


def ask(member: Member, command: str, **arguments: object) -> Any:
    return asyncio.run(cluster_commands(lambda: member.clustering)[command](arguments))


def test_a_node_without_a_cluster_says_so() -> None:
    with pytest.raises(ControlRefused, match=r"cluster\.enabled is false"):
        asyncio.run(cluster_commands(lambda: None)["cluster.members"]({}))


def test_members_tell_the_truth(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    second.log_in("1", 7)
    asyncio.run(second.clustering._tell_load())
    nodes.cluster.kill("c")
    found = ask(first, "cluster.members")
    states = {each["name"]: each for each in found["members"]}
    assert states["b"]["state"] == "alive"
    assert states["b"]["sessions"] == {"imap": 1}
    assert states["b"]["connections"] == {"imap": 1}
    assert states["b"]["version"] == second.clustering.abouts.own.version
    nodes.cluster.kill("b")
    (failed,) = [each for each in report.members(first.clustering) if each["name"] == "b"]
    assert (failed["state"], failed["version"]) == ("failed", second.clustering.abouts.own.version)
    assert states["a"]["is_self"]
    assert "c" not in states or states["c"]["state"] == "failed"


def test_drift_is_named(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    second.clustering.abouts.own.sections["s3"] = b"other"
    second.clustering.abouts.tell()
    assert ask(first, "cluster.members")["drift"] == {"b": ["s3"]}
    findings = ask(first, "cluster.doctor")["findings"]
    assert any(each["about"] == "b" and "s3" in each["what"] for each in findings)


def test_events_are_numbered(nodes: Nodes) -> None:
    first, *_ = nodes.three()
    events = ask(first, "cluster.events")["events"]
    assert [each["kind"] for each in events].count("joined") == 2
    assert ask(first, "cluster.events", after=events[-1]["number"])["events"] == []
    with pytest.raises(ControlRefused):
        ask(first, "cluster.events", after="x")


def test_leaving_by_command_is_known_and_mail_goes_on(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    assert ask(first, "cluster.leave") == {"node": "a"}
    left = second.clustering.roster.get("a")
    assert left is not None
    assert left.state is State.LEFT
    assert ask(first, "cluster.members")["state"] == "left"
    first.log_in("1", 7)


def test_only_a_failed_member_is_forced_to_leave(nodes: Nodes) -> None:
    first, *_ = nodes.three()
    for name, why in (("x", "no member"), ("b", "is alive")):
        with pytest.raises(ControlRefused, match=why):
            ask(first, "cluster.force_leave", node=name)
    nodes.cluster.kill("b")
    assert ask(first, "cluster.force_leave", node="b", prune=True) == {"node": "b"}


# --- keys ---


def with_keys(nodes: Nodes, *, refusing: str = "") -> tuple[Member, dict[str, list[str]]]:
    """Members that answer key queries as the engine does, and what each was asked to do."""
    members = nodes.three()
    asked: dict[str, list[str]] = {member.gossip.name: [] for member in members}

    def answer(member: Member, step: str) -> bytes:
        asked[member.gossip.name].append(step)
        if member.gossip.name == refusing and step != "_serf_list-keys":
            return encode_key_answer(KeyAnswer(is_done=False, message="not here"))
        key = base64.b64encode(OLD).decode()
        return encode_key_answer(KeyAnswer(is_done=True, keys=(key,), primary=key))

    for member in members:
        for step in ("install-key", "use-key", "remove-key", "list-keys"):
            name = f"_serf_{step}"
            member.clustering.answers[name] = lambda _payload, m=member, n=name: answer(m, n)
    return members[0], asked


def test_keys_are_listed_by_name_only(nodes: Nodes) -> None:
    first, _ = with_keys(nodes)
    found = ask(first, "cluster.keys")
    assert found["own"] == [key_name(OLD)]
    assert found["nodes"]["b"]["keys"] == (key_name(OLD),)
    assert found["nodes"]["a"]["is_done"] is None  # the fake does not ask itself
    assert base64.b64encode(OLD).decode() not in str(found)


def test_nodes_that_are_away_are_named_with_the_keys(nodes: Nodes) -> None:
    first, _ = with_keys(nodes)
    assert ask(first, "cluster.keys")["absent"] == []
    nodes.cluster.kill("c")
    assert ask(first, "cluster.keys")["absent"] == ["c"]
    asyncio.run(nodes.members["b"].gossip.leave(1.0))
    assert ask(first, "cluster.keys")["absent"] == ["b", "c"]


def test_a_rotation_stops_where_a_node_does_not_follow(nodes: Nodes) -> None:
    first, asked = with_keys(nodes, refusing="c")
    found = ask(first, "cluster.keys", step="rotate")
    assert found["stopped_at"] == "install"
    assert found["nodes"]["c"]["message"] == "not here"
    assert asked["b"] == ["_serf_install-key"]
    assert len(base64.b64decode(found["new_key"])) == 32


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"step": "use", "key": "0000"}, "knows no such key"),
        ({"step": "use", "key": ""}, "knows no such key"),
        ({"step": "install", "key": "short"}, "base64|32 bytes"),
        ({"step": "dance"}, "one of"),
    ],
)
def test_keys_that_cannot_be_meant_are_refused(nodes: Nodes, arguments: dict[str, str], why: str) -> None:
    first, asked = with_keys(nodes)
    with pytest.raises(ControlRefused, match=why):
        ask(first, "cluster.keys", **arguments)
    assert not any(asked.values())


def test_a_key_is_meant_by_the_beginning_of_its_name(nodes: Nodes) -> None:
    first, asked = with_keys(nodes)
    assert ask(first, "cluster.keys", step="use", key=key_name(OLD)[:4])["key"] == key_name(OLD)
    assert asked["b"] == ["_serf_use-key"]


# --- sessions of other nodes ---


def commands_of(member: Member) -> Any:
    member.clustering.kicks._kick = kick_for_others(member.sessions)
    others = OtherNodes(member.clustering, rows_for_others(member.sessions))
    return connection_commands(member.sessions, member.wall, others=lambda: others)


def test_sessions_are_listed_on_all_nodes(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    commands = [commands_of(each) for each in (first, second, third)]
    for number in range(40):
        second.log_in(f"session-{number}", 7)
    first.log_in("own", 7)
    arguments = {"user": "user7@example.org", "all_nodes": True}
    found = asyncio.run(commands[0]["connections.list"](arguments))
    assert [each["session"] for each in found["connections"]] == ["own"]
    assert found["nodes"]["c"] == {"total": 0, "connections": []}
    there = found["nodes"]["b"]
    assert there["total"] == 40
    assert 5 < len(there["connections"]) < 40  # what fits into one answer
    assert there["connections"][0]["session"] == "session-0"


def test_sessions_are_ended_on_all_nodes(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.clustering.others.ORDER_TAKES_S", 0.0)
    first, second, third = nodes.three()
    commands = [commands_of(each) for each in (first, second, third)]
    theirs = [second.log_in("1", 7), third.log_in("2", 7)]
    spared = third.log_in("3", 8)
    nodes.pass_by(1)
    found = asyncio.run(commands[0]["connections.kick"]({"user": "user7@example.org"}))
    assert found == {"kicked": [], "nodes": {"b": 1, "c": 1}}
    assert [each.goodbyes for each in theirs] == [[Goodbye.KICKED]] * 2
    assert spared.goodbyes == []
    with pytest.raises(ControlRefused, match="no connection"):
        asyncio.run(commands[0]["connections.kick"]({"user": "nobody@example.org"}))
    with pytest.raises(ControlRefused, match="no connection"):
        asyncio.run(commands[0]["connections.kick"]({"user": "user8@example.org", "this_node": True}))
    assert spared.goodbyes == []


def test_a_session_that_began_after_the_order_is_spared(nodes: Nodes) -> None:
    member = nodes.add("a")
    member.log_in("old", 7)
    nodes.pass_by(10)
    before = nodes.clocks.now - 5
    member.log_in("new", 7)
    assert kick_for_others(member.sessions)({}, before) == 1
    assert len(matching_sessions(member.sessions, {})) == 2
    assert kick_for_others(member.sessions)({"address": "nonsense"}, nodes.clocks.now) == 0


# --- doctor ---


def verdicts(member: Member) -> list[tuple[str, str]]:
    return [(each["verdict"], each["what"]) for each in ask(member, "cluster.doctor")["findings"]]


def test_a_name_used_twice_is_an_error(nodes: Nodes) -> None:
    first, *_ = nodes.three()
    here, there = Address("10.0.0.1", 7946), Address("10.0.0.9", 7946)
    first.clustering.heard(NameConflict("a", here, there))
    assert ("error", f"two nodes have this name: {here} and {there}") in verdicts(first)
    nodes.pass_by(CONFLICT_LASTS_S)
    assert not any("two nodes" in what for _, what in verdicts(first))


def test_who_loses_its_name_goes_without_a_word(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    expelled: list[str] = []
    first.clustering.expelled = lambda: expelled.append("a")
    conflict = NameConflict("a", Address("10.0.0.1", 7946), Address("10.0.0.9", 7946), is_lost=True)
    first.clustering.heard(conflict)
    first.clustering.heard(conflict)
    assert expelled == ["a"]
    assert ask(first, "cluster.members")["state"] == "left"
    asyncio.run(first.clustering.leave())
    seen = second.clustering.roster.get("a")
    assert seen is not None
    assert seen.state is State.ALIVE  # nobody was told that "a" leaves: the other one has that name


def test_members_that_never_answered_a_ping_hint_at_udp(nodes: Nodes) -> None:
    first, *_ = nodes.three()
    assert not any("no ping" in what for _, what in verdicts(first))
    nodes.pass_by(60)
    assert ("error", "alive by hearsay, but no ping was answered") in verdicts(first)


def test_packets_with_another_key_are_explained(nodes: Nodes) -> None:
    first, *_ = nodes.three()
    figures = {"rejected_key": 50, "rejected_stale": 99}

    async def now() -> dict[str, int | float]:
        return dict(figures)

    first.gossip.figures = now  # type: ignore[method-assign]
    assert ("error", "packets that no key of ours opens: 50 lately") in verdicts(first)
    for _ in range(3):  # nothing came since: that node was mended
        first.clustering.lately.note(figures, first.clustering.clock())
        nodes.pass_by(LATELY_S)
    assert not any("key of ours" in what for _, what in verdicts(first))


def test_another_version_and_another_key_are_remarked(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    second.gossip.put(Kind.NODE, {b"node": pack(["9.9", 1.0]), b"config": pack([b"other", {}])}, 60)
    said = verdicts(first)
    assert ("warning", "runs version 9.9") in said
    assert ("warning", "sends with another key than we do") in said


def with_peers(member: Member, *peers: str, own: str = "127.0.0.1:1") -> None:
    from dataclasses import replace

    cluster = replace(member.config.cluster, addr=own, peers=peers)
    member.clustering.config = Config(servers=member.config.servers, cluster=cluster)


def test_a_peer_whose_name_is_unknown_or_that_refuses_is_named(nodes: Nodes) -> None:
    member = nodes.add("a")
    with_peers(member, "no-such-host.invalid:7946", "127.0.0.1:9")
    found = ask(member, "cluster.doctor")
    said = {each["about"]: each for each in found["findings"]}
    assert found["verdict"] == "error"
    assert "cannot be resolved" in said["no-such-host.invalid"]["what"]
    assert "nothing listens on the port" in said["127.0.0.1:9"]["what"]
    assert "sees no other one" in said["members"]["what"]


@pytest.mark.parametrize(
    ("own", "peer"),
    [("127.0.0.1:1", "127.0.0.1:9"), pytest.param("[::1]:1", "[::1]:9", marks=needs_ipv6)],
)
def test_names_are_looked_up_for_the_family_that_this_node_speaks(
    nodes: Nodes, own: str, peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with addresses of both families is no fault of the other one."""
    resolve = socket.getaddrinfo

    def both(host: str, *arguments: Any, **more: Any) -> list[Any]:
        if host != "mail2.example":
            return resolve(host, *arguments, **more)
        family = more.get("family") or arguments[1]
        found = [(socket.AF_INET, ("127.0.0.1", 9)), (socket.AF_INET6, ("::1", 9, 0, 0))]
        return [(each, socket.SOCK_STREAM, 6, "", where) for each, where in found if family in (0, each)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    member = nodes.add("a")
    with_peers(member, "mail2.example:9", own=own)
    found = ask(member, "cluster.doctor")["findings"]
    about = {each["about"] for each in found if "refuses TCP" in each["what"]}
    assert about == {peer}


async def test_a_peer_that_cannot_be_joined_hints_at_its_key(nodes: Nodes) -> None:
    listening = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    member = await asyncio.to_thread(nodes.add, "a")
    with_peers(member, f"127.0.0.1:{port}")

    def join(addresses: list[Address]) -> None:
        member.clustering.heard(Joined(addresses[0], "no answer"))

    member.gossip.join = join  # type: ignore[method-assign, assignment]
    found = await cluster_commands(lambda: member.clustering)["cluster.doctor"]({})
    listening.close()
    (about,) = [each for each in found["findings"] if each["about"] == f"127.0.0.1:{port}"]  # type: ignore[index]
    assert about["verdict"] == "error"
    assert "another secret_key" in about["cure"]


def test_a_failed_member_is_doubtful(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    gone = second.gossip.view(State.DEAD)

    async def members() -> list[Any]:
        return [first.gossip.view(), gone]

    first.gossip.members = members  # type: ignore[method-assign]
    first.clustering.heard(MemberChanged(Change.FAILED, gone))
    assert ("warning", "has failed") in verdicts(first)
