"""What an operation may cost: round trips, and rows touched in a mailbox of 100,000 messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from storage.annotations import AnnotationLimits
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
from storage.postgres.annotations import PostgresAnnotationStore
from storage.postgres.pool import Database, DatabaseSettings, EndpointSettings, Record
from storage.postgres.recovered import NUMBER, PostgresRecoveredMail
from storage.postgres.store import PostgresMailStore

from ...support.postgres import SharedServer, empty
from ...support.stores import PostgresStores, staged

SEEN = Flags(SystemFlag.SEEN)
DELETED = Flags(SystemFlag.DELETED)


@asynccontextmanager
async def at_most(database: Database, round_trips: int) -> AsyncIterator[None]:
    before = database.round_trips
    yield
    assert database.round_trips - before <= round_trips, dict(database.stats)


async def test_round_trips(postgres_stores: PostgresStores) -> None:
    database, mail = postgres_stores.database, postgres_stores.mail
    account_id = await postgres_stores.new_account()
    boxes = [mailbox.id for mailbox in (await mail.list_mailboxes(account_id)).mailboxes]
    a, b = boxes[:2]
    async with at_most(database, 1):
        await mail.append(staged(b"small", frames=4), [NewMessage(box) for box in boxes])
    async with at_most(database, 4):
        await mail.append(staged(b"larger", frames=20), [NewMessage(box) for box in boxes])
    await postgres_stores.add(a, *(b"%d" % n for n in range(10)))
    uids = [Uid(uid) for uid in range(1, 6)]
    async with at_most(database, 2):
        await mail.load_view((await mail.get_mailbox(account_id, INBOX)).id)
    for call in (
        lambda: mail.list_mailboxes(account_id),
        lambda: mail.fetch(a, uids, Wanted.HEADER | Wanted.ENVELOPE | Wanted.STRUCTURE),
        lambda: mail.store_flags(a, uids, FlagChange.ADD, DELETED, ModSeq(100)),
        lambda: mail.copy(a, uids, b),
        lambda: mail.move(a, uids[:2], b),
        lambda: mail.expunge(a, None),
        lambda: mail.changes_since(a, ModSeq(1)),
        lambda: mail.modseqs(boxes),
        lambda: mail.delivered(a, b"k"),
        lambda: mail.undelete(a, uids),
        lambda: postgres_stores.uploads.lease("n", 100, 60),
    ):
        async with at_most(database, 1):
            await call()  # type: ignore[no-untyped-call]
    leased = [ref.id for ref in await postgres_stores.uploads.locate(range(1, 10**4))]  # type: ignore[arg-type]
    async with at_most(database, 1):
        await postgres_stores.uploads.mark_stored(leased)


# --- rows touched ---------------------------------------------------------------------------------

MESSAGES = 100_000
_TOUCHED = """
SELECT sum(seq_tup_read)::bigint AS scanned, sum(idx_tup_fetch)::bigint AS fetched
FROM pg_stat_xact_user_tables"""


class MeteredDatabase(Database):
    """Counts the rows each statement reads, as PostgreSQL's statistics have them."""

    fetched = 0
    scanned = 0

    async def read(self, sql: str, *args: object, **options: object) -> list[Record]:  # type: ignore[override]
        return await self.write(sql, *args)

    async def write(
        self, sql: str, *args: object, account: int | None = None, mailboxes: Iterable[int] = ()
    ) -> list[Record]:
        async with self.transaction() as transaction:
            (before,) = await transaction.fetch(_TOUCHED)
            rows = await transaction.fetch(sql, *args)
            (after,) = await transaction.fetch(_TOUCHED)
        self.fetched += after["fetched"] - before["fetched"]
        self.scanned += after["scanned"] - before["scanned"]
        return rows


@pytest.fixture(scope="module")
def big_database(pg_server: SharedServer) -> EndpointSettings:
    return pg_server.new_database()


@pytest_asyncio.fixture
async def big(
    big_database: EndpointSettings,
) -> AsyncIterator[tuple[MeteredDatabase, AccountId, list[MailboxId]]]:
    """Two large mailboxes, with the planner's statistics of when they were empty: the worst case."""
    await empty(big_database)
    database = MeteredDatabase(DatabaseSettings(write=big_database))
    stores = PostgresStores(database)
    account_id = await stores.new_account()
    names = (INBOX, "Archive")
    boxes = [(await stores.mail.get_mailbox(account_id, name)).id for name in names]
    await database.write(
        "INSERT INTO contents (hash, size_bytes, header, envelope, structure)"
        " SELECT int8send(g), 1000, 'h', 'e', 's' FROM generate_series(1, $1::int) g",
        MESSAGES,
    )
    for box in boxes:
        await database.write(
            "INSERT INTO messages SELECT $1, row_number() OVER (), id, '', 1000, now() FROM contents", box
        )
        await database.write(
            "INSERT INTO message_state SELECT mailbox_id, uid, uid + 1, 0, '{}', size_bytes, 1700000000"
            " FROM messages WHERE mailbox_id = $1",
            box,
        )
        await database.write(
            "UPDATE mailboxes SET uidnext = $2 + 1, highestmodseq = $2 + 1, messages = $2, unseen = $2,"
            " size_bytes = $2 * 1000 WHERE id = $1",
            box,
            MESSAGES,
        )
    yield database, account_id, boxes
    await database.close()


