"""Deliveries in a process that kills itself at one chosen point: ``python -m tests.support.lifeline JSON``.

For each line of its input, a number, it forks a child that delivers and dies by SIGKILL at that point. Points
are counted over everything that crosses the border of the process: before each operation on the disk, before
each write to the database's socket, right after it (sent, and no answer read), before and after the answer
to the sender. It writes ``ack NUMBER`` for an acknowledged message, ``at WHAT`` where the child died, and
``end`` when it is gone; ``whole`` when there was no such point.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from asyncio import selector_events
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.errors import CommitUnknown
from storage.model import MailboxId, NewMessage
from storage.objects.disk import Disk
from storage.postgres.pool import Database, DatabaseSettings, EndpointSettings
from tests.support.faults import UnsyncedDisk
from tests.support.queue import PostgresQueue
from tests.support.stores import PostgresStores
from tests.support.way import Way, message

OUTPUT = 1
# (number, size): in memory and one frame; through a spool file, with frames in a second statement
MAIL = ((1, 3_000), (2, 3_000_000), (3, 200_000))
DISK_OPERATIONS = (
    "create",
    "write",
    "fsync",
    "close",
    "rename",
    "link",
    "unlink",
    "fsync_dir",
    "mkdir",
    "read",
)


class Lifeline:
    """Cut at point ``at``, once it is armed."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.is_armed = False

    def pass_point(self, what: str) -> None:
        if not self.is_armed:
            return
        self._left -= 1
        if self._left == 0:
            tell(f"at {what}")
            os.kill(os.getpid(), signal.SIGKILL)


class CountingDisk(UnsyncedDisk):
    def __init__(self, lifeline: Lifeline) -> None:
        super().__init__()
        self._lifeline = lifeline

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in DISK_OPERATIONS:
            return found

        def counted(*args: Any) -> Any:
            self._lifeline.pass_point(f"disk {name}")
            return found(*args)

        return counted


def watch_sockets(lifeline: Lifeline) -> None:
    """Every write of every connection of this process: there are none but to the database."""
    transport: Any = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]

    def watched(real: Callable[..., None]) -> Callable[..., None]:
        def write(self: Any, data: Any) -> None:
            lifeline.pass_point("before a write to the database")
            real(self, data)
            lifeline.pass_point("after a write to the database")

        return write

    transport.write = watched(transport.write)
    transport.writelines = watched(transport.writelines)


def key_of(life: str, number: int) -> bytes:
    return hashlib.sha256(f"{life} {number}".encode()).digest()


def mail_of(life: str, number: int, size: int) -> bytes:
    """Not the same bytes in two lives."""
    return b"X-Life: %s\r\n" % life.encode() + message(number, size)


async def deliver(way: Way, inbox: MailboxId, life: str, number: int, size: int) -> None:
    """As LMTP does it."""
    staged = await way.stage(mail_of(life, number, size))
    key = key_of(life, number)
    try:
        await way.queue.mail.append(staged, [NewMessage(inbox, delivery_key=key)])
    except CommitUnknown:
        if not await way.queue.mail.delivered(inbox, key):
            raise


async def live(options: dict[str, Any], life: str, lifeline: Lifeline) -> None:
    endpoint = EndpointSettings(
        hosts=((str(options["host"]), int(options["port"])),),
        user=options["user"],
        password=options["password"],
        database=options["database"],
        max_connections=4,
    )
    database = await Database.open(DatabaseSettings(write=endpoint))
    inbox = MailboxId(int(options["inbox"]))
    queue = PostgresQueue(PostgresStores(database), inbox)
    disk: Disk = CountingDisk(lifeline)
    way = Way(Path(options["root"]) / life, queue, disk=disk, use_disk=options["use_disk"], has_cache=False)
    await database.read("SELECT")  # connected
    lifeline.is_armed = True
    for number, size in MAIL:
        await deliver(way, inbox, life, number, size)
        lifeline.pass_point("before the answer")
        tell(f"ack {number}")
        lifeline.pass_point("after the answer")
    lifeline.is_armed = False
    await database.close()


def tell(line: str) -> None:
    os.write(OUTPUT, line.encode() + b"\n")


def main(options: dict[str, Any]) -> None:
    for line in sys.stdin:
        life = line.strip()
        child = os.fork()
        if not child:
            lifeline = Lifeline(int(life))
            watch_sockets(lifeline)
            asyncio.run(live(options, life, lifeline))
            tell("whole")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
            tell("failed")
        tell("end")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
