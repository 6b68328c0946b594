"""Staging is changed, nodes are lost, S3 is away: with real processes nothing acknowledged is ever lost."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.livenode import deliver, health_of, imap_inbox, message, stored
from tests.support.nodeprocess import NodeProcess
from tests.support.waiting import eventually

from .test_outages import node_beside_its_object_store

ON_DISK = 'staging = "disk"\n'


def take(node: NodeProcess, numbers: Sequence[int]) -> list[bytes]:
    """Delivered and acknowledged; every third needs a spool file and several frames."""
    mails = [message(number, 2_500_000 if number % 3 == 0 else 3_000) for number in numbers]
    for mail in mails:
        assert deliver(node, node.address, mail).startswith(b"250")
    return mails


def set_staging(path: Path, *, on_disk: bool) -> None:
    text = path.read_text().replace(ON_DISK, "")
    path.write_text(text.replace("[uploader]\n", f"[uploader]\n{ON_DISK if on_disk else ''}"))


def places(node: NodeProcess) -> dict[str | None, int]:
    """How many bodies wait where."""
    status = json.loads(node.admin("uploader", "status", "--json"))
    return {place["node"]: place["staged"] for place in status["places"]}


def test_a_switch_between_disk_and_database_while_bodies_are_staged(tmp_path: Path) -> None:
    with node_beside_its_object_store() as (node, rclone):
        rclone.signal(signal.SIGKILL)
        sent = take(node, range(4))
        for round_, on_disk in enumerate((True, False, True)):
            assert node.stop() == 0
            set_staging(node.config, on_disk=on_disk)
            node.start()
            assert stored(node) == sorted(sent)  # all of it is staged
            sent += take(node, range(10 * round_ + 10, 10 * round_ + 14))
            assert stored(node) == sorted(sent)
        waiting = places(node)
        assert waiting.pop(None) == 8
        assert list(waiting.values()) == [8]
        (lines,) = {len(node.admin("uploader", "status").splitlines())}
        assert lines >= 4  # what, and where
        rclone.start()
        node.wait_until_uploaded()
        assert stored(node) == sorted(sent)
        node.stop()
        node.start()  # what it has in memory is gone
        assert stored(node) == sorted(sent)


@contextmanager
def second_on_disk(first: NodeProcess) -> Iterator[NodeProcess]:
    """Another node, with its own name and directory, that stages on its disk."""
    second = first.beside("second")
    assert second.run_config is not None
    text = second.run_config.read_text().replace(
        f'"{first.directory}/data/staging"', f'"{second.directory}/staging"'
    )
    text = text.replace("[uploader]\n", f'[uploader]\ninstance_id = "second"\n{ON_DISK}')
    assert text.count(f'"{second.directory}/staging"') == 1
    second.run_config.write_text(re.sub(r"(?m)^control_socket = .*$", "", text))
    with second:
        yield second


def adopted(node: NodeProcess, directory: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.admin("uploader", "adopt", str(directory), "--json", *options))
    return found


def test_bodies_on_the_disk_of_a_lost_node_are_adopted() -> None:
    """It was killed while S3 was away; its disk is mounted at another node, and somebody gives the order."""
    with node_beside_its_object_store() as (first, rclone):
        rclone.signal(signal.SIGKILL)
        with second_on_disk(first) as second:
            there = take(second, range(20, 26))
            here = take(first, range(30, 33))
            again = there[1]
            assert deliver(first, first.address, again).startswith(b"250")  # a late try of the sender
            assert places(first) == {None: 4, "second": 5}  # those bytes no longer depend on the second
            with imap_inbox(first) as session:
                assert session.imap(b"FETCH 1 (BODY.PEEK[])")[0].startswith(b"NO [UNAVAILABLE]")
            second.kill(children=False)
            old_disk = second.directory / "staging"
            report = adopted(first, old_disk)
            assert (report["adopted"], report["here"], report["unknown"], report["damaged"]) == (5, 1, 0, 0)
            assert stored(first) == sorted([*there, *here])
            assert places(first) == {None: 9}
            rclone.start()
            first.wait_until_uploaded()
            assert stored(first) == sorted([*there, *here])
            report = adopted(first, old_disk, "--remove")
            assert (report["stored"], report["removed"], report["left"]) == (6, 6, [])
            second.start()
            assert stored(second) == sorted([*there, *here])


def test_a_rebuilt_node_adopts_what_lies_on_its_disk() -> None:
    """The machine was made anew, with another name, and got the old disk: nobody has to say anything."""
    with node_beside_its_object_store() as (node, rclone):
        node.stop()
        set_staging(node.config, on_disk=True)
        node.start()
        rclone.signal(signal.SIGKILL)
        sent = take(node, range(5))
        node.kill(children=False)
        (node.directory / "data" / "staging" / "node-name").unlink()
        text = node.config.read_text()
        node.config.write_text(text.replace("[uploader]\n", '[uploader]\ninstance_id = "rebuilt"\n'))
        rclone.start()
        node.start()
        node.wait_until_uploaded()
        assert stored(node) == sorted(sent)
        assert "were found here and are uploaded" in node.log


def test_s3_away_is_bounded_by_452_and_ends_by_itself() -> None:
    """Two nodes: mail is taken up to the bound, read on both, refused beyond, taken again afterwards."""
    limit = ("[uploader]\n", '[uploader]\nmax_staging_size = "400kb"\n')
    with node_beside_its_object_store((limit,)) as (first, rclone), first.beside("second") as second:
        rclone.signal(signal.SIGSTOP)  # it hangs
        taken: list[bytes] = []
        refused = b""
        for number in range(2000):
            node = (first, second)[number % 2]
            mail = message(number, 20_000)
            refused = deliver(node, node.address, mail)
            if not refused.startswith(b"250"):
                break
            taken.append(mail)
        assert refused.startswith(b"452 4.3.1"), refused
        assert len(taken) > 20
        with imap_inbox(first) as session:
            mail = message(9999, 300_000)
            session.send(b"a APPEND INBOX {%d+}\r\n" % len(mail) + mail + b"\r\n")
            while not (line := session.line()).startswith(b"a "):
                assert line
            assert line.startswith(b"a NO [UNAVAILABLE] No room"), line
        for node in (first, second):
            assert stored(node) == sorted(taken)  # each reads what the other took
        eventually(lambda: health_of(first, "staging") in ("down", "degraded"))
        rclone.signal(signal.SIGCONT)
        first.wait_until_uploaded()
        for number, node in enumerate((first, second)):
            mail = message(5000 + number, 20_000)
            eventually(partial(accepts, node, mail))
            taken.append(mail)
        assert stored(second) == sorted(taken)


def accepts(node: NodeProcess, mail: bytes) -> bool:
    return deliver(node, node.address, mail).startswith(b"250")
