"""Clusters of our nodes and Debian's ``serf agent`` together: each side sees and hears the other."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.support.clusternode import ClusterNode
from tests.support.serfagent import SerfAgent
from tests.support.waiting import eventually

from .conftest import needs

KEY = bytes(range(7, 39))


@dataclass
class Mixed:
    """Two of ours and two agents, all of one cluster."""

    ours: dict[str, ClusterNode] = field(default_factory=dict)
    agents: dict[str, SerfAgent] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def states_everywhere(self) -> dict[str, dict[str, str]]:
        return {
            name: node.states()
            for name, node in (*self.ours.items(), *self.agents.items())
            if node.process.poll() is None
        }

    def all_say(self, name: str, *states: str) -> bool:
        return all(each.get(name) in states for each in self.states_everywhere().values())


def mixed(stack: ExitStack, network: int) -> Mixed:
    """Agents at 127.0.``network``.1 and on, ours at .11 and on; one of each joins by way of the other."""
    needs("serf")
    cluster = Mixed()
    ip = f"127.0.{network}."
    first = stack.enter_context(SerfAgent("agent1", ip + "1", KEY, tags=("role=stranger",)))
    ours1 = stack.enter_context(ClusterNode("ours1", ip + "11", KEY, join=[first.address]))
    second = stack.enter_context(SerfAgent("agent2", ip + "2", KEY, join=[ours1.address]))
    ours2 = stack.enter_context(ClusterNode("ours2", ip + "12", KEY, join=[second.address]))
    cluster.agents |= {"agent1": first, "agent2": second}
    cluster.ours |= {"ours1": ours1, "ours2": ours2}
    names = [*cluster.agents, *cluster.ours]
    eventually(lambda: all(cluster.all_say(n, "alive") for n in names), what="everybody sees everybody")
    cluster.began = time.monotonic()
    return cluster


@pytest.fixture(scope="module")
def quiet() -> Iterator[Mixed]:
    """Idles from the beginning of the module; its test is the last one."""
    with ExitStack() as stack:
        yield mixed(stack, 201)


@pytest.fixture(scope="module")
def busy(quiet: Mixed) -> Iterator[Mixed]:
    with ExitStack() as stack:
        yield mixed(stack, 202)


def test_members_agree_in_every_field_that_the_agent_shows(busy: Mixed) -> None:
    states = busy.agents["agent1"].states
    eventually(lambda: {states().get(name) for name in busy.ours} == {"alive"}, what="it sees ours")
    seen = {each["name"]: each for each in busy.agents["agent1"].members()}
    for name, node in busy.ours.items():
        assert seen[name]["addr"] == node.address
        assert seen[name]["tags"]["sora"]
    detailed = busy.agents["agent2"].run("members", "-detailed").stdout
    assert detailed.count("5") >= 4
    for node in busy.ours.values():
        tags = {each["name"]: each["tags"] for each in node.do("members")}
        assert tags["agent1"] == {"role": "stranger"}


def test_changed_tags_are_seen_by_the_other_side(busy: Mixed) -> None:
    busy.ours["ours1"].do("tags", tags={"sora": "1", "leader": "yes"})
    busy.agents["agent1"].run("tags", "-set", "role=friend")

    def found() -> bool:
        listed = busy.agents["agent2"].run("members", "-tag", "leader=yes").stdout
        tags = {each["name"]: each["tags"] for each in busy.ours["ours2"].do("members")}
        return "ours1" in listed and tags["agent1"] == {"role": "friend"}

    eventually(found, what="the new tags")


def test_user_events_go_both_ways_once(busy: Mixed) -> None:
    begin = time.monotonic()
    busy.agents["agent1"].run("event", "-coalesce=false", "from-agent", "payload of an agent")
    busy.ours["ours1"].do("event", name="from-ours", payload="payload of ours")
    for node in busy.ours.values():
        eventually(lambda node=node: len(node.effects("UserEvent", begin)) >= 2, what="both events")
        payloads = sorted(each["payload"] for each in node.effects("UserEvent", begin))
        assert payloads == ["payload of an agent", "payload of ours"]


def test_an_agent_runs_its_handler_for_an_event_of_ours(tmp_path_factory: pytest.TempPathFactory) -> None:
    needs("serf")
    heard = tmp_path_factory.mktemp("handler") / "heard"
    with (
        SerfAgent("agent1", "127.0.203.1", KEY, handler=f"user:deploy=cat >> {heard}") as agent,
        ClusterNode("ours1", "127.0.203.11", KEY, join=[agent.address]) as ours,
    ):
        eventually(lambda: agent.states().get("ours1") == "alive")
        ours.do("event", name="deploy", payload="to the agent")
        eventually(lambda: heard.exists() and "to the agent" in heard.read_text(), what="the handler")


def test_queries_go_both_ways(busy: Mixed) -> None:
    asking = busy.ours["ours1"]
    begin = time.monotonic()
    number = asking.do("ask", name="_serf_ping", payload="", wants_ack=True)
    others = {"agent1", "agent2", "ours2"}
    eventually(
        lambda: others <= {e["node"] for e in asking.effects("QueryAnswered", begin) if e["query"] == number},
        what="acks of all",
    )
    eventually(lambda: agents_query_is_answered(busy.agents["agent2"], busy.ours["ours2"]), what="its answer")


def agents_query_is_answered(asking: SerfAgent, answering: ClusterNode) -> bool:
    """In the time that the agent gives."""
    begin = time.monotonic()

    def answer() -> bool:
        for each in answering.effects("QueryAsked", begin):
            if each["name"] == "uptime":
                answering.do("respond", token=each["token"], payload="an hour")
                return True
        return False

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(asking.run, "query", "-timeout=5s", "uptime")
        eventually(answer, what="the query of the agent")
        said = asked.result().stdout
    return "an hour" in said and answering.name in said


def test_reachability(busy: Mixed) -> None:
    def all_answer() -> bool:
        """In the time that the agent gives them."""
        said = busy.agents["agent1"].run("reachability", check=False).stdout
        return "Successfully contacted all live nodes" in said

    eventually(all_answer)


def test_round_trips_are_estimated_with_our_coordinates(busy: Mixed) -> None:
    eventually(
        lambda: "Estimated" in busy.agents["agent1"].run("rtt", "ours1", check=False).stdout,
        what="the coordinate of ours",
    )


def test_keys_are_rotated_from_an_agent_through_our_nodes(busy: Mixed) -> None:
    agent = busy.agents["agent1"]
    new = base64.b64encode(os.urandom(32)).decode()
    old = base64.b64encode(KEY).decode()

    def is_done(*step: str) -> bool:
        """By all of them in the time that the agent gives them; to do it again changes nothing."""
        result = agent.run("keys", *step, check=False)
        assert result.returncode == 0, f"{step}: {result.stdout}{result.stderr}"
        return True

    for step in (("-install", new), ("-use", new), ("-remove", old)):
        eventually(lambda step=step: is_done(*step))

    def listed() -> str:
        return " ".join(agent.run("keys", "-list").stdout.split())

    eventually(lambda: f"{new} [4/4]" in listed(), what="all four have the new key")
    assert old not in listed()
    for node in busy.ours.values():
        assert node.effects("KeysChanged")[-1]["keys"] == [base64.b64decode(new).decode("latin-1")]
    begin = time.monotonic()
    busy.ours["ours1"].do("event", name="after", payload="rotation")
    eventually(lambda: busy.ours["ours2"].effects("UserEvent", begin))
    # and back, for the other tests
    for step in (("-install", old), ("-use", old), ("-remove", new)):
        eventually(lambda step=step: is_done(*step))


def test_a_killed_node_of_ours_is_failed_and_comes_back(busy: Mixed) -> None:
    with ClusterNode("ours3", "127.0.202.13", KEY, join=[busy.agents["agent1"].address]) as ours:
        eventually(lambda: busy.all_say("ours3", "alive"))
        ours.kill()
        eventually(lambda: busy.all_say("ours3", "failed", "dead"), what="the death of ours3")
        port = int(ours.address.rpartition(":")[2])
        with ClusterNode("ours3", "127.0.202.13", KEY, port=port, join=[busy.ours["ours1"].address]) as again:
            eventually(lambda: busy.all_say("ours3", "alive"), what="its return")
            assert again.do("leave")
            eventually(lambda: busy.all_say("ours3", "left"), what="its leaving")
    with ClusterNode("ours3", "127.0.202.13", KEY, join=[busy.agents["agent2"].address]):
        eventually(lambda: busy.all_say("ours3", "alive"), what="its return with another port after leaving")


def test_a_killed_agent_is_failed_and_comes_back(busy: Mixed) -> None:
    with SerfAgent("agent3", "127.0.202.3", KEY, join=[busy.ours["ours2"].address]) as agent:
        eventually(lambda: busy.all_say("agent3", "alive"))
        agent.kill()
        eventually(lambda: busy.all_say("agent3", "failed", "dead"), what="the death of agent3")
        with SerfAgent(
            "agent3", "127.0.202.3", KEY, address=agent.address, join=[busy.ours["ours1"].address]
        ) as again:
            eventually(lambda: busy.all_say("agent3", "alive"), what="its return")
            again.run("leave")
            eventually(lambda: busy.all_say("agent3", "left"), what="its leaving")


def test_a_failed_member_is_removed_by_force_leave_of_either_side(busy: Mixed) -> None:
    for name, remover in (("gone1", "ours"), ("gone2", "agent")):
        with ClusterNode(name, "127.0.202.14", KEY, join=[busy.agents["agent1"].address]) as gone:
            eventually(lambda name=name: busy.all_say(name, "alive"))
            gone.kill()
        eventually(lambda name=name: busy.all_say(name, "failed", "dead"))
        if remover == "ours":
            assert busy.ours["ours1"].do("force_leave", name=name)
        else:
            busy.agents["agent1"].run("force-leave", name)
        eventually(lambda name=name: busy.all_say(name, "left"), what=f"{name} left, said {remover}")


def test_a_node_of_ours_that_is_stopped_comes_back_by_itself(busy: Mixed) -> None:
    with ClusterNode("ours4", "127.0.202.15", KEY, join=[busy.agents["agent1"].address]) as ours:
        eventually(lambda: busy.all_say("ours4", "alive"))
        ours.stop_running()
        others = busy.agents["agent1"]
        eventually(lambda: others.states()["ours4"] == "failed")
        ours.go_on()
        eventually(lambda: busy.all_say("ours4", "alive"))
        assert not [each for each in ours.changes() if each[0] == "failed" and each[1] != "ours4"]


def test_another_key_is_refused_by_both(busy: Mixed) -> None:
    with ClusterNode("alien", "127.0.202.16", bytes(32), join=[busy.agents["agent1"].address]) as alien:
        eventually(lambda: alien.effects("Joined"))
        assert all(each["error"] for each in alien.effects("Joined"))
        alien.do("join", addresses=[busy.ours["ours1"].address])
        eventually(lambda: busy.ours["ours1"].do("figures")["rejected_key"] > 0)
        assert all("alien" not in each for each in busy.states_everywhere().values())


def test_nobody_was_failed_while_all_was_quiet(quiet: Mixed) -> None:
    """Beside all tests before this one. A busy machine may make somebody a suspect for a moment."""
    for name, node in quiet.ours.items():
        bad = [each for each in node.changes(quiet.began) if each[0] in ("failed", "left")]
        assert not bad, f"{name}: {bad}"
    for agent in quiet.agents.values():
        log = agent.log.read_text()
        assert "EventMemberFailed" not in log, log[-2_000:]
        assert not [line for line in log.splitlines() if "[ERR]" in line and "timeout" not in line], log
    eventually(lambda: all(quiet.all_say(name, "alive") for name in (*quiet.ours, *quiet.agents)))
