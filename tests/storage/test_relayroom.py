"""The bounds of the relay queue."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import StagingFull, Unavailable
from storage.relayqueue import RelayQueue
from storage.relayroom import COUNT_EVERY_S, RelayLimits, RelayRoom
from tests.support.relaydisk import UnsyncedSpoolDisk

NOW = 1_800_000_000.0


@pytest.fixture
def queue(tmp_path: Path) -> RelayQueue:
    queue = RelayQueue(tmp_path / "relay", lambda: NOW, UnsyncedSpoolDisk())
    queue.make_directories()
    return queue


def submit(queue: RelayQueue, kind: str = "redirect", key: bytes = b"") -> str:
    return queue.submit("a@b.test", ["c@d.test"], b"x" * 1000, kind=kind, account=None, key=key)


def test_so_many_messages_and_no_more(queue: RelayQueue) -> None:
    queue.room.limits = RelayLimits(max_messages=3)
    first, *_ = [submit(queue, key=key) for key in (b"1", b"2", b"3")]
    with pytest.raises(StagingFull, match="limit of 3 messages"):
        submit(queue)
    assert len(queue.ids("pending")) == 3
    assert submit(queue, key=b"1") == first, "what is queued is no more mail"
    submit(queue, kind="bounce")
    assert len(queue.ids("pending")) == 4, "a report takes the place of what failed"


def test_so_many_bytes_and_no_more(queue: RelayQueue) -> None:
    queue.room.limits = RelayLimits(max_bytes=2800)
    submit(queue)
    submit(queue)
    with pytest.raises(StagingFull, match="limit is 2800"):
        submit(queue)
    assert queue.room.fill_ratio() == pytest.approx(0.8, abs=0.1)


def test_what_failed_takes_bytes_and_is_not_on_its_way(queue: RelayQueue) -> None:
    (message,) = queue.take([submit(queue)])
    queue.bury(message.id)
    queue.room.limits = RelayLimits(max_messages=1, max_bytes=1)
    queue.room.count()
    assert (queue.room.level.messages, queue.room.level.bytes) == (0, message.tail_at)


def test_strays_take_no_room(queue: RelayQueue) -> None:
    (queue.root / "pending" / "README").write_bytes(b"x" * 5000)
    (queue.root / "failed" / "lost+found").mkdir()
    message_id = submit(queue)
    (queue.root / "pending" / f".{message_id}.0123abcd.tmp").write_bytes(b"x" * 500)
    queue.room.count()
    size = (queue.root / "pending" / message_id).stat().st_size
    assert (queue.room.level.messages, queue.room.level.bytes) == (1, size + 500)


def test_it_is_counted_again_after_a_while(queue: RelayQueue) -> None:
    now = [0.0]
    room = RelayRoom(queue.root, RelayLimits(max_messages=1), lambda: now[0])
    room.admit(10)
    for _ in range(3):
        with pytest.raises(StagingFull):
            room.admit(10)
        now[0] += COUNT_EVERY_S / 3
    room.admit(10)  # what was admitted first was never written


def test_a_long_queue_is_counted_less_often(queue: RelayQueue) -> None:
    now, counts = [0.0], [0]

    def slow() -> float:
        now[0] += 2.0  # each look at the clock
        return now[0]

    room = RelayRoom(queue.root, RelayLimits(max_messages=1_000), slow)
    found = room._found

    def counting() -> object:
        counts[0] += 1
        return found()

    room._found = counting  # type: ignore[method-assign,assignment]
    for _ in range(40):  # at least 80 s pass
        room.admit(1)
    assert counts[0] == 1, "2 s for a count: 2 % of 100 s"


def test_the_disk_keeps_some_room(queue: RelayQueue) -> None:
    room = RelayRoom(queue.root, RelayLimits(min_free_bytes=500), statvfs=disk_with(1000))
    room.admit(500)
    with pytest.raises(StagingFull, match="1000 bytes are free"):
        room.admit(501)


def disk_with(free: int) -> Callable[[Path], os.statvfs_result]:
    fields = [
        1,
        1,
        free,
        free,
        free,
        0,
        0,
        0,
        0,
        255,
        0,
    ]  # blocks of one octet
    return lambda _path: os.statvfs_result(fields)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        RelayRoom(tmp_path / "nothing", RelayLimits(max_messages=1)).admit(1)
    with pytest.raises(Unavailable):
        RelayRoom(tmp_path / "nothing", RelayLimits(min_free_bytes=1)).admit(1)


def test_without_limits_nothing_is_counted(tmp_path: Path) -> None:
    RelayRoom(tmp_path / "nothing", RelayLimits()).admit(10**15)
