"""A process that delivers and uploads until it is killed: ``python -m tests.support.deliverer JSON``.

It writes one line for each acknowledged message, after the commit: number and mailbox. Its deliveries and
uploads run at the same time, as in a node.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path

from storage.model import MailboxId, NewMessage
from storage.postgres.pool import Database, DatabaseSettings, EndpointSettings
from tests.support.queue import PostgresQueue
from tests.support.stores import PostgresStores
from tests.support.way import Way, message

DELIVERERS = 4


def options_of(
    settings: DatabaseSettings, queue: PostgresQueue, root: Path, *, use_disk: bool
) -> dict[str, object]:
    """For the process, in JSON; it wants more (see where it is started)."""
    host, port = settings.write.hosts[0]
    return {
        "host": host,
        "port": port,
        "user": settings.write.user,
        "password": settings.write.password,
        "database": settings.write.database,
        "inbox": queue.inbox,
        "root": str(root),
        "use_disk": use_disk,
    }


def size_of(number: int) -> int:
    return 600_000 if number % 10 == 0 else 3_000


async def deliver(way: Way, inbox: MailboxId, number: int) -> None:
    staged = await way.stage(message(number, size_of(number)))
    key = hashlib.sha256(b"%d" % number).digest()
    await way.queue.mail.append(staged, [NewMessage(inbox, delivery_key=key)])
    print(number, flush=True)
    way.uploader.notify()


async def deliver_for_ever(way: Way, inbox: MailboxId, first: int) -> None:
    number = first
    while True:
        await deliver(way, inbox, number)
        number += DELIVERERS


async def main(options: dict[str, object]) -> None:
    endpoint = EndpointSettings(
        hosts=((str(options["host"]), int(str(options["port"]))),),
        user=str(options["user"]),
        password=str(options["password"]),
        database=str(options["database"]),
        max_connections=8,
    )
    database = await Database.open(DatabaseSettings(write=endpoint))
    inbox = MailboxId(int(str(options["inbox"])))
    queue = PostgresQueue(PostgresStores(database), inbox)
    way = Way(Path(str(options["root"])), queue, use_disk=bool(options["use_disk"]))
    first = int(str(options["first"]))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(way.uploader.run(asyncio.Event()))
        for n in range(DELIVERERS):
            tasks.create_task(deliver_for_ever(way, inbox, first + n))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
