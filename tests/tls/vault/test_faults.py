"""The bucket fails, or the node dies, at each operation in turn. What is left can be read and finished."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

import pytest

from tests.support.faults import LETHAL, Fault, Killed, Kind
from tests.support.issued import CA, NOW, generation
from tls.ports import Account, BucketUnavailable, Generation, Journal
from tls.vault.memory import MemoryBucket
from tls.vault.sealing import Reason, Seals
from tls.vault.vault import SealedVault
from tls.wanted import Wanted

T = TypeVar("T")
WANTED = Wanted(("mail.example.test",))
TOKEN = "t" * 43
CASES = [(kind, False) for kind in (Kind.FAILS, Kind.ANSWER_LOST, Kind.DIES_BEFORE, Kind.DIES_AFTER)]
CASES += [(kind, True) for kind in (Kind.ANSWER_LOST, Kind.DIES_AFTER)]  # the others write nothing
ISSUED = {fence: generation(fence) for fence in range(1, 8)}


class FaultyBucket:
    """On the objects of another; ``is_torn``: what is written when the fault strikes is cut in half."""

    def __init__(self, inner: MemoryBucket, fault: Fault, *, is_torn: bool = False) -> None:
        self._inner = inner
        self._fault = fault
        self._is_torn = is_torn

    async def put(self, key: str, data: bytes) -> None:
        with self._struck(f"put {key}") as strikes:
            torn = data[: len(data) // 2] if strikes and self._is_torn else data
            await self._inner.put(key, torn)

    async def get(self, key: str) -> bytes | None:
        with self._struck(f"get {key}"):
            return await self._inner.get(key)

    async def list(self, prefix: str) -> list[str]:
        with self._struck(f"list {prefix}"):
            return await self._inner.list(prefix)

    async def delete(self, key: str) -> None:
        with self._struck(f"delete {key}"):
            await self._inner.delete(key)

    @contextlib.contextmanager
    def _struck(self, operation: str) -> Iterator[bool]:
        strikes = self._fault.strikes(operation)
        if strikes and self._fault.kind is Kind.FAILS:
            raise BucketUnavailable(operation)
        if strikes and self._fault.kind is Kind.DIES_BEFORE:
            raise Killed(operation)
        yield strikes
        if strikes:
            raise BucketUnavailable(operation) if self._fault.kind is Kind.ANSWER_LOST else Killed(operation)


def journal(fence: int) -> Journal:
    return Journal(WANTED, fence, CA, f"order of {fence}", b"csr", b"key", NOW + timedelta(seconds=fence))


def account(fence: int) -> Account:
    return Account(CA, f"key of {fence}", "uri")


async def order(vault: SealedVault, fence: int) -> None:
    """What a leader does with the vault, from the account to the certificate and the tidying after it."""
    await vault.put_account(account(fence), fence)
    await vault.put_journal(journal(fence))
    await vault.put_challenge(TOKEN, f"{TOKEN}.thumbprint")
    assert await vault.challenge(TOKEN) == f"{TOKEN}.thumbprint"
    await vault.drop_challenge(TOKEN)
    await vault.publish(ISSUED[fence])
    await vault.drop_journal(WANTED.id, up_to=fence)
    await vault.prune(WANTED.id)
    await vault.sweep()


def node(bucket: MemoryBucket | FaultyBucket, mirror: MemoryBucket | None = None) -> SealedVault:
    now = NOW + timedelta(hours=25)  # so that there is something to prune
    return SealedVault(bucket, Seals([b"s" * 32]), [CA], mirror=mirror, now=lambda: now)


async def with_history() -> MemoryBucket:
    bucket = MemoryBucket()
    for fence in range(1, 6):
        await order(node(bucket), fence)
    return bucket


async def consistent(bucket: MemoryBucket, *, is_torn: bool) -> Generation:
    """As any other node sees it."""
    reader = node(bucket)
    newest = await reader.newest(WANTED.id)
    assert newest in (ISSUED[5], ISSUED[6])
    assert newest is not None
    assert await reader.journal(WANTED.id) in (None, journal(6))
    assert await reader.account(CA) in (account(5), account(6))
    assert await reader.challenge(TOKEN) in (None, f"{TOKEN}.thumbprint")
    assert set(reader.skipped) <= ({Reason.CORRUPT} if is_torn else set())
    assert len(await reader.generations(WANTED.id)) >= 3
    return newest


async def run_until_fault(bucket: MemoryBucket, mirror: MemoryBucket, fault: Fault, *, is_torn: bool) -> None:
    faulty = node(FaultyBucket(bucket, fault, is_torn=is_torn), mirror)
    try:
        await order(faulty, 6)
    except (BucketUnavailable, Killed):
        assert fault.has_fired
    if fault.has_fired and fault.kind not in LETHAL:
        fault.is_over = True
        await consistent(bucket, is_torn=is_torn)
        await order(faulty, 6)  # the same node tries again, under the same lease
        assert await consistent(bucket, is_torn=is_torn) == ISSUED[6]
        assert await node(bucket).journal(WANTED.id) is None


@pytest.mark.parametrize(("kind", "is_torn"), CASES)
async def test_every_step_of_an_order(kind: Kind, *, is_torn: bool) -> None:
    for at in itertools.count(1):
        bucket, mirror, fault = await with_history(), MemoryBucket(), Fault(at, kind)
        await run_until_fault(bucket, mirror, fault, is_torn=is_torn)
        await consistent(bucket, is_torn=is_torn)
        successor = node(bucket, mirror)  # also as the dead node's next life: with its mirror
        await order(successor, 7)
        assert await node(bucket).newest(WANTED.id) == ISSUED[7]
        assert await node(bucket).journal(WANTED.id) is None
        assert await node(bucket).account(CA) == account(7)
        assert await node(bucket).challenge(TOKEN) is None
        if not fault.has_fired:
            break
    assert at == 21  # there were 20 steps


@pytest.mark.parametrize("kind", [Kind.FAILS, Kind.ANSWER_LOST])
async def test_a_reader_is_told_or_finds_the_newest(kind: Kind) -> None:
    bucket = await with_history()
    for at in itertools.count(1):
        fault = Fault(at, kind)
        reader = node(FaultyBucket(bucket, fault))
        try:
            found = [await reader.newest(WANTED.id), await reader.journal(WANTED.id)]
            assert not fault.has_fired
        except BucketUnavailable:
            fault.is_over = True
            found = [await reader.newest(WANTED.id), await reader.journal(WANTED.id)]
        assert found == [ISSUED[5], None]
        if not fault.has_fired:
            break
    assert at == 4
