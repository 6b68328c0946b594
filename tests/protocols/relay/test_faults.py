"""Relaying with a fault at every operation on the disk: nothing is lost, and nothing is sent twice but what
the remote was just being handed when the process died."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from protocols.relay.breaker import Breaker
from protocols.relay.runner import Runner, RunnerSettings
from storage.errors import StorageError
from storage.memory.accounts import MemoryAccountStore
from storage.memory.sendlog import MemorySendLog
from storage.memory.tables import Tables
from storage.model import AccountId
from storage.relayadopt import Adoption
from storage.relayqueue import RelayQueue
from storage.relayspool import RelaySpool, SpoolDisk
from tests.support.faults import LETHAL, Fault, Killed, Kind
from tests.support.relaydisk import FaultySpoolDisk, UnsyncedSpoolDisk
from tests.support.relayremote import Ledger

SENDER, ACCOUNT = "ann@example.test", AccountId(1)
SUBMISSIONS = {b"one": ("a@x.test",), b"two": ("b@x.test", "refused@x.test", "late@x.test")}
SETTINGS = RunnerSettings(
    "mail.test", interval_s=0.01, concurrency=1, backoff_s=(0.0,), cleanup_interval_s=1e9
)
# one transaction is under way at a time, of three recipients at most
MOST_AGAIN = 3


class QueueBouncer:
    """Reports go through the same queue."""

    def __init__(self, queue: RelayQueue) -> None:
        self._queue = queue

    async def bounce(self, sender: str, report: bytes, key: bytes) -> str:
        await asyncio.to_thread(
            self._queue.submit, "", [sender], report, kind="bounce", account=None, key=key
        )
        return "queued"


async def relay_everything(queue: RelayQueue, ledger: Ledger, claims: MemorySendLog) -> None:
    """Until nothing is pending or under way. Raises Killed."""

    async def at_once(_seconds: float) -> None:
        await asyncio.sleep(0)

    breaker = Breaker(1_000, 1.0, 1)
    runner = Runner(
        queue,
        ledger,
        breaker,
        QueueBouncer(queue),
        claims,
        SETTINGS,
        clock=time.time,
        monotonic=time.monotonic,
        sleep=at_once,
    )
    while True:
        stop = asyncio.Event()
        running = asyncio.create_task(runner.run(stop))
        while not running.done():
            if not queue.ids("pending") and not queue.ids("processing") and not runner.busy_count:
                stop.set()
            await asyncio.sleep(0.0005)
        await running
        # one may have been put back by a thread between the looks at two directories; now nobody moves any
        if not queue.ids("pending"):
            return


def submit_all(queue: RelayQueue, missing: set[bytes]) -> None:
    """As an MTA does, who tries again what was refused. Raises Killed."""
    while missing:
        for key in sorted(missing):
            message = b"Subject: " + key + b"\r\n\r\nbody\r\n"
            try:
                queue.submit(SENDER, SUBMISSIONS[key], message, kind="redirect", account=1, key=key)
            except StorageError:
                continue
            missing.discard(key)


async def hold_all(queue: RelayQueue, missing: set[bytes], disk: SpoolDisk, claims: MemorySendLog) -> None:
    """As scripts send it: held, claimed, released. Their holds are over at once, so what nobody has released
    is claimed by the runner. Raises Killed."""
    spool = RelaySpool(queue.root, lambda: time.time() - 3600, disk)
    while missing:
        for key in sorted(missing):
            message = b"Subject: " + key + b"\r\n\r\nbody\r\n"
            held = partial(spool.submit, SENDER, SUBMISSIONS[key], message, kind="redirect", account=ACCOUNT)
            try:
                name = held(key=key, held_s=60)
                won = await claims.claim_handover(ACCOUNT, {key: name})
                (spool.let_go if won else spool.withdraw)(name)
            except StorageError:
                continue
            missing.discard(key)


async def send_log() -> MemorySendLog:
    accounts = MemoryAccountStore.beside(tables := Tables())
    assert (await accounts.create_account(SENDER, "")).id == ACCOUNT
    return MemorySendLog(tables)


def ledger() -> Ledger:
    remote = Ledger()
    remote.will_say("refused@x.test", "550 5.1.1 no such user")
    remote.will_say("late@x.test", "451 4.2.1 later", "250 ok")
    return remote


@dataclass
class Life:
    remote: Ledger
    missing: set[bytes]
    fault: Fault
    claims: MemorySendLog
    is_held: bool


async def live(queue: RelayQueue, disk: SpoolDisk, life: Life) -> None:
    """From start to an empty queue. Raises Killed."""
    while True:
        try:
            queue.open()
            break
        except StorageError:
            assert life.fault.has_fired
    if life.is_held:
        await hold_all(queue, life.missing, disk, life.claims)
    else:
        submit_all(queue, life.missing)
    await relay_everything(queue, life.remote, life.claims)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("cuts_power", [False, True], ids=["", "power cut"])
@pytest.mark.parametrize("is_held", [False, True], ids=["", "held"])
async def test_a_fault_at_every_operation(
    tmp_path: Path, kind: Kind, cuts_power: bool, is_held: bool
) -> None:
    if cuts_power and kind not in LETHAL:
        return
    for number in itertools.count(1):
        fault, remote = Fault(number, kind), ledger()
        life = Life(remote, set(SUBMISSIONS), fault, await send_log(), is_held)
        root = tmp_path / str(number)
        disk = FaultySpoolDisk(fault)
        queue = RelayQueue(root, time.time, disk)
        try:
            await live(queue, disk, life)
        except Killed:
            if cuts_power:
                disk.cut_power()
        queue.close()
        if fault.is_dead:
            plain = UnsyncedSpoolDisk()
            again = RelayQueue(root, time.time, plain)
            await live(again, plain, life)
            again.close()
        check(remote, root, fault, may_repeat=kind in LETHAL)
        if not fault.has_fired:
            assert number > 40
            return


def check(remote: Ledger, root: Path, fault: Fault, *, may_repeat: bool) -> None:
    copies = {to: remote.copies(to) for to in ("a@x.test", "b@x.test", "late@x.test", SENDER)}
    assert all(copies.values()), f"lost: {copies} {fault}"
    again = sum(copies.values()) - len(copies)
    assert again <= (MOST_AGAIN if may_repeat else 0), f"sent again: {copies} {fault}"
    assert remote.copies("refused@x.test") == 0
    assert len([*(root / "failed").iterdir()]) == 1
    reports = {message for (_, to, message) in remote.taken if to == SENDER}
    assert len(reports) == 1, f"different reports {fault}"


@pytest.mark.parametrize("kind", LETHAL)
@pytest.mark.parametrize("cuts_power", [False, True], ids=["", "power cut"])
def test_an_adoption_that_dies_at_every_operation(tmp_path: Path, kind: Kind, cuts_power: bool) -> None:
    for number in itertools.count(1):
        root = tmp_path / str(number)
        gone = RelayQueue(root / "gone", time.time, UnsyncedSpoolDisk())
        gone.open()
        submit_all(gone, set(SUBMISSIONS))
        ids = {name for _, name in gone.entries()}
        gone.close()
        queue = RelayQueue(root / "here", time.time, UnsyncedSpoolDisk())
        queue.open()
        fault = Fault(number, kind)
        disk = FaultySpoolDisk(fault)
        try:
            Adoption(queue, gone.root, disk).run()
        except Killed:
            if cuts_power:
                disk.cut_power()
        Adoption(queue, gone.root, UnsyncedSpoolDisk()).run()
        assert set(queue.ids("pending")) == ids, fault
        assert gone.ids("pending") == [], fault
        assert all(len(each.open_positions) for each in queue.take(ids))
        queue.close()
        if not fault.has_fired:
            assert number > 10
            return
