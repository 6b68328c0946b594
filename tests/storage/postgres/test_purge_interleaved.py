"""The purge of a content against everybody who may want it, in every order of their statements.

After each order: a message has its content, its body is in staging or in the object store, and no object is
queued for deletion that a content stands for. After a further clean-up nothing is left over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from storage.api import UploadStore
from storage.cleaner import Cleaner, CleanerSettings
from storage.memory.blobs import MemoryBlobStore
from storage.model import ContentHash, ContentId, Flags, MailboxId, NewMessage, SystemFlag, Uid
from storage.objects.keys import object_key
from storage.postgres.pool import Database
from storage.postgres.purge import PostgresPurgeStore
from storage.postgres.recovered import PostgresRecoveredMail
from storage.postgres.store import PostgresMailStore
from storage.postgres.uploads import PostgresUploadStore
from storage.recovery import day_id

from ...support.stores import ROOT, PostgresStores, staged
from ...support.turns import Actor, Gate, SteppedDatabase, count_steps, interleave, orders

NO_GRACE = timedelta(0)
AT_MOST = 60  # orders of one test; SORA_EVERY_ORDER=1 runs all, up to 500
DELETED = Flags(SystemFlag.DELETED)
BODY = b"Subject: wanted\r\n\r\n"


class World:
    """One content, whose only message is deleted; ``is_uploaded``: its body is in the object store;
    ``is_purged``: its message is gone for good, and the content a candidate."""

    def __init__(self, database: Database, *, is_uploaded: bool, is_purged: bool = True) -> None:
        self.database = database
        self.stores = PostgresStores(database)
        self.objects = MemoryBlobStore()
        self.is_uploaded = is_uploaded
        self.is_purged = is_purged
        self.uid = Uid(0)

    async def open(self) -> None:
        self.account = await self.stores.new_account()
        self.inbox = await self._box("INBOX")
        self.target = await self._box("Archive")

    async def _box(self, name: str) -> MailboxId:
        return (await self.stores.mail.get_mailbox(self.account, name)).id

    async def prepare(self) -> None:
        """As ever, whatever was before."""
        for box in (self.inbox, self.target):
            await self.stores.mail.remove(box, (await self.stores.mail.load_view(box)).uids)  # type: ignore[arg-type]
        await self._clean()
        assert await self.database.read("SELECT FROM contents") == []
        await self.add(BODY)
        if self.is_uploaded:
            await upload(self.stores.uploads, self.objects)
        if self.is_purged:
            await self.stores.purge.purge_messages(NO_GRACE, 10)

    async def add(self, body: bytes) -> None:
        """A message that is deleted."""
        (added,) = await self.stores.add(self.inbox, body, flags=DELETED)
        await self.stores.mail.expunge(self.inbox, None)
        self.uid = added.uid

    async def _clean(self) -> None:
        await Cleaner(self.stores.purge, self.objects, CleanerSettings(grace=NO_GRACE)).step()

    async def check(self) -> None:
        rows = await self.database.read(
            "SELECT c.id, c.hash, g.content_id IS NOT NULL AS is_staged,"
            " EXISTS (SELECT FROM staged_frames f WHERE f.content_id = c.id) AS has_frames,"
            " EXISTS (SELECT FROM doomed_objects d WHERE d.content_id = c.id AND forgotten_at IS NULL)"
            " AS doomed"
            " FROM contents c LEFT JOIN staged_contents g ON g.content_id = c.id"
        )
        for row in rows:
            key = object_key(ContentHash(row["hash"]), ContentId(row["id"]))
            assert not row["doomed"]
            assert row["has_frames"] if row["is_staged"] else key in self.objects.objects
        dangling = await self.database.read(
            "SELECT FROM messages m WHERE NOT EXISTS (SELECT FROM contents c WHERE c.id = m.content_id)"
        )
        assert dangling == []
        for box in (self.inbox, self.target):
            await self.stores.audit(box)

    async def settle(self) -> None:
        """Everything is uploaded and cleaned; then exactly what messages stand for is left."""
        await upload(self.stores.uploads, self.objects)
        await self._clean()
        await self.check()
        rows = await self.database.read("SELECT c.id, c.hash FROM contents c")
        expected = {object_key(ContentHash(row["hash"]), ContentId(row["id"])) for row in rows}
        assert set(self.objects.objects) == expected
        used = await self.database.read("SELECT DISTINCT content_id FROM messages")
        assert {row["id"] for row in rows} == {row["content_id"] for row in used}


async def upload(uploads: UploadStore, objects: MemoryBlobStore, lease_s: float = 60) -> None:
    """As the uploader does it: lease, put, mark."""
    leases = await uploads.lease("a", 10, lease_s)
    for lease in leases:
        frames = await uploads.staged_frames(lease.ref.id)
        if frames is not None:
            await objects.put(object_key(lease.ref.hash, lease.ref.id), frames)
    await uploads.mark_stored([lease.ref.id for lease in leases])


# --- actors ---


def purging(world: World) -> Actor:
    """All stages of one clean-up, down to the objects."""

    async def act(gate: Gate) -> None:
        purge = PostgresPurgeStore(SteppedDatabase(world.database, gate, reads=True).as_database())
        if not world.is_purged:
            await purge.purge_messages(NO_GRACE, 10)
        await purge.purge_contents(10)
        doomed = await purge.doomed(10)
        await world.objects.delete([key for _, key in doomed])
        await purge.forget_doomed([number for number, _ in doomed])

    return act


def stepped(world: World, gate: Gate) -> Database:
    return SteppedDatabase(world.database, gate).as_database()


def appending(world: World) -> Actor:
    async def act(gate: Gate) -> None:
        await PostgresMailStore(stepped(world, gate)).append(staged(BODY), [NewMessage(world.target)])

    return act


def appending_to_two(world: World) -> Actor:
    async def act(gate: Gate) -> None:
        messages = [NewMessage(world.target, delivery_key=b"%032d" % world.uid), NewMessage(world.inbox)]
        await PostgresMailStore(stepped(world, gate)).append(staged(BODY), messages)

    return act


def undeleting(world: World) -> Actor:
    async def act(gate: Gate) -> None:
        await PostgresMailStore(stepped(world, gate)).undelete(world.inbox, [world.uid])

    return act


def copying_back(world: World) -> Actor:
    async def act(gate: Gate) -> None:
        found = await world.database.read("SELECT day, uid FROM recovered ORDER BY uid DESC LIMIT 1")
        day = day_id(world.account, found[0]["day"])
        recovered = PostgresRecoveredMail(stepped(world, gate), ROOT)
        await recovered.copy(day, [Uid(found[0]["uid"])], world.target)

    return act


def looking(world: World) -> Actor:
    async def act(gate: Gate) -> None:
        await PostgresRecoveredMail(stepped(world, gate), ROOT).mailboxes(world.account)

    return act


def uploading(world: World) -> Actor:
    """With a lease that is over when the purge looks: the worst case."""

    async def act(gate: Gate) -> None:
        await upload(PostgresUploadStore(stepped(world, gate)), world.objects, lease_s=-1)

    return act


def uploading_in_time(world: World) -> Actor:
    async def act(gate: Gate) -> None:
        await upload(PostgresUploadStore(stepped(world, gate)), world.objects)

    return act


Make = Callable[[World], Actor]


async def every_order(world: World, one: Make, other: Make, check: Callable[[], Awaitable[None]]) -> int:
    """How many there were."""
    await world.open()
    counts = []
    for make in (one, other):
        await world.prepare()
        counts.append(await count_steps(make(world)))
    done = 0
    for order in orders(*counts, at_most=AT_MOST):
        await world.prepare()
        try:
            await interleave(world.database, [one(world), other(world)], order)
            await check()
            await world.settle()
        except AssertionError as error:
            raise AssertionError(f"order {order}: {error}") from error
        done += 1
    return done


@pytest.mark.parametrize("is_uploaded", [False, True], ids=["staged", "stored"])
@pytest.mark.parametrize("user", [appending, appending_to_two], ids=lambda make: make.__name__)
async def test_a_new_reference_to_a_purged_message_s_content(
    database: Database, user: Make, *, is_uploaded: bool
) -> None:
    world = World(database, is_uploaded=is_uploaded)

    async def check() -> None:
        await world.check()
        assert (await world.stores.mail.load_view(world.target)).mailbox.messages == 1

    assert await every_order(world, purging, user, check) >= 40


class Seen(World):
    """Somebody has looked at what was deleted."""

    async def add(self, body: bytes) -> None:
        await super().add(body)
        await self.stores.recovered.mailboxes(self.account)


@pytest.mark.parametrize("user", [undeleting, copying_back], ids=lambda make: make.__name__)
async def test_a_message_that_comes_back_while_it_is_purged(database: Database, user: Make) -> None:
    world = Seen(database, is_uploaded=True, is_purged=False)
    assert await every_order(world, purging, user, world.check) >= 40


@pytest.mark.parametrize("user", [uploading, uploading_in_time], ids=lambda make: make.__name__)
async def test_an_upload_of_what_is_purged(database: Database, user: Make) -> None:
    world = World(database, is_uploaded=False)
    assert await every_order(world, purging, user, world.check) >= 40


async def test_two_cleaners_at_once(database: Database) -> None:
    world = World(database, is_uploaded=True)

    def short(world: World) -> Actor:
        async def act(gate: Gate) -> None:
            await PostgresPurgeStore(stepped(world, gate)).purge_contents(10)

        return act

    assert await every_order(world, short, short, world.check) >= 40


async def test_two_looks_at_once_number_a_message_once(database: Database) -> None:
    class Twice(World):
        async def add(self, body: bytes) -> None:
            await super().add(body)
            await super().add(b"another " + body)

    world = Twice(database, is_uploaded=True, is_purged=False)

    async def nothing_twice() -> None:
        uids: list[int] = []
        for mailbox in await world.stores.recovered.mailboxes(world.account):  # two around midnight
            uids += (await world.stores.recovered.load_view(mailbox.id)).uids
        assert len(uids) == 2
        assert uids[1] == uids[0] + 1

    assert await every_order(world, looking, looking, nothing_twice) >= 20


async def test_the_last_message_goes_after_another_cleaner_struck_its_content_off(database: Database) -> None:
    """This cleaner saw the candidate; the other one and who drops the message come before it looks."""
    world = World(database, is_uploaded=True)
    await world.open()
    await world.prepare()
    (copy,) = await world.stores.add(world.target, BODY)

    async def purge(gate: Gate) -> None:
        await PostgresPurgeStore(stepped(world, gate)).purge_contents(10)

    async def others(gate: Gate) -> None:
        await gate.step("the other cleaner strikes it off")
        await database.write("DELETE FROM purge_candidates", mailboxes=())
        await gate.step("the last message goes")
        await world.stores.mail.remove(world.target, [copy.uid])
        await world.stores.purge.purge_messages(NO_GRACE, 10)

    lock, strike, look = 0, 0, 0
    await interleave(database, [purge, others], [lock, 1, strike, 1, look])
    assert await database.read("SELECT FROM contents") == []
    assert await database.read("SELECT FROM purge_candidates") == []
