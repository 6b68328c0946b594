"""What was deleted: listed, brought back, and shown by day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from storage.errors import NotFound, ReadOnly
from storage.model import (
    INBOX,
    AccountId,
    FlagChange,
    Flags,
    MailboxId,
    ModSeq,
    NewMessage,
    SystemFlag,
    Uid,
    Wanted,
)
from storage.recoverable import RecoverableMail
from storage.recovery import account_and_day, day_id, day_name, day_of, named_day

from ..support.stores import ROOT, Stores, staged

DELETED = Flags(SystemFlag.DELETED | SystemFlag.SEEN, frozenset({"$Work"}))
NO_GRACE = timedelta(0)


class Account:
    def __init__(self, stores: Stores, account_id: AccountId, inbox: MailboxId) -> None:
        self.stores, self.id, self.inbox = stores, account_id, inbox

    async def expunged(self, *bodies: bytes) -> None:
        await self.stores.add(self.inbox, *bodies, flags=DELETED)
        await self.stores.mail.expunge(self.inbox, None)

    async def day(self) -> MailboxId:
        """The mailbox of the only day on which something was deleted."""
        (mailbox,) = await self.stores.recovered.mailboxes(self.id)
        return mailbox.id

    async def purge(self) -> None:
        while await self.stores.purge.purge_messages(NO_GRACE, 100):
            pass
        while await self.stores.purge.purge_contents(100):
            pass


async def account(stores: Stores) -> Account:
    account_id = await stores.new_account()
    return Account(stores, account_id, (await stores.mail.get_mailbox(account_id, INBOX)).id)


# --- ids and names ---


def test_ids_tell_account_and_day() -> None:
    for number, day in ((1, date.min), (2**40, date.max), (77, date(2026, 11, 22))):
        found = day_id(AccountId(number), day)
        assert -(2**63) <= found < 0
        assert account_and_day(found) == (number, day)


@pytest.mark.parametrize(
    "name",
    [
        "R",
        "R/",
        "R/x",
        "R/20261122",
        "R/2026-11-2",
        "R/2026-02-30",
        "R/2026-11-22/x",
        "x/2026-11-22",
        "2026-11-22",
    ],
)
def test_other_names_are_no_days(name: str) -> None:
    assert named_day("R", name) is None


def test_days_are_those_of_utc() -> None:
    east = datetime(2026, 11, 23, 1, tzinfo=UTC).astimezone()
    assert day_of(east) == date(2026, 11, 23)
    assert named_day("R", day_name("R", date(2026, 11, 22))) == date(2026, 11, 22)


# --- bringing back ---


async def test_a_message_comes_back_once(stores: Stores) -> None:
    ann = await account(stores)
    await ann.expunged(b"1", b"2")
    assert (await stores.mail.undelete(ann.inbox, [Uid(1), Uid(9)])).pairs == ((1, 3),)
    assert (await stores.mail.undelete(ann.inbox, [Uid(1)])).pairs == ()
    view = await stores.mail.load_view(ann.inbox)
    assert (list(view.uids), list(view.flags)) == ([3], [SystemFlag.SEEN])
    await stores.audit(ann.inbox)


async def test_into_another_mailbox(stores: Stores) -> None:
    ann = await account(stores)
    await ann.expunged(b"1", b"2")
    target = (await stores.mail.get_mailbox(ann.id, "Archive")).id
    assert (await stores.mail.undelete(ann.inbox, [Uid(2)], target)).pairs == ((2, 1),)
    assert list((await stores.mail.load_view(target)).keywords.values()) == [frozenset({"$Work"})]
    assert [each.uid for each in await stores.mail.list_deleted(ann.id)] == [1]
    for mailbox_id in (ann.inbox, target):
        await stores.audit(mailbox_id)


async def test_messages_of_a_deleted_mailbox(stores: Stores) -> None:
    ann = await account(stores)
    box = await stores.mail.create_mailbox(ann.id, "box")
    await stores.add(box.id, b"1", b"2", b"3")
    await stores.mail.store_flags(box.id, [Uid(1)], FlagChange.ADD, DELETED)
    await stores.mail.expunge(box.id, None)
    await stores.mail.delete_mailbox(ann.id, "box")
    found = await stores.mail.list_deleted(ann.id, "box")
    assert sorted((each.uid, each.is_mailbox_deleted) for each in found) == [(1, True), (2, True), (3, True)]
    with pytest.raises(NotFound):
        await stores.mail.undelete(box.id, [Uid(2)])
    assert (await stores.mail.undelete(box.id, [Uid(1), Uid(3)], ann.inbox)).pairs == ((1, 1), (3, 2))
    assert (await stores.mail.undelete(box.id, [Uid(1), Uid(3)], ann.inbox)).pairs == ()
    assert [each.uid for each in await stores.mail.list_deleted(ann.id)] == [2]
    await stores.audit(ann.inbox)
    await ann.purge()
    rows = await stores.mail.fetch(ann.inbox, [Uid(1), Uid(2)], Wanted.REFERENCE)
    assert [await stores.uploads.staged_frames(row.ref.id) for row in rows] == [
        [b"encoded 0 1"],
        [b"encoded 0 3"],
    ]


async def test_nothing_goes_to_another_account(stores: Stores) -> None:
    ann, bob = await account(stores), await account(stores)
    await ann.expunged(b"1")
    assert (await stores.mail.undelete(ann.inbox, [Uid(1)], bob.inbox)).pairs == ()
    assert len(await stores.mail.list_deleted(ann.id)) == 1
    with pytest.raises(NotFound):
        await stores.recovered.copy(await ann.day(), [Uid(1)], bob.inbox)


async def test_the_latest_are_listed_first_and_since_a_moment(stores: Stores) -> None:
    ann = await account(stores)
    await ann.expunged(b"old")
    await stores.age_deletions(timedelta(hours=5))
    await ann.expunged(b"new")
    assert [each.uid for each in await stores.mail.list_deleted(ann.id)] == [2, 1]
    assert [each.uid for each in await stores.mail.list_deleted(ann.id, limit=1)] == [2]
    since = datetime.now(UTC) - timedelta(hours=1)
    assert [each.uid for each in await stores.mail.list_deleted(ann.id, since=since)] == [2]


# --- by day ---


async def test_each_day_is_a_mailbox(stores: Stores) -> None:
    ann = await account(stores)
    assert await stores.recovered.mailboxes(ann.id) == ()
    await ann.expunged(b"one", b"three")
    await stores.age_deletions(timedelta(days=2))
    await ann.expunged(b"seven77")
    first, second = await stores.recovered.mailboxes(ann.id)
    today = day_of(datetime.now(UTC))
    assert second.name in {day_name(ROOT, today), day_name(ROOT, today - timedelta(days=1))}
    assert (first.messages, first.unseen, first.size_bytes, first.is_read_only) == (2, 0, 8, True)
    assert (second.messages, second.size_bytes) == (1, 7)
    for mailbox in (first, second):
        assert await stores.recovered.get(ann.id, account_and_day(mailbox.id)[1]) == mailbox
        view = await stores.recovered.load_view(mailbox.id)
        assert view.mailbox == mailbox
        assert max(view.uids) + 1 == mailbox.uidnext
    with pytest.raises(NotFound):
        await stores.recovered.get(ann.id, today - timedelta(days=30))
    with pytest.raises(NotFound):
        await stores.recovered.load_view(day_id(ann.id, today - timedelta(days=30)))


async def test_numbers_stay_and_rise(stores: Stores) -> None:
    ann = await account(stores)
    await ann.expunged(b"1", b"2")
    day = await ann.day()
    view = await stores.recovered.load_view(day)
    first = view.mailbox
    assert list(view.uids) == [1, 2]
    assert list(view.flags) == [SystemFlag.SEEN] * 2
    await ann.expunged(b"3")
    await stores.mail.undelete(ann.inbox, [Uid(1)])
    changes = await stores.recovered.changes_since(day, first.highestmodseq)
    assert ([state.uid for state in changes.changed], changes.expunged) == ([3], (1,))
    assert changes.changed[0].flags == Flags(SystemFlag.SEEN, frozenset({"$Work"}))
    assert changes.mailbox.highestmodseq > first.highestmodseq
    assert (changes.mailbox.uidvalidity, changes.mailbox.uidnext) == (first.uidvalidity, 4)
    assert await stores.recovered.modseqs([day]) == {day: changes.mailbox.highestmodseq}
    quiet = await stores.recovered.changes_since(day, changes.mailbox.highestmodseq)
    assert (quiet.changed, quiet.expunged, quiet.mailbox) == ((), (), changes.mailbox)
    assert list((await stores.recovered.load_view(day)).uids) == [2, 3]


async def test_messages_of_a_deleted_mailbox_are_found_by_its_day(stores: Stores) -> None:
    ann = await account(stores)
    box = await stores.mail.create_mailbox(ann.id, "box")
    await stores.add(box.id, b"1", b"2", flags=Flags(SystemFlag.FLAGGED | SystemFlag.DELETED))
    await stores.mail.delete_mailbox(ann.id, "box")
    view = await stores.recovered.load_view(await ann.day())
    assert (list(view.uids), list(view.flags)) == ([1, 2], [SystemFlag.FLAGGED] * 2)


async def test_a_copy_has_all_of_the_message(stores: Stores) -> None:
    ann = await account(stores)
    at = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)
    message = NewMessage(ann.inbox, b"Received: x\r\n", DELETED, at)
    await stores.mail.append(staged(b"body"), [message])
    await stores.mail.expunge(ann.inbox, None)
    day = await ann.day()
    (row,) = await stores.recovered.fetch(day, [Uid(1), Uid(2)], Wanted.HEADER | Wanted.STRUCTURE)
    assert (row.uid, row.prefix, row.header) == (1, b"Received: x\r\n", staged(b"body").content.header)
    copied = await stores.recovered.copy(day, [Uid(1), Uid(5)], ann.inbox)
    assert copied.pairs == ((1, 2),)
    view = await stores.mail.load_view(ann.inbox)
    assert (list(view.flags), list(view.internaldates)) == ([SystemFlag.SEEN], [int(at.timestamp())])
    assert view.keywords == {2: frozenset({"$Work"})}
    assert list((await stores.recovered.load_view(day)).uids) == [1]  # a copy takes nothing away
    await stores.audit(ann.inbox)
    await ann.purge()
    (row,) = await stores.mail.fetch(ann.inbox, [Uid(2)], Wanted.REFERENCE)
    assert row.prefix == b"Received: x\r\n"
    assert await stores.uploads.staged_frames(row.ref.id) == [b"encoded 0 body"]


async def test_what_is_purged_is_gone_and_its_numbers_later(stores: Stores) -> None:
    ann = await account(stores)
    await ann.expunged(b"1")
    await stores.age_deletions(timedelta(days=3))
    day = await ann.day()
    modseq = (await stores.recovered.load_view(day)).mailbox.highestmodseq
    assert await stores.purge.purge_days(timedelta(days=1), 10) == 0  # the message is there still
    await ann.purge()
    assert (await stores.recovered.changes_since(day, modseq)).expunged == (1,)
    assert await stores.recovered.fetch(day, [Uid(1)], Wanted.REFERENCE) == []
    assert (await stores.recovered.copy(day, [Uid(1)], ann.inbox)).pairs == ()
    assert await stores.recovered.mailboxes(ann.id) == ()
    assert await stores.purge.purge_days(timedelta(days=5), 10) == 0
    assert await stores.purge.purge_days(timedelta(days=1), 10) == 1
    with pytest.raises(NotFound):
        await stores.recovered.load_view(day)
    await ann.expunged(b"2")
    assert list((await stores.recovered.load_view(await ann.day())).uids) == [2]  # never 1 again


# --- the mail store that shows it ---


def shown(stores: Stores) -> RecoverableMail:
    return RecoverableMail(stores.mail, stores.recovered)


async def test_nothing_in_the_namespace_can_be_changed(stores: Stores) -> None:
    ann = await account(stores)
    await ann.expunged(b"1")
    await stores.add(ann.inbox, b"2")
    mail, day = shown(stores), await ann.day()
    (mailbox,) = await stores.recovered.mailboxes(ann.id)
    attempts = (
        lambda: mail.create_mailbox(ann.id, ROOT),
        lambda: mail.create_mailbox(ann.id, f"{ROOT}/mine"),
        lambda: mail.delete_mailbox(ann.id, mailbox.name),
        lambda: mail.delete_mailbox(ann.id, ROOT),
        lambda: mail.rename_mailbox(ann.id, mailbox.name, "mine"),
        lambda: mail.rename_mailbox(ann.id, "Archive", f"{ROOT}/mine"),
        lambda: mail.append(staged(b"3"), [NewMessage(ann.inbox), NewMessage(day)]),
        lambda: mail.store_flags(day, [Uid(1)], FlagChange.ADD, DELETED),
        lambda: mail.expunge(day, None),
        lambda: mail.remove(day, [Uid(1)]),
        lambda: mail.copy(ann.inbox, [Uid(2)], day),
        lambda: mail.copy(day, [Uid(1)], day),
        lambda: mail.move(ann.inbox, [Uid(2)], day),
        lambda: mail.move(day, [Uid(1)], ann.inbox),
        lambda: mail.undelete(ann.inbox, [Uid(1)], day),
        lambda: mail.undelete(day, [Uid(1)], ann.inbox),
    )
    for attempt in attempts:
        with pytest.raises(ReadOnly):
            await attempt()
    assert list((await mail.load_view(day)).uids) == [1]
    assert list((await mail.load_view(ann.inbox)).uids) == [2]
    assert not await mail.delivered(day, b"k" * 32)
    await mail.claim_recent(day, Uid(9))


async def test_days_are_found_by_name_and_not_listed(stores: Stores) -> None:
    ann = await account(stores)
    await ann.expunged(b"1")
    mail = shown(stores)
    (mailbox,) = await stores.recovered.mailboxes(ann.id)
    assert await mail.get_mailbox(ann.id, mailbox.name) == mailbox
    assert list((await mail.load_named_view(ann.id, mailbox.name)).uids) == [1]
    assert await mail.modseqs([mailbox.id, ann.inbox]) == {
        mailbox.id: mailbox.highestmodseq,
        ann.inbox: ModSeq(3),
    }
    assert (await mail.copy(mailbox.id, [Uid(1)], ann.inbox)).pairs == ((1, 2),)
    assert await mail.list_mailboxes(ann.id) == await stores.mail.list_mailboxes(ann.id)
    for name in (ROOT, f"{ROOT}/x", f"{ROOT}/2001-01-01"):
        with pytest.raises(NotFound):
            await mail.get_mailbox(ann.id, name)


async def test_a_mailbox_of_that_name_that_was_there_before_comes_first(stores: Stores) -> None:
    ann = await account(stores)
    await ann.expunged(b"1")
    (day,) = await stores.recovered.mailboxes(ann.id)
    own = await stores.mail.create_mailbox(ann.id, day.name)
    mail = shown(stores)
    assert (await mail.get_mailbox(ann.id, day.name)).id == own.id
    await mail.rename_mailbox(ann.id, day.name, "mine")
    assert (await mail.get_mailbox(ann.id, day.name)).id == day.id
    await mail.delete_mailbox(ann.id, ROOT)
