"""The contracts of RedirectLog, AnswerLog and HandoverLog, for every implementation, and their purge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from storage.api import AccountStore, PurgeStore
from storage.errors import NotFound
from storage.memory.accounts import MemoryAccountStore
from storage.memory.background import MemoryPurgeStore
from storage.memory.sendlog import MemorySendLog
from storage.memory.tables import Tables
from storage.model import AccountId
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.pool import Database
from storage.postgres.purge import PostgresPurgeStore
from storage.postgres.sendlog import PostgresSendLog

ANN, BOB = "ann@example.org", "bob@example.org"
NOBODY = AccountId(0)
WEEK = 7 * 86400
HOUR = 3600.0


def key(text: str) -> bytes:
    return text.encode().ljust(32, b".")


@dataclass
class Logs:
    log: MemorySendLog | PostgresSendLog
    accounts: AccountStore
    purge: PurgeStore
    pass_time: Callable[[int], Awaitable[None]]
    ann: AccountId = NOBODY
    bob: AccountId = NOBODY

    async def answer(self, sender: str, cause: str, period_s: int = WEEK) -> bool:
        return await self.log.claim_answer(self.ann, key(sender), period_s, key(cause))

    async def send(self, *names: str, kind: str = "redirect", limit: int = 3) -> set[str]:
        keys = {key(name): name for name in names}
        admitted = await self.log.admit(self.ann, list(keys), limit=limit, window_s=HOUR, kind=kind)
        return {keys[each] for each in admitted}


def in_memory() -> Logs:
    late = timedelta(0)

    async def pass_time(seconds: int) -> None:
        nonlocal late
        late += timedelta(seconds=seconds)

    tables = Tables(lambda: datetime(2026, 3, 1, tzinfo=UTC) + late)
    accounts = MemoryAccountStore.beside(tables)
    return Logs(MemorySendLog(tables), accounts, MemoryPurgeStore(tables), pass_time)


def in_postgres(database: Database) -> Logs:
    async def pass_time(seconds: int) -> None:
        for change in (
            "sieve_answers SET expires_at = expires_at - $1::interval",
            "sieve_sends SET expires_at = expires_at - $1::interval,"
            " sent_at = (SELECT array_agg(at - $1::interval) FROM unnest(sent_at) AS u (at))",
        ):
            await database.write(f"UPDATE {change}", timedelta(seconds=seconds), mailboxes=())

    return Logs(
        PostgresSendLog(database), PostgresAccountStore(database), PostgresPurgeStore(database), pass_time
    )


@pytest.fixture(params=["memory", "postgres"])
def empty(request: pytest.FixtureRequest) -> Logs:
    if request.param == "memory":
        return in_memory()
    return in_postgres(request.getfixturevalue("database"))


@pytest_asyncio.fixture
async def logs(empty: Logs) -> Logs:
    empty.ann = (await empty.accounts.create_account(ANN, "h")).id
    empty.bob = (await empty.accounts.create_account(BOB, "h")).id
    return empty


# --- answers --------------------------------------------------------------------------------------


async def test_a_sender_is_answered_once_in_the_period(logs: Logs) -> None:
    assert await logs.answer("eve", "1")
    assert not await logs.answer("eve", "2")
    assert await logs.answer("joe", "3")
    await logs.pass_time(WEEK - 60)
    assert not await logs.answer("eve", "4")
    await logs.pass_time(61)
    assert await logs.answer("eve", "5")
    assert not await logs.answer("eve", "6")


async def test_accounts_answer_for_themselves(logs: Logs) -> None:
    assert await logs.answer("eve", "1")
    assert await logs.log.claim_answer(logs.bob, key("eve"), WEEK, key("1"))


async def test_the_period_counts_that_was_given_with_the_answer(logs: Logs) -> None:
    assert await logs.answer("eve", "1", 3600)
    assert not await logs.answer("eve", "2", 1)
    await logs.pass_time(3601)
    assert await logs.answer("eve", "3", 60)


async def test_one_message_is_answered_once_whatever_the_period(logs: Logs) -> None:
    assert await logs.answer("eve", "1", 60)
    await logs.pass_time(61)
    assert not await logs.answer("eve", "1", 60)  # its sender's MTA tries again after a lost reply
    assert await logs.answer("eve", "2", 60)
    await logs.pass_time(61)
    assert not await logs.answer("eve", "1", 60)


async def test_without_a_period_every_message_is_answered_once(logs: Logs) -> None:
    assert await logs.answer("eve", "1", 0)
    assert await logs.answer("eve", "2", 0)
    assert not await logs.answer("eve", "1", 0)
    assert await logs.answer("eve", "3", WEEK)  # those before left no memory of eve


async def test_of_many_at_once_one_answers(logs: Logs) -> None:
    for period_s in (WEEK, 60):
        sender = f"eve {period_s}"
        claims = (logs.answer(sender, f"{period_s} {n}", period_s) for n in range(12))
        assert sum(await asyncio.gather(*claims)) == 1
    assert sum(await asyncio.gather(*(logs.answer("joe", "same", 0) for _ in range(12)))) == 1


async def test_a_refusal_leaves_nothing(logs: Logs) -> None:
    assert await logs.answer("eve", "1", 3600)
    for cause in ("1", "2", "3"):
        assert not await logs.answer("eve", cause, 3600)
    await logs.pass_time(3601)
    assert not await logs.answer("eve", "1", 3600)
    assert await logs.answer("eve", "2", 3600)  # neither the refusal just now nor those before are remembered
    await logs.pass_time(WEEK + 1)
    assert await logs.purge.purge_send_log(100) == 3  # eve, and the two messages that were answered


async def test_an_answer_that_was_not_sent_is_forgotten(logs: Logs) -> None:
    for period_s in (WEEK, 60, 0):
        sender, cause = f"eve {period_s}", f"cause {period_s}"
        assert await logs.answer(sender, cause, period_s)
        await logs.log.release_answer(logs.ann, key(sender), key(cause))
        await logs.log.release_answer(logs.ann, key(sender), key(cause))
        assert await logs.answer(sender, cause, period_s)


async def test_only_the_own_answer_is_forgotten(logs: Logs) -> None:
    assert await logs.answer("eve", "1", WEEK)
    await logs.pass_time(WEEK + 1)
    assert await logs.answer("eve", "2", WEEK)
    await logs.log.release_answer(logs.ann, key("eve"), key("1"))
    assert not await logs.answer("eve", "3", WEEK)


# --- how much -------------------------------------------------------------------------------------


async def test_no_more_go_in_any_window(logs: Logs) -> None:
    assert await logs.send("1") == {"1"}
    await logs.pass_time(1800)
    assert await logs.send("2", "3", "4", "5") == {"2", "3"}
    assert await logs.send("4") == set()
    assert await logs.send("4", kind="notify") == {"4"}
    assert await logs.log.admit(logs.bob, [key("4")], limit=3, window_s=HOUR) == {key("4")}
    await logs.pass_time(1801)  # the first has left the window
    assert await logs.send("4", "5") == {"4"}
    await logs.pass_time(3601)
    assert await logs.send("5", "6", "7", "8") == {"5", "6", "7"}


async def test_what_was_let_in_is_let_in_again_and_counts_once(logs: Logs) -> None:
    assert await logs.send("1", "1", "2") == {"1", "2"}
    assert await logs.send("2", "1") == {"1", "2"}
    assert await logs.send("1", "3", "4") == {"1", "3"}
    assert await logs.send("4", "3", "1") == {"1", "3"}


async def test_a_lower_limit_forgets_nothing(logs: Logs) -> None:
    assert await logs.send("1", "2", "3") == {"1", "2", "3"}
    assert await logs.send("3", "4", limit=1) == {"3"}
    assert await logs.send("1", "2", "3", "4", limit=4) == {"1", "2", "3", "4"}


async def test_nothing_goes_where_nothing_may(logs: Logs) -> None:
    assert await logs.send("1", limit=0) == set()
    assert await logs.send() == set()
    assert await logs.send("1", limit=0) == set()
    assert await logs.send("1", limit=1) == {"1"}


async def test_of_many_at_once_as_many_go_as_may(logs: Logs) -> None:
    found = await asyncio.gather(*(logs.send(str(n)) for n in range(12)))
    assert sum(map(len, found)) == 3
    assert len(set().union(*found)) == 3


# --- the end --------------------------------------------------------------------------------------


async def test_what_has_expired_is_purged_and_nothing_else(logs: Logs) -> None:
    assert await logs.answer("old", "1", WEEK)
    await logs.send("1")
    await logs.pass_time(WEEK + 1)
    assert await logs.answer("eve", "2", 2 * WEEK)
    await logs.send("1", "2", kind="notify")
    removed = 0
    while done := await logs.purge.purge_send_log(1):
        removed += done
    assert removed == 3  # the old sender and message, the redirects
    assert not await logs.answer("eve", "3")
    assert await logs.send("3", "4", kind="notify") == {"3"}


async def test_an_account_is_purged_with_its_log(logs: Logs) -> None:
    assert await logs.answer("eve", "1", 60)
    await logs.send("1")
    await logs.accounts.delete_account(ANN)
    while await logs.purge.purge_messages(timedelta(0), 100):
        pass
    with pytest.raises(NotFound):
        await logs.accounts.restore_account(ANN)
    with pytest.raises(NotFound):
        await logs.answer("eve", "1")
    with pytest.raises(NotFound):
        await logs.send("1")


async def test_of_several_copies_the_first_that_is_claimed_goes(logs: Logs) -> None:
    one, two, three = key("one"), key("two"), key("three")
    log = logs.log
    assert await log.handed_over(logs.ann, [one, two]) == frozenset()
    assert await log.claim_handover(logs.ann, {two: "b1", one: "a1"}) == {one, two}
    assert await log.claim_handover(logs.ann, {one: "a2", three: "c2"}) == {three}
    assert await log.claim_handover(logs.ann, {one: "a1", two: "b2"}) == {one}, "it asks again"
    assert await log.handed_over(logs.ann, [one, two, key("four")]) == {one, two}
    assert await log.handed_over(logs.bob, [one]) == frozenset()
    assert await log.claim_handover(logs.bob, {one: "a2"}) == {one}
    await logs.pass_time(8 * 86400)
    assert await log.handed_over(logs.ann, [one]) == frozenset()
    assert await log.claim_handover(logs.ann, {one: "a2"}) == {one}
    with pytest.raises(NotFound):
        await log.claim_handover(AccountId(logs.bob + 1_000), {one: "a1"})


async def test_of_copies_that_are_claimed_at_once_one_goes(logs: Logs) -> None:
    keys = [key(str(number)) for number in range(5)]
    won = await asyncio.gather(
        *(
            logs.log.claim_handover(logs.ann, dict.fromkeys(keys[:: 1 if copy % 2 else -1], f"copy{copy}"))
            for copy in range(8)
        )
    )
    assert sorted(each for claimed in won for each in claimed) == keys
