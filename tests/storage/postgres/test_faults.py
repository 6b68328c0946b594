"""The connection dies at the n-th statement, for every n, before the server gets it or after it answered.

Whatever is raised must be true: ``Unavailable`` only when nothing was written, and what was written is
whole. A delivery key must tell whether an append of unknown outcome happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from storage.errors import CommitUnknown, StorageError, Unavailable
from storage.model import FlagChange, Flags, MailboxId, NewMessage, SystemFlag, Uid
from storage.postgres.connections import Connection
from storage.postgres.pool import Database, DatabaseSettings

from ...support.stores import PostgresStores, staged

KEY = b"k" * 32
Operation = Callable[[PostgresStores, MailboxId, MailboxId], Awaitable[object]]


class Faults:
    """Kills the server process behind a connection around its ``at``-th statement from now on."""

    def __init__(self, database: Database, witness: Database) -> None:
        self.witness = witness
        self.count = 0
        self.at = 0
        self.after = False
        pool = database._primary
        connect = pool._connect

        async def connect_wrapped() -> Any:
            return FaultyConnection(await connect(), self)

        pool._connect = connect_wrapped

    def arm(self, at: int, *, after: bool) -> None:
        self.count, self.at, self.after = 0, at, after

    async def run(self, connection: Connection, call: Callable[[], Awaitable[Any]]) -> Any:
        self.count += 1
        if self.count != self.at:
            return await call()
        if self.after:
            await call()
        pid = connection.get_server_pid()
        await self.witness.read("SELECT pg_terminate_backend($1, 5000)", pid)
        return await connection.fetch("SELECT 1") if self.after else await call()


class FaultyConnection:
    def __init__(self, connection: Connection, faults: Faults) -> None:
        self.connection = connection
        self.faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        return await self.faults.run(self.connection, lambda: self.connection.fetch(*args, **options))

    async def execute(self, *args: Any, **options: Any) -> Any:
        return await self.faults.run(self.connection, lambda: self.connection.execute(*args, **options))


async def picture(stores: PostgresStores, mailbox_id: MailboxId) -> tuple[object, ...]:
    await stores.audit(mailbox_id)
    view = await stores.mail.load_view(mailbox_id)
    gone = (await stores.mail.changes_since(mailbox_id, view.mailbox.highestmodseq)).expunged
    return view.mailbox.highestmodseq, list(view.uids), list(view.flags), gone


async def everything(stores: PostgresStores, *mailbox_ids: MailboxId) -> list[object]:
    counts = [
        (await stores.database.read(f"SELECT count(*) FROM {table}"))[0][0]
        for table in ("messages", "message_state", "expunged", "contents", "staged_contents", "staged_frames")
    ]
    deliveries = (await stores.database.read("SELECT count(*) FROM deliveries"))[0][0]
    return [*[await picture(stores, mailbox_id) for mailbox_id in mailbox_ids], counts, deliveries]


def deliver(frames: int) -> Operation:
    async def run(stores: PostgresStores, a: MailboxId, b: MailboxId) -> object:
        messages = [NewMessage(a, delivery_key=KEY), NewMessage(b, delivery_key=KEY)]
        return await stores.mail.append(staged(b"new", frames=frames), messages)

    return run


OPERATIONS: dict[str, tuple[int, Operation]] = {  # statements it makes, and it
    "append": (1, deliver(1)),
    "append large": (5, deliver(30)),
    "move": (1, lambda stores, a, b: stores.mail.move(a, [Uid(1), Uid(2)], b)),
    "copy": (1, lambda stores, a, b: stores.mail.copy(a, [Uid(1), Uid(2)], b)),
    "expunge": (1, lambda stores, a, b: stores.mail.expunge(a, None)),
    "store": (
        1,
        lambda stores, a, b: stores.mail.store_flags(a, [Uid(1)], FlagChange.ADD, Flags(SystemFlag.SEEN)),
    ),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_connection_that_dies(pg_settings: DatabaseSettings, name: str, after: bool) -> None:
    statements, operation = OPERATIONS[name]
    witness = PostgresStores(await Database.open(pg_settings))
    for at in range(1, statements + 2):
        a, b = await witness.inbox(), await witness.inbox()
        await witness.add(a, b"1", b"2", b"3", flags=Flags(SystemFlag.DELETED))
        await witness.database.write("DELETE FROM deliveries")
        await witness.database.write("DELETE FROM contents WHERE hash = $1", staged(b"new").content.hash)
        stores = PostgresStores(await Database.open(pg_settings))
        faults = Faults(stores.database, witness.database)
        stores.database._primary.condemn_all()
        before = await everything(witness, a, b)
        faults.arm(at, after=after)
        error: StorageError | None = None
        try:
            await operation(stores, a, b)
        except StorageError as caught:
            error = caught
        faults.arm(0, after=False)
        now = await everything(witness, a, b)
        is_last = at >= statements
        if at > statements:
            assert error is None
        elif after and is_last:
            assert isinstance(error, CommitUnknown)
            assert now != before
        elif is_last:
            assert isinstance(error, CommitUnknown)
            assert now == before
        else:
            assert isinstance(error, Unavailable)
            assert now == before
        happened = now != before
        if name.startswith("append"):
            assert await stores.mail.delivered(a, KEY) == await stores.mail.delivered(b, KEY) == happened
            answers = await operation(stores, a, b)
            assert [answer.duplicate for answer in answers] == [happened, happened]  # type: ignore[attr-defined]
        elif not happened:
            await operation(stores, a, b)
        for mailbox_id in (a, b):
            await witness.audit(mailbox_id)
        await stores.database.close()
        await _clear(witness)
    await witness.database.close()


async def _clear(stores: PostgresStores) -> None:
    await stores.database.write("DELETE FROM message_state")
    await stores.database.write("DELETE FROM expunged")
    await stores.database.write("DELETE FROM messages")
    await stores.database.write("DELETE FROM contents")


async def test_the_store_works_again_when_the_server_does(postgres_stores: PostgresStores) -> None:
    inbox = await postgres_stores.inbox()
    for _ in range(3):
        await postgres_stores.database.read(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await postgres_stores.add(inbox)
    await postgres_stores.audit(inbox)
