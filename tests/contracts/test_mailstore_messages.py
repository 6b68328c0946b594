"""MailStore: messages come, change, move and go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from storage.api import RETRY_WINDOW
from storage.errors import NotFound
from storage.model import (
    INBOX,
    FlagChange,
    Flags,
    MailboxId,
    ModSeq,
    NewMessage,
    SystemFlag,
    Uid,
    Wanted,
)

from ..support.stores import Stores, content, staged

SEEN, DELETED, FLAGGED = SystemFlag.SEEN, SystemFlag.DELETED, SystemFlag.FLAGGED
EVERYTHING = Wanted.HEADER | Wanted.ENVELOPE | Wanted.STRUCTURE
KEY = b"k" * 32


async def states(stores: Stores, mailbox_id: MailboxId) -> dict[int, tuple[int, SystemFlag, frozenset[str]]]:
    """uid to (modseq, system flags, keywords)"""
    view = await stores.mail.load_view(mailbox_id)
    await stores.audit(mailbox_id)
    return {
        uid: (modseq, SystemFlag(bits), view.keywords.get(uid, frozenset()))
        for uid, modseq, bits in zip(view.uids, view.modseqs, view.flags, strict=True)
    }


# --- append ---------------------------------------------------------------------------------------


async def test_append_to_many_mailboxes_in_order(stores: Stores) -> None:
    first, second = await stores.inbox(), await stores.inbox()
    at = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)
    flags = Flags(SEEN, frozenset({"$Junk", "a"}))
    results = await stores.mail.append(
        staged(),
        [
            NewMessage(second, b"Return-Path: <a@b>\r\n", flags, at),
            NewMessage(first),
            NewMessage(second),
        ],
    )
    assert [(r.mailbox_id, r.uid, r.modseq, r.duplicate) for r in results] == [
        (second, 1, 2, False),
        (first, 1, 2, False),
        (second, 2, 2, False),
    ]
    view = await stores.mail.load_view(second)
    assert view.mailbox.uidvalidity == results[0].uidvalidity
    assert list(view.sizes) == [content().size_bytes + 20, content().size_bytes]
    assert view.internaldates[0] == int(at.timestamp())
    assert abs(view.internaldates[1] - datetime.now(UTC).timestamp()) < 60
    assert view.keywords == {1: {"$Junk", "a"}}
    for mailbox_id in (first, second):
        await stores.audit(mailbox_id)


async def test_append_is_all_or_nothing(stores: Stores) -> None:
    inbox = await stores.inbox()
    messages = [NewMessage(inbox, delivery_key=KEY), NewMessage(MailboxId(10**9), delivery_key=KEY)]
    with pytest.raises(NotFound):
        await stores.mail.append(staged(), messages)
    assert await states(stores, inbox) == {}
    assert not await stores.mail.delivered(inbox, KEY)
    assert (await stores.uploads.staging_level()).contents == 0


async def test_a_delivery_key_works_once_in_its_account(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    junk = (await stores.mail.get_mailbox(account_id, "Junk")).id
    other = await stores.inbox()
    assert not await stores.mail.delivered(inbox, KEY)
    (first,) = await stores.mail.append(staged(), [NewMessage(inbox, delivery_key=KEY)])
    assert await stores.mail.delivered(junk, KEY)
    assert not await stores.mail.delivered(other, KEY)
    again = await stores.mail.append(
        staged(b"other bytes"),
        [
            NewMessage(junk, delivery_key=KEY),
            NewMessage(other, delivery_key=KEY),
            NewMessage(inbox, delivery_key=b"l" * 32),
            NewMessage(inbox, delivery_key=b"l" * 32),
        ],
    )
    assert [(r.uid, r.duplicate) for r in again] == [(0, True), (1, False), (2, False), (0, True)]
    assert again[0].uidvalidity != first.uidvalidity
    assert sorted(await states(stores, inbox)) == [1, 2]
    assert await states(stores, junk) == {}


async def test_only_duplicates_write_nothing(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.mail.append(staged(), [NewMessage(inbox, delivery_key=KEY)])
    (again,) = await stores.mail.append(staged(b"new bytes"), [NewMessage(inbox, delivery_key=KEY)])
    assert again.duplicate
    assert again.modseq == 2
    assert (await stores.uploads.staging_level()).contents == 1


async def test_a_key_is_forgotten_after_the_retry_window(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.mail.append(staged(), [NewMessage(inbox, delivery_key=KEY)])
    await stores.age_deliveries(RETRY_WINDOW - timedelta(minutes=1))
    assert await stores.mail.delivered(inbox, KEY)
    assert (await stores.mail.append(staged(), [NewMessage(inbox, delivery_key=KEY)]))[0].duplicate
    assert await stores.purge.purge_delivery_keys(10) == 0
    await stores.age_deliveries(timedelta(minutes=2))
    assert not await stores.mail.delivered(inbox, KEY)
    assert not (await stores.mail.append(staged(), [NewMessage(inbox, delivery_key=KEY)]))[0].duplicate
    await stores.age_deliveries(RETRY_WINDOW + timedelta(minutes=1))
    assert await stores.purge.purge_delivery_keys(10) == 1
    assert await stores.purge.purge_delivery_keys(10) == 0


async def test_equal_bytes_are_stored_once(stores: Stores) -> None:
    first, second = await stores.inbox(), await stores.inbox()
    await stores.add(first, b"same")
    await stores.add(second, b"same")
    one = await stores.mail.fetch(first, [Uid(1)], Wanted.REFERENCE)
    two = await stores.mail.fetch(second, [Uid(1)], Wanted.REFERENCE)
    assert one[0].ref == two[0].ref
    level = await stores.uploads.staging_level()
    assert (level.contents, level.encoded_bytes) == (1, len(b"encoded 0 same"))


@pytest.mark.parametrize("frames", [1, 4, 5, 41])
async def test_frames_come_back_in_order(stores: Stores, frames: int) -> None:
    inbox = await stores.inbox()
    content = staged(b"large", frames=frames)
    await stores.mail.append(content, [NewMessage(inbox)])
    (row,) = await stores.mail.fetch(inbox, [Uid(1)], Wanted.REFERENCE)
    assert await stores.uploads.staged_frames(row.ref.id) == list(content.frames)


# --- fetch ----------------------------------------------------------------------------------------


async def test_fetch_brings_what_is_wanted(stores: Stores) -> None:
    inbox = await stores.inbox()
    body = b"Subject: hi\r\n\r\ntext"
    await stores.mail.append(staged(body), [NewMessage(inbox, b"P: x\r\n")])
    await stores.add(inbox, b"second")
    facts = content(body)
    rows = await stores.mail.fetch(inbox, [Uid(9), Uid(2), Uid(1)], EVERYTHING)
    assert [row.uid for row in rows] == [1, 2]
    assert (rows[0].prefix, rows[0].header) == (b"P: x\r\n", facts.header)
    assert (rows[0].envelope, rows[0].structure) == (facts.envelope, facts.structure)
    assert (rows[0].ref.hash, rows[0].ref.size_bytes) == (facts.hash, len(body))
    assert not rows[0].ref.is_stored
    (bare,) = await stores.mail.fetch(inbox, [Uid(1)], Wanted.ENVELOPE)
    assert (bare.header, bare.envelope, bare.structure) == (b"", facts.envelope, b"")


async def test_fetch_leaves_out_what_is_expunged(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"one", b"two", flags=Flags(DELETED))
    await stores.mail.expunge(inbox, [Uid(1)])
    assert [row.uid for row in await stores.mail.fetch(inbox, [Uid(1), Uid(2)], Wanted.REFERENCE)] == [2]


# --- flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "given", "expected"),
    [
        (
            FlagChange.ADD,
            Flags(FLAGGED, frozenset({"new"})),
            Flags(SEEN | FLAGGED, frozenset({"Old", "new"})),
        ),
        (FlagChange.REMOVE, Flags(SEEN, frozenset({"none"})), Flags(SystemFlag.NONE, frozenset({"Old"}))),
        (FlagChange.REMOVE, Flags(FLAGGED, frozenset({"OLD"})), Flags(SEEN)),
        (
            FlagChange.REPLACE,
            Flags(DELETED, frozenset({"old", "x"})),
            Flags(DELETED, frozenset({"Old", "x"})),
        ),
        (FlagChange.REPLACE, Flags(), Flags()),
    ],
)
async def test_flag_changes(stores: Stores, change: FlagChange, given: Flags, expected: Flags) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, flags=Flags(SEEN, frozenset({"Old"})))
    stored = await stores.mail.store_flags(inbox, [Uid(1)], change, given)
    assert [state.flags for state in stored.changed] == [expected]
    assert stored.highestmodseq == stored.changed[0].modseq == 3
    assert await states(stores, inbox) == {1: (3, expected.system, expected.keywords)}


async def test_flags_that_would_not_differ_are_left_alone(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, flags=Flags(SEEN, frozenset({"Old"})))
    for change in (FlagChange.ADD, FlagChange.REPLACE):
        stored = await stores.mail.store_flags(inbox, [Uid(1)], change, Flags(SEEN, frozenset({"oLD"})))
        assert (stored.changed, stored.conflicts, stored.highestmodseq) == ((), (), 2)
    stored = await stores.mail.store_flags(inbox, [Uid(7)], FlagChange.ADD, Flags(FLAGGED))
    assert (stored.changed, stored.highestmodseq) == ((), 2)


async def test_unchangedsince_refuses_what_is_newer(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2", b"3")
    stored = await stores.mail.store_flags(
        inbox, [Uid(1), Uid(2), Uid(3)], FlagChange.ADD, Flags(SEEN), ModSeq(3)
    )
    assert [state.uid for state in stored.changed] == [1, 2]
    assert stored.conflicts == (3,)
    assert {uid: modseq for uid, (modseq, _, _) in (await states(stores, inbox)).items()} == {
        1: 5,
        2: 5,
        3: 4,
    }


async def test_flags_in_a_mailbox_that_is_gone(stores: Stores) -> None:
    with pytest.raises(NotFound):
        await stores.mail.store_flags(MailboxId(10**9), [Uid(1)], FlagChange.ADD, Flags(SEEN))


# --- expunge and changes --------------------------------------------------------------------------


async def test_expunge_takes_deleted_ones_only(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2", flags=Flags(DELETED))
    await stores.add(inbox, b"3", b"4")
    some = await stores.mail.expunge(inbox, [Uid(2), Uid(3)])
    assert (some.uids, some.highestmodseq) == ((2,), 6)
    assert sorted(await states(stores, inbox)) == [1, 3, 4]
    every = await stores.mail.expunge(inbox, None)
    assert (every.uids, every.highestmodseq) == ((1,), 7)
    none = await stores.mail.expunge(inbox, None)
    assert (none.uids, none.highestmodseq) == ((), 7)
    assert sorted(await states(stores, inbox)) == [3, 4]


async def test_remove_takes_the_given_ones_whatever_their_flags(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2", flags=Flags(DELETED))
    await stores.add(inbox, b"3", b"4")
    removed = await stores.mail.remove(inbox, [Uid(2), Uid(3), Uid(9)])
    assert (removed.uids, removed.highestmodseq) == ((2, 3), 6)
    assert sorted(await states(stores, inbox)) == [1, 4]
    again = await stores.mail.remove(inbox, [Uid(2), Uid(3)])
    assert (again.uids, again.highestmodseq) == ((), 6)
    assert (await stores.mail.changes_since(inbox, ModSeq(5))).expunged == (2, 3)
    assert (await stores.mail.undelete(inbox, [Uid(3)])).pairs == ((3, 5),)


async def test_remove_from_a_mailbox_that_is_gone(stores: Stores) -> None:
    with pytest.raises(NotFound):
        await stores.mail.remove(MailboxId(10**9), [Uid(1)])


async def test_view_by_name_is_the_view_by_id(stores: Stores) -> None:
    account = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account, INBOX)).id
    await stores.add(inbox, b"1", b"22", flags=Flags(SEEN))
    by_id = await stores.mail.load_view(inbox)
    for name in ("INBOX", "inbox"):
        named = await stores.mail.load_named_view(account, name)
        assert named.mailbox == by_id.mailbox
        assert (list(named.uids), list(named.sizes)) == ([1, 2], [1, 2])
    with pytest.raises(NotFound):
        await stores.mail.load_named_view(account, "nowhere")


async def test_changes_since_tells_everything_once(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2", b"3")
    base = (await stores.mail.load_view(inbox)).mailbox.highestmodseq
    nothing = await stores.mail.changes_since(inbox, base)
    assert (nothing.changed, nothing.expunged, nothing.mailbox.highestmodseq) == ((), (), base)
    await stores.mail.store_flags(inbox, [Uid(1), Uid(2)], FlagChange.ADD, Flags(DELETED, frozenset({"k"})))
    await stores.mail.expunge(inbox, [Uid(2)])
    await stores.add(inbox, b"4")
    changes = await stores.mail.changes_since(inbox, base)
    assert [(s.uid, s.modseq, s.flags.system, s.flags.keywords) for s in changes.changed] == [
        (1, base + 1, DELETED, {"k"}),
        (4, base + 3, SystemFlag.NONE, frozenset()),
    ]
    assert changes.expunged == (2,)
    assert changes.mailbox.highestmodseq == base + 3
    assert changes.mailbox.messages == 3
    from_start = await stores.mail.changes_since(inbox, ModSeq(0))
    assert [state.uid for state in from_start.changed] == [1, 3, 4]


# --- copy and move --------------------------------------------------------------------------------


async def test_copy_keeps_what_a_message_is(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    target = await stores.mail.get_mailbox(account_id, "Archive")
    at = datetime(2019, 1, 1, tzinfo=UTC)
    await stores.mail.append(staged(), [NewMessage(inbox, b"P", Flags(SEEN, frozenset({"k"})), at)])
    await stores.add(inbox, b"two", b"three")
    copied = await stores.mail.copy(inbox, [Uid(3), Uid(1), Uid(99)], target.id)
    assert copied.pairs == ((1, 1), (3, 2))
    assert (copied.uidvalidity, copied.target_modseq, copied.source_modseq) == (target.uidvalidity, 2, None)
    source, goal = await stores.mail.load_view(inbox), await stores.mail.load_view(target.id)
    assert (goal.sizes[0], goal.internaldates[0]) == (source.sizes[0], source.internaldates[0])
    assert await states(stores, target.id) == {
        1: (2, SEEN, frozenset({"k"})),
        2: (2, SystemFlag.NONE, frozenset()),
    }
    (row,) = await stores.mail.fetch(target.id, [Uid(1)], Wanted.REFERENCE)
    (original,) = await stores.mail.fetch(inbox, [Uid(1)], Wanted.REFERENCE)
    assert (row.prefix, row.ref) == (b"P", original.ref)
    assert len(await states(stores, inbox)) == 3


async def test_copy_into_the_same_mailbox(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox)
    assert (await stores.mail.copy(inbox, [Uid(1)], inbox)).pairs == ((1, 2),)
    assert sorted(await states(stores, inbox)) == [1, 2]


async def test_nothing_to_copy_or_move(stores: Stores) -> None:
    inbox, target = await stores.inbox(), await stores.inbox()
    assert (await stores.mail.copy(inbox, [Uid(5)], target)).pairs == ()
    moved = await stores.mail.move(inbox, [Uid(5)], target)
    assert (moved.pairs, moved.source_modseq, moved.target_modseq) == ((), 1, 1)


async def test_copy_and_move_need_both_mailboxes(stores: Stores) -> None:
    inbox, gone = await stores.inbox(), MailboxId(10**9)
    await stores.add(inbox)
    for call in (stores.mail.copy, stores.mail.move):
        with pytest.raises(NotFound):
            await call(inbox, [Uid(1)], gone)
        with pytest.raises(NotFound):
            await call(gone, [Uid(1)], inbox)
    assert sorted(await states(stores, inbox)) == [1]


async def test_move_is_copy_and_expunge(stores: Stores) -> None:
    inbox, target = await stores.inbox(), await stores.inbox()
    await stores.add(inbox, b"1", b"2", b"3", flags=Flags(SEEN | DELETED))
    await stores.add(target, b"before")
    moved = await stores.mail.move(inbox, [Uid(3), Uid(1)], target)
    assert moved.pairs == ((1, 2), (3, 3))
    assert (moved.source_modseq, moved.target_modseq) == (5, 3)
    assert sorted(await states(stores, inbox)) == [2]
    assert (await states(stores, target))[2] == (3, SEEN | DELETED, frozenset())
    changes = await stores.mail.changes_since(inbox, ModSeq(4))
    assert (changes.changed, changes.expunged) == ((), (1, 3))


async def test_move_within_a_mailbox_gives_new_uids(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2")
    moved = await stores.mail.move(inbox, [Uid(1)], inbox)
    assert (moved.pairs, moved.source_modseq, moved.target_modseq) == (((1, 3),), 4, 4)
    assert sorted(await states(stores, inbox)) == [2, 3]


# --- recovery -------------------------------------------------------------------------------------


async def test_expunged_messages_come_back(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    await stores.add(inbox, b"1", b"2", b"3", flags=Flags(DELETED | FLAGGED, frozenset({"k"})))
    await stores.mail.expunge(inbox, [Uid(2)])
    await stores.mail.expunge(inbox, [Uid(1), Uid(3)])
    listed = await stores.mail.list_deleted(account_id)
    assert [(entry.mailbox_name, entry.uid) for entry in listed] == [(INBOX, 3), (INBOX, 1), (INBOX, 2)]
    assert listed[0].envelope == content(b"3").envelope
    assert len(await stores.mail.list_deleted(account_id, "inbox", limit=2)) == 2
    assert await stores.mail.list_deleted(account_id, "Junk") == []
    back = await stores.mail.undelete(inbox, [Uid(3), Uid(1), Uid(77)])
    assert back.pairs == ((1, 4), (3, 5))
    assert await states(stores, inbox) == {
        4: (back.target_modseq, FLAGGED, frozenset({"k"})),
        5: (back.target_modseq, FLAGGED, frozenset({"k"})),
    }
    assert (await stores.mail.undelete(inbox, [Uid(1)])).pairs == ()
    assert [entry.uid for entry in await stores.mail.list_deleted(account_id)] == [2]
    assert (await stores.mail.changes_since(inbox, ModSeq(0))).expunged == (1, 2, 3)


async def test_moved_messages_are_not_offered_for_recovery(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    junk = (await stores.mail.get_mailbox(account_id, "Junk")).id
    await stores.add(inbox)
    await stores.mail.move(inbox, [Uid(1)], junk)
    assert await stores.mail.list_deleted(account_id) == []
    assert (await stores.mail.undelete(inbox, [Uid(1)])).pairs == ()
