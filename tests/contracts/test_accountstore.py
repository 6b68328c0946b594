"""The AccountStore contract, for every implementation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest

from storage.api import AccountStore, MailStore, PurgeStore
from storage.errors import AlreadyExists, NotFound, NotPermitted
from storage.memory.accounts import MemoryAccountStore
from storage.memory.background import MemoryPurgeStore
from storage.memory.mail import MemoryMailStore
from storage.memory.tables import Tables
from storage.model import DEFAULT_MAILBOXES, INBOX
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.purge import PostgresPurgeStore
from storage.postgres.store import PostgresMailStore

ANN, BOB, ALIAS = "ann@example.org", "bob@example.org", "sales@example.com"


@dataclass
class Stores:
    accounts: AccountStore
    mail: MailStore
    purge: PurgeStore


@pytest.fixture(params=["memory", "postgres"])
def stores(request: pytest.FixtureRequest) -> Stores:
    if request.param == "memory":
        tables = Tables()
        return Stores(MemoryAccountStore.beside(tables), MemoryMailStore(tables), MemoryPurgeStore(tables))
    database = request.getfixturevalue("database")
    return Stores(PostgresAccountStore(database), PostgresMailStore(database), PostgresPurgeStore(database))


@pytest.fixture
def store(stores: Stores) -> AccountStore:
    return stores.accounts


async def test_a_new_account_has_its_mailboxes_subscribed(stores: Stores) -> None:
    account = await stores.accounts.create_account(ANN, "h")
    listed = await stores.mail.list_mailboxes(account.id)
    assert {(each.name, each.special_use) for each in listed.mailboxes} == set(DEFAULT_MAILBOXES)
    assert listed.subscribed == {name for name, _ in DEFAULT_MAILBOXES}
    assert len({each.uidvalidity for each in listed.mailboxes}) == len(DEFAULT_MAILBOXES)
    recipient = await stores.accounts.recipient(ANN)
    assert recipient is not None
    assert recipient.inbox_id == (await stores.mail.get_mailbox(account.id, INBOX)).id
    made = await stores.mail.create_mailbox(account.id, "Later")
    assert made.uidvalidity > max(each.uidvalidity for each in listed.mailboxes)


async def test_a_purged_account_is_gone_for_good(stores: Stores) -> None:
    await stores.accounts.create_account(ANN, "h")
    await stores.accounts.delete_account(ANN)
    while await stores.purge.purge_messages(timedelta(0), 100):
        pass
    with pytest.raises(NotFound):
        await stores.accounts.restore_account(ANN)
    await stores.accounts.create_account(ANN, "h")


async def test_nothing_is_made_in_a_deleted_account(stores: Stores) -> None:
    account = await stores.accounts.create_account(ANN, "h")
    await stores.accounts.delete_account(ANN)
    with pytest.raises(NotFound):
        await stores.mail.create_mailbox(account.id, "Later")
    await stores.accounts.restore_account(ANN)
    await stores.mail.create_mailbox(account.id, "Later")


async def test_a_new_account_logs_in_and_receives(store: AccountStore) -> None:
    account = await store.create_account(ANN, "{SSHA}one")
    assert account.primary_address == ANN
    assert account.deleted_at is None
    assert (account.messages, account.size_bytes) == (0, 0)
    found = await store.login(ANN)
    assert found is not None
    credential, primary = found
    assert account.credentials == (credential,)
    assert (credential.account_id, credential.address, primary) == (account.id, ANN, ANN)
    assert credential.password_hash == "{SSHA}one"
    assert credential.is_primary
    assert credential.created_at.tzinfo is not None
    recipient = await store.recipient(ANN)
    assert recipient is not None
    assert (recipient.account_id, recipient.primary_address) == (account.id, ANN)
    assert await store.account(ANN) == account


async def test_unknown_addresses(store: AccountStore) -> None:
    await store.create_account(ANN, "h")
    assert await store.login(BOB) is None
    assert await store.recipient(BOB) is None
    for call in (
        store.account(BOB),
        store.account(BOB, include_deleted=True),
        store.delete_account(BOB),
        store.restore_account(BOB),
        store.add_credential(BOB, ALIAS, "h"),
        store.delete_credential(BOB),
        store.set_password(BOB, "h"),
        store.make_primary(BOB),
    ):
        with pytest.raises(NotFound, match=BOB):
            await call
    assert await store.login(ALIAS) is None


async def test_an_address_belongs_to_one_account(store: AccountStore) -> None:
    await store.create_account(ANN, "h")
    await store.create_account(BOB, "h")
    with pytest.raises(AlreadyExists, match=ANN):
        await store.create_account(ANN, "other")
    with pytest.raises(AlreadyExists, match=ANN):
        await store.add_credential(BOB, ANN, "other")
    assert len(await store.accounts()) == 2
    found = await store.login(ANN)
    assert found is not None
    assert found[0].password_hash == "h"


async def test_many_creators_of_one_address_make_one_account(store: AccountStore) -> None:
    outcomes = await asyncio.gather(
        *(store.create_account(ANN, f"h{n}") for n in range(6)), return_exceptions=True
    )
    assert sum(isinstance(each, AlreadyExists) for each in outcomes) == 5
    (account,) = await store.accounts()
    assert account in outcomes


async def test_further_credentials_have_their_own_password(store: AccountStore) -> None:
    account = await store.create_account(ANN, "h1")
    added = await store.add_credential(ANN, ALIAS, "h2")
    assert not added.is_primary
    found = await store.login(ALIAS)
    assert found == (added, ANN)
    assert added.account_id == account.id
    await store.set_password(ALIAS, "h3")
    for address, expected in ((ANN, "h1"), (ALIAS, "h3")):
        found = await store.login(address)
        assert found is not None
        assert found[0].password_hash == expected
    first, second = await store.recipient(ANN), await store.recipient(ALIAS)
    assert first is not None
    assert first == second
    assert [each.address for each in (await store.account(ALIAS)).credentials] == [ANN, ALIAS]
    assert await store.addresses(account.id) == {ANN, ALIAS}
    await store.delete_account(ANN)
    assert await store.addresses(account.id) == frozenset()


async def test_the_primary_credential_cannot_be_deleted(store: AccountStore) -> None:
    await store.create_account(ANN, "h")
    await store.add_credential(ANN, ALIAS, "h")
    with pytest.raises(NotPermitted):
        await store.delete_credential(ANN)
    await store.delete_credential(ALIAS)
    assert await store.login(ALIAS) is None
    assert await store.login(ANN) is not None
    with pytest.raises(NotFound):
        await store.delete_credential(ALIAS)
    await store.create_account(ALIAS, "h")  # the address is free again


async def test_the_primary_address_can_change(store: AccountStore) -> None:
    await store.create_account(ANN, "h")
    await store.add_credential(ANN, ALIAS, "h")
    await store.make_primary(ALIAS)
    await store.make_primary(ALIAS)
    found = await store.login(ANN)
    assert found is not None
    assert found[1] == ALIAS
    assert not found[0].is_primary
    account = await store.account(ANN)
    assert account.primary_address == ALIAS
    assert [each.is_primary for each in account.credentials] == [True, False]
    await store.delete_credential(ANN)


async def test_deleting_hides_an_account_and_restoring_brings_it_back(store: AccountStore) -> None:
    account = await store.create_account(ANN, "h")
    await store.add_credential(ANN, ALIAS, "h")
    await store.create_account(BOB, "h")
    await store.delete_account(ALIAS)
    for address in (ANN, ALIAS):
        assert await store.login(address) is None
        assert await store.recipient(address) is None
        with pytest.raises(NotFound):
            await store.account(address)
        with pytest.raises(NotFound):
            await store.set_password(address, "new")
        with pytest.raises(NotFound):
            await store.delete_account(address)
        with pytest.raises(NotFound):
            await store.add_credential(address, "more@example.org", "h")
    assert [each.primary_address for each in await store.accounts()] == [BOB]
    deleted = await store.account(ALIAS, include_deleted=True)
    assert deleted.id == account.id
    assert deleted.deleted_at is not None
    assert [each.primary_address for each in await store.accounts(include_deleted=True)] == [ANN, BOB]
    await store.restore_account(ANN)
    assert await store.login(ALIAS) is not None
    assert (await store.account(ANN)).deleted_at is None
    recipient = await store.recipient(ANN)
    assert recipient is not None
    assert recipient.account_id == account.id
    with pytest.raises(NotFound):
        await store.restore_account(ANN)


async def test_a_deleted_accounts_address_can_be_given_out_again(store: AccountStore) -> None:
    first = await store.create_account(ANN, "h1")
    await store.delete_account(ANN)
    second = await store.create_account(ANN, "h2")
    assert second.id != first.id
    with pytest.raises(AlreadyExists):
        await store.restore_account(ANN)
    assert (await store.account(ANN, include_deleted=True)).id == second.id
    await store.delete_account(ANN)
    assert (await store.account(ANN, include_deleted=True)).id == second.id
    await store.restore_account(ANN)  # of two deleted ones the latest
    assert (await store.account(ANN)).id == second.id


async def test_listing_is_by_address_and_filters_by_any_address_of_the_domain(store: AccountStore) -> None:
    for address in ("zoe@example.org", ANN, "kim@example.com"):
        await store.create_account(address, "h")
    await store.add_credential(ANN, ALIAS, "h")
    everything = [each.primary_address for each in await store.accounts()]
    assert everything == [ANN, "kim@example.com", "zoe@example.org"]
    by_domain = [each.primary_address for each in await store.accounts("example.com")]
    assert by_domain == [ANN, "kim@example.com"]
    assert await store.accounts("le.com") == []


async def test_upgrading_a_hash_is_a_compare_and_swap(store: AccountStore) -> None:
    await store.create_account(ANN, "old")
    found = await store.login(ANN)
    assert found is not None
    stale = found[0]
    assert await store.upgrade_hash(stale, "better")
    assert not await store.upgrade_hash(stale, "worse")
    await store.set_password(ANN, "changed")
    assert not await store.upgrade_hash(stale, "worse")
    found = await store.login(ANN)
    assert found is not None
    assert found[0].password_hash == "changed"
    assert found[0].id == stale.id


async def test_upgrading_the_hash_of_a_deleted_credential(store: AccountStore) -> None:
    await store.create_account(ANN, "h")
    added = await store.add_credential(ANN, ALIAS, "old")
    await store.delete_credential(ALIAS)
    again = await store.add_credential(ANN, ALIAS, "old")
    assert again.id != added.id
    assert not await store.upgrade_hash(added, "better")
