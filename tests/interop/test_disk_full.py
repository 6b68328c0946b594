"""Disks run full under a node: new mail is refused for now, everything taken before stays, room heals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.livenode import deliver, imap_inbox, message, stored
from tests.support.nodeprocess import NodeProcess
from tests.support.waiting import eventually

from .test_outages import node_beside_its_object_store

MIB = 1024 * 1024


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A file system of its own; a loud skip where mounting is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "sora-test", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here, so none can run full: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        os.removedirs(path)  # what was mounted here has kept the node's directory from being removed


def noise(number: int, size: int) -> bytes:
    """A message that no compression makes smaller than three quarters."""
    text = random.Random(number).randbytes(size).translate(bytes(range(64, 128)) * 4)
    lines = b"\r\n".join(text[at : at + 900] for at in range(0, size, 900))
    return b"Subject: noise %d\r\n\r\n" % number + lines + b"\r\n"


def fill(directory: Path) -> Path:
    """Take all room that is left."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def deliver_until_refused(node: NodeProcess, size: int, most: int) -> tuple[list[bytes], bytes]:
    """What was taken, and the reply that refused."""
    taken: list[bytes] = []
    for number in range(most):
        mail = noise(number, size)
        reply = deliver(node, node.address, mail)
        if not reply.startswith(b"250"):
            return taken, reply
        taken.append(mail)
    raise AssertionError(f"{most} messages of {size} bytes were taken by a disk that cannot hold them")


def test_full_body_disk_refuses_with_452_and_loses_nothing() -> None:
    node = NodeProcess()
    with small_disk(node.directory / "disk", 10 * MIB) as disk:

        def edit(text: str) -> str:
            for part in ("objects", "cache", "staging"):
                text = text.replace(f'"{node.directory}/data/{part}"', f'"{disk}/{part}"')
            return text.replace("[uploader]\n", '[uploader]\nstaging = "disk"\n')

        ballast = disk / "ballast"  # what is made free in the end: uploads go on after the refusal
        ballast.write_bytes(bytes(2 * MIB))
        with node.prepare(edit):
            taken, refusal = deliver_until_refused(node, 300_000, 40)
            assert taken
            assert refusal.startswith(b"452 4.3.1"), refusal
            filler = fill(disk)
            # larger than memory takes: these go through a spool on the full disk
            assert deliver(node, node.address, noise(100, 3 * MIB)).startswith(b"452 4.3.1")
            assert deliver(node, node.address, message(101)).startswith(b"452 4.3.1")
            with imap_inbox(node) as session:
                large = noise(102, 2 * MIB)
                session.send(b"a APPEND INBOX {%d+}\r\n" % len(large) + large + b"\r\n")
                assert session.line().startswith(b"a NO [UNAVAILABLE]")
                assert session.imap(b"NOOP")[0].startswith(b"OK")
            assert stored(node) == sorted(taken)
            assert node.stop() == 0
            node.start()  # also with a full disk: there is mail to be read
            assert stored(node) == sorted(taken)
            assert deliver(node, node.address, message(101)).startswith(b"452 4.3.1")
            filler.unlink()
            ballast.unlink()
            assert deliver(node, node.address, message(103)).startswith(b"250")
            assert stored(node) == sorted([*taken, message(103)])


def test_full_database_disk_is_temporary_and_loses_nothing() -> None:
    node = NodeProcess().prepare(str)
    with small_disk(node.directory / "data" / "postgres", 160 * MIB) as disk, node:
        assert deliver(node, node.address, message(1)).startswith(b"250")
        filler = fill(disk)
        taken, refusal = deliver_until_refused(node, 1 * MIB, 100)
        assert refusal.startswith((b"452 4.3.1", b"451 4.3.0")), refusal
        for number in range(200, 203):
            assert deliver(node, node.address, noise(number, 1 * MIB)).startswith((b"452", b"451"))
        filler.unlink()
        last = noise(300, 1000)
        eventually(lambda: deliver(node, node.address, last).startswith(b"250"))
        everything = sorted([message(1), *taken, last])
        assert stored(node) == everything
        assert deliver(node, node.address, noise(len(taken), 1 * MIB)).startswith(b"250")


def test_full_staging_area_refuses_until_the_object_store_is_back() -> None:
    limit = ("[uploader]\n", '[uploader]\nmax_staging_size = "300kb"\n')
    with node_beside_its_object_store((limit,)) as (node, rclone):
        rclone.signal(signal.SIGKILL)
        taken, refusal = deliver_until_refused(node, 50_000, 40)
        assert taken
        assert refusal.startswith(b"452 4.3.1"), refusal
        assert stored(node) == sorted(taken)
        rclone.start()
        node.wait_until_uploaded()
        again = noise(len(taken), 50_000)
        eventually(lambda: deliver(node, node.address, again).startswith(b"250"))
        assert stored(node) == sorted([*taken, again])


METRICS = '[[servers]]\ntype = "metrics"\nname = "figures"\naddr = "127.0.0.1:0"\n'


def lost_lines(node: NodeProcess) -> float:
    url = f"http://127.0.0.1:{node.port('figures')}/metrics"
    with urllib.request.urlopen(url, timeout=60) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("sora_log_lines_lost_total"))


def is_log_degraded(node: NodeProcess) -> bool:
    components = json.loads(node.admin("health", "--json", check=False))["components"]
    (log,) = [each for each in components if each["name"] == "log"]
    return log["status"] == "degraded" and "log lines were lost" in log["detail"]


@pytest.mark.parametrize("workers", [1, 2])
def test_full_log_disk_costs_lines_and_nothing_else(workers: int) -> None:
    node = NodeProcess()
    with small_disk(node.directory / "log", 128 * 1024) as disk:
        path = disk / "sora.log"

        def edit(text: str) -> str:
            text = text.replace("workers = 1\n", f"workers = {workers}\n") + METRICS
            return text + f'\n[logging]\noutput = "{path}"\nlevel = "info"\n'

        with node.prepare(edit):
            assert deliver(node, node.address, message(0)).startswith(b"250")
            assert lost_lines(node) == 0
            filler = fill(disk)
            for number in range(1, 40):  # more lines than a page still holds
                assert deliver(node, node.address, message(number)).startswith(b"250")
                with imap_inbox(node) as session:
                    assert session.imap(b"NOOP")[0].startswith(b"OK")
            eventually(lambda: lost_lines(node) > 0)
            said = (node.directory / "node.log").read_text()
            assert 1 <= said.count("log lines are being lost: No space left on device") <= workers + 1
            assert "Traceback" not in said
            eventually(lambda: deliver(node, node.address, message(40)) and is_log_degraded(node))
            filler.unlink()
            before = path.stat().st_size
            with imap_inbox(node):
                eventually(lambda: path.stat().st_size > before)
            missed = lost_lines(node)
            with imap_inbox(node):
                assert b" log lines were lost: No space left on device" in path.read_bytes()
            assert lost_lines(node) == missed
            assert len(stored(node)) >= 41
            eventually(lambda: not is_log_degraded(node))
