"""The story of a cluster, on three nodes with a network of their own: told in order, each chapter leaves the
cluster whole."""

from __future__ import annotations

import imaplib
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from . import namespaces
from .lab import ADDRESSES, NODES, Lab, until
from .mail import add_neighbourhood, can_log_in, guess, imap
from .views import LEADING_S, SOON_S, all_alive, blocked, leaders, states

MAX_PER_USER = 3
GUESSES = 4
GUESSER = "10.20.30.11"

LIMITS = f"""max_connections_per_user = {MAX_PER_USER}
auth_rate_limit.enabled = true
auth_rate_limit.max_attempts_per_ip = {GUESSES}
auth_rate_limit.max_attempts_per_ip_username = 0
auth_rate_limit.initial_delay = "1ms"
auth_rate_limit.max_delay = "1ms"
"""


def edit(_name: str, text: str) -> str:
    return text.replace('name = "imaps"\n', f'name = "imaps"\n{LIMITS}')


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if lacking := namespaces.missing():
        pytest.skip(lacking)
    with Lab(edit=edit) as lab:
        add_neighbourhood(lab, [GUESSER])
        for name in NODES:
            lab.start(name)
        yield lab


def test_three_nodes_form_a_cluster_and_agree_who_leads(lab: Lab) -> None:
    until("all nodes see all nodes alive", lambda: all_alive(lab))
    until("all name node-1 as the leader", lambda: leaders(lab) == {"node-1"}, LEADING_S)
    for node in NODES:
        assert lab.status(node)["cluster"]["drift"] == {}
        assert can_log_in(lab, node)


def test_who_guesses_on_one_node_is_refused_on_all(lab: Lab) -> None:
    for number in range(GUESSES):
        guess(lab, "node-1", GUESSER, f"guess {number}")
    took = until(
        "the guesser is refused with the right password everywhere",
        lambda: not any(can_log_in(lab, node, GUESSER) for node in NODES),
        SOON_S,
    )
    print(f"refused everywhere {took:.2f} s after the last guess, logins tried included")
    for node in NODES:
        assert can_log_in(lab, node)
        assert blocked(lab, node) == [GUESSER]
        assert lab.status(node)["rate_limits"]["blocks"] == 1
    lab.program("node-3", "node.admin", "blocks", "remove", GUESSER)
    until("the block is gone everywhere", lambda: not any(blocked(lab, node) for node in NODES), SOON_S)
    assert can_log_in(lab, "node-2", GUESSER)


def test_a_limit_of_connections_holds_over_all_nodes(lab: Lab) -> None:
    with ExitStack() as stack:
        for node in NODES:
            client = stack.enter_context(imap(lab, node))
            client.login("ann@lab.example", lab.password)
        until(
            "node-2 knows of the connections elsewhere",
            lambda: lab.connections("node-2") == MAX_PER_USER,
            SOON_S,
        )
        with imap(lab, "node-2") as late, pytest.raises(imaplib.IMAP4.error, match="LIMIT"):
            late.login("ann@lab.example", lab.password)
    until("there is room again", lambda: can_log_in(lab, "node-2"), SOON_S)


def test_a_leader_that_dies_is_followed_and_leads_again_when_it_is_back(lab: Lab) -> None:
    lab.kill("node-1")
    others = ("node-2", "node-3")
    took = until(
        "node-1 has failed for the others",
        lambda: all(states(lab, node)["node-1"] == "failed" for node in others),
        SOON_S,
    )
    print(f"failed on all others {took:.1f} s after kill -9, as sora-node status sees it")
    until("node-2 leads", lambda: leaders(lab, others) == {"node-2"}, LEADING_S)
    assert all(can_log_in(lab, node) for node in others)
    lab.start("node-1")
    until("node-1 is back", lambda: all_alive(lab), SOON_S)
    until("node-1 leads again", lambda: leaders(lab) == {"node-1"}, LEADING_S)