@pytest.mark.slow
@pytest.mark.parametrize("analyzed", [False, True])
async def test_nothing_grows_with_the_mailbox(
    big: tuple[MeteredDatabase, AccountId, list[MailboxId]], analyzed: bool
) -> None:
    database, account_id, (a, b) = big
    if analyzed:
        await database.write("ANALYZE")
    mail = PostgresMailStore(database)
    uids = [Uid(uid) for uid in range(50_000, 50_010)]
    operations: dict[str, Callable[[], Awaitable[object]]] = {
        "list": lambda: mail.list_mailboxes(account_id),
        "get": lambda: mail.get_mailbox(account_id, INBOX),
        "append": lambda: mail.append(staged(), [NewMessage(a, delivery_key=b"k"), NewMessage(b)]),
        "fetch": lambda: mail.fetch(a, uids, Wanted.ENVELOPE),
        "store": lambda: mail.store_flags(a, uids, FlagChange.ADD, SEEN),
        "flag deleted": lambda: mail.store_flags(a, uids, FlagChange.ADD, DELETED),
        "changes": lambda: mail.changes_since(a, ModSeq(MESSAGES + 1)),
        "copy": lambda: mail.copy(a, uids, b),
        "move": lambda: mail.move(a, uids[:5], b),
        "expunge some": lambda: mail.expunge(a, uids[5:7]),
        "expunge all": lambda: mail.expunge(a, None),
        "list deleted": lambda: mail.list_deleted(account_id),
        "undelete": lambda: mail.undelete(a, uids),
    }
    costs = {}
    for name, operation in operations.items():
        for _ in range(2):
            database.fetched = database.scanned = 0
            await operation()
            costs[name] = (database.fetched, database.scanned)
    assert all(fetched <= 300 for fetched, _ in costs.values()), costs
    assert all(scanned == 0 for _, scanned in costs.values()), costs


async def test_annotations(postgres_stores: PostgresStores) -> None:
    """One read to ask; whatever is set, the number of statements is the same."""
    database = postgres_stores.database
    store = PostgresAnnotationStore(database)
    inbox = await postgres_stores.inbox()
    [row] = await database.read("SELECT account_id FROM mailboxes WHERE id = $1", inbox)
    account_id = AccountId(row["account_id"])
    many: dict[str, bytes | None] = {f"/private/{n}": b"x" for n in range(100)}
    async with at_most(database, 7):  # BEGIN and COMMIT included
        await store.change(account_id, inbox, many, AnnotationLimits())
    for call in (
        lambda: store.everything(account_id),
        lambda: store.at(account_id, inbox),
        lambda: store.named(account_id, list(many)),
    ):
        async with at_most(database, 1):
            assert await call()


@pytest.mark.slow
@pytest.mark.parametrize("analyzed", [False, True])
async def test_deleted_mail_costs_what_is_looked_at(
    big: tuple[MeteredDatabase, AccountId, list[MailboxId]], analyzed: bool
) -> None:
    """With the planner's statistics of when nothing was deleted, and with those of afterwards."""
    database, account_id, (a, b) = big
    mail, recovered = PostgresMailStore(database), PostgresRecoveredMail(database, "Recovered")
    deleted = 2000
    await mail.remove(a, [Uid(uid) for uid in range(1, deleted + 1)])
    if analyzed:
        await database.write("ANALYZE")
    day = (await recovered.mailboxes(account_id))[-1].id
    some, gone = [Uid(uid) for uid in range(500, 510)], [Uid(uid) for uid in range(700, 710)]
    operations: dict[str, tuple[int, Callable[[], Awaitable[object]]]] = {
        "number": (10 * deleted, lambda: database.write(NUMBER, account_id, None, None, 10)),
        "list": (6 * deleted, lambda: recovered.mailboxes(account_id)),
        "load": (12 * deleted, lambda: recovered.load_view(day)),
        "quiet changes": (8 * deleted, lambda: recovered.changes_since(day, ModSeq(2**40))),
        "fetch": (300, lambda: recovered.fetch(day, some, Wanted.ENVELOPE)),
        "copy": (400, lambda: recovered.copy(day, some, b)),
        "list deleted": (8 * deleted, lambda: mail.list_deleted(account_id)),
        "undelete": (2 * deleted, lambda: mail.undelete(a, gone, b)),
    }
    costs = {}
    for name, (limit, operation) in operations.items():
        database.fetched = database.scanned = 0
        await operation()
        costs[name] = (database.fetched, limit, database.scanned)
    assert {name: cost for name, cost in costs.items() if cost[0] > cost[1]} == {}
    assert all(scanned == 0 for *_, scanned in costs.values()), costs
