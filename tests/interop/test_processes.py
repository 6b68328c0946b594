"""A node of one control process and two workers: what one of them suffers does not reach the other."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import statistics
import struct
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.control import ask
from node.link import Notice, encode
from tests.interop.test_crash import deliver_until_cut, message_id, stored_ids
from tests.support.corpus import messages
from tests.support.lineclient import LineClient
from tests.support.livenode import deliver, imap, imap_inbox, message, pop3
from tests.support.nodeprocess import NodeProcess
from tests.support.waiting import seconds_until

WORKERS = 2
METRICS = """
[[servers]]
type = "metrics"
name = "figures"
addr = "127.0.0.1:0"
"""
LIMITS = """
max_connections_per_user = 3
[servers.auth_rate_limit]
enabled = true
exempt_networks = []
max_attempts_per_ip_username = 2
ip_username_block_duration = "1h"
delay_start_threshold = 50
"""


def two_workers(text: str) -> str:
    return text.replace("workers = 1\n", f"workers = {WORKERS}\n")


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    running = NodeProcess().prepare(two_workers)
    with running:
        yield running


def command(node: NodeProcess, name: str, **arguments: Any) -> Any:
    return ask(node.directory / "data" / "control.sock", name, arguments)


def workers(node: NodeProcess) -> dict[str, int]:
    """Process ids by name, of those that serve."""
    return {each["name"]: each["pid"] for each in command(node, "status")["workers"] if each["ready"]}


def are_replaced(node: NodeProcess, gone: set[int]) -> bool:
    pids = set(workers(node).values())
    return len(pids) == WORKERS and not pids & gone


def boot(session: str) -> str:
    """Sessions of the same process begin with the same letters."""
    return session.partition(".")[0]


def spread(node: NodeProcess, opener: Callable[[], LineClient]) -> dict[str, list[LineClient]]:
    """Connections, by process, until each worker has at least two."""
    found: dict[str, list[LineClient]] = {}
    for _ in range(60):
        client = opener()
        port = client.socket.getsockname()[1]
        listed = command(node, "connections.list")["connections"]
        (session,) = [each["session"] for each in listed if each["port"] == port]
        found.setdefault(boot(session), []).append(client)
        if len(found) == WORKERS and all(len(each) >= 2 for each in found.values()):
            return found
    raise AssertionError(f"one worker takes all connections: { {k: len(v) for k, v in found.items()} }")


def close_all(node: NodeProcess, found: dict[str, list[LineClient]]) -> None:
    for clients in found.values():
        for client in clients:
            client.close()
    seconds_until(lambda: not command(node, "connections.list")["connections"], 60)


def test_killed_worker_is_replaced_and_others_are_unharmed(node: NodeProcess) -> None:
    found = spread(node, lambda: imap_inbox(node))
    sent = list(messages(1, 400))
    unsent, acked = deque(sent), set[bytes]()
    before = workers(node)
    victim = next(iter(before.values()))

    async def load() -> float:
        async def deliverer() -> None:
            while unsent:
                await deliver_until_cut(node, unsent, acked)

        tasks = [asyncio.create_task(deliverer()) for _ in range(4)]
        await asyncio.sleep(0.5)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.to_thread(seconds_until, lambda: are_replaced(node, {victim}), 60)
        took = time.monotonic() - killed
        await asyncio.gather(*tasks)
        return took

    took = asyncio.run(load())
    print(f"replaced after {took:.2f} s")
    alive = [clients for clients in found.values() if all(answers(client) for client in clients)]
    assert len(alive) == 1
    assert set(stored_ids(node)) >= acked == {message_id(each) for each in sent}
    expected = {client.socket.getsockname()[1] for client in alive[0]}
    seconds_until(lambda: listed_ports(node) == expected, 60)  # the reader above is leaving
    close_all(node, found)


def listed_ports(node: NodeProcess) -> set[int]:
    return {each["port"] for each in command(node, "connections.list")["connections"]}


def answers(client: LineClient) -> bool:
    try:
        return client.imap(b"NOOP")[0].startswith(b"OK")
    except (ConnectionError, OSError, AssertionError, EOFError):
        return False


def test_news_cross_workers_while_idling(node: NodeProcess) -> None:
    found = spread(node, lambda: imap_inbox(node))
    idlers = [clients[0] for clients in found.values()]
    for each in idlers:
        each.send(b"i IDLE\r\n")
        assert each.line().startswith(b"+")
    waits = []
    for number in range(30):
        assert deliver(node, node.address, message(number)).startswith(b"250")
        delivered = time.monotonic()
        for each in idlers:  # one of them is in another process than the delivery
            while not each.line().endswith(b"EXISTS"):
                continue
        waits.append(time.monotonic() - delivered)
    median_ms = statistics.median(waits) * 1000
    print(f"told after the reply to the delivery: p50 {median_ms:.1f} ms, most {max(waits) * 1000:.1f} ms")
    close_all(node, found)


def test_one_session_has_the_maildrop(node: NodeProcess) -> None:
    first, reply = pop3(node)
    assert reply.startswith(b"+OK")
    for _ in range(12):
        other, reply = pop3(node)
        other.close()
        assert reply.startswith(b"-ERR [IN-USE]")
    assert first.pop3(b"QUIT").startswith(b"+OK")
    first.close()
    again, reply = pop3(node)
    assert reply.startswith(b"+OK")
    holder = boot(command(node, "connections.list", protocol="pop3")["connections"][0]["session"])
    assert holder
    victims = set(workers(node).values())
    for pid in victims:  # the lock of a process that is killed is free
        os.kill(pid, signal.SIGKILL)
    seconds_until(lambda: are_replaced(node, victims), 60)
    again.close()

    def logs_in() -> bool:
        client, reply = pop3(node)
        client.close()
        return reply.startswith(b"+OK")

    seconds_until(logs_in, 60)


def test_kick_reaches_every_worker(node: NodeProcess) -> None:
    found = spread(node, lambda: imap_inbox(node))
    clients = [client for each in found.values() for client in each]
    kicked = command(node, "connections.kick", all=True)["kicked"]
    assert len(kicked) == len(clients)
    for client in clients:
        assert client.line().startswith(b"* BYE")
    close_all(node, found)


def test_hanging_worker_is_detected_and_disturbs_nobody_else(node: NodeProcess) -> None:
    found = spread(node, lambda: imap_inbox(node))
    victim = next(iter(workers(node).values()))
    os.kill(victim, signal.SIGSTOP)
    stopped = time.monotonic()
    slowest, rounds = 0.0, 0
    others = [clients for clients in found.values() if all(answers_soon(client) for client in clients)]
    assert len(others) == 1
    while Path(f"/proc/{victim}").exists():
        began = time.monotonic()
        assert all(answers(client) for client in others[0])
        with imap_inbox(node) as fresh:  # whoever hangs does not accept
            assert answers(fresh)
        assert deliver(node, node.address, message(rounds)).startswith(b"250")
        slowest, rounds = max(slowest, time.monotonic() - began), rounds + 1
        assert time.monotonic() - stopped < 60
    assert time.monotonic() - stopped > 5, "a worker that is only slow would be killed"
    assert rounds > 1, "somebody waited for the one that hangs"
    print(f"{rounds} rounds beside the one that hangs, the slowest {slowest:.2f} s")
    seconds_until(lambda: are_replaced(node, {victim}), 60)
    assert all(answers(client) for client in others[0])
    for clients in found.values():
        if clients is not others[0]:
            assert not any(answers(client) for client in clients)
    close_all(node, found)


def answers_soon(client: LineClient) -> bool:
    client.socket.settimeout(4)
    try:
        return answers(client)
    finally:
        client.socket.settimeout(60)


def link_of(worker: int, control: int) -> socket.socket:
    """The worker's end of its link, taken out of the process. A loud skip where that is not allowed."""
    handle = os.pidfd_open(worker)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        for entry in Path(f"/proc/{worker}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not os.readlink(entry).startswith("socket:"):
                    continue
            taken = libc.syscall(PIDFD_GETFD, handle, int(entry.name), 0)
            if taken < 0:
                pytest.skip(f"other processes are closed to us: {os.strerror(ctypes.get_errno())}")
            sock = socket.socket(fileno=taken)
            if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM:
                peer, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if peer == control:  # who made the pair; PostgreSQL's is another
                    return sock
            sock.close()
    finally:
        os.close(handle)
    raise AssertionError("no link found")


PIDFD_GETFD = 438
BROKEN_FRAMES = {
    "not msgpack": b"\0\0\0\3\xc1\xc1\xc1",
    "too long": b"\xff\xff\xff\xff",
    "unknown notice": encode(Notice("never heard of", [])),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("kind", BROKEN_FRAMES)
def test_worker_whose_link_is_broken_is_replaced_and_others_are_unharmed(
    node: NodeProcess, kind: str
) -> None:
    assert node.process is not None
    found = spread(node, lambda: imap_inbox(node))
    before = workers(node)
    victim = sorted(before.values())[0]
    with link_of(victim, node.process.pid) as link:
        link.setblocking(True)
        link.sendall(BROKEN_FRAMES[kind])
    seconds_until(lambda: are_replaced(node, {victim}), 120)  # the fourth in a row waits for some seconds
    assert {pid for pid in before.values() if pid != victim} <= set(workers(node).values())
    alive = [clients for clients in found.values() if all(answers(client) for client in clients)]
    assert len(alive) == 1
    listed = {each["port"] for each in command(node, "connections.list")["connections"]}
    assert listed == {client.socket.getsockname()[1] for client in alive[0]}
    close_all(node, found)
    assert "Traceback" not in node.log


def test_worker_that_keeps_dying_is_started_less_often(node: NodeProcess) -> None:
    name = "worker-1"
    for _ in range(3):  # the third waits for two pauses, of half a second and of a whole one
        started = time.monotonic()
        victim = workers(node)[name]
        os.kill(victim, signal.SIGKILL)
        seconds_until(lambda gone=victim: are_replaced(node, {gone}), 60)  # type: ignore[misc]
        took = time.monotonic() - started
        assert name in workers(node)
    assert took > 1


@pytest.fixture
def limited() -> Iterator[NodeProcess]:
    def edit(text: str) -> str:
        head, name, rest = two_workers(text).partition('name = "imaps"')
        server, gap, more = rest.partition("\n\n")
        return head + name + server + LIMITS + gap + more

    with NodeProcess().prepare(edit) as running:
        yield running


def test_limits_count_all_workers(limited: NodeProcess) -> None:
    clients, refused = [], 0
    for _ in range(9):
        client = imap(limited)
        reply = client.login(limited.address, limited.password)
        clients.append(client)
        refused += not reply.startswith(b"OK")
    assert refused == 6
    for client in clients:
        client.close()
    seconds_until(lambda: not command(limited, "connections.list")["connections"], 60)
    with imap_inbox(limited) as client:
        assert client.imap(b"NOOP")[0].startswith(b"OK")


MOST, MOST_PER_ADDRESS = 12, 5


@pytest.fixture
def small() -> Iterator[NodeProcess]:
    def edit(text: str) -> str:
        limits = f"max_connections = {MOST}\nmax_connections_per_ip = {MOST_PER_ADDRESS}"
        return re.sub(r'(?m)^(name = "imap")$', rf"\1\n{limits}", two_workers(text))

    with NodeProcess().prepare(edit) as running:
        yield running


def come_at_once(node: NodeProcess, addresses: list[str]) -> list[socket.socket]:
    """All connections in one instant; those that got a greeting are kept."""
    socks = []
    for address in addresses:
        sock = socket.socket()
        sock.bind((address, 0))
        sock.settimeout(60)
        socks.append(sock)
    for sock in socks:
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", node.port("imap")))
    kept = []
    for sock in socks:
        sock.settimeout(60)
        said = sock.recv(4096)
        if said.startswith(b"* OK"):
            kept.append(sock)
        else:
            assert said.startswith(b"* BYE [UNAVAILABLE]")
            sock.close()
    return kept


def let_go(node: NodeProcess, socks: list[socket.socket], left: int) -> None:
    for sock in socks:
        sock.close()
    seconds_until(lambda: imap_connections(node) == left, 60)


def imap_connections(node: NodeProcess) -> int:
    (found,) = [each for each in command(node, "status")["listeners"] if each["name"] == "imap"]
    return int(found["connections"])


def test_connection_limits_are_exact_over_all_workers(small: NodeProcess) -> None:
    """However the connections fall to the workers, and even in one instant."""
    crowd = [f"127.0.1.{number}" for number in range(1, 61)]
    for _ in range(5):
        kept = come_at_once(small, crowd)
        assert len(kept) == MOST
        # half of them leave, whoever serves them, and exactly as many others come in
        let_go(small, kept[::2], MOST - MOST // 2)
        more = come_at_once(small, crowd)
        assert len(more) == MOST // 2
        let_go(small, kept[1::2] + more, 0)
        lonely = come_at_once(small, ["127.0.2.1"] * 40)
        assert len(lonely) == MOST_PER_ADDRESS
        others = come_at_once(small, crowd)
        assert len(others) == MOST - MOST_PER_ADDRESS
        let_go(small, lonely + others, 0)
    # the places of a worker that is killed are free
    kept = come_at_once(small, crowd)
    busiest = max(command(small, "status")["workers"], key=lambda each: each["sessions"])  # may have all
    victim = busiest["pid"]
    os.kill(victim, signal.SIGKILL)
    seconds_until(lambda: are_replaced(small, {victim}), 60)
    left = imap_connections(small)
    assert left < MOST
    assert len(come_at_once(small, crowd)) == MOST - left


def test_block_holds_in_all_workers(limited: NodeProcess) -> None:
    def attempt(password: str) -> bytes:
        with imap(limited) as client:
            return client.login(limited.address, password)

    for number in range(2):
        assert attempt(f"wrong {number}").startswith(b"NO")
    for _ in range(8):  # whichever worker accepts
        assert attempt(limited.password).startswith(b"NO")
    (block,) = command(limited, "blocks.list")["blocks"]
    assert block["rule"] == "user"
    command(limited, "blocks.remove", subject="127.0.0.1")
    for _ in range(4):
        assert attempt(limited.password).startswith(b"OK")
    command(limited, "blocks.add", subject="127.0.0.1", reason="test")
    for _ in range(8):  # at the door, before TLS
        with pytest.raises(OSError):
            imap(limited)
    command(limited, "blocks.remove", subject="127.0.0.1")
    assert attempt(limited.password).startswith(b"OK")


def test_orderly_stop_says_goodbye_in_every_worker() -> None:
    node = NodeProcess().prepare(two_workers)
    with node:
        found = spread(node, lambda: imap_inbox(node))
        pids = [pid for pid in node.children() if is_ours(pid)]
        assert len(pids) == WORKERS + 1
        assert json.loads(node.admin("health", "--json"))["status"]
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        for clients in found.values():
            for client in clients:
                assert client.line().startswith(b"* BYE")
                client.close()
        assert node.process.wait(60) == 0
        node._forget()
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_workers_do_not_outlive_the_control_process() -> None:
    with NodeProcess().prepare(two_workers) as node:
        pids = [pid for pid in node.children() if is_ours(pid)]
        assert len(pids) == WORKERS + 1
        assert node.process is not None
        others = [pid for pid in node.children() if pid not in pids]
        os.kill(node.process.pid, signal.SIGKILL)
        seconds_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 60)
        for pid in others:  # PostgreSQL; its children go with it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.kill()


def is_ours(pid: int) -> bool:
    """A worker, or the process that they come from."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sora-node: ")
    except OSError:  # it has ended
        return False


def test_figures_are_those_of_all_workers_and_never_fall() -> None:
    def edit(text: str) -> str:
        return two_workers(text) + METRICS

    def delivered(node: NodeProcess) -> float:
        url = f"http://127.0.0.1:{node.port('figures')}/metrics"
        with urllib.request.urlopen(url, timeout=60) as page:
            lines = page.read().decode().splitlines()
        assert sum(line.startswith("sora_process_resident_bytes{") for line in lines) == WORKERS + 1
        (value,) = [
            line.split()[1] for line in lines if line.startswith('sora_deliveries_total{result="2xx"}')
        ]
        return float(value)

    with NodeProcess().prepare(edit) as node:
        for number in range(8):
            assert deliver(node, node.address, message(number)).startswith(b"250")
        assert delivered(node) == 8
        victim = next(iter(workers(node).values()))
        os.kill(victim, signal.SIGKILL)
        seconds_until(lambda: are_replaced(node, {victim}), 60)
        assert delivered(node) == 8
        assert deliver(node, node.address, message(9)).startswith(b"250")
        assert delivered(node) == 9
