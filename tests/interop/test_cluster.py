"""Three nodes as real processes: what happens on one holds on all, and each tells the truth of the others."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.clusterprocesses import ClusterProcesses
from tests.support.lineclient import LineClient
from tests.support.livenode import deliver, imap, imap_inbox, message
from tests.support.nodeprocess import ROOT
from tests.support.ports import free_port

from .conftest import needs

SOON_S = 60.0
BAD = "198.51.100.7"
MAX_PER_USER = 3
RPC_PORT = free_port("127.0.0.1")


def edit(text: str, name: str) -> str:
    """A limit on all, and one node of several processes."""
    if "max_connections_per_user" not in text:
        limit = f"max_connections_per_user = {MAX_PER_USER}"
        text = text.replace('type = "imap"\n', f'type = "imap"\n{limit}\n')
    if name != "node-2":
        return text
    rpc = f'testing_allow_loopback = true\nrpc_addr = "127.0.0.1:{RPC_PORT}"'
    return text.replace("workers = 1", "workers = 2").replace("testing_allow_loopback = true", rpc)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterProcesses]:
    with ClusterProcesses(edit=edit) as cluster:
        cluster.wait_for(lambda: all(set(cluster.states(n).values()) == {"alive"} for n in cluster.names))
        yield cluster


def blocks(cluster: ClusterProcesses, name: str) -> list[str]:
    return [each["subject"] for each in cluster.admin(name, "blocks", "list")]


def start_idle(client: LineClient) -> None:
    client.send(b"i IDLE\r\n")
    while not (line := client.line()).startswith(b"+ "):
        assert line.startswith(b"* ")


def test_all_see_all_and_one_leader(cluster: ClusterProcesses) -> None:
    everybody = dict.fromkeys(cluster.names, "alive")
    cluster.wait_for(lambda: all(cluster.states(name) == everybody for name in cluster.names))
    cluster.wait_for(
        lambda: {cluster.ask(n, "cluster", "members")["leader"] for n in cluster.names} == {"node-1"}
    )
    status = cluster.ask("node-2", "status")["cluster"]
    assert status["node"] == "node-2"
    assert status["drift"] == {}
    cluster.wait_for(lambda: cluster.ask("node-3", "cluster", "doctor", check=False)["verdict"] == "ok")


def test_serf_works_on_a_node(cluster: ClusterProcesses) -> None:
    serf = needs("serf")

    def run(*words: str) -> str:
        command = [serf, words[0], f"-rpc-addr=127.0.0.1:{RPC_PORT}", *words[1:]]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def members() -> dict[str, str]:
        listed = json.loads(run("members", "-format=json"))["members"]
        return {each["name"]: each["status"] for each in listed}

    cluster.wait_for(lambda: members() == dict.fromkeys(cluster.names, "alive"))
    run("event", "deploy", "now")
    cluster.wait_for(
        lambda: any(each["detail"] == "deploy" for each in cluster.ask("node-3", "cluster", "events")), SOON_S
    )
    cluster.wait_for(lambda: "3/3" in run("keys", "-list"))  # whoever is late with an answer is not counted


def test_a_block_on_one_refuses_on_the_others(cluster: ClusterProcesses) -> None:
    cluster.admin("node-2", "blocks", "add", BAD, "--for", "1h")
    cluster.wait_for(lambda: all(BAD in blocks(cluster, name) for name in cluster.names), SOON_S)
    why = cluster.admin("node-3", "blocks", "why", BAD)
    assert all(server["is_refused_at_connect"] for server in why["servers"].values())
    cluster.admin("node-1", "blocks", "remove", BAD)
    cluster.wait_for(lambda: not any(BAD in blocks(cluster, name) for name in cluster.names), SOON_S)


def test_idle_on_one_hears_of_a_delivery_on_another(cluster: ClusterProcesses) -> None:
    idle, working = cluster["node-1"], cluster["node-3"]
    took = []
    with imap_inbox(idle) as idler:
        start_idle(idler)
        for number in range(5):
            assert deliver(working, working.address, message(number)).startswith(b"250")
            started = time.monotonic()
            while b"EXISTS" not in (line := idler.line()):
                assert line
            took.append(time.monotonic() - started)
    print("EXISTS after the reply to DATA, ms:", [round(1000 * each, 1) for each in took])


def test_a_limit_holds_over_all_nodes(cluster: ClusterProcesses) -> None:
    clients = []
    try:
        for name in cluster.names:
            clients.append(imap_inbox(cluster[name]))
        cluster.wait_for(lambda: connections(cluster, "node-2") == MAX_PER_USER)
        with imap(cluster["node-2"]) as late:
            answer = late.login(cluster["node-2"].address, cluster["node-2"].password)
            assert b"[LIMIT]" in answer, answer
        clients.pop().close()
        cluster.wait_for(lambda: can_log_in(cluster, "node-1"), SOON_S)
    finally:
        for client in clients:
            client.close()


def connections(cluster: ClusterProcesses, name: str) -> int:
    """Of all nodes, as one of them counts them."""
    listed = cluster.admin(name, "connections", "list", "--all-nodes")
    return len(listed["connections"]) + sum(int(each["total"]) for each in listed["nodes"].values())


def can_log_in(cluster: ClusterProcesses, name: str) -> bool:
    node = cluster[name]
    with imap(node) as client:
        return client.login(node.address, node.password).startswith(b"OK")


def test_kicked_and_listed_on_all_nodes(cluster: ClusterProcesses) -> None:
    user = cluster["node-1"].address
    with imap_inbox(cluster["node-1"]) as one, imap_inbox(cluster["node-3"]) as other:
        cluster.wait_for(lambda: connections(cluster, "node-2") == 2)  # who came before us has left
        listed = cluster.admin("node-2", "connections", "list", "--all-nodes", "--user", user)
        assert listed["connections"] == []
        assert {name: found["total"] for name, found in listed["nodes"].items()} == {"node-1": 1, "node-3": 1}
        assert listed["nodes"]["node-1"]["connections"][0]["user"] == user
        kicked = cluster.admin("node-2", "connections", "kick", "--user", user)
        assert kicked == {"kicked": [], "nodes": {"node-1": 1, "node-3": 1}}
        for client in (one, other):
            assert client.line().startswith(b"* BYE")
    cluster.wait_for(lambda: can_log_in(cluster, "node-1"), SOON_S)


def health_of_cluster(cluster: ClusterProcesses, name: str) -> str:
    """As it was 3 s ago at the earliest."""
    components = cluster.admin(name, "health", check=False)["components"]
    return next(str(each["status"]) for each in components if each["name"] == "cluster")


def test_a_node_that_is_killed_fails_and_returns(cluster: ClusterProcesses) -> None:
    victim = cluster["node-3"]
    cluster.admin("node-3", "blocks", "add", BAD, "--for", "1h")
    cluster.wait_for(lambda: BAD in blocks(cluster, "node-1"), SOON_S)
    victim.kill()
    took = cluster.wait_for(
        lambda: all(cluster.states(name)["node-3"] == "failed" for name in ("node-1", "node-2"))
    )
    print(f"failed on all others after {took:.1f} s, as the command sees it")
    cluster.wait_for(lambda: health_of_cluster(cluster, "node-1") == "degraded", SOON_S)
    assert BAD in blocks(cluster, "node-1")
    assert can_log_in(cluster, "node-1")
    victim.start()
    cluster.wait_for(lambda: all(cluster.states(name)["node-3"] == "alive" for name in cluster.names))
    cluster.wait_for(lambda: BAD in blocks(cluster, "node-3"), SOON_S)
    cluster.admin("node-3", "blocks", "remove", BAD)
    cluster.wait_for(lambda: not any(BAD in blocks(cluster, name) for name in cluster.names), SOON_S)


def test_keys_are_rotated_without_a_restart(cluster: ClusterProcesses) -> None:
    before = cluster.ask("node-1", "cluster", "keys")["own"]
    new = cluster.ask("node-1", "cluster", "keys", "--rotate")["key"]
    for name in cluster.names:
        assert cluster.ask(name, "cluster", "keys")["own"] == [new, *before]
    cluster.ask("node-2", "cluster", "keys", "--remove", before[0])
    cluster["node-2"].stop()
    cluster["node-2"].start()  # with the old secret in its configuration, and the new one in its key file
    cluster.wait_for(lambda: set(cluster.states("node-2").values()) == {"alive"})
    assert cluster.ask("node-2", "cluster", "keys")["own"] == [new]


def test_who_stops_leaves_and_the_lead_is_handed_over(cluster: ClusterProcesses) -> None:
    cluster.ask("node-2", "cluster", "leave")
    cluster.wait_for(lambda: cluster.states("node-3")["node-2"] == "left", SOON_S)
    assert can_log_in(cluster, "node-2")  # mail goes on
    assert cluster.ask("node-2", "cluster", "members")["state"] == "left"
    cluster["node-2"].stop()
    cluster["node-2"].start()
    cluster.wait_for(lambda: cluster.states("node-3")["node-2"] == "alive", SOON_S)


def test_doctor_names_another_secret_and_an_address_of_another_machine() -> None:
    other = base64.b64encode(bytes(32)).decode()
    with ClusterProcesses(("node-1", "node-2"), secrets={"node-2": other}) as cluster:
        found = cluster.ask("node-2", "cluster", "doctor", check=False)
        assert found["verdict"] == "error"
        (peer,) = [each for each in found["findings"] if each["about"].startswith(cluster.ips["node-1"])]
        assert "TCP connects, but it cannot be joined" in peer["what"]
        assert "another secret_key" in peer["cure"]
        cluster.wait_for(lambda: keys_are_suspected(cluster, "node-1"))  # they try again after 15 s
        cluster["node-2"].stop()
        path = cluster.config("node-2")
        path.write_text(path.read_text().replace(f'addr = "{cluster.ips["node-2"]}', 'addr = "192.0.2.1'))
        with pytest.raises(RuntimeError, match=r"cluster\.addr 192\.0\.2\.1.*address of this machine"):
            cluster["node-2"].start()


def test_of_two_nodes_with_one_name_the_later_one_stops_its_gossip() -> None:
    def rename(text: str, name: str) -> str:
        return text.replace('node_id = "node-3"', 'node_id = "node-1"') if name == "node-3" else text

    with ClusterProcesses(edit=rename) as cluster:
        cluster.wait_for(lambda: cluster.ask("node-3", "cluster", "members")["state"] == "left", 60.0)
        for name in ("node-1", "node-2"):
            assert cluster.states(name) == {"node-1": "alive", "node-2": "alive"}
            found = cluster.ask(name, "cluster", "doctor", check=False)["findings"]
            assert any("two nodes have this name" in each["what"] for each in found)
        assert can_log_in(cluster, "node-3")  # mail goes on


def test_doctor_names_blocked_udp() -> None:
    """In a network of its own, in which no UDP comes through."""
    if os.geteuid() != 0 or shutil.which("nft") is None:
        pytest.skip("needs root and nft: .ci/run has both")
    name = f"sora-udp-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = ["ip", "netns", "exec", name]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        subprocess.run([*inside, "nft", "-f", "-"], input=NO_UDP, text=True, check=True)
        done = subprocess.run([*inside, sys.executable, "-c", UNDER_NO_UDP], cwd=ROOT, check=True, text=True)
        assert done.returncode == 0
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


NO_UDP = """
table inet filter {
    chain input { type filter hook input priority 0; udp dport 1024-65535 drop; }
}
"""
UNDER_NO_UDP = """
from tests.support.clusterprocesses import ClusterProcesses

def names_udp(cluster):
    found = cluster.ask("node-2", "cluster", "doctor", check=False)
    return found["verdict"] == "error" and any("UDP" in each["cure"] for each in found["findings"])

with ClusterProcesses(("node-1", "node-2")) as cluster:
    cluster.wait_for(lambda: names_udp(cluster))
    assert cluster.states("node-1") == {"node-1": "alive", "node-2": "alive"}
"""


def keys_are_suspected(cluster: ClusterProcesses, name: str) -> bool:
    found = cluster.ask(name, "cluster", "doctor", check=False)["findings"]
    return any("no key of ours opens" in each["what"] for each in found)
