from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from storage.errors import StagingFull
from storage.objects.disk import Disk
from storage.spool import MEMORY_BYTES, BodySpool


@pytest.mark.parametrize("size", [0, 1, 5000, MEMORY_BYTES, MEMORY_BYTES + 1, 3 * MEMORY_BYTES + 5])
@pytest.mark.parametrize("piece", [700, 65_536, 10**9])
def test_gives_back_what_was_written(tmp_path: Path, size: int, piece: int) -> None:
    data = os.urandom(size)
    spool = BodySpool(tmp_path / "spool")
    for at in range(0, size, piece):
        spool.write(data[at : at + piece])
    assert spool.size_bytes == size
    assert spool.content_hash() == hashlib.sha256(data).digest()
    assert bytes(spool.buffer()[:]) == data
    spool.close()


def test_large_bodies_leave_memory_and_have_no_name(tmp_path: Path) -> None:
    spool = BodySpool(tmp_path / "spool")
    spool.write(bytes(MEMORY_BYTES))
    assert not (tmp_path / "spool").exists()
    spool.write(b"x")
    assert not spool._memory
    assert list((tmp_path / "spool").iterdir()) == []
    mapped = spool.buffer()
    spool.close()
    assert mapped[-1:] == b"x"  # the map outlives the spool


def test_closing_twice_and_writing_after(tmp_path: Path) -> None:
    spool = BodySpool(tmp_path)
    spool.write(b"x")
    spool.close()
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        spool.write(b"y")


class FullDisk(Disk):
    def write(self, fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_is_staging_full_and_stays_so(tmp_path: Path) -> None:
    spool = BodySpool(tmp_path, FullDisk())
    spool.write(bytes(MEMORY_BYTES))
    for _ in range(2):
        with pytest.raises(StagingFull):
            spool.write(b"more")
    with pytest.raises(StagingFull):
        spool.buffer()
    spool.close()


def test_forgotten_spool_gives_its_descriptor_back(tmp_path: Path) -> None:
    spool = BodySpool(tmp_path)
    spool.write(bytes(MEMORY_BYTES + 1))
    fd = spool._fd
    del spool
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
