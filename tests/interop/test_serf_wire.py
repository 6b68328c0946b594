"""What the installed Serf sends today is what the recorded vectors say: everything is understood."""

from __future__ import annotations

import os

import pytest

from tests.cluster.capture import KEY, record, shape
from tests.cluster.vectors import check_written_again, recorded
from tests.support.clusternode import ClusterNode
from tests.support.serfagent import SerfAgent
from tests.support.waiting import eventually

from .conftest import needs


def test_agents_are_understood_whole() -> None:
    needs("serf")
    if os.geteuid() != 0:
        pytest.skip("reading datagrams from the loopback interface needs root")
    vectors = record()
    shapes = {(vector.kind, shape(vector)) for vector in vectors}
    for vector in vectors:
        if vector.kind == "datagram":
            check_written_again(vector)
    types = {name for _, what in shapes for name in what.partition(":")[2].split()}
    before = {name for what, _ in recorded() for name in what.partition(":")[2].split()}
    assert types >= before - {"nack"}  # agents send it in the instant in which the probe ends
    assert {("reply", "ack"), ("reply", "pushpull"), ("request", "pushpull")} <= shapes


def test_an_agent_lists_our_node_as_one_of_its_kind() -> None:
    needs("serf")
    with (
        SerfAgent("agent", "127.0.0.41", KEY) as agent,
        ClusterNode("ours", "127.0.0.42", KEY, join=[agent.address]) as node,
    ):
        eventually(lambda: agent.states().get("ours") == "alive", what="ours is alive")
        (ours,) = [member for member in agent.members() if member["name"] == "ours"]
        assert (ours["addr"], ours["tags"]["sora"]) == (node.address, "1")
        assert ours["protocol"] == {"min": 2, "max": 5, "version": 5}
        node.do("leave")
        eventually(lambda: agent.states().get("ours") == "left", what="ours has left")
        assert "[ERR]" not in agent.log.read_text()
