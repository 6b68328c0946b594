"""The AnnotationStore contract, for every implementation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest
import pytest_asyncio

from storage.annotations import AnnotationLimits, AnnotationStore, checked_entry
from storage.api import AccountStore, MailStore, PurgeStore
from storage.errors import InvalidName, NotFound, OverQuota, TooBig
from storage.memory.accounts import MemoryAccountStore
from storage.memory.annotations import MemoryAnnotationStore
from storage.memory.background import MemoryPurgeStore
from storage.memory.mail import MemoryMailStore
from storage.memory.tables import Tables
from storage.model import INBOX, AccountId, MailboxId
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.annotations import PostgresAnnotationStore
from storage.postgres.purge import PostgresPurgeStore
from storage.postgres.store import PostgresMailStore

ANN = "ann@example.org"
NOBODY = AccountId(0)
COMMENT, COLOR = "/private/comment", "/shared/vendor/x/color"
LIMITS = AnnotationLimits(entry_bytes=10, mailbox_entries=3, server_entries=2, total_bytes=30)


@dataclass
class Stores:
    annotations: AnnotationStore
    accounts: AccountStore
    mail: MailStore
    purge: PurgeStore
    account: AccountId = NOBODY
    inbox: MailboxId = MailboxId(0)  # noqa: RUF009


@pytest.fixture(params=["memory", "postgres"])
def empty(request: pytest.FixtureRequest) -> Stores:
    if request.param == "memory":
        tables = Tables()
        return Stores(
            MemoryAnnotationStore(tables),
            MemoryAccountStore.beside(tables),
            MemoryMailStore(tables),
            MemoryPurgeStore(tables),
        )
    database = request.getfixturevalue("database")
    return Stores(
        PostgresAnnotationStore(database),
        PostgresAccountStore(database),
        PostgresMailStore(database),
        PostgresPurgeStore(database),
    )


@pytest_asyncio.fixture
async def stores(empty: Stores) -> Stores:
    empty.account = (await empty.accounts.create_account(ANN, "h")).id
    empty.inbox = (await empty.mail.get_mailbox(empty.account, INBOX)).id
    return empty


async def test_entries_are_set_replaced_and_removed(stores: Stores) -> None:
    store, account = stores.annotations, stores.account
    assert await store.everything(account) == {}
    await store.change(account, stores.inbox, {COMMENT: b"a\0\xff", COLOR: b""}, LIMITS)
    await store.change(account, None, {COMMENT: b"server"}, LIMITS)
    assert await store.at(account, stores.inbox) == {COMMENT: b"a\0\xff", COLOR: b""}
    await store.change(account, stores.inbox, {COMMENT: b"b", COLOR: None, "/private/none": None}, LIMITS)
    assert await store.at(account, stores.inbox) == {COMMENT: b"b"}
    assert await store.at(account, None) == {COMMENT: b"server"}
    assert await store.everything(account) == {None: {COMMENT: b"server"}, stores.inbox: {COMMENT: b"b"}}
    await store.change(account, stores.inbox, {COMMENT: None}, LIMITS)
    assert await store.everything(account) == {None: {COMMENT: b"server"}}


async def test_entries_by_name(stores: Stores) -> None:
    store, account = stores.annotations, stores.account
    await store.change(account, stores.inbox, {COMMENT: b"a", COLOR: b"red"}, LIMITS)
    await store.change(account, None, {COMMENT: b"s"}, LIMITS)
    assert await store.named(account, [COLOR, "/shared/none"]) == {stores.inbox: {COLOR: b"red"}}
    assert await store.named(account, [COMMENT]) == {stores.inbox: {COMMENT: b"a"}, None: {COMMENT: b"s"}}


async def test_limits_leave_everything_as_it_was(stores: Stores) -> None:
    store, account = stores.annotations, stores.account
    three = {f"/private/{n}": b"x" * 8 for n in range(3)}
    await store.change(account, stores.inbox, three, LIMITS)
    for changes, error in (
        ({"/private/0": b"x" * 11}, TooBig),
        ({"/private/0": None, "/private/4": b"", "/private/5": b""}, OverQuota),  # one entry too many
        ({"/private/0": b"x" * 10, "/private/1": b"x" * 10, "/private/2": b"x" * 11}, TooBig),
    ):
        with pytest.raises(error):
            await store.change(account, stores.inbox, changes, LIMITS)
    with pytest.raises(OverQuota):  # 24 octets are there already
        await store.change(account, None, {COMMENT: b"x" * 7}, LIMITS)
    assert await store.everything(account) == {stores.inbox: three}
    await store.change(account, stores.inbox, {"/private/0": None, "/private/9": b"y"}, LIMITS)
    await store.change(account, None, {"/private/1": b"", "/private/2": b""}, LIMITS)
    with pytest.raises(OverQuota):
        await store.change(account, None, {"/private/3": b""}, LIMITS)


async def test_zero_is_no_limit_and_removing_is_always_allowed(stores: Stores) -> None:
    store, account = stores.annotations, stores.account
    many: dict[str, bytes | None] = {f"/private/{n}": b"x" * 100 for n in range(50)}
    await store.change(account, None, many, AnnotationLimits(0, 0, 0, 0))
    await store.change(account, None, dict.fromkeys(list(many)[:10]), LIMITS)
    assert len(await store.at(account, None)) == 40


async def test_limits_hold_for_several_at_once(stores: Stores) -> None:
    changes = (
        stores.annotations.change(stores.account, stores.inbox, {f"/private/{n}": b""}, LIMITS)
        for n in range(8)
    )
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 3
    assert len(await stores.annotations.at(stores.account, stores.inbox)) == 3


async def test_they_follow_a_rename_and_go_with_their_mailbox(stores: Stores) -> None:
    store, account, mail = stores.annotations, stores.account, stores.mail
    box = await mail.create_mailbox(account, "a/b")
    await store.change(account, box.id, {COMMENT: b"mine", COLOR: b"x" * 10}, LIMITS)
    await mail.rename_mailbox(account, "a", "c")
    assert (await mail.get_mailbox(account, "c/b")).id == box.id
    assert await store.at(account, box.id) == {COMMENT: b"mine", COLOR: b"x" * 10}
    await mail.delete_mailbox(account, "c/b")
    assert await store.at(account, box.id) == {}
    assert await store.everything(account) == {}
    with pytest.raises(NotFound):
        await store.change(account, box.id, {COMMENT: b"again"}, LIMITS)
    again = await mail.create_mailbox(account, "c/b")
    # what is gone counts no more
    await store.change(account, again.id, {f"/private/{n}": b"x" * 10 for n in range(3)}, LIMITS)


async def test_inbox_keeps_its_own_when_it_is_renamed(stores: Stores) -> None:
    await stores.annotations.change(stores.account, stores.inbox, {COMMENT: b"inbox"}, LIMITS)
    await stores.mail.rename_mailbox(stores.account, INBOX, "old")
    old = await stores.mail.get_mailbox(stores.account, "old")
    assert await stores.annotations.everything(stores.account) == {stores.inbox: {COMMENT: b"inbox"}}
    assert await stores.annotations.at(stores.account, old.id) == {}


async def test_mailbox_of_another_account_is_not_there(stores: Stores) -> None:
    other = (await stores.accounts.create_account("bob@example.org", "h")).id
    with pytest.raises(NotFound):
        await stores.annotations.change(other, stores.inbox, {COMMENT: b"x"}, LIMITS)
    await stores.annotations.change(stores.account, stores.inbox, {COMMENT: b"x"}, LIMITS)
    assert await stores.annotations.everything(other) == {}
    assert await stores.annotations.at(other, stores.inbox) == {}


async def test_account_that_is_gone_is_purged_with_them(stores: Stores) -> None:
    store, account = stores.annotations, stores.account
    await store.change(account, stores.inbox, {COMMENT: b"x"}, LIMITS)
    await store.change(account, None, {COMMENT: b"x"}, LIMITS)
    await stores.accounts.delete_account(ANN)
    with pytest.raises(NotFound):
        await store.change(account, None, {COMMENT: b"y"}, LIMITS)
    while await stores.purge.purge_messages(timedelta(0), 100):
        pass
    with pytest.raises(NotFound):
        await stores.accounts.restore_account(ANN)
    assert await store.everything(account) == {}


@pytest.mark.parametrize(
    ("name", "stored"),
    [("/Private/Comment", "/private/comment"), ("/SHARED/vendor/a b/#1", "/shared/vendor/a b/#1")],
)
def test_names_of_entries(name: str, stored: str) -> None:
    assert checked_entry(name) == stored


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "/private", "/shared/", "comment", "/other/x", "/private//x", "/private/x/", "/private/*"),
        *("/private/a%", "/private/a\tb", "/private/grün", "/privatex/y", "/private/" + "x" * 1024),
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        checked_entry(name)
