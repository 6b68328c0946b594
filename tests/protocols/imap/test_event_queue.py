"""The waiting line of events: order, turns, bounds, the end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest

from protocols.imap.eventqueue import SLICE, EventQueue
from protocols.messageevents import Cause, Happened, Touched
from storage.model import AccountId, Flags, MailboxId, Uid

ANN, BOB = AccountId(1), AccountId(2)


def event(count: int, account: AccountId = ANN, first: int = 1) -> Happened:
    messages = tuple(Touched(Uid(uid), Flags()) for uid in range(first, first + count))
    return Happened(account, "ann", "ann", MailboxId(1), "INBOX", Cause.COPY, messages)


class Lab:
    """Notes what is handled; waits at the gate."""

    def __init__(self, **options: Any) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.handled: list[tuple[AccountId, int, int]] = []
        self.under_way: list[AccountId] = []
        self.queue = EventQueue(cast("Any", None), self.handle, **options)

    async def handle(self, slice_: Happened) -> None:
        assert slice_.account_id not in self.under_way  # one after the other for each account
        self.under_way.append(slice_.account_id)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.under_way.remove(slice_.account_id)
        self.handled.append((slice_.account_id, slice_.messages[0].uid, len(slice_.messages)))


async def test_large_events_are_handled_in_slices_and_in_order() -> None:
    lab = Lab()
    await lab.queue.take(event(2 * SLICE + 1))
    await lab.queue.take(event(1, first=9_000))
    await lab.queue.settle()
    assert lab.handled == [(ANN, 1, SLICE), (ANN, SLICE + 1, SLICE), (ANN, 2 * SLICE + 1, 1), (ANN, 9_000, 1)]
    assert lab.queue.waiting == 0


async def test_accounts_take_turns() -> None:
    lab = Lab(workers=1)
    await lab.queue.take(event(20 * SLICE))
    await lab.queue.take(event(1, BOB))
    await lab.queue.settle()
    assert [account for account, _, _ in lab.handled].index(BOB) <= 2
    assert len(lab.handled) == 21


async def test_who_comes_when_it_is_full_waits() -> None:
    lab = Lab(max_waiting=SLICE, workers=1)
    lab.gate.clear()
    await lab.queue.take(event(3 * SLICE))  # one command is never refused for its size
    second = asyncio.create_task(lab.queue.take(event(1, BOB)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not second.done()
    lab.gate.set()
    await second
    await lab.queue.settle()
    assert len(lab.handled) == 4


async def test_a_bug_ends_one_slice_only(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab()
    real, calls = lab.handle, 0

    async def broken(slice_: Happened) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a bug")
        await real(slice_)

    lab.queue = EventQueue(cast("Any", None), broken)
    await lab.queue.take(event(2 * SLICE))
    await lab.queue.settle()
    assert len(lab.handled) == 1
    assert lab.queue.waiting == 0
    assert "a bug" in caplog.text
    assert lab.queue.results == {"bug": SLICE}


async def test_close_finishes_what_waits() -> None:
    lab = Lab()
    await lab.queue.take(event(3 * SLICE))
    await lab.queue.close()
    assert len(lab.handled) == 3
    await lab.queue.take(event(1))
    await lab.queue.settle()
    assert len(lab.handled) == 3


async def test_close_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab(max_waiting=1)
    lab.gate.clear()
    await lab.queue.take(event(5))
    waiting = asyncio.create_task(lab.queue.take(event(1, BOB)))
    with caplog.at_level(logging.WARNING, "sora.sieve"):
        await lab.queue.close(within_s=0.01)
    await waiting
    assert "no script runs on 5 messages" in caplog.text
    assert lab.queue.results == {"dropped": 6}
    assert lab.handled == []
    assert lab.under_way == []
