"""MailStore: the tree of mailboxes."""

from __future__ import annotations

import pytest

from storage.errors import AlreadyExists, InvalidName, NotFound, NotPermitted
from storage.model import DEFAULT_MAILBOXES, INBOX, AccountId, MailboxId, SpecialUse, Uid

from ..support.stores import Stores


async def names(stores: Stores, account_id: AccountId) -> list[str]:
    return [mailbox.name for mailbox in (await stores.mail.list_mailboxes(account_id)).mailboxes]


async def test_a_new_account_lists_its_mailboxes_by_name(stores: Stores) -> None:
    account_id = await stores.new_account()
    listed = await stores.mail.list_mailboxes(account_id)
    assert {(mailbox.name, mailbox.special_use) for mailbox in listed.mailboxes} == set(DEFAULT_MAILBOXES)
    assert [mailbox.name for mailbox in listed.mailboxes] == sorted(name for name, _ in DEFAULT_MAILBOXES)
    assert listed.subscribed == {name for name, _ in DEFAULT_MAILBOXES}
    empty = listed.mailboxes[0]
    assert (empty.uidnext, empty.highestmodseq, empty.messages, empty.size_bytes) == (1, 1, 0, 0)


async def test_inbox_is_found_however_it_is_written(stores: Stores) -> None:
    account_id = await stores.new_account()
    assert (await stores.mail.get_mailbox(account_id, "inBox")).name == INBOX
    made = await stores.mail.create_mailbox(account_id, "Inbox/Bills")
    assert made.name == "INBOX/Bills"


async def test_unicode_names_are_one_in_any_normal_form(stores: Stores) -> None:
    account_id = await stores.new_account()
    await stores.mail.create_mailbox(account_id, "Ange\u0301lique")
    assert (await stores.mail.get_mailbox(account_id, "Ang\u00e9lique")).name == "Ang\u00e9lique"
    with pytest.raises(AlreadyExists):
        await stores.mail.create_mailbox(account_id, "Ang\u00e9lique")


async def test_create_makes_missing_parents(stores: Stores) -> None:
    account_id = await stores.new_account()
    await stores.mail.create_mailbox(account_id, "a")
    made = await stores.mail.create_mailbox(account_id, "a/b/c")
    assert made.name == "a/b/c"
    assert {"a", "a/b", "a/b/c"} <= set(await names(stores, account_id))
    with pytest.raises(AlreadyExists):
        await stores.mail.create_mailbox(account_id, "a/b")


async def test_uidvalidities_of_an_account_differ_and_grow(stores: Stores) -> None:
    account_id = await stores.new_account()
    first = await stores.mail.create_mailbox(account_id, "x/y")
    await stores.mail.delete_mailbox(account_id, "x/y")
    second = await stores.mail.create_mailbox(account_id, "x/y")
    assert second.uidvalidity > first.uidvalidity
    assert second.id != first.id
    every = (await stores.mail.list_mailboxes(account_id)).mailboxes
    assert len({mailbox.uidvalidity for mailbox in every}) == len(every)


async def test_one_mailbox_for_a_special_use(stores: Stores) -> None:
    account_id = await stores.new_account()
    with pytest.raises(AlreadyExists):
        await stores.mail.create_mailbox(account_id, "Bin", SpecialUse.TRASH)
    assert "Bin" not in await names(stores, account_id)
    await stores.mail.delete_mailbox(account_id, "Trash")
    assert (
        await stores.mail.create_mailbox(account_id, "Bin", SpecialUse.TRASH)
    ).special_use is SpecialUse.TRASH


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "a\nb", "a\x00", "x" * 256, "/".join(["x" * 200] * 6)]
)
async def test_bad_names_are_refused(stores: Stores, name: str) -> None:
    account_id = await stores.new_account()
    with pytest.raises(InvalidName):
        await stores.mail.create_mailbox(account_id, name)
    with pytest.raises(InvalidName):
        await stores.mail.rename_mailbox(account_id, "Junk", name)


@pytest.mark.parametrize("name", ["", "a//b", "a\x00b", "\udc80", "x" * 2000])
async def test_names_that_cannot_exist_are_not_found(stores: Stores, name: str) -> None:
    account_id = await stores.new_account()
    with pytest.raises(NotFound):
        await stores.mail.get_mailbox(account_id, name)
    with pytest.raises(NotFound):
        await stores.mail.delete_mailbox(account_id, name)
    with pytest.raises(NotFound):
        await stores.mail.rename_mailbox(account_id, name, "fine")
    with pytest.raises(NotFound):
        await stores.mail.list_deleted(account_id, name)
    with pytest.raises(InvalidName):
        await stores.mail.set_subscribed(account_id, name, subscribed=True)


async def test_delete_leaves_children_and_spares_inbox(stores: Stores) -> None:
    account_id = await stores.new_account()
    await stores.mail.create_mailbox(account_id, "a/b")
    await stores.mail.delete_mailbox(account_id, "a")
    assert "a/b" in await names(stores, account_id)
    with pytest.raises(NotFound):
        await stores.mail.delete_mailbox(account_id, "a")
    with pytest.raises(NotPermitted):
        await stores.mail.delete_mailbox(account_id, "Inbox")


