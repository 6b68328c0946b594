"""The copies on disk: a start without the bucket, and disks that fail."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from tests.support.faults import UnsyncedDisk
from tests.support.issued import CA, NOW, generation
from tls.ports import BucketUnavailable
from tls.vault.memory import MemoryBucket
from tls.vault.mirror import Mirror
from tls.vault.sealing import Seals
from tls.vault.vault import SealedVault
from tls.wanted import Wanted

WANTED = Wanted(("mail.example.test",))


class FullDisk(UnsyncedDisk):
    is_full = True

    def write(self, fd: int, data: bytes) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(fd, data)


class Away:
    """A bucket that nobody reaches."""

    async def put(self, key: str, data: bytes) -> None:
        raise BucketUnavailable("away")

    async def get(self, key: str) -> bytes | None:
        raise BucketUnavailable("away")

    async def list(self, prefix: str) -> list[str]:
        raise BucketUnavailable("away")

    async def delete(self, key: str) -> None:
        raise BucketUnavailable("away")


def vault(bucket: MemoryBucket | Away, mirror: Mirror) -> SealedVault:
    return SealedVault(bucket, Seals([b"s" * 32]), [CA], mirror=mirror, now=lambda: NOW)


async def test_a_node_starts_without_the_bucket(tmp_path: Path) -> None:
    first = vault(MemoryBucket(), Mirror(tmp_path / "certs", UnsyncedDisk()))
    await first.publish(generation(4))
    await first.publish(last := generation(5))
    started = vault(Away(), Mirror(tmp_path / "certs", UnsyncedDisk()))
    assert await started.newest_local(WANTED.id) == last
    with pytest.raises(BucketUnavailable):
        await started.newest(WANTED.id)
    with pytest.raises(BucketUnavailable):
        await started.publish(generation(6))
    assert await started.newest_local(WANTED.id) == last


async def test_what_the_bucket_has_newer_replaces_it(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    await vault(bucket, Mirror(tmp_path / "a", UnsyncedDisk())).publish(generation(4))
    other = vault(bucket, Mirror(tmp_path / "b", UnsyncedDisk()))
    await other.newest(WANTED.id)
    await vault(bucket, Mirror(tmp_path / "a", UnsyncedDisk())).publish(last := generation(5))
    assert await other.newest(WANTED.id) == last
    assert await vault(Away(), Mirror(tmp_path / "b", UnsyncedDisk())).newest_local(WANTED.id) == last


async def test_copies_are_sealed_and_for_their_owner_only(tmp_path: Path) -> None:
    root = tmp_path / "certs"
    await vault(MemoryBucket(), Mirror(root)).publish(generation(4))  # synced, as in earnest
    (copy,) = [path for path in root.rglob("*") if path.is_file()]
    assert copy.stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in (root, *root.rglob("*")) if path.is_dir()} == {0o700}
    assert b"PRIVATE" not in copy.read_bytes()


async def test_a_full_disk_costs_the_copies_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = FullDisk()
    mirror = Mirror(tmp_path / "certs", disk)
    node = vault(MemoryBucket(), mirror)
    with caplog.at_level(logging.INFO):
        for fence in (4, 5):
            await node.publish(generation(fence))
        found = await node.newest(WANTED.id)
        assert found is not None
        assert found.fence == 5
        assert not (await node.publish_locally(generation(6))).is_kept
        assert mirror.is_failing
        assert mirror.failures["put"] == 4  # two published, one read, one local
        assert len(caplog.records) == 1
        assert "No space left" in caplog.text
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        disk.is_full = False
        assert await node.newest(WANTED.id) == found  # the copy that is missing is made
        assert not mirror.is_failing
        assert "again" in caplog.text
    assert await vault(Away(), mirror).newest_local(WANTED.id) == found


async def test_a_disk_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "certs").write_bytes(b"in the way")
    mirror = Mirror(tmp_path / "certs")
    node = vault(MemoryBucket(), mirror)
    await node.publish(last := generation(4))
    assert await node.newest(WANTED.id) == last
    assert await node.newest_local(WANTED.id) is None
    assert mirror.failures["list"] >= 2
    await mirror.delete("tls/v1/x")
    assert mirror.failures["delete"] == 1


async def test_half_written_copies_are_not_seen(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "certs", UnsyncedDisk())
    await vault(MemoryBucket(), mirror).publish(last := generation(4))
    (copy,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    copy.with_name(f".{copy.name}.0123456789ab.tmp").write_bytes(b"half")
    assert len(await mirror.list("tls/")) == 1
    assert await vault(Away(), mirror).newest_local(WANTED.id) == last
