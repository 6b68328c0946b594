"""NOOP, FETCH and LMTP with one and two processes that serve clients: ``python -m tests.bench.processes``.

The load comes in long pipelines, so that the generator takes little. On a machine that is shared with the
generator the rate says little by itself; *busiest* is what one process of the node could do at most: the
operations for each CPU second of the process that took most. Its ratio is how well work is spread.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from pathlib import Path

from tests.interop.conftest import SECRET_HASH
from tests.support.nodeprocess import NodeProcess

from .clients import Imap, deliver_at_once
from .measure import TICKS, tree
from .scenarios import SMALL, sized

CONNECTIONS = 16
NOOPS = 2_000  # a connection and round
ROUNDS = 5
MESSAGES = 500  # in the mailbox that is fetched
FETCHES = 40  # of the whole of it, a connection
DONE = b"\nf OK"
ITEMS = {"flags": b"(UID FLAGS RFC822.SIZE)", "env": b"(UID ENVELOPE)"}
MAILS = 50  # a connection


def own_cpu(pids: list[int]) -> dict[int, float]:
    """CPU seconds of each so far, without its children."""
    stats = {pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids}
    return {pid: sum(int(value) for value in stat[11:13]) / TICKS for pid, stat in stats.items()}


def serving(node: NodeProcess) -> list[int]:
    """The processes of the node that run Python, whatever each of them does."""
    assert node.process is not None
    root = node.process.pid
    return [root, *(pid for pid in tree(root) if is_worker(pid))]


def is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sora-node: worker-")
    except OSError:
        return False


def measured(node: NodeProcess, name: str, operations: int, work: Callable[[], None]) -> None:
    pids = serving(node)
    workers = pids[1:] or pids
    before, started = own_cpu(workers), time.perf_counter()
    work()
    wall_s = time.perf_counter() - started
    took = sorted(cpu - before[pid] for pid, cpu in own_cpu(workers).items())
    busiest = operations / took[-1] if took[-1] else 0.0
    shares = ", ".join(f"{each / sum(took):.0%}" for each in took)
    print(
        f"  {name:6} {operations / wall_s:8.0f}/s, busiest {busiest:8.0f}/s, CPU spread {shares}", flush=True
    )


def noops(clients: list[Imap]) -> None:
    batch = b"a NOOP\r\n" * NOOPS
    for _ in range(ROUNDS):
        for client in clients:
            client.socket.sendall(batch)
        for client in clients:
            seen = 0
            while seen < NOOPS:
                seen += client.socket.recv(1 << 18).count(b"\n")


def fetches(clients: list[Imap], items: bytes) -> None:
    """All connections at once, each with several commands under way."""
    for client in clients:
        client.socket.sendall(b"f FETCH 1:* %b\r\n" % items * FETCHES)
    waiting = {client.socket: FETCHES for client in clients}
    tails = dict.fromkeys(waiting, b"")
    while waiting:
        for sock in select.select(list(waiting), [], [])[0]:
            data = tails[sock] + sock.recv(1 << 18)
            waiting[sock] -= data.count(DONE)
            tails[sock] = data[1 - len(DONE) :]  # one that is cut is counted when it is whole
            if not waiting[sock]:
                del waiting[sock]


def run(workers: int) -> None:
    print(f"workers = {workers}", flush=True)
    with NodeProcess().prepare(lambda text: text.replace("workers = 1\n", f"workers = {workers}\n")) as node:
        clients = [Imap(node.port("imap")) for _ in range(CONNECTIONS)]
        for client in clients:
            client.login(node.address, node.password)
        measured(node, "NOOP", CONNECTIONS * NOOPS * ROUNDS, lambda: noops(clients))
        for number in range(MESSAGES):
            clients[0].append("INBOX", sized(number, SMALL))
        for client in clients:
            client.command("SELECT INBOX")
        for name, items in ITEMS.items():
            fetched = CONNECTIONS * FETCHES * MESSAGES
            measured(node, name, fetched, lambda items=items: fetches(clients, items))  # type: ignore[misc]
        mails = [[sized(n * MAILS + k, SMALL) for k in range(MAILS)] for n in range(CONNECTIONS)]
        recipients = [f"bench{n}@bench.example.test" for n in range(CONNECTIONS)]
        for recipient in recipients:
            node.admin("accounts", "create", recipient, "--password-hash", SECRET_HASH)
        measured(
            node, "LMTP", CONNECTIONS * MAILS, lambda: deliver_at_once(node.port("lmtp"), recipients, mails)
        )
        for client in clients:
            client.close()


def main() -> None:
    for workers in (1, 2):
        run(workers)


if __name__ == "__main__":
    main()
