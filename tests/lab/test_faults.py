"""What goes wrong in data centres, on three nodes with their own network; each test leaves them whole."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from node.control import ask

from . import namespaces
from .lab import ADDRESSES, NODES, Lab, until
from .mail import can_log_in
from .views import LEADING_S, SOON_S, all_alive, blocked, leaders, states

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
GOSSIP_PORT = 7946
MOVED_S = 120.0  # a death is noticed, its name is free, and the next exchange says so
HOUR_S = 3600.0
FEW_S = 60.0
FLOOD_RATE = 20_000
FLOOD_S = 5.0
MAX_LOG_BYTES = 20_000  # of a flood
BURST = 2_000
STOOD_STILL_S = 30.0
BLOCKED_S = 60  # all nodes hear of two blocks, which two programs set, in less


@pytest.fixture(scope="module")
def faulty() -> Iterator[Lab]:
    if lacking := namespaces.missing():
        pytest.skip(lacking)
    with Lab() as lab:
        for name in NODES:
            lab.start(name)
        yield lab


@pytest.fixture
def lab(faulty: Lab) -> Iterator[Lab]:
    faulty.heal()
    until("all nodes see all nodes alive", lambda: all_alive(faulty))
    yield faulty
    faulty.heal()


@contextmanager
def configured(lab: Lab, node: str, old: str, new: str) -> Iterator[None]:
    """The node is started with that, while it does not run, and again with what it had afterwards."""
    path = lab.config(node)
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    try:
        lab.start(node)
        yield
    finally:
        path.write_text(before)
        lab.stop(node)
        lab.start(node)


def findings(lab: Lab, node: str) -> dict[str, tuple[str, str, str]]:
    """Of the doctor: verdict, what and cure by whom it is about."""
    found = json.loads(lab.program(node, "node", "cluster", "doctor", "--json", check=False))["findings"]
    return {each["about"]: (each["verdict"], each["what"], each["cure"]) for each in found}


def figures(lab: Lab, node: str) -> dict[str, float]:
    found: dict[str, float] = lab.status(node)["cluster"]["gossip"]["figures"]
    return found


def test_all_nodes_killed_at_once_form_again(lab: Lab) -> None:
    for name in NODES:
        lab.kill(name)
    threads = [threading.Thread(target=lab.start, args=(name,)) for name in NODES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = until("all nodes see all nodes alive", lambda: all_alive(lab), SOON_S)
    print(f"one cluster {took:.1f} s after all three were started at once")
    until("all name node-1 as the leader", lambda: leaders(lab) == {"node-1"}, LEADING_S)
    assert all(can_log_in(lab, name) for name in NODES)


def test_a_node_that_stood_still_for_half_a_minute_accuses_nobody(lab: Lab) -> None:
    lab.signal("node-2", signal.SIGSTOP)
    time.sleep(STOOD_STILL_S)
    until("node-2 is failed", lambda: states(lab, "node-1")["node-2"] == "failed", SOON_S)
    lab.signal("node-2", signal.SIGCONT)
    until("node-2 is alive again", lambda: all_alive(lab), SOON_S)
    events = lab.json_of("node-2", "node", "cluster", "events")
    assert not [each for each in events if each["kind"] == "failed"]
    assert can_log_in(lab, "node-2")


def test_a_node_comes_back_at_another_address_at_once(lab: Lab) -> None:
    """The others have not noticed yet that it was gone: it must not lose its name to its own past life."""
    moved = f"10.10.10.43:{GOSSIP_PORT}"
    lab.kill("node-3")
    subprocess.run(
        ["ip", "-n", lab.namespace("node-3"), "addr", "add", "10.10.10.43/24", "dev", "eth0"], check=True
    )
    here = f'addr = "{ADDRESSES["node-3"]}:{GOSSIP_PORT}"'
    with configured(lab, "node-3", here, f'addr = "{moved}"'):
        took = until("all nodes see all nodes alive", lambda: all_alive(lab) and is_at(lab, moved), MOVED_S)
        print(f"known at its new address after {took:.1f} s")
        assert lab.status("node-3")["cluster"]["state"] == "serving"
        assert not any("two nodes" in what for _, what, _ in findings(lab, "node-3").values())
    until("it has moved back", lambda: all_alive(lab), MOVED_S)


def is_at(lab: Lab, address: str) -> bool:
    members = [each for name in NODES for each in lab.status(name)["cluster"]["members"]]
    return {each["address"] for each in members if each["name"] == "node-3"} == {address}


def test_without_its_database_a_node_says_so_and_passes_the_lead_on(lab: Lab) -> None:
    until("all name node-1 as the leader", lambda: leaders(lab) == {"node-1"}, LEADING_S)
    lab.part(["node-1"], ["postgres"])
    until("node-2 leads", lambda: leaders(lab, ("node-2", "node-3")) == {"node-2"}, 60.0)
    status = lab.status("node-1")  # which does not hang
    assert "database" in status["staging"]["error"]
    assert status["cluster"]["leader"] == "node-2"
    until("all nodes see all nodes alive", lambda: all_alive(lab), SOON_S)
    assert can_log_in(lab, "node-2")
    lab.heal()
    until("node-1 leads again", lambda: leaders(lab) == {"node-1"}, 60.0)
    until("mail is served again", lambda: can_log_in(lab, "node-1"), LEADING_S)


def test_a_clock_that_steps_by_an_hour(lab: Lab) -> None:
    if not FAKETIME.exists():
        pytest.skip("faketime is not installed; .ci/run installs it")
    clock = lab.directory / "clock"
    clock.write_text("+0")
    fake = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",  # asked at each reading, it now and then gives the real time
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    lab.stop("node-2")
    lab.start("node-2", fake)
    until("all nodes see all nodes alive", lambda: all_alive(lab), SOON_S)
    clock.write_text(f"+{HOUR_S:.0f}")
    until("the doctor sees the clock", lambda: "node-2" in findings(lab, "node-1"), LEADING_S)
    verdict, what, cure = findings(lab, "node-1")["node-2"]
    assert (verdict, "NTP" in cure) == ("warning", True)
    ahead = re.search(r"(\d+) s ahead", what)
    assert ahead is not None, what
    assert abs(int(ahead[1]) - HOUR_S) < FEW_S  # an answer takes its time, too
    for node, ip in (("node-1", "198.51.100.1"), ("node-2", "198.51.100.2")):
        lab.program(node, "node.admin", "blocks", "add", ip, "--for", f"{BLOCKED_S}s")
    both = ["198.51.100.1", "198.51.100.2"]
    until("both blocks hold everywhere", lambda: all(blocked(lab, name) == both for name in NODES), SOON_S)
    took = until(
        "both blocks have ended", lambda: not any(blocked(lab, name) for name in NODES), BLOCKED_S + SOON_S
    )
    print(f"both blocks ended {took:.1f} s after they were seen everywhere")
    until("all nodes see all nodes alive", lambda: all_alive(lab), SOON_S)
    lab.stop("node-2")
    lab.start("node-2")


def test_a_flood_without_a_key_is_counted_and_harms_nobody(lab: Lab) -> None:
    rng = random.Random(1)
    of_another = [b"\x01" + rng.randbytes(200) for _ in range(100)]
    garbage = [rng.randbytes(rng.choice((1, 5, 30, 1400))) for _ in range(100)]
    plain = [b"\x00\x82\xa5SeqNo\x01\xa4Node\xa6node-1"]
    before, logged = figures(lab, "node-1"), len(lab.log("node-1"))
    sent: list[int] = []
    flooding = threading.Thread(target=lambda: sent.append(flood(lab, of_another + garbage + 50 * plain)))
    flooding.start()
    while flooding.is_alive():
        assert can_log_in(lab, "node-1")
        assert not {"failed", "left"} & set(states(lab, "node-2").values())  # a busy host may be suspected
    flooding.join()
    after = figures(lab, "node-1")
    rejected = {
        reason: int(after[name] - before.get(name, 0))
        for reason in ("key", "plaintext", "truncated", "version")
        if (name := f"rejected_{reason}") in after
    }
    print(f"{sent[0]} packets in {FLOOD_S:.0f} s; rejected: {rejected}")
    assert all(rejected.values())
    assert sum(rejected.values()) > len(plain) + len(of_another)  # the wire, or the kernel, loses the more
    assert after["engine_faults"] == 0
    news = lab.log("node-1")[logged:].splitlines()
    assert sum(len(line) for line in news if "user=" not in line) < MAX_LOG_BYTES  # not of our logins
    until("all nodes see all nodes alive", lambda: all_alive(lab), SOON_S)


def flood(lab: Lab, packets: list[bytes]) -> int:
    with lab.at("client"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    target, sent, begun = (ADDRESSES["node-1"], GOSSIP_PORT), 0, time.monotonic()
    with closing(sock):
        while (passed_s := time.monotonic() - begun) < FLOOD_S:
            for _ in range(int(passed_s * FLOOD_RATE) - sent):
                sock.sendto(packets[sent % len(packets)], target)
                sent += 1
            time.sleep(0.001)
    return sent


def test_streams_that_are_left_open_keep_no_node_out(lab: Lab) -> None:
    lab.kill("node-3")
    held = []
    for _ in range(200):
        with lab.at("client"):
            stream = socket.create_connection((ADDRESSES["node-1"], GOSSIP_PORT), SOON_S)
        stream.sendall(b"\x0a\x00\x10")  # the beginning of a frame
        held.append(stream)
    lab.start("node-3")
    until("node-3 has joined", lambda: all_alive(lab), SOON_S)
    assert figures(lab, "node-1")["streams_refused"] >= 150
    for stream in held:
        stream.close()


def test_a_burst_of_blocks_is_whole_everywhere(lab: Lab) -> None:
    control = lab.directory / "node-2" / "data" / "control.sock"
    subjects = [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(BURST)]
    for subject in subjects:
        ask(control, "blocks.add", {"subject": subject, "lasts_s": 600})

    def count(node: str) -> int:
        return int(lab.status(node)["rate_limits"]["blocks"])

    took = until("every node has every block", lambda: {count(n) for n in NODES} == {BURST}, SOON_S)
    print(f"{BURST} blocks everywhere {took:.1f} s after the last was made")
    lab.kill("node-3")
    lab.start("node-3")
    until("a node that comes later has them, too", lambda: count("node-3") == BURST, SOON_S)
    for subject in subjects:
        ask(control, "blocks.remove", {"subject": subject})
    until("no block is left", lambda: {count(n) for n in NODES} == {0}, SOON_S)


def test_a_reload_switches_the_sharing_of_blocks(lab: Lab) -> None:
    path = lab.config("node-2")
    before = path.read_text()
    path.write_text(before + "\n[cluster.rate_limit_sync]\nsync_blocks = false\n")
    lab.program("node-2", "node", "reload")
    lab.program("node-2", "node.admin", "blocks", "add", "198.51.100.5", "--for", "1h")
    lab.program("node-1", "node.admin", "blocks", "add", "198.51.100.6", "--for", "1h")
    until("node-3 knows node-1's", lambda: blocked(lab, "node-3") == ["198.51.100.6"], SOON_S)
    assert blocked(lab, "node-1") == ["198.51.100.6"]
    assert blocked(lab, "node-2") == ["198.51.100.5"]
    path.write_text(before)
    lab.program("node-2", "node", "reload")
    both = ["198.51.100.5", "198.51.100.6"]
    until("node-2's is known, too", lambda: blocked(lab, "node-1") == both, SOON_S)
    for ip in both:
        lab.program("node-1", "node.admin", "blocks", "remove", ip)


def test_the_doctor_names_blocked_tcp(lab: Lab) -> None:
    if not lab.has_program("nft"):
        pytest.skip("nft is not installed; .ci/run installs nftables")
    lab.kill("node-3")
    inside = lab.entering("node-3", "nft")
    subprocess.run([*inside, "-f", "-"], input=NO_TCP, text=True, check=True)
    try:
        lab.start("node-3")
        peer = f"{ADDRESSES['node-1']}:{GOSSIP_PORT}"
        verdict, what, cure = findings(lab, "node-3")[peer]
        assert (verdict, "no answer by TCP" in what, f"TCP to port {GOSSIP_PORT}" in cure) == (
            "error",
            True,
            True,
        )
    finally:
        subprocess.run([*inside, "delete", "table", "inet", "no_tcp"], check=True)
    until("it has joined", lambda: all_alive(lab), LEADING_S)


NO_TCP = f"""
table inet no_tcp {{
    chain input {{ type filter hook input priority 0; tcp dport {GOSSIP_PORT} drop; }}
    chain output {{ type filter hook output priority 0; tcp dport {GOSSIP_PORT} drop; }}
}}
"""


def test_the_doctor_names_a_peer_that_has_no_address(lab: Lab) -> None:
    lab.stop("node-3")
    with configured(lab, "node-3", "peers = [", 'peers = ["no-such-host.invalid:7946", '):
        until("it has joined the others", lambda: all_alive(lab), SOON_S)
        verdict, what, cure = findings(lab, "node-3")["no-such-host.invalid"]
        assert verdict == "error"
        assert "cannot be resolved" in what
        assert "resolver" in cure
