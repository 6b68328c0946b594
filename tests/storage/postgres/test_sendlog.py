"""Two nodes that claim at the same time: the second waits for the first, and decides on what that left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from storage.model import AccountId
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.pool import Database, Transaction
from storage.postgres.purge import PostgresPurgeStore
from storage.postgres.sendlog import PostgresSendLog

from .test_concurrency import until_someone_waits

EVE, ONE, TWO = b"e" * 32, b"1" * 32, b"2" * 32
ANSWERED = """
INSERT INTO sieve_answers (account_id, key, cause, expires_at)
VALUES ($1, $2, $3, now() + interval '1 hour')"""
RENEWED = "UPDATE sieve_answers SET expires_at = now() + interval '1 hour' WHERE account_id = $1"
SENT = """
UPDATE sieve_sends SET keys = keys || gen_random_uuid(), sent_at = sent_at || now() WHERE account_id = $1"""


@pytest.fixture
async def account(database: Database) -> AccountId:
    return (await PostgresAccountStore(database).create_account("ann@example.test", "h")).id


async def while_held(
    database: Database,
    hold: Callable[[Transaction], Awaitable[object]],
    claim: Callable[[], Awaitable[object]],
) -> object:
    """What ``claim`` says that began while ``hold`` was not committed yet."""
    async with database.transaction(mailboxes=()) as transaction:
        await hold(transaction)
        waiting = asyncio.ensure_future(claim())
        await until_someone_waits(database)
    return await waiting


@pytest.mark.parametrize("period_s", [60, 8 * 86400])
async def test_an_answer_that_is_being_recorded_is_waited_for(
    database: Database, account: AccountId, period_s: int
) -> None:
    log = PostgresSendLog(database)
    said = await while_held(
        database,
        lambda held: held.execute(ANSWERED, account, EVE, ONE),
        lambda: log.claim_answer(account, EVE, period_s, TWO),
    )
    assert said is False
    assert await log.claim_answer(account, EVE, 0, TWO)  # the refusal left nothing


async def test_one_takes_the_place_of_an_expired_answer(database: Database, account: AccountId) -> None:
    log = PostgresSendLog(database)
    expired = ANSWERED.replace("now() +", "now() -")
    await database.write(expired, account, EVE, ONE, mailboxes=())
    said = await while_held(
        database,
        lambda held: held.execute(RENEWED, account),
        lambda: log.claim_answer(account, EVE, 60, TWO),
    )
    assert said is False


async def test_a_message_that_is_being_answered_is_waited_for(database: Database, account: AccountId) -> None:
    log = PostgresSendLog(database)
    said = await while_held(
        database,
        lambda held: held.execute(ANSWERED, account, ONE, ONE),
        lambda: log.claim_answer(account, EVE, 0, ONE),
    )
    assert said is False


async def test_room_is_counted_when_the_other_has_committed(database: Database, account: AccountId) -> None:
    log = PostgresSendLog(database)
    assert len(await log.admit(account, [ONE], limit=2, window_s=60)) == 1
    said = await while_held(
        database,
        lambda held: held.execute(SENT, account),
        lambda: log.admit(account, [TWO, ONE], limit=2, window_s=60),
    )
    assert said == {ONE}


async def test_purge_passes_by_what_is_being_renewed(database: Database, account: AccountId) -> None:
    log, purge = PostgresSendLog(database), PostgresPurgeStore(database)
    await database.write(ANSWERED.replace("now() +", "now() -"), account, EVE, ONE, mailboxes=())
    async with database.transaction(mailboxes=()) as transaction:
        await transaction.execute(RENEWED, account)
        assert await purge.purge_send_log(10) == 0
    assert not await log.claim_answer(account, EVE, 60, TWO)
