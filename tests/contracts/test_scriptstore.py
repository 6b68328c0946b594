"""The ScriptStore contract, for every implementation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest
import pytest_asyncio

from storage.api import AccountStore, PurgeStore
from storage.errors import AlreadyExists, InvalidName, NotFound, NotPermitted, OverQuota, TooBig
from storage.memory.accounts import MemoryAccountStore
from storage.memory.background import MemoryPurgeStore
from storage.memory.scripts import MemoryScriptStore
from storage.memory.tables import Tables
from storage.model import AccountId, ActiveScript
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.pool import Database
from storage.postgres.purge import PostgresPurgeStore
from storage.postgres.scripts import PostgresScriptStore
from storage.scripts import MAX_NAME_BYTES, ScriptQuota, ScriptStore

ANN = "ann@example.org"
NOBODY = AccountId(0)
QUOTA = ScriptQuota(scripts=3, script_bytes=20)


@dataclass
class Stores:
    scripts: ScriptStore
    accounts: AccountStore
    purge: PurgeStore
    account: AccountId = NOBODY

    async def active(self) -> ActiveScript | None:
        found = await self.accounts.recipient(ANN)
        assert found is not None
        return found.script


@pytest.fixture(params=["memory", "postgres"])
def empty(request: pytest.FixtureRequest) -> Stores:
    if request.param == "memory":
        tables = Tables()
        return Stores(MemoryScriptStore(tables), MemoryAccountStore.beside(tables), MemoryPurgeStore(tables))
    database = request.getfixturevalue("database")
    return Stores(PostgresScriptStore(database), PostgresAccountStore(database), PostgresPurgeStore(database))


@pytest_asyncio.fixture
async def stores(empty: Stores) -> Stores:
    empty.account = (await empty.accounts.create_account(ANN, "h")).id
    return empty


async def test_scripts_are_stored_and_replaced(stores: Stores) -> None:
    await stores.scripts.put(stores.account, "b", b"keep;", QUOTA)
    await stores.scripts.put(stores.account, "a", b"stop;", QUOTA)
    await stores.scripts.put(stores.account, "b", b"discard;", QUOTA)
    listed = await stores.scripts.scripts(stores.account)
    assert [(each.name, each.size_bytes, each.is_active) for each in listed] == [
        ("a", 5, False),
        ("b", 8, False),
    ]
    assert listed[1].updated_at >= listed[1].created_at
    assert await stores.scripts.script(stores.account, "b") == b"discard;"
    assert await stores.scripts.contents(stores.account, ["a", "c"]) == {"a": b"stop;"}
    with pytest.raises(NotFound):
        await stores.scripts.script(stores.account, "c")


async def test_one_script_is_active_and_comes_with_the_recipient(stores: Stores) -> None:
    for name in ("a", "b"):
        await stores.scripts.put(stores.account, name, name.encode(), QUOTA)
    assert await stores.active() is None
    await stores.scripts.activate(stores.account, "a")
    await stores.scripts.activate(stores.account, "b")
    assert await stores.active() == ActiveScript("b", b"b")
    with pytest.raises(NotFound):
        await stores.scripts.activate(stores.account, "c")
    assert await stores.active() == ActiveScript("b", b"b")
    await stores.scripts.put(stores.account, "b", b"new", QUOTA)
    await stores.scripts.rename(stores.account, "b", "grün")
    assert await stores.active() == ActiveScript("grün", b"new")
    await stores.scripts.activate(stores.account, None)
    assert await stores.active() is None


async def test_active_script_cannot_be_deleted(stores: Stores) -> None:
    await stores.scripts.put(stores.account, "a", b"keep;", QUOTA)
    await stores.scripts.activate(stores.account, "a")
    with pytest.raises(NotPermitted):
        await stores.scripts.delete(stores.account, "a")
    await stores.scripts.activate(stores.account, None)
    await stores.scripts.delete(stores.account, "a")
    with pytest.raises(NotFound):
        await stores.scripts.delete(stores.account, "a")


async def test_rename_takes_no_other_scripts_place(stores: Stores) -> None:
    for name in ("a", "b"):
        await stores.scripts.put(stores.account, name, name.encode(), QUOTA)
    with pytest.raises(AlreadyExists):
        await stores.scripts.rename(stores.account, "a", "b")
    with pytest.raises(NotFound):
        await stores.scripts.rename(stores.account, "c", "d")
    await stores.scripts.rename(stores.account, "a", "a")
    assert await stores.scripts.contents(stores.account, ["a", "b"]) == {"a": b"a", "b": b"b"}


async def test_quota(stores: Stores) -> None:
    with pytest.raises(TooBig):
        await stores.scripts.put(stores.account, "a", b"x" * 21, QUOTA)
    for name in ("a", "b", "c"):
        await stores.scripts.has_space(stores.account, name, 20, QUOTA)
        await stores.scripts.put(stores.account, name, b"x" * 20, QUOTA)
    with pytest.raises(OverQuota):
        await stores.scripts.put(stores.account, "d", b"", QUOTA)
    with pytest.raises(OverQuota):
        await stores.scripts.has_space(stores.account, "d", 1, QUOTA)
    with pytest.raises(TooBig):
        await stores.scripts.has_space(stores.account, "a", 21, QUOTA)
    await stores.scripts.put(stores.account, "c", b"y", QUOTA)


async def test_quota_holds_for_several_at_once(stores: Stores) -> None:
    puts = (stores.scripts.put(stores.account, f"s{n}", b"", QUOTA) for n in range(8))
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 3
    assert len(await stores.scripts.scripts(stores.account)) == 3


@pytest.mark.parametrize("name", ["", "a\nb", "a\x7f", "a\u2028b", "\x85", "ü" * MAX_NAME_BYTES])
async def test_names_that_are_refused(stores: Stores, name: str) -> None:
    with pytest.raises(InvalidName):
        await stores.scripts.put(stores.account, name, b"", QUOTA)


async def test_no_script_for_an_account_that_is_gone(stores: Stores) -> None:
    await stores.scripts.put(stores.account, "a", b"", QUOTA)
    await stores.scripts.remember(stores.account, [(b"k" * 32, 60)])
    await stores.accounts.delete_account(ANN)
    with pytest.raises(NotFound):
        await stores.scripts.put(stores.account, "b", b"", QUOTA)
    with pytest.raises(NotFound):
        await stores.scripts.activate(stores.account, "a")
    while await stores.purge.purge_messages(timedelta(0), 100):
        pass
    with pytest.raises(NotFound):
        await stores.accounts.restore_account(ANN)


async def test_keys_are_remembered_for_their_time(stores: Stores) -> None:
    one, two, gone = b"1" * 32, b"2" * 32, b"3" * 32
    await stores.scripts.remember(stores.account, [(one, 60), (one, 5), (gone, 0)])
    await stores.scripts.remember(stores.account, [(two, 60), (one, 1)])
    assert await stores.scripts.seen(stores.account, [one, two, gone, b"4" * 32]) == {one, two}
    assert await stores.scripts.seen(AccountId(stores.account + 1), [one]) == frozenset()


async def test_who_asked_is_told_of_every_change_and_of_no_other(database: Database) -> None:
    told: list[AccountId] = []
    store = PostgresScriptStore(database, told.append)
    account_id = (await PostgresAccountStore(database).create_account(ANN, "h")).id
    await store.put(account_id, "a", b"keep;", QUOTA)
    await store.activate(account_id, "a")
    await store.rename(account_id, "a", "b")
    await store.activate(account_id, None)
    await store.delete(account_id, "b")
    assert told == [account_id] * 5
    with pytest.raises(NotFound):
        await store.activate(account_id, "b")
    await store.scripts(account_id)
    assert told == [account_id] * 5
