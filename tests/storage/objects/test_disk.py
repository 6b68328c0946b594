from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.objects.disk import FILES_AT_ONCE, Disk, place_all
from tests.support.faults import Fault, FaultyDisk, Kind

FILES = {"aa/1": [b"one"], "aa/2": [b"two ", b"pieces"], "bb/3": [b"three"]}


@pytest.mark.parametrize("kind", [Kind.FAILS, Kind.NO_ROOM, Kind.ANSWER_LOST])
def test_a_fault_of_one_file_leaves_the_others_durable_and_nothing_behind(tmp_path: Path, kind: Kind) -> None:
    at, fault = 0, Fault(0, kind)
    while at == 0 or fault.has_fired:
        at += 1
        root = tmp_path / str(at)
        root.mkdir()
        fault = Fault(at, kind)
        disk = FaultyDisk(fault)
        files = {root / name: pieces for name, pieces in FILES.items()}
        open_before = len(os.listdir("/proc/self/fd"))
        failed = place_all(disk, files)
        assert len(os.listdir("/proc/self/fd")) == open_before
        assert bool(failed) == fault.has_fired
        assert {path for path in root.rglob("*") if path.name.endswith(".tmp")} == set()
        disk.cut_power()
        for path, pieces in files.items():
            assert path in failed or path.read_bytes() == b"".join(pieces), fault
    assert at > len(FILES) * 4  # write, sync and rename of each were struck


def test_open_files_of_a_large_group_are_bounded(tmp_path: Path) -> None:
    class Counting(Disk):
        open_now = most = 0

        def create(self, path: Path) -> int:
            self.open_now += 1
            self.most = max(self.most, self.open_now)
            return super().create(path)

        def close(self, fd: int) -> None:
            self.open_now -= 1
            super().close(fd)

    disk, files = Counting(), {tmp_path / str(n): [b"%d" % n] for n in range(2 * FILES_AT_ONCE + 1)}
    assert place_all(disk, files) == {}
    assert (disk.most, disk.open_now) == (FILES_AT_ONCE, 0)
    assert {path: path.read_bytes() for path in files} == {path: pieces[0] for path, pieces in files.items()}
