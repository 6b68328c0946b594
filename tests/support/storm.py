"""Everybody at once on one account: random operations of several stores, checked while they go on.

Each store stands for a process, each actor for a connection of one; some actors share a store, so that their
appends go together. Statements that commit by themselves are held open for some turns of the loop before
their COMMIT: then others wait for their rows, with snapshots that are older than what they get.

What is checked is what anybody may rely on at any moment, each in one snapshot: counters, logs, frames, where
bodies are, what a client that follows a mailbox sees. At the end everything is uploaded and purged, and
nothing is left that no message stands for.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg

from storage.errors import AlreadyExists, InvalidName, NotFound, NotPermitted, Unavailable
from storage.model import (
    INBOX,
    AccountId,
    ContentHash,
    ContentId,
    FlagChange,
    Flags,
    MailboxId,
    MessageState,
    ModSeq,
    NewMessage,
    SystemFlag,
    Uid,
    Wanted,
)
from storage.objects.keys import object_key
from storage.postgres.auditing import PostgresAudit
from storage.postgres.errors import RETRYABLE
from storage.postgres.pool import Database, DatabaseSettings, Record, Transaction
from storage.postgres.store import PostgresMailStore

from .stores import PostgresStores, staged

NO_GRACE = timedelta(0)
DISKS = ("n1", "n2")
KEPT = ("kept", "kept too")  # from these nothing is ever deleted
NAMES = (INBOX, "a", "a/x", "b", "c", "c/y", *KEPT)
MAX_BODIES = 8  # that are drawn again
OLD = datetime(2001, 1, 1, tzinfo=UTC)
EXPECTED = (NotFound, AlreadyExists, InvalidName, NotPermitted)
HELD_TURNS = 25
LONG_S = 300.0  # the machine may be busy: no wait is too long

_MISPLACED = """
SELECT coalesce(g.content_id, f.content_id) AS id, g.node, g.encoded_bytes, f.size_bytes
FROM staged_contents g
FULL JOIN (SELECT content_id, sum(octet_length(data)) AS size_bytes FROM staged_frames GROUP BY content_id) f
    ON f.content_id = g.content_id
