"""Delivery through the whole node beside the statement it cannot do without.

``python -m tests.bench.delivery``. *Bare* is a uid bump, a message row and the staged body in one durable
statement, 4 KB, over asyncpg on as many connections as the node has clients, in the node's own PostgreSQL.
The node has a worker for each core and is spoken to over LMTP. They run in turn, a short round of each, so
that what else the machine does falls on all.

CPU is that of everything but the load generator, in microseconds a message: for *bare* PostgreSQL and the
client, for the node all its processes and PostgreSQL. Where cores are what there is too little of, the ratio
of CPU is that of the rates that machines of their own would reach; that of the rates has the generator in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import asyncpg
import uvloop

from tests.interop.conftest import SECRET_HASH
from tests.support.nodeprocess import NodeProcess

from .clients import deliver_at_once
from .measure import threads_cpu_s, tree
from .scenarios import SMALL, sized

CONNECTIONS = 16
MESSAGES = 25  # a connection and round
SETTLE_S = 1.0  # the uploads of a round are in its CPU time

TABLES = """
CREATE SCHEMA bare;
CREATE TABLE bare.mailboxes (id bigint PRIMARY KEY, uidnext bigint NOT NULL, modseq bigint NOT NULL,
    messages bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE bare.messages (mailbox_id bigint, uid bigint, modseq bigint NOT NULL, staged_id bigint NOT NULL,
    size_bytes bigint NOT NULL, header bytea NOT NULL, received timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (mailbox_id, uid));
CREATE TABLE bare.staged (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data bytea NOT NULL);
ALTER TABLE bare.staged ALTER COLUMN data SET STORAGE EXTERNAL;
"""
STATEMENT = """
WITH bump AS (
    UPDATE bare.mailboxes SET uidnext = uidnext + 1, modseq = modseq + 1, messages = messages + 1
    WHERE id = $1
    RETURNING id, uidnext - 1 AS uid, modseq
), body AS (
    INSERT INTO bare.staged (data) VALUES ($3) RETURNING id
)
INSERT INTO bare.messages (mailbox_id, uid, modseq, staged_id, size_bytes, header)
SELECT bump.id, bump.uid, bump.modseq, body.id, $4, $2 FROM bump, body RETURNING uid"""
# Bodies that are not due wait in staging: deliveries without their uploads.
HELD = "ALTER TABLE staged_contents ALTER next_attempt_at SET DEFAULT now() + interval '1 day'"
DUE = "ALTER TABLE staged_contents ALTER next_attempt_at SET DEFAULT now()"


@dataclass
class Round:
    rate: float
    cpu_us: float
    generator_us: float


class Bench:
    def __init__(self, node: NodeProcess, loop: asyncio.AbstractEventLoop) -> None:
        assert node.process is not None
        self.node = node
        self.loop = loop
        self.root = node.process.pid
        self.recipients = [f"delivery{n}@bench.example.test" for n in range(CONNECTIONS)]
        self.connections: list[asyncpg.Connection] = []
        self._seed = 0

    def prepare(self) -> None:
        for recipient in self.recipients:
            self.node.admin("accounts", "create", recipient, "--password-hash", SECRET_HASH)
        self.connections = self.loop.run_until_complete(self._connect())

    async def _connect(self) -> list[asyncpg.Connection]:
        options = tomllib.loads(self.node.config.read_text())["database"]["write"]
        made = [
            await asyncpg.connect(
                host=options["hosts"][0],
                user=options["user"],
                database=options["name"],
                password=Path(options["password_file"]).read_text().strip(),
            )
            for _ in range(CONNECTIONS)
        ]
        await made[0].execute(TABLES)
        rows = [(n, 1, 1, 0) for n in range(CONNECTIONS)]
        await made[0].executemany("INSERT INTO bare.mailboxes VALUES ($1, $2, $3, $4)", rows)
        return made

    def execute(self, sql: str) -> None:
        self.loop.run_until_complete(self.connections[0].execute(sql))

    def mails(self) -> list[list[bytes]]:
        self._seed += CONNECTIONS * MESSAGES
        return [
            [sized(self._seed + n * MESSAGES + k, SMALL) for k in range(MESSAGES)] for n in range(CONNECTIONS)
        ]

    def cpu_s(self) -> float:
        """Of the node, PostgreSQL and all else that it started."""
        return sum(map(threads_cpu_s, tree(self.root)))

    def measured(self, work: Callable[[Sequence[Sequence[bytes]]], None], *, is_client_part: bool) -> Round:
        mails, total = self.mails(), CONNECTIONS * MESSAGES
        cpu, own, started = self.cpu_s(), time.process_time(), time.perf_counter()
        work(mails)
        wall_s = time.perf_counter() - started
        own = time.process_time() - own
        time.sleep(SETTLE_S)
        cpu = self.cpu_s() - cpu + (own if is_client_part else 0.0)
        return Round(total / wall_s, cpu / total * 1e6, own / total * 1e6)

    def bare(self, mails: Sequence[Sequence[bytes]]) -> None:
        async def one(n: int) -> None:
            for mail in mails[n]:
                await self.connections[n].fetch(STATEMENT, n, mail[:800], mail, len(mail))

        async def every() -> None:
            await asyncio.gather(*map(one, range(CONNECTIONS)))

        self.loop.run_until_complete(every())

    def node_round(self, mails: Sequence[Sequence[bytes]]) -> None:
        deliver_at_once(self.node.port("lmtp"), self.recipients, mails)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.delivery", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()

    def edit(text: str) -> str:
        return text.replace("workers = 1\n", f"workers = {wanted.workers}\n")

    found: dict[str, list[Round]] = {"bare": [], "node, no uploads": [], "node": []}
    with NodeProcess().prepare(edit) as node:
        loop = uvloop.new_event_loop()
        bench = Bench(node, loop)
        bench.prepare()
        for _ in range(wanted.rounds + 1):
            found["bare"].append(bench.measured(bench.bare, is_client_part=True))
            bench.execute(HELD)
            found["node, no uploads"].append(bench.measured(bench.node_round, is_client_part=False))
            bench.execute(DUE)
            found["node"].append(bench.measured(bench.node_round, is_client_part=False))
    report({name: rounds[1:] for name, rounds in found.items()})  # the first fills caches


def report(found: dict[str, list[Round]]) -> None:
    for name, rounds in found.items():
        rate, cpu = median(each.rate for each in rounds), median(each.cpu_us for each in rounds)
        own = median(each.generator_us for each in rounds)
        line = f"{name:18} {rate:6.0f}/s, {cpu:5.0f} us CPU a message, generator {own:4.0f} us"
        if name != "bare":
            pairs = list(zip(found["bare"], rounds, strict=True))
            rates = median(each.rate / bare.rate for bare, each in pairs)
            costs = median(bare.cpu_us / each.cpu_us for bare, each in pairs)
            line += f"; of bare: {rates:.0%} of the rate, {costs:.0%} by CPU"
        print(line, flush=True)


if __name__ == "__main__":
    main()