async def test_a_deleted_mailbox_is_gone_for_everyone(stores: Stores) -> None:
    account_id = await stores.new_account()
    mailbox = await stores.mail.create_mailbox(account_id, "a")
    await stores.add(mailbox.id)
    await stores.mail.delete_mailbox(account_id, "a")
    with pytest.raises(NotFound):
        await stores.mail.load_view(mailbox.id)
    with pytest.raises(NotFound):
        await stores.mail.changes_since(mailbox.id, mailbox.highestmodseq)
    with pytest.raises(NotFound):
        await stores.mail.expunge(mailbox.id, None)
    with pytest.raises(NotFound):
        await stores.add(mailbox.id)
    assert await stores.mail.modseqs([mailbox.id]) == {}


async def test_rename_takes_children_along_and_keeps_identity(stores: Stores) -> None:
    account_id = await stores.new_account()
    old = await stores.mail.create_mailbox(account_id, "a/b")
    await stores.mail.create_mailbox(account_id, "ab")
    await stores.mail.rename_mailbox(account_id, "a", "x/y")
    assert {"x", "x/y", "x/y/b", "ab"} <= set(await names(stores, account_id))
    assert "a" not in await names(stores, account_id)
    renamed = await stores.mail.get_mailbox(account_id, "x/y/b")
    assert (renamed.id, renamed.uidvalidity) == (old.id, old.uidvalidity)


async def test_rename_of_a_deleted_parent_takes_its_children_along(stores: Stores) -> None:
    account_id = await stores.new_account()
    for name in ("a/b", "a/c/d"):
        await stores.mail.create_mailbox(account_id, name)
    await stores.mail.delete_mailbox(account_id, "a")
    await stores.mail.rename_mailbox(account_id, "a", "x")
    found = set(await names(stores, account_id))
    assert {"x/b", "x/c", "x/c/d"} <= found
    assert not found & {"a", "x", "a/b", "a/c", "a/c/d"}
    with pytest.raises(NotFound):
        await stores.mail.rename_mailbox(account_id, "a", "y")


async def test_rename_refusals(stores: Stores) -> None:
    account_id = await stores.new_account()
    await stores.mail.create_mailbox(account_id, "a/b")
    await stores.mail.create_mailbox(account_id, "c/b")
    await stores.mail.delete_mailbox(account_id, "c")
    for old, new, error in [
        ("none", "x", NotFound),
        ("a", "Junk", AlreadyExists),
        ("a", "a", AlreadyExists),
        ("a", "a/b/c", InvalidName),
        ("a", "c", AlreadyExists),  # its child b would meet another
    ]:
        with pytest.raises(error):
            await stores.mail.rename_mailbox(account_id, old, new)
    assert {"a", "a/b", "c/b"} <= set(await names(stores, account_id))
    assert "c" not in await names(stores, account_id)


async def test_renaming_inbox_moves_its_messages(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    await stores.mail.create_mailbox(account_id, "INBOX/child")
    await stores.add(inbox, b"one\r\n", b"two\r\n")
    await stores.mail.rename_mailbox(account_id, INBOX, "Old/Mail")
    target = await stores.mail.get_mailbox(account_id, "Old/Mail")
    assert target.messages == 2
    left = await stores.mail.get_mailbox(account_id, INBOX)
    assert (left.id, left.messages, left.uidnext) == (inbox, 0, 3)
    assert "INBOX/child" in await names(stores, account_id)
    await stores.audit(inbox)
    await stores.audit(target.id)


async def test_subscriptions_are_by_name(stores: Stores) -> None:
    account_id = await stores.new_account()
    for _ in range(2):
        await stores.mail.set_subscribed(account_id, "not there", subscribed=True)
    assert "not there" in (await stores.mail.list_mailboxes(account_id)).subscribed
    for _ in range(2):
        await stores.mail.set_subscribed(account_id, "not there", subscribed=False)
    assert "not there" not in (await stores.mail.list_mailboxes(account_id)).subscribed


async def test_accounts_do_not_see_each_other(stores: Stores) -> None:
    mine, other = await stores.new_account(), await stores.new_account()
    await stores.mail.create_mailbox(mine, "secret")
    assert "secret" not in await names(stores, other)
    with pytest.raises(NotFound):
        await stores.mail.get_mailbox(other, "secret")


async def test_a_deleted_account_takes_nothing(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    await stores.delete_account(account_id)
    with pytest.raises(NotFound):
        await stores.add(inbox)
    with pytest.raises(NotFound):
        await stores.mail.create_mailbox(account_id, "x")


async def test_claim_recent_only_rises(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    before = await stores.mail.get_mailbox(account_id, INBOX)
    await stores.mail.claim_recent(inbox, Uid(5))
    await stores.mail.claim_recent(inbox, Uid(3))
    after = await stores.mail.get_mailbox(account_id, INBOX)
    assert (before.recent_uid, after.recent_uid) == (1, 5)
    assert after.highestmodseq == before.highestmodseq


async def test_modseqs_of_many(stores: Stores) -> None:
    first, second = await stores.inbox(), await stores.inbox()
    await stores.add(second)
    assert await stores.mail.modseqs([first, second, MailboxId(10**9)]) == {first: 1, second: 2}