WHERE g.content_id IS NULL OR CASE WHEN g.node IS NULL THEN f.size_bytes IS DISTINCT FROM g.encoded_bytes
    ELSE f.content_id IS NOT NULL END"""
_FORGOTTEN = """
SELECT c.id FROM contents c WHERE NOT EXISTS (SELECT FROM messages m WHERE m.content_id = c.id)
    AND NOT EXISTS (SELECT FROM purge_candidates p WHERE p.content_id = c.id)"""
_DOOMED_IN_USE = """
SELECT c.id FROM contents c JOIN doomed_objects d ON d.content_id = c.id WHERE d.forgotten_at IS NULL"""
_TWICE = """
SELECT s.mailbox_id, s.uid FROM message_state s JOIN expunged e USING (mailbox_id, uid)
UNION ALL SELECT min(id), uidvalidity FROM mailboxes GROUP BY account_id, uidvalidity HAVING count(*) > 1"""
NEVER = (_MISPLACED, _FORGOTTEN, _DOOMED_IN_USE, _TWICE)  # what nobody may ever find
_STORED = """
SELECT c.id, c.hash FROM contents c
WHERE NOT EXISTS (SELECT FROM staged_contents g WHERE g.content_id = c.id)"""
_ON_DISKS = "SELECT content_id FROM staged_contents WHERE node IS NOT NULL"
LEFT_OVER = (
    "staged_contents",
    "staged_frames",
    "purge_candidates",
    "doomed_objects WHERE forgotten_at IS NULL",
)


class SlowDatabase(Database):
    """Holds what it wrote for some turns before it commits."""

    def __init__(self, settings: DatabaseSettings, rng: random.Random) -> None:

        endpoint = replace(settings.write, max_connections=32)
        super().__init__(
            replace(
                settings,
                write=endpoint,
                query_timeout_s=LONG_S,
                write_timeout_s=LONG_S,
                lock_timeout_s=LONG_S,
            )
        )
        self.rng = rng

    async def hold(self) -> None:
        for _ in range(self.rng.randrange(HELD_TURNS)):
            await asyncio.sleep(0)

    async def write(  # type: ignore[override]
        self, sql: str, *args: object, **names: object
    ) -> list[Record]:
        if self.rng.random() < 0.3:
            return await super().write(sql, *args, **names)  # type: ignore[arg-type]
        while True:
            try:
                async with self.transaction() as transaction:
                    return await transaction.fetch(sql, *args)
            except Unavailable as error:
                if not is_deadlock(error):
                    raise
                self.stats["retry"] += 1

    @asynccontextmanager
    async def transaction(self, **_names: object) -> AsyncIterator[Transaction]:  # type: ignore[override]
        async with super().transaction() as transaction:
            yield transaction
            await self.hold()


def is_deadlock(error: Exception) -> bool:
    cause = error.__cause__
    return isinstance(cause, asyncpg.PostgresError) and cause.sqlstate in RETRYABLE


class Follower:
    """A client that has one mailbox open."""

    def __init__(self, store: PostgresMailStore, mailbox_id: MailboxId) -> None:
        self._store = store
        self.mailbox_id = mailbox_id
        self.states: dict[Uid, MessageState] = {}
        self.modseq = ModSeq(0)
        self._expunged: set[Uid] = set()

    async def look(self) -> None:
        changes = await self._store.changes_since(self.mailbox_id, self.modseq)
        for state in changes.changed:
            assert self.modseq < state.modseq <= changes.mailbox.highestmodseq
            assert state.uid not in self._expunged, f"uid {state.uid} came back"
            self.states[state.uid] = state
        for uid in changes.expunged:
            self.states.pop(uid, None)
        self._expunged.update(changes.expunged)
        mailbox, self.modseq = changes.mailbox, changes.mailbox.highestmodseq
        flags = [state.flags.system for state in self.states.values()]
        assert (mailbox.messages, mailbox.unseen, mailbox.deleted, mailbox.size_bytes) == (
            len(flags),
            sum(SystemFlag.SEEN not in bits for bits in flags),
            sum(SystemFlag.DELETED in bits for bits in flags),
            sum(state.size_bytes for state in self.states.values()),
        )
        assert all(uid < mailbox.uidnext for uid in self.states)

    async def check(self) -> None:
        """Following shows what opening does, when nobody writes."""
        await self.look()
        fresh = Follower(self._store, self.mailbox_id)
        await fresh.look()
        assert fresh.states == self.states


class Storm:
    def __init__(self, database: SlowDatabase, *, stores: int = 4) -> None:
        self.database = database
        self.rng = database.rng
        self.stores = PostgresStores(database)
        self.audit = PostgresAudit(database)
        self.processes = [PostgresMailStore(database, queue_wait_s=LONG_S) for _ in range(stores)]
        self.account = AccountId(0)
        self.objects: set[str] = set()
        self.files: dict[str, set[ContentHash]] = {node: set() for node in DISKS}
        self.off_disk: set[ContentId] = set()  # seen in the database or in the object store
        self.given: set[tuple[MailboxId, Uid]] = set()
        self.replaced: set[tuple[MailboxId, Uid, ModSeq]] = set()
        self.followers: dict[MailboxId, Follower] = {}
        self._tokens = itertools.count()
        self.kept_messages = 0
        self.refused = 0
        self.done = 0
        self.bodies = [self._new_body()]

    async def run(self, actors: int, operations: int) -> None:
        self.account = await self.stores.new_account()
        for name in NAMES[1:]:
            try:
                await self.stores.mail.create_mailbox(self.account, name)
            except AlreadyExists:  # a parent
                continue
        async with asyncio.TaskGroup() as group:
            for number in range(actors):
                group.create_task(self._act(self.processes[number % len(self.processes)], operations))
        await self.check()
        await self.settle()

    async def _act(self, mail: PostgresMailStore, operations: int) -> None:
        for _ in range(operations):
            (operation,) = self.rng.choices(OPERATIONS, WEIGHTS)
            try:
                await operation(self, mail)
            except EXPECTED:
                self.refused += 1
            except Unavailable as error:  # a transaction: the caller is told to try again
                if not is_deadlock(error):
                    raise
                self.database.stats["retry"] += 1
            self.done += 1

    # --- what is drawn ---

    async def _box(self, *, kept: bool | None = None) -> MailboxId:
        """A mailbox; ``kept``: only, or none, of those that nothing is deleted from."""
        names = [name for name in NAMES if kept is None or (name in KEPT) == kept]
        return (await self.stores.mail.get_mailbox(self.account, self.rng.choice(names))).id

    async def _uids(self, mailbox_id: MailboxId) -> list[Uid]:
        """Some, and some that are gone or not there yet."""
        uids = [Uid(uid) for uid in (await self.stores.mail.load_view(mailbox_id)).uids]
        some = self.rng.sample(uids, min(len(uids), self.rng.randrange(1, 5)))
        return sorted({*some, Uid(self.rng.randrange(1, 40))})

    def _flags(self, *bits: SystemFlag) -> Flags:
        system = SystemFlag(0)
        for bit in bits:
            if self.rng.random() < 0.5:
                system |= bit
        return Flags(system, frozenset(self.rng.sample(["x", "y", "$Junk"], self.rng.randrange(3))))

    def _new_body(self) -> bytes:
        return b"Subject: %d\r\n\r\n" % next(self._tokens)

    def _body(self) -> bytes:
        if self.rng.random() < 0.1:
            self.bodies = [self._new_body(), *self.bodies[: MAX_BODIES - 1]]
        return self.rng.choice(self.bodies)

    async def _contents(self) -> dict[ContentId, ContentHash]:
        found = await self.stores.uploads.find([staged(body).content.hash for body in self.bodies])
        return {ref.id: ref.hash for ref in found.values()}

    # --- what was answered ---

    def _took(self, mailbox_id: MailboxId, uids: Sequence[Uid]) -> None:
        for uid in uids:
            assert (mailbox_id, uid) not in self.given, f"uid {uid} of {mailbox_id} was given twice"
            self.given.add((mailbox_id, uid))

    # --- messages ---

    async def append(
        self, mail: PostgresMailStore, *, copies: int = 1, kept: bool = False, body: bytes = b""
    ) -> None:
        boxes = [await self._box(kept=kept) for _ in range(copies)]
        key = self.rng.choice((None, None, bytes([self.rng.randrange(5)]) * 32)) if not kept else None
        bits = (SystemFlag.SEEN,) if kept else (SystemFlag.SEEN, SystemFlag.DELETED)
        messages = [
            NewMessage(
                box,
                flags=self._flags(*bits),
                internaldate=OLD if not kept and self.rng.random() < 0.2 else None,
                prefix=b"%d" % next(self._tokens),
                delivery_key=key,
            )
            for box in boxes
        ]
        node = self.rng.choice((None, None, *DISKS))
        frames = self.rng.choice((1, 1, 3, 9, 20))
        whole = staged(body or self._body(), frames=frames, node=node)
        if node is not None:
            self.files[node].add(whole.content.hash)
        answers = await mail.append(whole, messages)
        self.kept_messages += kept * len(answers)
        for answer in answers:
            if not answer.duplicate:
                self._took(answer.mailbox_id, [answer.uid])
                if node is None:
                    await self._is_off_disk(answer.mailbox_id, answer.uid)

    async def _is_off_disk(self, mailbox_id: MailboxId, uid: Uid) -> None:
        for row in await self.stores.mail.fetch(mailbox_id, [uid], Wanted.REFERENCE):
            where = row.ref.staged_node
            assert row.ref.is_stored or where is None, f"acknowledged, and only on the disk of {where}"
            self.off_disk.add(row.ref.id)

    async def append_to_several(self, mail: PostgresMailStore) -> None:
        await self.append(mail, copies=self.rng.randrange(2, 4))

    async def append_burst(self, mail: PostgresMailStore) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.rng.randrange(2, 6)):
                group.create_task(self._unless_gone(self.append(mail)))

    async def _unless_gone(self, awaited: Awaitable[None]) -> None:
        try:
            await awaited
        except NotFound:
            self.refused += 1

    async def append_everywhere(self, mail: PostgresMailStore) -> None:
        """New bytes through several nodes at once."""
        body = self._new_body()
        async with asyncio.TaskGroup() as group:
            for process in self.processes:
                group.create_task(self._unless_gone(self.append(process, body=body)))

    async def append_kept(self, mail: PostgresMailStore) -> None:
        await self.append(mail, copies=self.rng.randrange(1, 3), kept=True)

    async def store_flags(self, mail: PostgresMailStore) -> None:
        box = await self._box(kept=False)
        since = self.rng.choice((None, ModSeq(self.rng.randrange(1, 60))))
        flags = self._flags(SystemFlag.SEEN, SystemFlag.DELETED)
        await mail.store_flags(box, await self._uids(box), self.rng.choice(list(FlagChange)), flags, since)

    async def replace_unchanged(self, mail: PostgresMailStore) -> None:
        """Of those that replace what they have seen, one succeeds."""
        box = await self._box()
        view = await mail.load_view(box)
        if not view.uids:
            return
        at = self.rng.randrange(len(view.uids))
        uid, modseq = Uid(view.uids[at]), ModSeq(view.modseqs[at])
        token = Flags(keywords=frozenset({f"t{next(self._tokens)}"}))
        await self.database.hold()
        stored = await mail.store_flags(box, [uid], FlagChange.REPLACE, token, modseq)
        if stored.changed:
            assert (box, uid, modseq) not in self.replaced, "two replaced what both had seen"
            self.replaced.add((box, uid, modseq))

    async def expunge(self, mail: PostgresMailStore) -> None:
        box = await self._box(kept=False)
        await mail.expunge(box, self.rng.choice((None, await self._uids(box))))

    async def remove(self, mail: PostgresMailStore) -> None:
        box = await self._box(kept=False)
        await mail.remove(box, (await self._uids(box))[:2])

    async def copy(self, mail: PostgresMailStore) -> None:
        source, target = await self._box(), await self._box(kept=False)
        copied = await mail.copy(source, await self._uids(source), target)
        self._took(target, [uid for _, uid in copied.pairs])

    async def move(self, mail: PostgresMailStore) -> None:
        kept = self.rng.random() < 0.4
        source, target = await self._box(kept=kept), await self._box(kept=kept)
        moved = await mail.move(source, await self._uids(source), target)
        self._took(target, [uid for _, uid in moved.pairs])

    async def undelete(self, mail: PostgresMailStore) -> None:
        lost = await mail.list_deleted(self.account)
        if lost:
            one = self.rng.choice(lost)
            uids = sorted(each.uid for each in lost if each.mailbox_id == one.mailbox_id)[:3]
            target = self.rng.choice((one.mailbox_id, await self._box(kept=False)))
            back = await mail.undelete(one.mailbox_id, uids, target)
            self._took(target, [uid for _, uid in back.pairs])

    async def recover(self, mail: PostgresMailStore) -> None:
        for day in await self.stores.recovered.mailboxes(self.account):
            view = await self.stores.recovered.load_view(day.id)
            assert len(set(view.uids)) == len(view.uids)
            if view.uids:
                target = await self._box(kept=False)
                copied = await self.stores.recovered.copy(day.id, [Uid(view.uids[-1])], target)
                self._took(target, [uid for _, uid in copied.pairs])

    # --- mailboxes ---

    async def create(self, mail: PostgresMailStore) -> None:
        await mail.create_mailbox(self.account, self.rng.choice(NAMES))

    async def delete(self, mail: PostgresMailStore) -> None:
        await mail.delete_mailbox(self.account, self.rng.choice([name for name in NAMES if name not in KEPT]))

    async def rename(self, mail: PostgresMailStore) -> None:
        free = [name for name in NAMES if name not in KEPT]
        await mail.rename_mailbox(self.account, self.rng.choice(free), self.rng.choice(free))

    # --- bodies ---

    async def upload(self, mail: PostgresMailStore, *, limit: int = 3, lease_s: float = 60) -> None:
        node, uploads = self.rng.choice(DISKS), self.stores.uploads
        leases = await uploads.lease(node, limit, self.rng.choice((lease_s, -1)))
        put = []
        for lease in leases:
            frames = await uploads.staged_frames(lease.ref.id)
            await self.database.hold()
            if self.rng.random() < 0.2:
                await uploads.release(lease.ref.id, "away", 0, permanent=False)
            elif frames or lease.ref.hash in self.files[node]:
                self.objects.add(object_key(lease.ref.hash, lease.ref.id))
                put.append(lease.ref.id)
        await self.database.hold()
        await uploads.mark_stored(put)

    async def take_over(self, mail: PostgresMailStore) -> None:
        node = self.rng.choice((None, *DISKS))
        held = self.files[node] if node else set().union(*self.files.values())
        if held:
            frames = () if node else staged(b"", frames=self.rng.choice((1, 20))).frames
            size = sum(map(len, frames)) or 1
            await self.stores.uploads.take_over(self.rng.choice(sorted(held)), node, frames, size)

    async def reclaim(self, mail: PostgresMailStore) -> None:
        await self.stores.uploads.reclaim(self.rng.choice(DISKS))

    # --- the cleaner ---

    async def expire(self, mail: PostgresMailStore) -> None:
        await self.stores.purge.expire(timedelta(days=3650), self.rng.randrange(1, 20))

    async def purge_messages(self, mail: PostgresMailStore) -> None:
        await self.stores.purge.purge_messages(NO_GRACE, self.rng.choice((2, 100)))

    async def purge_contents(self, mail: PostgresMailStore) -> None:
        await self.stores.purge.purge_contents(self.rng.choice((2, 100)))

    async def delete_objects(self, mail: PostgresMailStore, *, limit: int = 100) -> None:
        doomed = await self.stores.purge.doomed(limit)
        await self.database.hold()
        self.objects.difference_update(key for _, key in doomed)
        await self.database.hold()
        await self.stores.purge.forget_doomed([number for number, _ in doomed])

    async def come_and_go(self, mail: PostgresMailStore) -> None:
        """A body whose only message is purged, perhaps while it is uploaded."""
        box, body = await self._box(kept=False), staged(self._new_body())
        (answer,) = await mail.append(body, [NewMessage(box)])
        self._took(box, [answer.uid])
        async with asyncio.TaskGroup() as group:
            group.create_task(self.upload(mail, limit=100, lease_s=-1))
            group.create_task(self._unless_gone(self._drop(mail, box, answer.uid)))

    async def _drop(self, mail: PostgresMailStore, box: MailboxId, uid: Uid) -> None:
        await mail.remove(box, [uid])
        await self.purge_messages(mail)
        await self.purge_contents(mail)
        await self.delete_objects(mail)

    # --- the audit ---

    async def repair(self, mail: PostgresMailStore) -> None:
        box = await self._box()
        await self.audit.recount(box)
        await self.audit.log_lost(box, await self._uids(box))
        await self.audit.close_logs(box, await self._uids(box))

    async def repair_contents(self, mail: PostgresMailStore) -> None:
        contents = await self._contents()
        if not contents:
            return
        one = self.rng.choice(sorted(contents))
        match self.rng.randrange(4):
            case 0:
                await self.audit.note_unused(list(contents))
            case 1:
                await self.audit.undoom(list(contents))
            case 2:
                await self.audit.doom({id_: object_key(hash_, id_) for id_, hash_ in contents.items()})
            case _:
                await self.audit.stage(one, b"once more" * self.rng.randrange(1, 5))

    # --- checks ---

    async def follow(self, mail: PostgresMailStore) -> None:
        box = await self._box()
        follower = self.followers.pop(box, None) or Follower(mail, box)
        await follower.look()
        self.followers[box] = follower

    async def check_now(self, mail: PostgresMailStore) -> None:
        await self.check()

    async def check(self) -> None:
        for sql in NEVER:
            assert await self.database.read(sql) == [], sql
        facts = await self.audit.mailboxes(0, 1000, self.account)
        assert [(box.name, box.faults()) for box in facts if box.faults()] == []
        ids = [box.id for box in facts]
        assert await self.audit.lost(ids, 10) == {}
        assert await self.audit.empty_logs(ids, 10) == {}
        seen = set(self.off_disk)
        on_disks = {ContentId(row["content_id"]) for row in await self.database.read(_ON_DISKS)}
        assert not on_disks & seen
        missing = await self._without_object()
        assert not missing & await self._without_object()  # no object, and not purged meanwhile

    async def _without_object(self) -> set[ContentId]:
        rows = await self.database.read(_STORED)
        refs = [(ContentId(row["id"]), ContentHash(row["hash"])) for row in rows]
        return {id_ for id_, hash_ in refs if object_key(hash_, id_) not in self.objects}

    async def settle(self) -> None:
        for follower in self.followers.values():
            try:
                await follower.check()
            except NotFound:  # its mailbox was deleted
                continue
        kept = [await self.stores.mail.get_mailbox(self.account, name) for name in KEPT]
        assert sum(box.messages for box in kept) == self.kept_messages
        days = await self.stores.recovered.mailboxes(self.account)
        lost = await self.stores.mail.list_deleted(self.account, limit=10**6)
        assert sum(day.messages for day in days) == len(lost)
        await self._upload_the_rest()
        while await self.stores.purge.purge_messages(NO_GRACE, 1000):
            pass
        while await self.stores.purge.purge_contents(1000):
            pass
        await self.delete_objects(self.processes[0], limit=10**6)
        await self.check()
        for place in LEFT_OVER:
            assert await self.database.read(f"SELECT * FROM {place}") == [], place
        assert await self._without_object() == set()
        known = {object_key(row["hash"], row["id"]) for row in await self.database.read(_STORED)}
        assert self.objects == known

    async def _upload_the_rest(self) -> None:
        for node in DISKS:
            await self.stores.uploads.reclaim(node)
            leases = await self.stores.uploads.lease(node, 10**6, 60)
            for lease in leases:
                is_in_database = lease.ref.staged_node is None
                assert is_in_database or lease.ref.hash in self.files[node]
                self.objects.add(object_key(lease.ref.hash, lease.ref.id))
            await self.stores.uploads.mark_stored([lease.ref.id for lease in leases])


Operation = Callable[[Storm, PostgresMailStore], Awaitable[None]]
_WEIGHTED: dict[Operation, int] = {
    Storm.append: 8,
    Storm.append_to_several: 3,
    Storm.append_burst: 3,
    Storm.append_everywhere: 2,
    Storm.append_kept: 2,
    Storm.store_flags: 4,
    Storm.replace_unchanged: 3,
    Storm.expunge: 3,
    Storm.remove: 1,
    Storm.copy: 3,
    Storm.move: 4,
    Storm.undelete: 3,
    Storm.recover: 2,
    Storm.create: 3,
    Storm.delete: 1,
    Storm.rename: 2,
    Storm.upload: 5,
    Storm.take_over: 2,
    Storm.reclaim: 1,
    Storm.expire: 1,
    Storm.purge_messages: 2,
    Storm.purge_contents: 3,
    Storm.delete_objects: 2,
    Storm.come_and_go: 3,
    Storm.repair: 1,
    Storm.repair_contents: 2,
    Storm.follow: 4,
    Storm.check_now: 1,
}
OPERATIONS = tuple(_WEIGHTED)
WEIGHTS = tuple(_WEIGHTED.values())
