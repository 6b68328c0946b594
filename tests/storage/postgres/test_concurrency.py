"""Writers at the same time. Each store below stands for another process: the in-process queue is per store,
so only PostgreSQL's locks decide between them."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from storage.errors import NotFound, Unavailable
from storage.model import (
    INBOX,
    FlagChange,
    Flags,
    MailboxId,
    NewMessage,
    StagedContent,
    SystemFlag,
    Uid,
    Wanted,
)
from storage.postgres.auditing import PostgresAudit
from storage.postgres.pool import Database
from storage.postgres.queue import MailboxQueue
from storage.postgres.store import PostgresMailStore

from ...support.postgres import until_someone_waits, waiters
from ...support.stores import PostgresStores, staged

KEY = b"k" * 32
NO_GRACE = timedelta(0)
_CONTENTS = "SELECT id FROM contents"


@pytest.fixture
def others(database: Database) -> list[PostgresMailStore]:
    return [PostgresMailStore(database) for _ in range(6)]


async def test_parallel_appends_get_unique_rising_uids(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    inbox = await postgres_stores.inbox()

    async def deliver(store: PostgresMailStore, name: int) -> list[int]:
        return [
            (await store.append(staged(b"%d %d" % (name, n)), [NewMessage(inbox)]))[0].uid for n in range(10)
        ]

    given = await asyncio.gather(*(deliver(store, n) for n, store in enumerate(others)))
    for uids in given:
        assert uids == sorted(uids)
    assert sorted(uid for uids in given for uid in uids) == list(range(1, 61))
    await postgres_stores.audit(inbox)


async def test_opposite_moves_do_not_deadlock(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    a, b = await postgres_stores.inbox(), await postgres_stores.inbox()
    bodies = [b"%d" % n for n in range(20)]
    await postgres_stores.add(a, *bodies)
    await postgres_stores.add(b, *bodies)

    async def shuffle(store: PostgresMailStore, source: MailboxId, target: MailboxId) -> None:
        for _ in range(6):
            uids = list((await store.load_view(source)).uids)
            await store.move(source, random.Random(1).sample(uids, len(uids) // 3), target)

    pairs = [(a, b), (b, a)] * 3
    await asyncio.gather(*(shuffle(store, *pair) for store, pair in zip(others, pairs, strict=True)))
    boxes = [(await postgres_stores.mail.load_view(mailbox_id)).mailbox for mailbox_id in (a, b)]
    assert sum(box.messages for box in boxes) == 40
    for mailbox_id in (a, b):
        await postgres_stores.audit(mailbox_id)
    assert postgres_stores.database.stats["retry"] == 0


async def test_appends_to_the_same_mailboxes_in_opposite_orders(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    a, b = await postgres_stores.inbox(), await postgres_stores.inbox()
    orders = [[a, b], [b, a]] * 3

    async def deliver(store: PostgresMailStore, order: list[MailboxId]) -> None:
        for n in range(10):
            await store.append(staged(b"same %d" % n), [NewMessage(mailbox_id) for mailbox_id in order])

    await asyncio.gather(*(deliver(store, order) for store, order in zip(others, orders, strict=True)))
    assert (await postgres_stores.mail.load_view(a)).mailbox.messages == 60
    assert postgres_stores.database.stats["retry"] == 0
    assert (await postgres_stores.uploads.staging_level()).contents == 10


async def test_concurrent_retries_give_one_copy(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    account_id = await postgres_stores.new_account()
    boxes = (await postgres_stores.mail.list_mailboxes(account_id)).mailboxes
    for n in range(10):
        message = [NewMessage(boxes[n % 2].id, delivery_key=bytes([n]) * 32)]
        answers = await asyncio.gather(*(store.append(staged(b"%d" % n), message) for store in others))
        assert sorted(answer.duplicate for (answer,) in answers) == [False, True, True, True, True, True]
    assert (
        sum(box.messages for box in (await postgres_stores.mail.list_mailboxes(account_id)).mailboxes) == 10
    )


async def test_a_retry_that_waits_sees_the_one_it_waited_for(postgres_stores: PostgresStores) -> None:
    """The second statement's snapshot is older than the first one's commit."""
    database, inbox = postgres_stores.database, await postgres_stores.inbox()
    async with database.transaction() as blocker:
        await blocker.execute("SELECT FROM mailboxes WHERE id = $1 FOR UPDATE", inbox)
        tasks = [
            asyncio.create_task(
                PostgresMailStore(database).append(staged(), [NewMessage(inbox, delivery_key=KEY)])
            )
            for _ in range(2)
        ]
        await until_someone_waits(database, 2)
    answers = [answer for task in tasks for answer in await task]
    assert sorted((answer.uid, answer.duplicate) for answer in answers) == [(0, True), (1, False)]
    await postgres_stores.audit(inbox)


async def test_an_append_that_waited_counts_on_from_what_was_committed(
    postgres_stores: PostgresStores,
) -> None:
    database, inbox = postgres_stores.database, await postgres_stores.inbox()
    async with database.transaction() as blocker:
        await blocker.execute("UPDATE mailboxes SET uidnext = 100, highestmodseq = 200 WHERE id = $1", inbox)
        task = asyncio.create_task(postgres_stores.mail.append(staged(), [NewMessage(inbox)]))
        await until_someone_waits(database)
    (answer,) = await task
    assert (answer.uid, answer.modseq) == (100, 201)


async def test_flag_changes_that_waited_count_from_the_flags_as_they_are(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    """Counters would drift if the old flags were those of the statement's snapshot."""
    database, inbox = postgres_stores.database, await postgres_stores.inbox()
    await postgres_stores.add(inbox, b"1", b"2")
    both, seen = [Uid(1), Uid(2)], Flags(SystemFlag.SEEN | SystemFlag.DELETED)
    async with database.transaction() as blocker:
        await blocker.execute("SELECT FROM mailboxes WHERE id = $1 FOR UPDATE", inbox)
        tasks = [
            asyncio.create_task(others[0].store_flags(inbox, both, FlagChange.ADD, seen)),
            asyncio.create_task(others[1].store_flags(inbox, both, FlagChange.ADD, seen)),
            asyncio.create_task(others[2].expunge(inbox, [Uid(2)])),
            asyncio.create_task(others[3].store_flags(inbox, both, FlagChange.REMOVE, seen)),
        ]
        await until_someone_waits(database, 4)
    await asyncio.gather(*tasks)
    await postgres_stores.audit(inbox)


