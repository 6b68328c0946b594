"""UploadStore and PurgeStore: the way of a body out of staging, and out of the world."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from storage.model import (
    INBOX,
    FlagChange,
    Flags,
    ModSeq,
    NewMessage,
    StagingPlace,
    SystemFlag,
    Uid,
    Wanted,
)
from storage.objects.keys import object_key

from ..support.stores import Stores, staged

DELETED = Flags(SystemFlag.DELETED)
NO_GRACE = timedelta(0)


async def purge_everything(stores: Stores) -> None:
    while await stores.purge.purge_messages(NO_GRACE, 100):
        pass
    while await stores.purge.purge_contents(100):
        pass


# --- upload ---------------------------------------------------------------------------------------


async def test_a_lease_belongs_to_one_uploader_until_it_ends(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2", b"3")
    first = await stores.uploads.lease("a", 2, 60)
    assert len(first) == 2
    assert first[0].lease_until > datetime.now(UTC) + timedelta(seconds=50)
    second = await stores.uploads.lease("b", 10, -1)
    assert len(second) == 1
    assert not {lease.ref.id for lease in first} & {lease.ref.id for lease in second}
    third = await stores.uploads.lease("a", 10, 60)
    assert [lease.ref.id for lease in third] == [second[0].ref.id]


async def test_a_node_that_was_killed_gets_its_leases_back_at_the_next_start(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2")
    held = await stores.uploads.lease("a", 1, 300)
    assert len(await stores.uploads.lease("b", 10, 300)) == 1
    assert await stores.uploads.reclaim("c") == 0
    assert await stores.uploads.reclaim("a") == 1
    again = await stores.uploads.lease("a", 10, 300)
    assert [lease.ref.id for lease in again] == [held[0].ref.id]


async def test_a_body_on_a_disk_is_leased_to_its_node_only(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.mail.append(staged(b"on disk", node="a"), [NewMessage(inbox)])
    (row,) = await stores.mail.fetch(inbox, [Uid(1)], Wanted.REFERENCE)
    assert (row.ref.is_stored, row.ref.staged_node) == (False, "a")
    assert await stores.uploads.staged_frames(row.ref.id) is None
    assert await stores.uploads.lease("b", 10, 60) == []
    (lease,) = await stores.uploads.lease("a", 10, 60)
    assert lease.ref == row.ref


async def test_frames_of_several_contents(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.mail.append(staged(b"one", frames=3), [NewMessage(inbox)])
    await stores.mail.append(staged(b"two", frames=1), [NewMessage(inbox)])
    await stores.mail.append(staged(b"disk", node="a"), [NewMessage(inbox)])
    rows = await stores.mail.fetch(inbox, [Uid(1), Uid(2), Uid(3)], Wanted.REFERENCE)
    ids = [row.ref.id for row in rows]
    await stores.uploads.mark_stored([ids[1]])
    expected = {ids[0]: list(staged(b"one", frames=3).frames)}
    assert await stores.uploads.staged_frames_of(ids) == expected
    assert await stores.uploads.staged_frames_of([]) == {}


async def test_mark_stored_ends_staging(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2")
    leases = await stores.uploads.lease("a", 10, 60)
    ids = [lease.ref.id for lease in leases]
    assert await stores.uploads.mark_stored(ids) == ids
    assert await stores.uploads.mark_stored(ids) == ids
    assert (await stores.uploads.staging_level()).contents == 0
    assert await stores.uploads.staged_frames(ids[0]) is None
    located = await stores.uploads.locate(ids)
    assert [(ref.id, ref.is_stored, ref.staged_node) for ref in located] == [(id_, True, None) for id_ in ids]
    await stores.add(inbox, b"1")
    assert (await stores.uploads.staging_level()).contents == 0


async def test_release_gives_back_and_counts_permanent_failures_only(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox)
    for permanent, attempts in ((False, 0), (True, 1), (False, 1)):
        (lease,) = await stores.uploads.lease("a", 1, 60)
        await stores.uploads.release(lease.ref.id, "x" * 9999, 0, permanent=permanent)
        (again,) = await stores.uploads.lease("b", 1, 60)
        assert again.attempts == attempts
        await stores.uploads.release(lease.ref.id, "", 0, permanent=False)
    (lease,) = await stores.uploads.lease("a", 1, 60)
    await stores.uploads.release(lease.ref.id, "later", 3600, permanent=False)
    assert await stores.uploads.lease("a", 1, 60) == []


async def test_what_was_given_back_takes_its_old_turn(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2", b"3")
    ids = [lease.ref.id for lease in await stores.uploads.lease("a", 3, 60)]
    await stores.uploads.release(ids[0], "away", 3600, permanent=False)
    await stores.uploads.release(ids[1], "away", 3600, permanent=False)
    assert await stores.uploads.lease("b", 3, 60) == []
    await stores.uploads.restore_turns([ids[1], ids[0], ids[2]])
    assert [lease.ref.id for lease in await stores.uploads.lease("b", 1, 60)] == [ids[0]]
    assert [lease.ref.id for lease in await stores.uploads.lease("b", 3, 60)] == [ids[1]]
    await stores.uploads.restore_turns([])


async def test_contents_are_found_by_their_bytes(stores: Stores) -> None:
    inbox = await stores.inbox()
    for body, node in ((b"disk", "a"), (b"database", None), (b"done", "a")):
        await stores.mail.append(staged(body, node=node), [NewMessage(inbox)])
    hashes = {body: staged(body).content.hash for body in (b"disk", b"database", b"done", b"no")}
    rows = await stores.mail.fetch(inbox, [Uid(3)], Wanted.REFERENCE)
    await stores.uploads.mark_stored([rows[0].ref.id])
    found = await stores.uploads.find(list(hashes.values()))
    places = {hash_: (ref.is_stored, ref.staged_node) for hash_, ref in found.items()}
    assert places == {
        hashes[b"disk"]: (False, "a"),
        hashes[b"database"]: (False, None),
        hashes[b"done"]: (True, None),
    }
    assert await stores.uploads.find([]) == {}


@pytest.mark.parametrize("node", [None, "b"])
async def test_a_body_on_a_disk_that_is_gone_is_taken_over(stores: Stores, node: str | None) -> None:
    inbox = await stores.inbox()
    pieces = [] if node else [b"piece %d" % n for n in range(40)]
    (one,) = await stores.mail.append(staged(b"one", node="a"), [NewMessage(inbox)])
    await stores.add(inbox, b"two")
    (lease,) = [each for each in await stores.uploads.lease("a", 10, 60) if each.ref.staged_node == "a"]
    await stores.uploads.release(lease.ref.id, "gone", 3600, permanent=True)
    assert await stores.uploads.take_over(lease.ref.hash, node, pieces, 280)
    (row,) = await stores.mail.fetch(inbox, [one.uid], Wanted.REFERENCE)
    assert (row.ref.is_stored, row.ref.staged_node) == (False, node)
    assert await stores.uploads.staged_frames(lease.ref.id) == (pieces or None)
    (again,) = await stores.uploads.lease("b", 10, 60)
    assert (again.ref, again.attempts) == (row.ref, 0)
    assert {place.node: place.encoded_bytes for place in await places(stores)}[node] >= 280
    for content_hash in (lease.ref.hash, staged(b"two").content.hash, staged(b"never seen").content.hash):
        assert not await stores.uploads.take_over(content_hash, node, pieces, 280)
    assert await stores.uploads.staged_frames(lease.ref.id) == (pieces or None)


async def places(stores: Stores) -> tuple[StagingPlace, ...]:
    return (await stores.uploads.staging_level()).places


@pytest.mark.parametrize("frames", [1, 30])
@pytest.mark.parametrize("is_retry", [False, True])
@pytest.mark.parametrize("boxes", [1, 2])
async def test_an_acknowledgement_never_rests_on_a_foreign_disk(
    stores: Stores, frames: int, is_retry: bool, boxes: int
) -> None:
    """The node that took these bytes first is gone, and with it its disk."""
    inboxes = [await stores.inbox() for _ in range(boxes)]
    first = [NewMessage(inbox, delivery_key=b"k" * 32) for inbox in inboxes]
    again = [NewMessage(inbox, delivery_key=(b"k" if is_retry else b"l") * 32) for inbox in inboxes]
    await stores.mail.append(staged(b"one", node="a"), first)
    taken = staged(b"one", frames=frames)
    results = await stores.mail.append(taken, again)
    assert {each.duplicate for each in results} == {is_retry}
    (row,) = await stores.mail.fetch(inboxes[0], [Uid(1)], Wanted.REFERENCE)
    assert row.ref.staged_node is None
    assert await stores.uploads.staged_frames(row.ref.id) == list(taken.frames)
    assert [place.node for place in await places(stores)] == [None]
    await stores.mail.append(staged(b"one", node="a"), [NewMessage(inboxes[0])])  # no worse place
    assert await stores.uploads.staged_frames(row.ref.id) == list(taken.frames)


async def test_staging_level(stores: Stores) -> None:
    level = await stores.uploads.staging_level()
    assert (level.contents, level.encoded_bytes, level.oldest_age_s, level.places) == (0, 0, 0, ())
    inbox = await stores.inbox()
    await stores.mail.append(staged(b"abc", frames=3), [NewMessage(inbox)])
    await stores.mail.append(staged(b"defgh", node="a"), [NewMessage(inbox)])
    level = await stores.uploads.staging_level()
    in_database = staged(b"abc", frames=3).encoded_bytes
    assert (level.contents, level.encoded_bytes) == (2, in_database + 5)
    assert 0 <= level.oldest_age_s < 60
    assert [(each.node, each.contents, each.encoded_bytes) for each in level.places] == [
        (None, 1, in_database),
        ("a", 1, 5),
    ]
    assert (level.bytes_at(None), level.bytes_at("a"), level.bytes_at("b")) == (in_database, 5, 0)


# --- purge ----------------------------------------------------------------------------------------


async def test_nothing_is_purged_within_its_grace(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    await stores.add(inbox, flags=DELETED)
    await stores.mail.expunge(inbox, None)
    assert await stores.purge.purge_messages(timedelta(hours=1), 10) == 0
    assert await stores.purge.purge_contents(10) == 0
    assert len(await stores.mail.list_deleted(account_id)) == 1


async def test_the_last_message_takes_its_content_along(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    await stores.add(inbox, b"shared", b"shared", b"alone", flags=DELETED)
    rows = await stores.mail.fetch(inbox, [Uid(1), Uid(3)], Wanted.REFERENCE)
    shared, alone = rows[0].ref, rows[1].ref
    await stores.mail.expunge(inbox, [Uid(1), Uid(3)])
    await purge_everything(stores)
    assert await stores.uploads.locate([shared.id, alone.id]) == [shared]
    assert await stores.mail.list_deleted(account_id) == []
    assert (await stores.mail.undelete(inbox, [Uid(1)])).pairs == ()
    ((doomed_id, key),) = await stores.purge.doomed(10)
    assert key == object_key(alone.hash, alone.id)
    await stores.purge.forget_doomed([doomed_id])
    assert await stores.purge.doomed(10) == []
    assert (await stores.mail.changes_since(inbox, ModSeq(0))).expunged == (1, 3)
    await stores.audit(inbox)


async def test_the_same_bytes_after_a_purge_are_a_new_content(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"again", flags=DELETED)
    (before,) = await stores.mail.fetch(inbox, [Uid(1)], Wanted.REFERENCE)
    await stores.mail.expunge(inbox, None)
    await purge_everything(stores)
    await stores.add(inbox, b"again")
    (after,) = await stores.mail.fetch(inbox, [Uid(2)], Wanted.REFERENCE)
    assert after.ref.hash == before.ref.hash
    assert after.ref.id != before.ref.id
    assert await stores.uploads.staged_frames(after.ref.id) == [b"encoded 0 again"]


async def test_a_leased_content_is_not_purged(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, flags=DELETED)
    (lease,) = await stores.uploads.lease("a", 1, 60)
    await stores.mail.expunge(inbox, None)
    await stores.purge.purge_messages(NO_GRACE, 10)
    assert await stores.purge.purge_contents(10) == 0
    await stores.uploads.release(lease.ref.id, "", 0, permanent=False)
    assert await stores.purge.purge_contents(10) == 1


async def test_an_upload_that_ends_after_the_purge_leaves_no_orphan(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, flags=DELETED)
    (lease,) = await stores.uploads.lease("a", 1, -1)
    await stores.mail.expunge(inbox, None)
    await purge_everything(stores)
    ((doomed_id, key),) = await stores.purge.doomed(10)
    await stores.purge.forget_doomed([doomed_id])
    assert await stores.uploads.mark_stored([lease.ref.id]) == []
    assert [key for _, key in await stores.purge.doomed(10)] == [key]


async def test_an_upload_that_ends_while_a_cleaner_deletes_its_object_leaves_no_orphan(
    stores: Stores,
) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, flags=DELETED)
    (lease,) = await stores.uploads.lease("a", 1, -1)
    await stores.mail.expunge(inbox, None)
    await purge_everything(stores)
    ((doomed_id, key),) = await stores.purge.doomed(10)
    # The cleaner deletes the object, which is not there yet; then the upload puts it.
    assert await stores.uploads.mark_stored([lease.ref.id]) == []
    await stores.purge.forget_doomed([doomed_id])
    ((again, same_key),) = await stores.purge.doomed(10)
    assert same_key == key
    await stores.purge.forget_doomed([again])
    assert await stores.purge.doomed(10) == []


async def test_purges_are_bounded(stores: Stores) -> None:
    inbox = await stores.inbox()
    await stores.add(inbox, b"1", b"2", b"3", flags=DELETED)
    await stores.mail.expunge(inbox, None)
    assert [await stores.purge.purge_messages(NO_GRACE, 2) for _ in range(3)] == [2, 1, 0]
    assert [await stores.purge.purge_contents(2) for _ in range(3)] == [2, 1, 0]
    assert len(await stores.purge.doomed(2)) == 2


async def test_a_deleted_mailbox_is_purged_with_all_in_it(stores: Stores) -> None:
    account_id = await stores.new_account()
    mailbox = await stores.mail.create_mailbox(account_id, "box")
    await stores.add(mailbox.id, b"1", b"2", b"3")
    await stores.mail.store_flags(mailbox.id, [Uid(1)], FlagChange.ADD, DELETED)
    await stores.mail.expunge(mailbox.id, None)
    await stores.mail.delete_mailbox(account_id, "box")
    await purge_everything(stores)
    assert len(await stores.purge.doomed(10)) == 3
    assert (await stores.uploads.staging_level()).contents == 0


async def test_a_deleted_account_is_purged(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    await stores.mail.append(staged(), [NewMessage(inbox, delivery_key=b"k" * 32)])
    await stores.delete_account(account_id)
    await purge_everything(stores)
    assert (await stores.mail.list_mailboxes(account_id)).mailboxes == ()
    assert len(await stores.purge.doomed(10)) == 1


async def test_a_short_batch_means_that_all_is_done(stores: Stores) -> None:
    """Deleted mailboxes and accounts do not wait for a round each."""
    account_id = await stores.new_account()
    for n in range(4):
        box = await stores.mail.create_mailbox(account_id, f"box{n}")
        await stores.add(box.id, b"%d" % n, b"x%d" % n)
        await stores.mail.expunge(box.id, None)
        await stores.mail.delete_mailbox(account_id, box.name)
    await stores.delete_account(account_id)
    due = await stores.purge.due(NO_GRACE, None)
    assert (due["accounts"], due["mailboxes"], due["messages"], due["contents"]) == (1, 10, 8, 0)
    assert await stores.purge.purge_messages(NO_GRACE, 1000) < 1000
    assert await stores.purge.purge_messages(NO_GRACE, 1000) == 0
    assert await stores.purge.purge_contents(1000) == 8
    due = await stores.purge.due(NO_GRACE, timedelta(days=1))
    assert {name: count for name, count in due.items() if count} == {"objects": 8}


async def test_what_is_due(stores: Stores) -> None:
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    old = datetime.now(UTC) - timedelta(days=40)
    await stores.mail.append(staged(b"old"), [NewMessage(inbox, internaldate=old, delivery_key=b"k" * 32)])
    await stores.add(inbox, b"gone", flags=DELETED)
    await stores.mail.expunge(inbox, None)
    await stores.age_deliveries(timedelta(days=8))
    due = await stores.purge.due(timedelta(hours=1), timedelta(days=30))
    assert {name: count for name, count in due.items() if count} == {"expired": 1, "delivery_keys": 1}
    assert (await stores.purge.due(NO_GRACE, None))["messages"] == 1


async def test_expire_by_age(stores: Stores) -> None:
    inbox = await stores.inbox()
    for days in (40, 1, 50, 60):
        at = datetime.now(UTC) - timedelta(days=days)
        await stores.mail.append(staged(b"%d" % days), [NewMessage(inbox, internaldate=at)])
    assert await stores.purge.expire(timedelta(days=30), 2) == 2
    await stores.audit(inbox)
    view = await stores.mail.load_view(inbox)
    assert list(view.uids) == [1, 2]
    assert view.mailbox.highestmodseq == 6
    assert await stores.purge.expire(timedelta(days=30), 2) == 1
    assert await stores.purge.expire(timedelta(days=30), 2) == 0
    assert list((await stores.mail.load_view(inbox)).uids) == [2]
