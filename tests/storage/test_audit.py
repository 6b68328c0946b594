"""An audit finds what was tampered with, leaves alone what is in order, and repairs what is safe."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from storage.api import BlobInfo
from storage.audit import bodies as bodies_module
from storage.audit.bodies import BodyAudit
from storage.audit.copies import Copies
from storage.audit.findings import MEANINGS, Kind, Report
from storage.audit.rows import Here, RowAudit
from storage.audit.sizes import is_possible
from storage.cleaner import Cleaner, CleanerSettings
from storage.model import AccountId, ContentHash, ContentId, ContentRef, Flags, MailboxId, SystemFlag, Uid
from storage.objects.codec import Codec, KeyRing
from storage.objects.keys import object_key
from storage.postgres.auditing import PostgresAudit
from storage.postgres.pool import Database
from tests.support.queue import PostgresQueue
from tests.support.stores import PostgresStores
from tests.support.way import NODE, Way, message

LATER = timedelta(days=2)


class Site:
    """A node whose mail is audited."""

    def __init__(self, way: Way, database: Database, root: Path) -> None:
        self.way = way
        self.db = database
        self.root = root
        self.inbox: MailboxId = way.queue.inbox

    async def audit(
        self,
        *,
        repairs: bool = False,
        is_deep: bool = False,
        account_id: AccountId | None = None,
        codec: Codec | None = None,
    ) -> Report:
        report, questions = Report(), PostgresAudit(self.db)
        codec = codec or self.way.codec
        assert self.way.cache is not None
        copies = Copies(codec, self.way.cache.root, self.way.staging_dir)
        here = Here(NODE, self.way.staging_dir, self.way.cache, 20)
        options: dict[str, Any] = {"is_deep": is_deep, "repairs": repairs, "progress": lambda *_: None}
        rows = RowAudit(questions, self.way.uploads, copies, here, report, account_id=account_id, **options)
        bodies = BodyAudit(
            questions,
            self.way.uploads,
            self.way.store,
            codec,
            copies,
            report,
            now=lambda: datetime.now(UTC) + LATER,
            **options,
        )
        await rows.run()
        if account_id is None:
            await bodies.run()
        else:
            await bodies.run_account(account_id)
        return report

    def object_path(self, ref: ContentRef) -> Path:
        return self.root / "objects" / object_key(ref.hash, ref.id)

    def empty_cache(self) -> None:
        assert self.way.cache is not None
        for path in self.way.cache.root.glob("*/*"):
            path.unlink()

    async def deliver(self, *numbers: int) -> list[ContentRef]:
        refs = [await self.way.deliver(message(number)) for number in numbers]
        await self.way.drain()
        return [ref for given in refs for ref in await self.way.uploads.locate([given.id])]

    async def all_is_well(self) -> None:
        report = await self.audit(is_deep=True)
        assert kinds(report) == {}

    async def sql(self, statement: str, *arguments: object) -> None:
        await self.db.write(statement, *arguments)


def kinds(report: Report) -> dict[str, tuple[int, int]]:
    """Found and repaired."""
    return {kind.value: (tally.found, tally.repaired) for kind, tally in report.tallies.items()}


@pytest_asyncio.fixture
async def site(database: Database, tmp_path: Path) -> AsyncIterator[Site]:
    queue = await PostgresQueue.create(PostgresStores(database))
    yield Site(Way(tmp_path, queue), database, tmp_path)
    Way.close_all()


def test_every_kind_is_explained() -> None:
    assert set(MEANINGS) == set(Kind)


@pytest.mark.parametrize("size", [0, 1, 127, 262_144, 262_145, 3_000_000])
@pytest.mark.parametrize("keys", [KeyRing(None), KeyRing(b"k" * 32)], ids=["plain", "sealed"])
@pytest.mark.parametrize("compress", [False, True])
def test_sizes_that_encoding_makes_are_possible(size: int, keys: KeyRing, *, compress: bool) -> None:
    for body in (bytes(size), os.urandom(size)):
        encoded = Codec(keys, compress=compress).encode(body, ContentHash(sha256(body).digest()))
        length = sum(map(len, encoded))
        assert is_possible(length, size)
    assert not is_possible(0, size)
    assert not is_possible(size * 2 + 1000, size)


# --- bodies and objects ---


async def test_what_is_in_order_is_left_alone(site: Site) -> None:
    await site.deliver(1, 2, 3)
    await site.way.deliver(message(4))  # staged still
    before = await site.way.objects()
    report = await site.audit(repairs=True, is_deep=True)
    assert kinds(report) == {}
    assert report.seen == {
        "mailboxes": 6,
        "messages": 4,
        "staged bodies": 1,
        "cached bodies": 3,
        "cached bodies of purged mail": 0,
        "objects": 3,
        "contents": 4,
        "bodies read": 3,
    }
    assert await site.way.objects() == before


async def test_a_missing_object_comes_back_from_the_cache(site: Site) -> None:
    ref, _ = await site.deliver(1, 2)
    site.object_path(ref).unlink()
    assert kinds(await site.audit()) == {"missing_object": (1, 0)}
    assert not site.object_path(ref).exists()
    assert kinds(await site.audit(repairs=True)) == {"missing_object": (1, 1)}
    await site.way.drain()
    await site.all_is_well()
    assert await site.way.read(ref) == message(1)


async def test_a_missing_object_without_a_copy_is_said_to_be_lost(site: Site) -> None:
    (ref,) = await site.deliver(1)
    site.object_path(ref).unlink()
    site.empty_cache()
    report = await site.audit(repairs=True)
    assert kinds(report) == {"missing_object": (1, 0)}
    assert "no copy here" in report.tallies[Kind.MISSING_OBJECT].samples[0]
    assert report.left == 1


async def test_a_damaged_copy_heals_nothing(site: Site) -> None:
    (ref,) = await site.deliver(1)
    site.object_path(ref).unlink()
    assert site.way.cache is not None
    (copy,) = site.way.cache.root.glob("*/*")
    copy.write_bytes(copy.read_bytes()[:-1])
    assert kinds(await site.audit(repairs=True)) == {"missing_object": (1, 0)}


async def test_an_object_that_was_cut_to_nothing(site: Site) -> None:
    (ref,) = await site.deliver(1)
    site.object_path(ref).write_bytes(b"")
    assert kinds(await site.audit(repairs=True)) == {"wrong_size": (1, 1)}
    await site.way.drain()
    await site.all_is_well()


async def test_damage_is_found_by_reading(site: Site) -> None:
    (ref,) = await site.deliver(1)
    path = site.object_path(ref)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert kinds(await site.audit()) == {}
    assert kinds(await site.audit(is_deep=True, repairs=True)) == {"damaged_object": (1, 1)}
    await site.way.drain()
    await site.all_is_well()


async def test_bodies_under_a_key_that_is_lost(site: Site) -> None:
    await site.deliver(1)
    report = await site.audit(is_deep=True, codec=Codec(KeyRing(b"x" * 32)))
    assert kinds(report) == {"damaged_cache_file": (1, 0), "damaged_object": (1, 0)}


async def test_large_bodies_are_read_in_pieces(site: Site) -> None:
    await site.way.deliver(message(1, size=1_500_000))
    await site.way.drain()
    assert (await site.audit(is_deep=True)).seen["bodies read"] == 1


async def put_orphan(site: Site, content_id: int) -> str:
    (ref,) = await site.way.queue.live()
    key = object_key(ref.hash, ContentId(content_id))
    await site.way.store.put(key, [b"left over"])
    return key


async def test_an_orphan_is_queued_and_deleted(site: Site) -> None:
    """The one that an upload leaves which ends long after the purge, and does not come to mark it."""
    await site.deliver(1)
    await site.sql("SELECT nextval('contents_id_seq') FROM generate_series(1, 5)")
    ((last,),) = await site.db.read("SELECT last_value FROM contents_id_seq")
    key = await put_orphan(site, last)
    assert kinds(await site.audit()) == {"orphan_object": (1, 0)}
    assert key in await site.way.objects()
    assert kinds(await site.audit(repairs=True)) == {"orphan_object": (1, 1)}
    assert kinds(await site.audit(repairs=True)) == {}  # it is queued
    await site.way.cleaner().step()
    assert key not in await site.way.objects()
    await site.all_is_well()


async def test_a_late_upload_s_orphan_goes_when_nobody_remembers_it(site: Site) -> None:
    ref = await site.way.deliver(message(1))
    (lease,) = await site.way.uploads.lease(NODE, 1, -1)
    frames = await site.way.uploads.staged_frames(ref.id)
    assert frames is not None
    await site.way.queue.expunge_all_of(ref.hash)
    await Cleaner(site.way.queue.purge, site.way.store, CleanerSettings(grace=timedelta(0))).step()
    await site.sql("DELETE FROM doomed_objects")  # the tombstone's week is over
    await site.way.store.put(object_key(lease.ref.hash, ref.id), frames)  # then the process is killed
    assert kinds(await site.audit(repairs=True)) == {"orphan_object": (1, 1)}
    await site.way.cleaner().step()
    assert await site.way.objects() == set()


async def test_young_objects_are_nobody_s_orphans(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.deliver(1)
    await site.sql("SELECT nextval('contents_id_seq')")
    ((last,),) = await site.db.read("SELECT last_value FROM contents_id_seq")
    await put_orphan(site, last)
    monkeypatch.setattr(bodies_module, "ORPHAN_GRACE", LATER * 2)
    report = await site.audit(repairs=True)
    assert kinds(report) == {}
    assert report.seen["young objects without content"] == 1


async def test_a_database_older_than_its_store_removes_nothing(site: Site) -> None:
    """A restored backup: what seems to be an orphan is mail that came later."""
    await site.deliver(1)
    await site.sql("SELECT nextval('contents_id_seq')")
    ((last,),) = await site.db.read("SELECT last_value FROM contents_id_seq")
    orphan, newer = await put_orphan(site, last), await put_orphan(site, last + 7)
    assert kinds(await site.audit(repairs=True)) == {"orphan_object": (1, 0), "newer_object": (1, 0)}
    assert {orphan, newer} < await site.way.objects()


async def test_too_many_orphans_are_not_left_overs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies_module, "FEW_ORPHANS", 1)
    await site.deliver(1)
    await site.sql("SELECT nextval('contents_id_seq') FROM generate_series(1, 9)")
    ((last,),) = await site.db.read("SELECT last_value FROM contents_id_seq")
    for number in range(3):
        await put_orphan(site, last - number)
    report = await site.audit(repairs=True)
    assert kinds(report) == {"orphan_object": (3, 0)}
    assert "right database" in report.notes[0]


async def test_foreign_files_are_named(site: Site) -> None:
    await site.way.store.put("bodies/ab/notes.txt", [b"mine"])
    assert kinds(await site.audit(repairs=True)) == {"foreign_object": (1, 0)}
    assert "bodies/ab/notes.txt" in await site.way.objects()


async def test_an_object_about_to_be_deleted_that_is_needed(site: Site) -> None:
    (ref,) = await site.deliver(1)
    await site.sql(
        "INSERT INTO doomed_objects (content_id, key) VALUES ($1, $2)", ref.id, object_key(ref.hash, ref.id)
    )
    assert kinds(await site.audit(repairs=True)) == {"doomed_in_use": (1, 1)}
    await site.way.cleaner().step()
    await site.all_is_well()


async def test_a_content_that_the_cleaner_does_not_know_of(site: Site) -> None:
    (ref,) = await site.deliver(1)
    await site.way.queue.expunge_all_of(ref.hash)
    await site.way.queue.purge.purge_messages(timedelta(0), 10)
    await site.sql("DELETE FROM purge_candidates")
    assert kinds(await site.audit(repairs=True)) == {"unused_content": (1, 1)}
    await site.way.cleaner().step()
    assert await site.way.objects() == set()
    await site.all_is_well()


# --- staging ---


async def test_a_staged_body_that_is_not_there(site: Site) -> None:
    (kept,) = await site.deliver(1)
    ref = await site.way.deliver(message(2))
    await site.sql("DELETE FROM staged_frames WHERE content_id = $1", ref.id)
    assert kinds(await site.audit(repairs=True)) == {"staged_without_body": (1, 0)}
    # a copy in the cache, by chance
    await site.sql("INSERT INTO staged_contents (content_id, encoded_bytes) VALUES ($1, 5)", kept.id)
    assert kinds(await site.audit(repairs=True)) == {"staged_without_body": (2, 1)}
    await site.way.drain()
    assert await site.way.read(kept) == message(1)


async def test_a_damaged_staged_body_is_found_by_reading(site: Site) -> None:
    await site.way.deliver(message(1))
    await site.sql("UPDATE staged_frames SET data = set_byte(data, 40, get_byte(data, 40) # 1)")
    assert kinds(await site.audit()) == {}
    assert kinds(await site.audit(is_deep=True)) == {"staged_without_body": (1, 0)}


async def test_bodies_on_disks(site: Site, tmp_path: Path) -> None:
    way = Way(tmp_path, site.way.queue, use_disk=True)
    here = Site(way, site.db, tmp_path)
    ref = await way.deliver(message(1))
    assert kinds(await here.audit(is_deep=True)) == {}
    await site.sql("UPDATE staged_contents SET node = 'gone', staged_at = now() - interval '7 hours'")
    report = await here.audit()
    assert kinds(report) == {"staged_elsewhere": (1, 0)}
    assert "gone for 7 h" in report.tallies[Kind.STAGED_ELSEWHERE].samples[0]
    await site.sql("UPDATE staged_contents SET node = $1, attempts = 20, last_error = 'x'", NODE)
    name = ref.hash.hex()
    (way.staging_dir / name[:2] / name).unlink()
    assert kinds(await here.audit()) == {"staged_stuck": (1, 0), "staged_without_body": (1, 0)}


# --- rows ---


async def test_counters_are_recounted(site: Site) -> None:
    await site.deliver(1, 2)
    await site.sql(
        "UPDATE mailboxes SET messages = 7, unseen = 0, size_bytes = 1, uidnext = 2, highestmodseq = 1"
        " WHERE id = $1",
        site.inbox,
    )
    report = await site.audit()
    assert kinds(report) == {"counters": (1, 0)}
    (sample,) = report.tallies[Kind.COUNTERS].samples
    for words in ("messages 7, really 2", "unseen 0, really 2", "bytes 1", "uid 2 is used", "a row has 3"):
        assert words in sample
    assert kinds(await site.audit(repairs=True)) == {"counters": (1, 1)}
    await site.all_is_well()
    await site.way.queue.stores.audit(site.inbox)
    assert (await site.way.queue.mail.load_view(site.inbox)).mailbox.uidnext == 3


async def test_a_message_that_is_nowhere_can_be_restored(site: Site) -> None:
    await site.deliver(1)
    await site.sql("DELETE FROM message_state")
    await site.sql("UPDATE mailboxes SET messages = 0, unseen = 0, size_bytes = 0 WHERE id = $1", site.inbox)
    assert kinds(await site.audit(repairs=True)) == {"lost_message": (1, 1)}
    assert (await site.way.queue.mail.undelete(site.inbox, [Uid(1)])).pairs == ((1, 2),)
    await site.all_is_well()


async def test_a_log_entry_of_nothing(site: Site) -> None:
    await site.deliver(1)
    await site.sql(
        "INSERT INTO expunged (mailbox_id, uid, modseq, flags, keywords) VALUES ($1, 0, 1, 0, '{}')",
        site.inbox,
    )
    assert kinds(await site.audit(repairs=True)) == {"log_without_message": (1, 1)}
    await site.all_is_well()


async def test_deleted_and_restored_mail_is_in_order(site: Site) -> None:
    await site.deliver(1, 2, 3)
    mail, stores = site.way.queue.mail, site.way.queue.stores
    ((account_id,),) = await site.db.read("SELECT account_id FROM mailboxes WHERE id = $1", site.inbox)
    box = await mail.create_mailbox(account_id, "box")
    await mail.copy(site.inbox, [Uid(1), Uid(2)], box.id)
    await mail.move(site.inbox, [Uid(3)], box.id)
    await stores.add(box.id, b"x", flags=Flags(SystemFlag.DELETED))
    await site.sql("DELETE FROM staged_contents")  # its frames are no body
    await site.sql("DELETE FROM contents WHERE false")
    await mail.expunge(box.id, None)
    await mail.delete_mailbox(account_id, "box")
    await mail.undelete(box.id, [Uid(1)], site.inbox)
    report = await site.audit()
    assert set(kinds(report)) == {"missing_object"}  # of x, which was never uploaded


async def test_a_damaged_file_of_the_cache_is_dropped(site: Site) -> None:
    await site.deliver(1, 2)
    assert site.way.cache is not None
    first, _ = site.way.cache.root.glob("*/*")
    first.write_bytes(b"SORB")
    assert kinds(await site.audit(is_deep=True, repairs=True)) == {"damaged_cache_file": (1, 1)}
    assert not first.exists()


# --- of one account ---


async def test_one_account(site: Site) -> None:
    mine, _ = await site.deliver(1, 2)
    ((account_id,),) = await site.db.read("SELECT account_id FROM mailboxes WHERE id = $1", site.inbox)
    site.object_path(mine).unlink()
    report = await site.audit(account_id=account_id, repairs=True, is_deep=True)
    assert kinds(report) == {"missing_object": (1, 1)}
    other = await site.way.queue.stores.new_account()
    report = await site.audit(account_id=other)
    assert kinds(report) == {}
    assert "contents" not in report.seen


# --- while mail goes on ---


async def test_an_object_that_is_purged_behind_the_listing_is_no_orphan(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await site.way.deliver(message(1))
    await site.way.drain()
    listing = site.way.store.list

    async def purged_at_the_end(prefix: str = "") -> AsyncIterator[BlobInfo]:
        found = [info async for info in listing(prefix)]
        if any(info.key == object_key(ref.hash, ref.id) for info in found):
            await site.way.queue.expunge_all_of(ref.hash)
            await site.way.cleaner().step()
            assert not site.object_path(ref).exists()
        for info in found:
            yield info

    monkeypatch.setattr(site.way.store, "list", purged_at_the_end)
    assert kinds(await site.audit(repairs=True)) == {}
    assert not site.object_path(ref).exists()


async def test_mail_that_comes_and_goes_meanwhile_is_no_finding(site: Site) -> None:
    """Deliveries, uploads, expunges and the purge run at the same time as audits that repair."""
    stop = asyncio.Event()

    async def live() -> None:
        for number in range(40):
            site.way.queue.now += 1  # equal bytes are another message
            ref = await site.way.deliver(message(number % 7 + 100))
            if number % 2:
                await site.way.uploader.step()
            if number % 3 == 0:
                await site.way.queue.expunge_all_of(ref.hash)
                await site.way.cleaner().step()
        stop.set()

    async def keep_auditing() -> None:
        while not stop.is_set():
            assert kinds(await site.audit(repairs=True, is_deep=True)) == {}

    await asyncio.gather(live(), keep_auditing())
    await site.way.drain()
    await site.all_is_well()
    for ref in await site.way.queue.live():
        assert await site.way.read(ref)
