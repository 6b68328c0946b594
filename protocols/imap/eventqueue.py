"""The waiting line of events for scripts: bounded, in order for each account, fair among accounts.

An account's events are handled one after the other, in slices, and accounts take turns: who copies 10,000
messages does not hold up others. When as many messages wait as may, ``take`` waits, and with it the command.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from protocols.annotations import Annotations
from protocols.messageevents import Happened
from storage.errors import StorageError
from storage.model import AccountId, MailboxId

log = logging.getLogger("sora.sieve")

MAX_WAITING: Final = 50_000  # messages, of a process
SLICE: Final = 200  # messages handled together: one read, and one write of each kind
WORKERS: Final = 2
CLOSE_WITHIN_S: Final = 10.0

# Handles a slice.
Handle = Callable[[Happened], Coroutine[Any, Any, None]]


class EventQueue:
    """``protocols.messageevents.MessageEvents``; one per process."""

    def __init__(
        self,
        annotations: Annotations,
        handle: Handle,
        *,
        max_waiting: int = MAX_WAITING,
        workers: int = WORKERS,
        results: Counter[str] | None = None,
    ) -> None:
        """``results`` counts messages, with what ``handle`` counts there."""
        self.results = Counter[str]() if results is None else results
        self._annotations = annotations
        self._handle = handle
        self._max_waiting = max_waiting
        self._max_workers = workers
        self._waiting = 0
        self._room = asyncio.Condition()
        self._lines: OrderedDict[AccountId, deque[Happened]] = OrderedDict()  # of accounts with no worker
        self._busy: dict[AccountId, deque[Happened]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._running = 0  # workers that will look for more before they end
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """Messages that are not handled yet."""
        return self._waiting

    async def is_watched(self, account_id: AccountId, mailbox_id: MailboxId) -> bool:
        try:
            return await self._annotations.script_of(account_id, mailbox_id) is not None
        except StorageError as error:
            log.warning("account %d: no script runs on what happens now: %s", account_id, error)
            return False

    async def take(self, event: Happened) -> None:
        async with self._room:
            await self._room.wait_for(lambda: self._is_closed or self._waiting < self._max_waiting)
        self._put(event)

    def _put(self, event: Happened) -> None:
        if self._is_closed:
            self._drop(len(event.messages))
            return
        self._waiting += len(event.messages)
        account_id = event.account_id
        line = self._busy.get(account_id)
        if line is None:
            line = self._lines.setdefault(account_id, deque())
        line.extend(event.only(start, start + SLICE) for start in range(0, len(event.messages), SLICE))
        if self._lines and self._running < self._max_workers:
            self._running += 1
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        try:
            await self._work_off()
        finally:
            self._running -= 1

    async def _work_off(self) -> None:
        while self._lines:
            account_id, line = self._lines.popitem(last=False)
            self._busy[account_id] = line
            event = line.popleft()
            try:
                await self._handle(event)
            except Exception:
                log.exception("account %d: running a script on an event failed", account_id)
                self.results["bug"] += len(event.messages)
            finally:
                del self._busy[account_id]
                if line:
                    self._lines[account_id] = line
                await self._leave(len(event.messages))

    async def _leave(self, messages: int) -> None:
        self._waiting -= messages
        async with self._room:
            self._room.notify_all()

    def _drop(self, messages: int) -> None:
        log.warning("no script runs on %d messages: the node stops", messages)
        self.results["dropped"] += messages

    async def settle(self) -> None:
        """Wait until nothing is left to do."""
        while self._workers:
            await asyncio.wait(set(self._workers))

    async def close(self, within_s: float = CLOSE_WITHIN_S) -> None:
        """What waits is handled for as long as that; the rest is dropped."""
        try:
            async with asyncio.timeout(within_s):
                await self.settle()
        except TimeoutError:
            self._drop(self._waiting)
        self._is_closed = True
        self._lines.clear()
        async with self._room:
            self._room.notify_all()
        await _end(set(self._workers))


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
