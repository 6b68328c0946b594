"""``sora-admin verify`` on much mail: ``python -m tests.bench.verify [--messages 1000000]``.

A node runs beside it. Its mail is written into the tables and the directory of objects as such, since to
deliver it would take an hour: a mailbox for each 1,000 messages, one of them with a tenth of all. Then the
command runs on a terminal, at a tenth of the mail and at all of it: how long it takes, how much memory at
most, and how long its line of progress stands still. With ``--broken`` every 1,000th object is missing, too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import pty
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.model import ContentHash, ContentId
from storage.objects.keys import object_key
from storage.postgres.server import LocalServer
from tests.support.nodeprocess import ROOT, NodeProcess

MESSAGES = 1_000_000
OF_A_MAILBOX = 1_000
PLAIN_BYTES, ENCODED_BYTES = 3_000, 1_500
LINKS_OF_A_FILE = 50_000  # ext4 takes 65,000
MISSING_EVERY = 1_000
PAGE = 10_000

_CONTENTS = """
INSERT INTO contents (hash, size_bytes, header, envelope, structure)
SELECT sha256(int8send(n)), $3, 'Subject: figures', 'envelope', 'structure'
FROM generate_series($1::bigint, $2) AS n"""
_MAILBOXES = """
INSERT INTO mailboxes (account_id, name, uidvalidity)
SELECT (SELECT min(id) FROM accounts), 'figures ' || n, 1 FROM generate_series($1::bigint, $2) AS n
RETURNING id"""
_MESSAGES = """
INSERT INTO messages (mailbox_id, uid, content_id, size_bytes, internaldate)
SELECT ($1::bigint[])[1 + r / $2], 1 + r % $2, c.id, c.size_bytes, now()
FROM (SELECT id, size_bytes, row_number() OVER (ORDER BY id) - 1 AS r FROM contents c
      WHERE NOT EXISTS (SELECT FROM messages m WHERE m.content_id = c.id)) AS c"""
_STATES = """
INSERT INTO message_state (mailbox_id, uid, modseq, size_bytes, internaldate)
SELECT mailbox_id, uid, 1, size_bytes, 0 FROM messages WHERE mailbox_id = ANY ($1::bigint[])"""
_COUNTS = """
UPDATE mailboxes b SET messages = s.n, unseen = s.n, size_bytes = s.size_bytes, uidnext = s.n + 1
FROM (SELECT mailbox_id, count(*) AS n, sum(size_bytes)::bigint AS size_bytes
      FROM message_state GROUP BY 1) AS s
WHERE s.mailbox_id = b.id"""
_NAMES = "SELECT id, hash FROM contents WHERE id > $1 ORDER BY id LIMIT $2"


@dataclass(frozen=True)
class Audited:
    status: int
    said: str
    took_s: float
    cpu_s: float  # PostgreSQL's left out
    most_bytes: int
    stood_still_s: float  # at most
    lines: int  # of progress


class Site:
    """A node with mail that nobody delivered. Numbers of messages go from 0 on."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        directory = node.directory / "data"
        password = (directory / "postgres.password").read_text()
        self._server = LocalServer(directory / "postgres", password)
        self._objects = Path(tomllib.loads(node.config.read_text())["s3"]["path"])
        self._last_content = 0
        self._linked = 0
        self.messages = 0

    async def grow(self, messages: int, of_a_mailbox: int) -> None:
        """That many more, in mailboxes of ``of_a_mailbox``."""
        connection = await self._server.connect("sora_mail_db")
        try:
            await connection.execute("SET synchronous_commit = off")
            first = self.messages
            await connection.execute(_CONTENTS, first, first + messages - 1, PLAIN_BYTES)
            rows = await connection.fetch(_MAILBOXES, first, first + -(-messages // of_a_mailbox) - 1)
            boxes = [row["id"] for row in rows]
            await connection.execute(_MESSAGES, boxes, of_a_mailbox)
            await connection.execute(_STATES, boxes)
            await connection.execute(_COUNTS)
            await connection.execute("VACUUM ANALYZE")
            await self._store(connection)
        finally:
            await connection.close()
        self.messages += messages

    async def _store(self, connection: Any) -> None:
        while rows := await connection.fetch(_NAMES, self._last_content, PAGE):
            self._last_content = rows[-1]["id"]
            for row in rows:
                self._link(object_key(ContentHash(row["hash"]), ContentId(row["id"])))

    def _link(self, key: str) -> None:
        """An object that costs a name and no room."""
        body = self._objects.parent / f"body.{self._linked // LINKS_OF_A_FILE}"
        if not self._linked % LINKS_OF_A_FILE:
            body.write_bytes(bytes(ENCODED_BYTES))
        path = self._objects / key
        try:
            os.link(body, path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            os.link(body, path)
        self._linked += 1

    def lose(self, every: int) -> int:
        """Remove each n-th object; how many are gone."""
        lost = [path for n, path in enumerate(self._objects.glob("bodies/*/*")) if not n % every]
        for path in lost:
            path.unlink()
        return len(lost)

    def audit(self) -> Audited:
        command = [sys.executable, "-m", "node.admin", "--config", str(self._node.config), "verify"]
        ours, theirs = pty.openpty()
        began = time.monotonic()
        output = self._node.directory / "verify.out"
        with output.open("wb") as said:
            process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=theirs)
        os.close(theirs)
        moments = [began, *_shown(ours), time.monotonic()]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        os.close(ours)
        return Audited(
            process.returncode,
            output.read_text(),
            time.monotonic() - began,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * 1024,
            max(after - before for before, after in itertools.pairwise(moments)),
            len(moments) - 2,
        )


def _shown(terminal: int) -> Iterator[float]:
    """When it wrote, until it ends."""
    while True:
        try:
            if not os.read(terminal, 65_536):
                return
        except OSError:  # nobody has the other end any more
            return
        yield time.monotonic()


def report(site: Site, audited: Audited) -> None:
    print(
        f"{site.messages:,} messages: {audited.took_s:.1f} s ({audited.cpu_s:.1f} s of them CPU time),"
        f" {audited.most_bytes / 2**20:.0f} MiB at most,"
        f" progress shown {audited.lines} times, still for {audited.stood_still_s:.1f} s at most,"
        f" exit status {audited.status}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--broken", action="store_true")
    arguments = parser.parse_args()
    with NodeProcess() as node:
        site = Site(node)
        tenth = arguments.messages // 10
        for parts in ([(tenth, OF_A_MAILBOX)], [(tenth * 8, OF_A_MAILBOX), (tenth, tenth)]):
            for messages, of_a_mailbox in parts:
                asyncio.run(site.grow(messages, of_a_mailbox))
            audited = site.audit()
            report(site, audited)
            assert audited.status == 0, audited.said
        if arguments.broken:
            lost = site.lose(MISSING_EVERY)
            audited = site.audit()
            report(site, audited)
            assert f"{lost:,} " in audited.said, audited.said


if __name__ == "__main__":
    main()