def test_a_partition_heals_to_equal_state(lab: Lab) -> None:
    lab.part(["node-3"], ["node-1", "node-2"])
    until(
        "both sides have given each other up",
        lambda: (
            states(lab, "node-1")["node-3"] == "failed"
            and states(lab, "node-3") == {"node-1": "failed", "node-2": "failed", "node-3": "alive"}
        ),
        LEADING_S,
    )
    assert can_log_in(lab, "node-1") and can_log_in(lab, "node-3")  # noqa: PT018  # mail goes on
    lab.program("node-1", "node.admin", "blocks", "add", "198.51.100.1", "--for", "1h")
    lab.program("node-3", "node.admin", "blocks", "add", "198.51.100.3", "--for", "1h")
    until("node-2 has what node-1 has", lambda: blocked(lab, "node-2") == ["198.51.100.1"], SOON_S)
    assert blocked(lab, "node-3") == ["198.51.100.3"]
    lab.heal()
    took = until("all nodes see each other again", lambda: all_alive(lab), LEADING_S)
    both = ["198.51.100.1", "198.51.100.3"]
    took += until("all have both blocks", lambda: all(blocked(lab, node) == both for node in NODES), SOON_S)
    print(f"one cluster with equal state {took:.1f} s after the network healed")
    until("node-1 leads all", lambda: leaders(lab) == {"node-1"}, LEADING_S)
    for ip in both:
        lab.program("node-2", "node.admin", "blocks", "remove", ip)
    until("no blocks are left", lambda: not any(blocked(lab, node) for node in NODES), SOON_S)


def test_a_one_way_cut_makes_nobody_fail(lab: Lab) -> None:
    """node-1 cannot reach node-2 but through node-3: indirect probes keep it alive."""
    lab.cut("node-1", "node-2")
    begun = time.monotonic()
    while time.monotonic() - begun < 8:  # more than two detections
        assert "failed" not in states(lab, "node-3").values()
        time.sleep(0.5)
    lab.heal()
    until("all is well", lambda: all_alive(lab), SOON_S)


def test_a_node_that_stood_still_for_long_comes_back(lab: Lab) -> None:
    lab.signal("node-2", signal.SIGSTOP)
    until("node-2 has failed", lambda: states(lab, "node-1")["node-2"] == "failed", SOON_S)
    lab.signal("node-2", signal.SIGCONT)
    until("node-2 is alive again", lambda: all_alive(lab), LEADING_S)


def test_blocks_travel_over_a_bad_network(lab: Lab) -> None:
    lab.lose(0.1)
    lab.program("node-2", "node.admin", "blocks", "add", "198.51.100.9", "--for", "1h")
    until(
        "the block is everywhere",
        lambda: all(blocked(lab, node) == ["198.51.100.9"] for node in NODES),
        SOON_S,
    )
    lab.heal()
    lab.program("node-1", "node.admin", "blocks", "remove", "198.51.100.9")
    until("no blocks are left", lambda: not any(blocked(lab, node) for node in NODES), SOON_S)


def test_an_agent_of_serf_agrees_with_the_nodes(lab: Lab) -> None:
    if not lab.has_program("serf"):
        pytest.skip("serf is not installed; .ci/run installs it")
    with lab.serf_agent("client") as agent:
        until("the agent sees three nodes alive", lambda: agent.members() == dict.fromkeys(NODES, "alive"))
        until("the nodes see the agent", lambda: states(lab, "node-3").get("agent") == "alive", SOON_S)
        lab.kill("node-2")
        until("the agent sees node-2 failed", lambda: agent.members().get("node-2") == "failed", SOON_S)
        until("node-1 does, too", lambda: states(lab, "node-1")["node-2"] == "failed", SOON_S)
        lab.start("node-2")
        until("the agent sees node-2 alive", lambda: agent.members() == dict.fromkeys(NODES, "alive"), SOON_S)
        lab.program("node-3", "node", "cluster", "leave")
        until("the agent sees node-3 leave", lambda: agent.members().get("node-3") == "left", SOON_S)
        assert can_log_in(lab, "node-3")  # mail goes on
    until("the agent has left", lambda: states(lab, "node-1")["agent"] == "left", SOON_S)
    assert ADDRESSES["node-1"] in lab.program("node-1", "node", "status")
