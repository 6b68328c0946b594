"""After a login, bring the newest bodies of a user's mailboxes into the local cache.

A convenience: bounded, never awaited by a session, at most once per account and interval, and every
failure of it is only a missed head start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from .api import BodySource, MailStore
from .errors import NotFound, StorageError
from .model import INBOX, AccountId, ContentRef, Uid, Wanted
from .objects.cache import BodyCache

log = logging.getLogger("sora.warmup")

MAX_WORKERS = 2
MAX_QUEUED = 256  # logins beyond are not warmed; at that rate the store is busy enough
MAX_REMEMBERED_ACCOUNTS = 50_000


@dataclass(frozen=True, slots=True)
class WarmupSettings:
    message_count: int = 50  # newest, of each mailbox
    mailboxes: tuple[str, ...] = (INBOX,)
    interval_s: float = 24 * 3600.0
    timeout_s: float = 300.0


class Warmup:
    """Start with ``login``; stop with ``close``."""

    def __init__(
        self,
        mail: MailStore,
        bodies: BodySource,
        cache: BodyCache,
        settings: WarmupSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mail = mail
        self._bodies = bodies
        self._cache = cache
        self._settings = settings or WarmupSettings()
        self._clock = clock
        self._warmed_at: OrderedDict[AccountId, float] = OrderedDict()
        self._slots = asyncio.Semaphore(MAX_WORKERS)
        self._tasks: set[asyncio.Task[None]] = set()

    def login(self, account_id: AccountId) -> None:
        """Returns at once."""
        now = self._clock()
        warmed_at = self._warmed_at.get(account_id)
        if warmed_at is not None and now - warmed_at < self._settings.interval_s:
            return
        if len(self._tasks) >= MAX_QUEUED:
            return
        self._warmed_at[account_id] = now
        self._warmed_at.move_to_end(account_id)
        if len(self._warmed_at) > MAX_REMEMBERED_ACCOUNTS:
            self._warmed_at.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._run(account_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def drained(self) -> None:
        """When all that was asked for is done."""
        await asyncio.gather(*self._tasks)

    async def _run(self, account_id: AccountId) -> None:
        try:
            async with self._slots, asyncio.timeout(self._settings.timeout_s):
                for name in self._settings.mailboxes:
                    await self._warm(account_id, name)
        except (StorageError, TimeoutError) as error:
            log.info("warm-up of account %d stopped: %s", account_id, error)
        except Exception:  # a worker loop
            log.exception("warm-up: unexpected error")

    async def _warm(self, account_id: AccountId, name: str) -> None:
        """Uids are dense at the end of a mailbox, so a span below uidnext finds the newest without
        loading the view."""
        try:
            mailbox = await self._mail.get_mailbox(account_id, name)
        except NotFound:
            return
        count = self._settings.message_count
        uids = [Uid(uid) for uid in range(max(1, mailbox.uidnext - count), mailbox.uidnext)]
        rows = await self._mail.fetch(mailbox.id, uids, Wanted.REFERENCE)
        for ref in [row.ref for row in reversed(rows)]:
            if self._is_worth_it(ref):
                with contextlib.suppress(NotFound):
                    await self._bodies.open(ref)

    def _is_worth_it(self, ref: ContentRef) -> bool:
        return (
            ref.is_stored and ref.size_bytes <= self._cache.max_object_bytes and ref.hash not in self._cache
        )
