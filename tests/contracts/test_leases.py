"""One behaviour for leases and attempts, in memory and in PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from storage.leases import NOTES_KEPT, TEXT_MAX, AttemptRecord, Attempts, Lease, Leases
from storage.memory.leases import MemoryAttemptRecord, MemoryLeases
from storage.postgres.leases import PostgresAttemptRecord, PostgresLeases
from storage.postgres.pool import Database

NAME = "tls/0123456789abcdef"
CA = "https://ca.test/dir"


class World:
    """Both contracts, and time that passes when a test says so."""

    leases: Leases
    attempts: AttemptRecord

    async def pass_s(self, seconds: float) -> None:
        raise NotImplementedError

    async def lose_rows(self) -> None:
        raise NotImplementedError


class MemoryWorld(World):
    def __init__(self) -> None:
        self._passed = timedelta()
        self.leases = MemoryLeases(self._now)
        self.attempts = MemoryAttemptRecord(self._now)

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._passed

    async def pass_s(self, seconds: float) -> None:
        self._passed += timedelta(seconds=seconds)

    async def lose_rows(self) -> None:
        self.leases = MemoryLeases(self._now)


class PostgresWorld(World):
    def __init__(self, database: Database) -> None:
        self._database = database
        self.leases = PostgresLeases(database)
        self.attempts = PostgresAttemptRecord(database)

    async def pass_s(self, seconds: float) -> None:
        by = timedelta(seconds=seconds)
        await self._database.write("UPDATE leases SET expires_at = expires_at - $1::interval", by)
        await self._database.write("UPDATE certificate_notes SET noted_at = noted_at - $1::interval", by)

    async def lose_rows(self) -> None:
        await self._database.write("DELETE FROM leases")


@pytest_asyncio.fixture
async def memory_world() -> MemoryWorld:
    return MemoryWorld()


@pytest_asyncio.fixture
async def postgres_world(database: Database) -> PostgresWorld:
    return PostgresWorld(database)


@pytest.fixture(params=["memory_world", "postgres_world"])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found


async def taken(world: World, holder: str, ttl_s: float = 120) -> Lease:
    lease = await world.leases.take(NAME, holder, ttl_s)
    assert lease is not None
    return lease


async def test_of_racing_takers_exactly_one_wins(world: World) -> None:
    for _ in range(5):
        outcomes = await asyncio.gather(
            *(world.leases.take(NAME, f"node{number}", 120) for number in range(20))
        )
        (winner,) = [lease for lease in outcomes if lease is not None]
        assert winner.name == NAME
        assert await world.leases.holder(NAME) == winner.holder
        await world.leases.release(winner)


async def test_nobody_holds_what_was_never_taken(world: World) -> None:
    assert await world.leases.holder(NAME) == ""
    assert not await world.leases.renew(Lease(NAME, "a", 1), 120)
    await world.leases.release(Lease(NAME, "a", 1))


async def test_it_is_held_until_it_expires(world: World) -> None:
    await taken(world, "a")
    await world.pass_s(110)
    assert await world.leases.take(NAME, "b", 120) is None
    assert await world.leases.holder(NAME) == "a"
    await world.pass_s(11)
    assert await world.leases.holder(NAME) == ""
    assert (await taken(world, "b")).holder == "b"


async def test_a_renewed_lease_lasts_from_the_renewal_on(world: World) -> None:
    lease = await taken(world, "a")
    for _ in range(3):
        await world.pass_s(100)
        assert await world.leases.renew(lease, 120)
    assert await world.leases.take(NAME, "b", 120) is None


async def test_an_expired_lease_cannot_be_renewed_even_when_nobody_took_it(world: World) -> None:
    lease = await taken(world, "a")
    await world.pass_s(121)
    assert not await world.leases.renew(lease, 120)
    assert await world.leases.holder(NAME) == ""


async def test_a_stale_holder_loses(world: World) -> None:
    stale = await taken(world, "a")
    await world.pass_s(121)
    current = await taken(world, "b")
    assert not await world.leases.renew(stale, 120)
    await world.leases.release(stale)
    assert await world.leases.holder(NAME) == "b"
    assert await world.leases.renew(current, 120)


async def test_a_lease_taken_again_by_its_holder_ends_the_earlier_one(world: World) -> None:
    """A node that was restarted has its own name; its earlier life may still be running."""
    first = await taken(world, "a")
    second = await taken(world, "a")
    assert second.fence > first.fence
    assert not await world.leases.renew(first, 120)
    await world.leases.release(first)
    assert await world.leases.renew(second, 120)


async def test_fences_rise_through_release_expiry_and_other_holders(world: World) -> None:
    fences = []
    for number in range(4):
        lease = await taken(world, f"node{number % 2}")
        fences.append(lease.fence)
        if number % 2:
            await world.leases.release(lease)
        else:
            await world.pass_s(121)
    assert fences == sorted(set(fences))


async def test_fences_do_not_fall_back_when_rows_are_lost(world: World) -> None:
    before = (await taken(world, "a")).fence
    await world.lose_rows()
    assert (await taken(world, "a")).fence >= before


async def test_names_are_apart(world: World) -> None:
    assert await world.leases.take("one", "a", 120) is not None
    assert await world.leases.take("two", "b", 120) is not None
    assert [await world.leases.holder(name) for name in ("one", "two")] == ["a", "b"]


async def test_the_clock_is_aware_and_moves(world: World) -> None:
    first = await world.leases.clock()
    assert first.tzinfo is not None
    assert abs((first - datetime.now(UTC)).total_seconds()) < 60
    assert await world.leases.clock() > first


FULL = Attempts(
    failures=3,
    blocked_until=datetime(2026, 11, 22, 12, 0, 0, 250, UTC),
    blocked_why="too many failures",
    last_failure="validation: 404 at http://mail.example.com",
    last_failure_at=datetime(2026, 11, 22, 11, tzinfo=UTC),
    last_success_at=datetime(2026, 9, 1, tzinfo=UTC),
    renew_at=datetime(2026, 12, 1, tzinfo=UTC),
    renew_checked_at=datetime(2026, 11, 22, tzinfo=UTC),
    retry_after=datetime(2026, 11, 23, tzinfo=UTC),
)


async def test_attempts_are_read_back_and_replaced(world: World) -> None:
    assert await world.attempts.load(CA, "one") == Attempts()
    await world.attempts.save(CA, "one", FULL)
    assert await world.attempts.load(CA, "one") == FULL
    assert await world.attempts.load(CA, "two") == Attempts()
    assert await world.attempts.load("https://other.test/dir", "one") == Attempts()
    await world.attempts.save(CA, "one", Attempts())
    assert await world.attempts.load(CA, "one") == Attempts()


async def test_any_words_of_a_ca_can_be_saved(world: World) -> None:
    words = "no\0thing \ud800 ünd " + "x" * 3 * TEXT_MAX
    await world.attempts.save(CA, "one", replace(FULL, last_failure=words, blocked_why=words))
    found = await world.attempts.load(CA, "one")
    assert found.last_failure == found.blocked_why
    assert found.last_failure.startswith("nothing ? ünd xxx")
    assert len(found.last_failure) == TEXT_MAX


async def test_notes_are_counted_by_subject_and_age(world: World) -> None:
    for subject in ("a.test", "a.test", "b.test"):
        await world.attempts.note(CA, "validation", subject)
    await world.attempts.note(CA, "order", "a.test")
    await world.attempts.note("https://other.test/dir", "validation", "a.test")
    assert await world.attempts.count(CA, "validation", "a.test", 3600) == 2
    await world.pass_s(3000)
    await world.attempts.note(CA, "validation", "a.test")
    assert await world.attempts.count(CA, "validation", "a.test", 3600) == 3
    await world.pass_s(3000)
    assert await world.attempts.count(CA, "validation", "a.test", 3600) == 1
    assert await world.attempts.count(CA, "validation", "c.test", 3600) == 0


async def test_what_was_noted_while_the_clock_was_wrong_does_not_count(world: World) -> None:
    await world.attempts.note(CA, "validation", "a.test")
    await world.pass_s(-100_000)
    assert await world.attempts.count(CA, "validation", "a.test", 3600) == 0


async def test_a_lease_taken_while_the_clock_was_wrong_is_not_waited_for(world: World) -> None:
    first = await world.leases.take("certificates", "one", 120)
    assert first is not None
    await world.pass_s(-3500)
    assert await world.leases.take("certificates", "two", 120) is None, "clocks may be corrected a little"
    await world.pass_s(-100_000)
    second = await world.leases.take("certificates", "two", 120)
    assert second is not None
    assert second.fence > first.fence
    assert not await world.leases.renew(first, 120)


async def test_notes_that_no_budget_asks_for_are_dropped(world: World) -> None:
    await world.attempts.note(CA, "order", "x")
    await world.pass_s(NOTES_KEPT.total_seconds() + 1)
    await world.attempts.note(CA, "order", "y")
    assert await world.attempts.count(CA, "order", "x", 10 * NOTES_KEPT.total_seconds()) == 0
    assert await world.attempts.count(CA, "order", "y", 10) == 1