async def test_random_writers_never_drift(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    a, b = await postgres_stores.inbox(), await postgres_stores.inbox()
    bits = Flags(SystemFlag.SEEN | SystemFlag.DELETED)

    async def write(store: PostgresMailStore, rng: random.Random) -> None:
        for n in range(25):
            box, uids = rng.choice([a, b]), [Uid(uid) for uid in rng.sample(range(1, 30), 8)]
            change = rng.choice(list(FlagChange))
            call = rng.randrange(5)
            if call == 0:
                await store.append(staged(b"%d" % (n % 4)), [NewMessage(a), NewMessage(b)])
            elif call == 1:
                await store.store_flags(box, uids, change, bits)
            elif call == 2:
                await store.expunge(box, None)
            elif call == 3:
                await store.move(box, uids, rng.choice([a, b]))
            else:
                await store.copy(box, uids[:3], rng.choice([a, b]))

    await asyncio.gather(*(write(store, random.Random(seed)) for seed, store in enumerate(others)))
    for mailbox_id in (a, b):
        await postgres_stores.audit(mailbox_id)


async def test_append_or_delete_of_the_mailbox_comes_first(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    database, account_id = postgres_stores.database, await postgres_stores.new_account()
    inbox = (await postgres_stores.mail.get_mailbox(account_id, INBOX)).id
    box = (await postgres_stores.mail.get_mailbox(account_id, "Junk")).id
    async with database.transaction() as blocker:
        await blocker.execute("UPDATE mailboxes SET deleted_at = now() WHERE id = $1", box)
        task = asyncio.create_task(
            others[0].append(
                staged(), [NewMessage(inbox, delivery_key=KEY), NewMessage(box, delivery_key=b"l" * 32)]
            )
        )
        await until_someone_waits(database)
    with pytest.raises(NotFound):
        await task
    assert (await postgres_stores.mail.load_view(inbox)).mailbox.messages == 0
    assert not await postgres_stores.mail.delivered(inbox, KEY)
    assert (await postgres_stores.uploads.staging_level()).contents == 0


async def test_append_of_bytes_that_are_being_purged(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    """Whoever is first, no message is left without its body."""
    inbox = await postgres_stores.inbox()

    async def deliver(store: PostgresMailStore) -> None:
        for _ in range(15):
            (answer,) = await store.append(staged(), [NewMessage(inbox, flags=Flags(SystemFlag.DELETED))])
            await store.expunge(inbox, [answer.uid])

    async def clean() -> None:
        for _ in range(30):
            await postgres_stores.purge.purge_messages(NO_GRACE, 100)
            await postgres_stores.purge.purge_contents(100)

    await asyncio.gather(*(deliver(store) for store in others[:3]), clean(), clean())
    await postgres_stores.mail.append(staged(), [NewMessage(inbox)])
    view = await postgres_stores.mail.load_view(inbox)
    rows = await postgres_stores.mail.fetch(inbox, list(view.uids), Wanted.REFERENCE)
    assert len(rows) == 1
    assert await postgres_stores.uploads.staged_frames(rows[0].ref.id) == list(staged().frames)
    dangling = await postgres_stores.database.read(
        "SELECT FROM messages m WHERE NOT EXISTS (SELECT FROM contents c WHERE c.id = m.content_id)"
    )
    assert dangling == []
    await postgres_stores.mail.store_flags(inbox, [rows[0].uid], FlagChange.ADD, Flags(SystemFlag.DELETED))
    await postgres_stores.mail.expunge(inbox, None)
    await clean()
    assert await postgres_stores.database.read("SELECT FROM contents") == []  # and none is forgotten


async def test_the_last_message_goes_while_its_content_is_looked_at(postgres_stores: PostgresStores) -> None:
    """Candidates of contents that seem to be in use are struck off only when nobody is dropping messages."""
    database, inbox = postgres_stores.database, await postgres_stores.inbox()
    await postgres_stores.add(inbox, b"x", b"x", flags=Flags(SystemFlag.DELETED))
    await postgres_stores.mail.expunge(inbox, None)
    await postgres_stores.purge.purge_messages(NO_GRACE, 1)
    async with database.transaction() as dropping:
        await dropping.execute("DELETE FROM messages")
        await dropping.execute("UPDATE purge_candidates SET noted_at = now()")
        task = asyncio.create_task(postgres_stores.purge.purge_contents(10))
        await until_someone_waits(database)
    assert await task == 1


async def test_a_copy_holds_off_the_purge(postgres_stores: PostgresStores) -> None:
    inbox, target = await postgres_stores.inbox(), await postgres_stores.inbox()
    await postgres_stores.add(inbox, flags=Flags(SystemFlag.DELETED))
    await postgres_stores.mail.copy(inbox, [Uid(1)], target)
    await postgres_stores.mail.expunge(inbox, None)
    await postgres_stores.purge.purge_messages(NO_GRACE, 10)
    assert await postgres_stores.purge.purge_contents(10) == 0
    assert len(await postgres_stores.mail.fetch(target, [Uid(1)], Wanted.REFERENCE)) == 1


async def test_a_copy_that_waited_leaves_out_what_was_purged_meanwhile(
    postgres_stores: PostgresStores,
) -> None:
    database = postgres_stores.database
    inbox, target = await postgres_stores.inbox(), await postgres_stores.inbox()
    await postgres_stores.add(inbox, b"stays")
    await postgres_stores.add(inbox, b"goes", flags=Flags(SystemFlag.DELETED))
    async with database.transaction() as blocker:
        await blocker.execute("SELECT FROM mailboxes WHERE id = $1 FOR UPDATE", target)
        task = asyncio.create_task(postgres_stores.mail.copy(inbox, [Uid(1), Uid(2)], target))
        await until_someone_waits(database)
        await postgres_stores.mail.expunge(inbox, None)
        await postgres_stores.purge.purge_messages(NO_GRACE, 10)
        assert await postgres_stores.purge.purge_contents(10) == 1
    assert (await task).pairs == ((1, 1),)
    await postgres_stores.audit(target)


async def test_concurrent_creates_of_one_tree(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    account_id = await postgres_stores.new_account()
    made = await asyncio.gather(
        *(store.create_mailbox(account_id, f"a/b/{n}") for n, store in enumerate(others))
    )
    assert len({mailbox.uidvalidity for mailbox in made}) == len(others)
    names = [mailbox.name for mailbox in (await postgres_stores.mail.list_mailboxes(account_id)).mailboxes]
    assert len(names) == len(set(names)) == 6 + 2 + len(others)


async def test_leases_are_disjoint(postgres_stores: PostgresStores) -> None:
    inbox = await postgres_stores.inbox()
    await postgres_stores.add(inbox, *(b"%d" % n for n in range(30)))
    batches = await asyncio.gather(*(postgres_stores.uploads.lease(f"n{n}", 6, 60) for n in range(8)))
    leased = [lease.ref.id for batch in batches for lease in batch]
    assert len(leased) == len(set(leased)) == 30


# --- the queue in the process ---------------------------------------------------------------------


async def test_writers_of_one_mailbox_hold_one_connection(
    database: Database, postgres_stores: PostgresStores
) -> None:
    inbox = await postgres_stores.inbox()
    before = database.open_connections
    await asyncio.gather(*(postgres_stores.add(inbox, b"%d" % n) for n in range(40)))
    assert database.open_connections <= before + 1
    assert len(postgres_stores.mail.queue) == 0


async def test_the_queue_has_a_bound_and_forgets() -> None:
    queue = MailboxQueue(wait_s=0.01)
    async with queue.turn([1, 2]):
        with pytest.raises(Unavailable):
            async with queue.turn([3, 2]):
                raise AssertionError("two at once")
        async with queue.turn([3]):
            pass
        assert len(queue) == 2
    assert len(queue) == 0


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    queue = MailboxQueue(wait_s=10)

    async def wait() -> None:
        async with queue.turn([1]):
            pass

    async with queue.turn([1]):
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(queue) == 0


async def test_the_same_bytes_through_several_nodes_while_they_are_uploaded_and_purged(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    """Wherever a body is said to wait, it does; those in the database have frames, and no other has."""
    database, inbox = postgres_stores.database, await postgres_stores.inbox()
    nodes = ["a", "b", None, "a", "b", None]
    rng = random.Random(1)

    async def deliver(store: PostgresMailStore, node: str | None) -> None:
        for _ in range(15):
            body = staged(b"%d" % rng.randrange(3), frames=0 if node else rng.choice((1, 9)), node=node)
            (answer,) = await store.append(body, [NewMessage(inbox, flags=Flags(SystemFlag.DELETED))])
            if rng.random() < 0.5:
                await store.expunge(inbox, [answer.uid])
            assert await misplaced(database) == []

    async def upload(node: str) -> None:
        for _ in range(20):
            leases = await postgres_stores.uploads.lease(node, 1, 60)
            await postgres_stores.uploads.mark_stored([lease.ref.id for lease in leases])

    async def adopt() -> None:
        for n in range(30):
            await postgres_stores.uploads.take_over(staged(b"%d" % (n % 3)).content.hash, "b", (), 1)

    async def clean() -> None:
        for _ in range(30):
            await postgres_stores.purge.purge_messages(NO_GRACE, 100)
            await postgres_stores.purge.purge_contents(100)

    deliveries = (deliver(*pair) for pair in zip(others, nodes, strict=True))
    await asyncio.gather(*deliveries, upload("a"), upload("b"), adopt(), clean())
    assert await misplaced(database) == []
    await postgres_stores.audit(inbox)


async def test_frames_that_come_while_their_content_is_marked_as_stored_go_with_its_row(
    postgres_stores: PostgresStores, database: Database
) -> None:
    """The uploader's statement waits for the adoption, and its snapshot has none of the frames."""
    inbox, body = await postgres_stores.inbox(), staged(b"moved", node="a")
    await postgres_stores.mail.append(body, [NewMessage(inbox)])
    (lease,) = await postgres_stores.uploads.lease("a", 1, 60)
    adopting = postgres_stores.uploads.take_over(body.content.hash, None, [b"one", b"two"], 6)
    async with database.transaction(mailboxes=()) as blocker:
        # The adoption has written the row of the queue when it comes to wait for this frame.
        await blocker.execute("INSERT INTO staged_frames VALUES ($1, 1, 'other')", lease.ref.id)
        adoption = asyncio.create_task(adopting)
        await until_someone_waits(database)
        marking = asyncio.create_task(postgres_stores.uploads.mark_stored([lease.ref.id]))
        await until_someone_waits(database, 2)
        await blocker.execute("DELETE FROM staged_frames WHERE content_id = $1", lease.ref.id)
    assert await adoption
    assert await marking == [lease.ref.id]
    assert await misplaced(database) == []


async def is_here(stores: PostgresStores, body: StagedContent) -> bool:
    """Whether it waits in the database."""
    assert await misplaced(stores.database) == []
    return (await stores.uploads.find([body.content.hash]))[body.content.hash].staged_node is None


@pytest.mark.parametrize("copies", [1, 2], ids=["one message", "several messages"])
@pytest.mark.parametrize("frames", [1, 6, 20])
async def test_bytes_that_reach_another_node_s_disk_while_an_append_waits_for_its_mailbox(
    postgres_stores: PostgresStores, others: list[PostgresMailStore], copies: int, frames: int
) -> None:
    """The append's snapshot has nothing of them, and what it answers for must not rest on that disk alone."""
    database = postgres_stores.database
    here, there = await postgres_stores.inbox(), await postgres_stores.inbox()
    body = staged(b"same", frames=frames)
    async with database.transaction() as blocker:
        await blocker.execute("SELECT FROM mailboxes WHERE id = $1 FOR UPDATE", here)
        task = asyncio.create_task(others[0].append(body, [NewMessage(here)] * copies))
        await until_someone_waits(database)
        await others[1].append(staged(b"same", node="a"), [NewMessage(there)])
    assert len(await task) == copies
    assert await is_here(postgres_stores, body)
    (ref,) = (await postgres_stores.uploads.find([body.content.hash])).values()
    assert await postgres_stores.uploads.staged_frames(ref.id) == list(body.frames)


async def test_bytes_that_reach_another_node_s_disk_while_appends_wait_for_them(
    postgres_stores: PostgresStores,
) -> None:
    """The first append goes alone, the others together when it has kept them waiting."""
    database = postgres_stores.database
    bodies = [staged(b"%d" % n) for n in range(3)]
    boxes = [await postgres_stores.inbox() for _ in bodies]
    async with database.transaction(mailboxes=()) as theirs:
        for body in bodies[:2]:
            await theirs.execute(
                "WITH c AS (INSERT INTO contents (hash, size_bytes, header, envelope, structure)"
                " VALUES ($1, 1, '', '', '') RETURNING id)"
                " INSERT INTO staged_contents (content_id, node, encoded_bytes) SELECT id, 'a', 1 FROM c",
                body.content.hash,
            )
        tasks = [
            asyncio.create_task(postgres_stores.mail.append(body, [NewMessage(box)]))
            for body, box in zip(bodies, boxes, strict=True)
        ]
        await until_someone_waits(database, 2)
    await asyncio.gather(*tasks)
    for body in bodies:
        assert await is_here(postgres_stores, body)


async def test_a_retry_through_another_node_that_waits_for_the_first_copy(
    postgres_stores: PostgresStores, others: list[PostgresMailStore]
) -> None:
    database, inbox = postgres_stores.database, await postgres_stores.inbox()
    messages = [NewMessage(inbox, delivery_key=KEY)]
    async with database.transaction() as blocker:
        await blocker.execute("SELECT FROM mailboxes WHERE id = $1 FOR UPDATE", inbox)
        first = asyncio.create_task(others[0].append(staged(b"same", node="a"), messages))
        await until_someone_waits(database)
        retry = asyncio.create_task(others[1].append(staged(b"same"), messages))
        await until_someone_waits(database, 2)
    assert [answer.duplicate for answer in await first + await retry] == [False, True]
    assert await is_here(postgres_stores, staged(b"same"))


async def test_a_mailbox_that_is_deleted_while_it_is_renamed(postgres_stores: PostgresStores) -> None:
    """Nobody is told that the new name exists, and its parents are not made."""
    database, account_id = postgres_stores.database, await postgres_stores.new_account()
    box = await postgres_stores.mail.create_mailbox(account_id, "old")
    before = await postgres_stores.mail.list_mailboxes(account_id)
    async with database.transaction() as blocker:
        await blocker.execute("UPDATE mailboxes SET deleted_at = now() WHERE id = $1", box.id)
        task = asyncio.create_task(postgres_stores.mail.rename_mailbox(account_id, "old", "new/name"))
        await until_someone_waits(database)
    with pytest.raises(NotFound):
        await task
    after = await postgres_stores.mail.list_mailboxes(account_id)
    assert {box.name for box in before.mailboxes} - {box.name for box in after.mailboxes} == {"old"}
    assert len(after.mailboxes) == len(before.mailboxes) - 1


async def test_a_message_that_is_purged_while_a_repair_takes_it_for_lost(
    postgres_stores: PostgresStores,
) -> None:
    """Its log entry is not opened again: there is nothing that it could bring back."""
    database, inbox = postgres_stores.database, await postgres_stores.inbox()
    await postgres_stores.add(inbox, flags=Flags(SystemFlag.DELETED))
    await postgres_stores.mail.expunge(inbox, None)
    audit = PostgresAudit(database)
    async with database.transaction(mailboxes=()) as purging:
        await purging.execute("UPDATE expunged SET purged_at = now()")
        await purging.execute("DELETE FROM messages")
        repair = asyncio.create_task(audit.log_lost(inbox, [1]))
        async with asyncio.timeout(60):
            while not repair.done() and not await waiters(database):
                await asyncio.sleep(0)
    assert await repair == 0
    assert await audit.empty_logs([inbox], 10) == {}


async def test_a_content_that_is_dropped_while_a_repair_notes_it(postgres_stores: PostgresStores) -> None:
    database, inbox = postgres_stores.database, await postgres_stores.inbox()
    await postgres_stores.add(inbox, flags=Flags(SystemFlag.DELETED))
    (ref,) = await postgres_stores.uploads.locate([row["id"] for row in await database.read(_CONTENTS)])
    async with database.transaction(mailboxes=()) as purging:
        await purging.execute("DELETE FROM message_state")
        await purging.execute("DELETE FROM messages")
        await purging.execute("DELETE FROM contents")
        noting = asyncio.create_task(PostgresAudit(database).note_unused([ref.id]))
        async with asyncio.timeout(60):
            while not noting.done() and not await waiters(database):
                await asyncio.sleep(0)
    await noting
    assert await database.read("SELECT FROM purge_candidates") == []


async def test_a_mailbox_is_purged_while_another_cleaner_has_a_log_entry(
    postgres_stores: PostgresStores,
) -> None:
    database, account_id = postgres_stores.database, await postgres_stores.new_account()
    box = (await postgres_stores.mail.create_mailbox(account_id, "box")).id
    await postgres_stores.add(box, flags=Flags(SystemFlag.DELETED))
    await postgres_stores.mail.expunge(box, None)
    await postgres_stores.mail.delete_mailbox(account_id, "box")
    async with database.transaction(mailboxes=()) as other:
        await other.execute("SELECT FROM expunged FOR UPDATE")
        task = asyncio.create_task(postgres_stores.purge.purge_messages(NO_GRACE, 10))
        await until_someone_waits(database)
        assert await PostgresAudit(database).empty_logs([box], 10) == {}
    assert await task == 2  # the message and the mailbox
    assert await database.read("SELECT FROM expunged") == []


async def misplaced(database: Database) -> list[object]:
    return list(
        await database.read(
            "SELECT content_id, g.node, g.content_id IS NULL, f.n FROM staged_frames f"
            " FULL JOIN staged_contents g USING (content_id)"
            " WHERE g.content_id IS NULL OR (g.node IS NULL) <> (f.n IS NOT NULL)"
        )
    )
