"""Two nodes with one real store: a directory, and S3."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from node.rclone import RcloneServer
from tests.support.faults import UnsyncedDisk
from tests.support.issued import CA, NOW, generation
from tests.support.s3 import s3_server
from tls.ports import Account, Bucket, BucketUnavailable, Journal
from tls.vault.bucket import S3Bucket
from tls.vault.directory import DirectoryBucket
from tls.vault.mirror import Mirror
from tls.vault.sealing import Seals
from tls.vault.vault import SealedVault
from tls.wanted import Wanted

from .test_buckets import bucket_config

__all__ = ["s3_server"]  # a fixture

WANTED = Wanted(("mail.example.test",))
TOKEN = "t" * 43


@pytest_asyncio.fixture
async def on_s3(s3_server: RcloneServer) -> AsyncIterator[list[Bucket]]:
    opened = [S3Bucket(bucket_config(s3_server)) for _ in range(2)]
    yield list(opened)
    for bucket in opened:
        await bucket.close()


@pytest_asyncio.fixture
async def in_a_directory(tmp_path: Path) -> list[Bucket]:
    return [DirectoryBucket(tmp_path / "bucket", UnsyncedDisk()) for _ in range(2)]


@pytest.fixture(params=["on_s3", "in_a_directory"])
def buckets(request: pytest.FixtureRequest) -> list[Bucket]:
    found: list[Bucket] = request.getfixturevalue(request.param)
    return found


async def test_an_order_from_its_start_to_the_tidying(buckets: list[Bucket], tmp_path: Path) -> None:
    now = NOW

    def node(number: int) -> SealedVault:
        mirror = Mirror(tmp_path / f"node{number}", UnsyncedDisk())
        return SealedVault(buckets[number], Seals([b"s" * 32]), [CA], mirror=mirror, now=lambda: now)

    leader, other = node(0), node(1)
    assert await other.newest(WANTED.id) is None
    account = Account(CA, "key", "uri")
    await leader.put_account(account, 1)
    assert await other.account(CA) == account
    journal = Journal(WANTED, 1, CA, "order", b"csr", b"key", NOW)
    await leader.put_journal(journal)
    assert await other.journal(WANTED.id) == journal
    await leader.put_challenge(TOKEN, f"{TOKEN}.thumbprint")
    assert await other.challenge(TOKEN) == f"{TOKEN}.thumbprint"
    await leader.drop_challenge(TOKEN)
    assert await other.challenge(TOKEN) is None
    for fence in range(1, 6):
        await leader.publish(published := generation(fence))
        assert await other.newest(WANTED.id) == published
    await leader.drop_journal(WANTED.id)
    assert await other.journal(WANTED.id) is None
    now += timedelta(days=2)
    assert await leader.prune(WANTED.id) == 2
    assert await other.generations(WANTED.id) == [5, 4, 3]
    assert not leader.skipped
    assert not other.skipped


async def test_the_store_is_stopped_and_comes_back(s3_server: RcloneServer, tmp_path: Path) -> None:
    bucket = S3Bucket(bucket_config(s3_server))
    mirror = Mirror(tmp_path, UnsyncedDisk())
    vault = SealedVault(bucket, Seals([b"s" * 32]), [CA], mirror=mirror, now=lambda: NOW)
    await vault.publish(first := generation(101, ["away.example.test"]))
    await s3_server.stop()
    try:
        with pytest.raises(BucketUnavailable, match="cannot be reached"):
            await vault.newest(first.wanted_id)
        assert await vault.newest_local(first.wanted_id) == first
        second = generation(102, ["away.example.test"])
        assert (await vault.publish_locally(second)).is_kept
    finally:
        await s3_server.start("mail")
    assert await vault.upload_local(first.wanted_id)
    assert await vault.generations(first.wanted_id) == [102, 101]
    await bucket.close()
