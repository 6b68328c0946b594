"""Leases when two connections interleave, and when the database is away."""

from __future__ import annotations

import asyncio

import pytest

from storage.errors import CommitUnknown, Unavailable
from storage.leases import Lease
from storage.postgres.leases import PostgresLeases
from storage.postgres.pool import Database

from ...support.postgres import waiters

NAME = "tls/x"


async def _waits_for_the_row(database: Database, task: asyncio.Task[Lease | None]) -> None:
    while not task.done():
        if await waiters(database):
            return
    raise AssertionError("it did not wait")


async def test_who_waited_for_the_row_sees_the_renewal(database: Database) -> None:
    leases = PostgresLeases(database)
    lease = await leases.take(NAME, "a", 60)
    assert lease is not None
    await database.write("UPDATE leases SET expires_at = clock_timestamp() - interval '1 s'")
    async with database.transaction() as transaction:
        await transaction.execute("UPDATE leases SET expires_at = clock_timestamp() + interval '60 s'")
        other = asyncio.create_task(leases.take(NAME, "b", 60))
        await _waits_for_the_row(database, other)
    assert await other is None
    assert await leases.renew(lease, 60)


async def test_expiry_is_judged_when_the_row_is_ours(database: Database) -> None:
    """The lease runs out while the taker waits for the row: it must get it."""
    leases = PostgresLeases(database)
    await leases.take(NAME, "a", 60)
    async with database.transaction() as transaction:
        await transaction.execute("UPDATE leases SET expires_at = clock_timestamp() + interval '0.2 s'")
        other = asyncio.create_task(leases.take(NAME, "b", 60))
        await _waits_for_the_row(database, other)
        await transaction.execute("SELECT pg_sleep(0.25)")
    won = await other
    assert won is not None
    assert await leases.holder(NAME) == "b"


async def test_takers_of_two_nodes_in_a_row_never_share_a_fence(database: Database) -> None:
    second = await Database.open(database.settings)
    try:
        found: list[Lease | None] = []
        for _ in range(20):
            found += await asyncio.gather(
                *(PostgresLeases(each).take(NAME, "same", 60) for each in (database, second))
            )
    finally:
        await second.close()
    assert len({lease.fence for lease in found if lease is not None}) == 40


async def test_an_unknown_outcome_is_unavailable(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: object, **__: object) -> None:
        raise CommitUnknown("connection lost")

    monkeypatch.setattr(database, "write", lost)
    with pytest.raises(Unavailable, match="connection lost"):
        await PostgresLeases(database).take(NAME, "a", 60)
