"""Writers of one mailbox wait for each other here, in the process, before any of them holds a connection.

Without this, a burst into one mailbox would park on its row lock with every connection of the pool in hand
and starve all other mailboxes. The row lock still decides between processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from storage.errors import Unavailable


class _Entry:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class MailboxQueue:
    """Locks by mailbox id, taken in ascending order; memory only for those in use."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._entries: dict[int, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @asynccontextmanager
    async def turn(self, mailbox_ids: Iterable[int]) -> AsyncIterator[None]:
        """Raises Unavailable after waiting too long."""
        held: list[int] = []
        try:
            for mailbox_id in sorted(set(mailbox_ids)):
                await self._enter(mailbox_id)
                held.append(mailbox_id)
            yield
        finally:
            for mailbox_id in held:
                self._leave(mailbox_id)

    async def _enter(self, mailbox_id: int) -> None:
        entry = self._entries.setdefault(mailbox_id, _Entry())
        entry.users += 1
        try:
            if not entry.lock.locked():
                await entry.lock.acquire()
                return
            async with asyncio.timeout(self._wait_s):
                await entry.lock.acquire()
        except BaseException as error:
            self._drop(mailbox_id, entry)
            if isinstance(error, TimeoutError):
                raise Unavailable("the mailbox is busy", retry_after_s=5.0) from error
            raise

    def _leave(self, mailbox_id: int) -> None:
        entry = self._entries[mailbox_id]
        entry.lock.release()
        self._drop(mailbox_id, entry)

    def _drop(self, mailbox_id: int, entry: _Entry) -> None:
        entry.users -= 1
        if entry.users == 0:
            del self._entries[mailbox_id]
