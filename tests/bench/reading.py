"""CPU time of FETCH and SEARCH without network and database: ``python -m tests.bench.reading``."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from storage.model import MailboxId, MessageRow, SystemFlag, Uid, Wanted
from tests.protocols.imap.selected import Selected, Stored, select
from tests.support.messages import corpus

ROUNDS = 3
FROM_MEMORY = (
    b"FETCH 1:* (FLAGS)",
    b"FETCH 1:* (UID FLAGS)",
    b"FETCH 1:* FAST",
    b"SEARCH ALL",
    b"UID SEARCH UNSEEN UNDELETED",
    b"SEARCH SINCE 1-Jan-1990 LARGER 3000 KEYWORD $Forwarded",
)
FROM_ROWS = (
    b"FETCH 1:* ENVELOPE",
    b"FETCH 1:* BODYSTRUCTURE",
    b"FETCH 1:* (UID FLAGS RFC822.SIZE INTERNALDATE BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC SUBJECT)])",
    b"FETCH 1:* BODY.PEEK[HEADER]",
    b"SEARCH SUBJECT zzzz",
)
FROM_BODIES = (b"FETCH 1:* BODY.PEEK[]", b"SEARCH BODY zzzz")


class Rows:
    """Rows made before the clock starts."""

    def __init__(self, session: Selected) -> None:
        self._mail = session.mail
        self._rows: dict[Wanted, list[MessageRow]] = {}

    async def fetch(self, _mailbox: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        if wanted not in self._rows:
            self._rows[wanted] = [stored.row(wanted) for stored in self._mail.by_uid.values()]
        return [self._rows[wanted][uid - 1] for uid in uids]


def mailbox(count: int, contents: Sequence[bytes]) -> Selected:
    rng = random.Random(5)
    described = [Stored(0, content) for content in contents]
    messages = []
    for uid in range(1, count + 1):
        stored = Stored.__new__(Stored)  # scanned once, in ``described``
        stored.__dict__.update(described[uid % len(described)].__dict__)
        stored.uid, stored.flags = uid, SystemFlag(rng.randrange(32))
        stored.keywords = frozenset({"$Forwarded"} if uid % 20 == 0 else ())
        messages.append(stored)
    session = select(messages)
    session.services.mail = Rows(session)
    return session


async def measure(session: Selected, line: bytes) -> None:
    """Prints the best of ROUNDS runs; the first, which makes the rows, is not counted."""
    await session.run(line)
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        await session.run(line)
        best = min(best, time.process_time() - started)
    count = session.view.count
    print(f"{line.decode()[:60]:60} {best / count * 1e6:8.2f} us/message {count / best:12,.0f} /core-second")


async def run() -> None:
    contents = [built.data for built in corpus(7, 500)]
    for count, lines in ((100_000, FROM_MEMORY), (10_000, FROM_ROWS), (len(contents), FROM_BODIES)):
        session = mailbox(count, contents)
        print(f"{count} messages")
        for line in lines:
            await measure(session, line)


if __name__ == "__main__":
    asyncio.run(run())
