"""The open mailboxes of one process: who looks at them, and how they stay fresh.

Theory: each mailbox that any session of this process has selected has one ``SharedView``. The change feed
says that a commit moved a mailbox to some modseq; if the view is behind, one ``changes_since`` brings it
up to date, whatever the number of sessions and of hints that came in meanwhile. Hints may get lost: every
``interval_s`` one query compares the modseqs of all open mailboxes.

A view without sessions stays warm for ``warm_s``, as clients reopen mailboxes all the time; it is not
refreshed then, only caught up when it is opened again. Warm views are bounded by messages.

References: RFC 9051 §5.2 (mailbox size and message status updates).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from storage.errors import NotFound, StorageError
from storage.model import MailboxId, ModSeq, Uid

from .view import SessionView, SharedView

if TYPE_CHECKING:
    from protocols.ports import ChangeFeed, MailboxChanged
    from storage.api import MailStore
    from storage.model import Mailbox

log = logging.getLogger("sora.imap.views")

SAFETY_INTERVAL_S: Final = 15.0  # how long a lost hint may delay news
WARM_S: Final = 60.0
MAX_WARM_MESSAGES: Final = 2_000_000  # 33 bytes each, plus keywords


@dataclass(slots=True, eq=False)
class _Open:
    """One mailbox that is open or warm."""

    view: SharedView
    unsubscribe: Callable[[], None]
    sessions: set[SessionView] = field(default_factory=set)
    wanted: ModSeq = ModSeq(0)  # noqa: RUF009 - a NewType of int; hinted by the feed
    refreshing: asyncio.Task[None] | None = None
    idle_since: float = 0.0


class ViewRegistry:
    """See the module docstring. One per process, shared by its sessions."""

    def __init__(
        self,
        mail: MailStore,
        feed: ChangeFeed,
        *,
        interval_s: float = SAFETY_INTERVAL_S,
        warm_s: float = WARM_S,
    ) -> None:
        self._mail = mail
        self._feed = feed
        self._interval_s = interval_s
        self._warm_s = warm_s
        self._open: dict[MailboxId, _Open] = {}
        self._loading: dict[MailboxId, asyncio.Task[_Open]] = {}
        self._background: set[asyncio.Task[None]] = set()

    @property
    def open_mailboxes(self) -> int:
        """Mailboxes in memory, warm ones included."""
        return len(self._open)

    # --- for sessions ---

    async def open(self, mailbox: Mailbox, *, read_only: bool, condstore: bool) -> SessionView:
        """A window on the mailbox, at least as new as ``mailbox``. At most one read.

        Raises StorageError; NotFound when the mailbox has just been deleted.
        """
        entry = await self._entry(mailbox.id)
        window = SessionView(
            entry.view, read_only=read_only, recent_from=mailbox.recent_uid, condstore=condstore
        )
        entry.sessions.add(window)
        try:
            await self.refresh(mailbox.id, max(entry.wanted, mailbox.highestmodseq))
            if entry.view.is_gone:
                raise NotFound("the mailbox is gone")
        except BaseException:
            self.close(window)
            raise
        window.sync(expunge_allowed=True)  # nothing was announced yet, so nothing needs to be told
        return window

    def close(self, window: SessionView) -> None:
        """The session leaves the mailbox. Idempotent."""
        window.close()
        mailbox_id = window.mailbox.id
        entry = self._open.get(mailbox_id)
        if entry is None or window not in entry.sessions:
            return
        entry.sessions.discard(window)
        if not entry.sessions:
            entry.idle_since = asyncio.get_running_loop().time()
            if entry.view.is_gone:
                self._drop(mailbox_id)
            self._bound_warm()

    async def refresh(self, mailbox_id: MailboxId, at_least: ModSeq) -> None:
        """Bring the view to ``at_least`` if it is behind. At most two reads; joins one that is under way.

        Raises StorageError.
        """
        entry = self._open.get(mailbox_id)
        if entry is None or entry.view.version >= at_least:
            return
        entry.wanted = max(entry.wanted, at_least)
        await asyncio.shield(self._start_refresh(mailbox_id, entry))

    def pending_refresh(self, mailbox_id: MailboxId) -> Awaitable[None] | None:
        """Something to wait for, if news of the mailbox are on their way right now."""
        entry = self._open.get(mailbox_id)
        if entry is None or entry.refreshing is None:
            return None
        return self._wait_quietly(entry.refreshing)

    def claim_recent(self, mailbox_id: MailboxId, upto: Uid) -> None:
        """Tell the store, some time later, that messages below ``upto`` are no longer recent."""
        self._spawn(self._claim_recent(mailbox_id, upto))

    # --- for the node ---

    async def run(self) -> None:
        """The safety net; runs until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.step()

    async def step(self) -> None:
        """Compare all open mailboxes with the store (one read), catch up, forget what is cold."""
        self._forget_cold()
        watched = [mailbox_id for mailbox_id, entry in self._open.items() if entry.sessions]
        if not watched:
            return
        try:
            present = await self._mail.modseqs(watched)
        except StorageError as error:
            log.warning("modseqs could not be compared: %s", error)
            return
        for mailbox_id in watched:
            entry = self._open.get(mailbox_id)
            if entry is None:
                continue
            if mailbox_id not in present:
                self._mark_gone(mailbox_id, entry)
            elif present[mailbox_id] > entry.view.version:
                self._want(mailbox_id, entry, present[mailbox_id])

    async def close_all(self) -> None:
        """Unsubscribe and end the background work; for shutdown."""
        tasks = [*self._background, *self._loading.values()]
        tasks += [entry.refreshing for entry in self._open.values() if entry.refreshing is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for mailbox_id in list(self._open):
            self._drop(mailbox_id)

    # --- loading ---

    async def _entry(self, mailbox_id: MailboxId) -> _Open:
        """The entry of a mailbox, loaded if need be. The caller adds its session without waiting."""
        known = self._open.get(mailbox_id)
        if known is not None and known.view.is_gone:  # it came back under its old id
            self._drop(mailbox_id)
        while (entry := self._open.get(mailbox_id)) is None:
            await self._load(mailbox_id)  # and if it was dropped as a warm one before we woke up, again
        return entry

    async def _load(self, mailbox_id: MailboxId) -> _Open:
        """Single flight: sessions that open the same mailbox at once share one read."""
        task = self._loading.get(mailbox_id)
        if task is None:
            task = self._loading[mailbox_id] = asyncio.create_task(self._load_now(mailbox_id))
            task.add_done_callback(lambda _done: self._loading.pop(mailbox_id, None))
        return await asyncio.shield(task)

    async def _load_now(self, mailbox_id: MailboxId) -> _Open:
        hinted: list[ModSeq] = []
        # subscribed before the read, so that no change falls between the two
        unsubscribe = self._feed.subscribe(mailbox_id, lambda change: hinted.append(change.modseq))
        try:
            loaded = await self._mail.load_view(mailbox_id)
        finally:
            unsubscribe()
        entry = _Open(SharedView(loaded), self._feed.subscribe(mailbox_id, self._on_change))
        entry.wanted = max(hinted, default=ModSeq(0))
        entry.idle_since = asyncio.get_running_loop().time()
        self._open[mailbox_id] = entry
        return entry

    # --- changes ---

    def _on_change(self, change: MailboxChanged) -> None:
        entry = self._open.get(change.mailbox_id)
        if entry is None:
            return
        if change.modseq == 0:  # created, deleted or renamed; which one, the store says
            self._want(change.mailbox_id, entry, ModSeq(entry.view.version + 1))
        elif change.modseq > entry.view.version:
            self._want(change.mailbox_id, entry, change.modseq)

    def _want(self, mailbox_id: MailboxId, entry: _Open, modseq: ModSeq) -> None:
        entry.wanted = max(entry.wanted, modseq)
        if entry.sessions:
            self._start_refresh(mailbox_id, entry)

    def _start_refresh(self, mailbox_id: MailboxId, entry: _Open) -> asyncio.Task[None]:
        if entry.refreshing is None:
            entry.refreshing = asyncio.create_task(self._refresh(mailbox_id, entry))
            entry.refreshing.add_done_callback(self._refreshed)
        return entry.refreshing

    async def _refresh(self, mailbox_id: MailboxId, entry: _Open) -> None:
        """One read, and another one only if a hint that came in meanwhile asks for it."""
        try:
            while True:
                wanted = entry.wanted
                entry.view.apply(await self._mail.changes_since(mailbox_id, entry.view.version))
                if entry.wanted <= max(wanted, entry.view.version):
                    break
            entry.wanted = entry.view.version
        except NotFound:
            self._mark_gone(mailbox_id, entry)
        finally:
            entry.refreshing = None

    @staticmethod
    def _refreshed(task: asyncio.Task[None]) -> None:
        """Nobody may be waiting for it; the safety net tries again."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StorageError):
            log.warning("a mailbox view could not be refreshed: %s", error)
        elif error is not None:
            log.error("refreshing a mailbox view failed", exc_info=error)

    @staticmethod
    async def _wait_quietly(task: asyncio.Task[None]) -> None:
        """The client only asked for news; there are none then."""
        with contextlib.suppress(StorageError):
            await asyncio.shield(task)

    def _mark_gone(self, mailbox_id: MailboxId, entry: _Open) -> None:
        entry.view.mark_gone()
        if not entry.sessions:
            self._drop(mailbox_id)

    async def _claim_recent(self, mailbox_id: MailboxId, upto: Uid) -> None:
        try:
            await self._mail.claim_recent(mailbox_id, upto)
        except StorageError as error:
            # harmless: the messages are recent once more in the next session
            log.info("mailbox %d: recent messages could not be claimed: %s", mailbox_id, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- memory ---

    def _drop(self, mailbox_id: MailboxId) -> None:
        entry = self._open.pop(mailbox_id, None)
        if entry is not None:
            entry.unsubscribe()

    def _warm(self) -> list[tuple[MailboxId, _Open]]:
        """Without sessions, the longest idle first."""
        warm = [item for item in self._open.items() if not item[1].sessions]
        return sorted(warm, key=lambda item: item[1].idle_since)

    def _forget_cold(self) -> None:
        limit = asyncio.get_running_loop().time() - self._warm_s
        for mailbox_id, entry in self._warm():
            if entry.idle_since <= limit:
                self._drop(mailbox_id)

    def _bound_warm(self) -> None:
        warm = self._warm()
        excess = sum(len(entry.view) for _, entry in warm) - MAX_WARM_MESSAGES
        for mailbox_id, entry in warm:
            if excess <= 0:
                return
            excess -= len(entry.view)
            self._drop(mailbox_id)
