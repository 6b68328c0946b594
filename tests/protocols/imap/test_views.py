"""Open mailboxes of a process: one read for all, nothing lost when hints are, memory given back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from protocols.imap import views as module
from protocols.imap.view import SessionView
from protocols.imap.views import ViewRegistry
from protocols.ports import MailboxChanged
from storage.errors import NotFound, Unavailable
from storage.model import Flags, ModSeq, SystemFlag
from tests.support.imap import ACCOUNT, MemoryFeed, MemoryMail
from tests.support.mailhost import Watched


class Lab:
    def __init__(self, messages: int = 2, warm_s: float = 60.0) -> None:
        self.mail = MemoryMail()
        for _ in range(messages):
            self.mail.deliver()
        self.watched = Watched(self.mail.store)
        self.feed = MemoryFeed()
        store: Any = self.watched
        self.views = ViewRegistry(store, self.feed, warm_s=warm_s)

    async def open(self, name: str = "INBOX") -> SessionView:
        return await self.views.open(self.mail.mailbox(name), read_only=False, condstore=False)

    def announce(self, modseq: int | None = None) -> None:
        mailbox = self.mail.mailbox()
        self.feed.publish(MailboxChanged(ACCOUNT, mailbox.id, ModSeq(modseq or mailbox.highestmodseq)))

    async def settle(self) -> None:
        while any(entry.refreshing for entry in self.views._open.values()):
            await asyncio.sleep(0)


async def test_opening_at_once_reads_once() -> None:
    lab = Lab()
    windows = await asyncio.gather(*(lab.open() for _ in range(5)))
    assert lab.watched.calls == ["load_view"]
    assert len({id(window.shared) for window in windows}) == 1
    assert windows[0].count == 2


async def test_change_during_the_load_is_not_lost() -> None:
    lab = Lab()
    original = lab.mail.store.load_view

    async def slow(mailbox_id: Any) -> Any:
        loaded = await original(mailbox_id)
        lab.mail.deliver()  # committed after the snapshot was taken
        lab.announce()
        return loaded

    lab.mail.store.load_view = slow  # type: ignore[method-assign]
    window = await lab.open()
    assert window.count == 3


async def test_failed_load_leaves_nothing_behind() -> None:
    lab = Lab()
    lab.watched.faults["load_view"] = [Unavailable("away")]
    with pytest.raises(Unavailable):
        await lab.open()
    assert lab.views.open_mailboxes == 0
    assert not any(lab.feed.listeners.values())
    assert (await lab.open()).count == 2


async def test_many_hints_one_read_and_known_ones_none() -> None:
    lab = Lab()
    window = await lab.open()
    lab.watched.calls.clear()
    for _ in range(3):
        lab.mail.deliver()
        lab.announce()
    await lab.settle()
    assert lab.watched.calls == ["changes_since"]
    lab.announce()
    assert lab.watched.calls == ["changes_since"]
    assert window.sync(expunge_allowed=True).exists == 5


async def test_hint_that_comes_during_a_refresh_is_read_too() -> None:
    lab = Lab()
    window = await lab.open()
    original = lab.mail.store.changes_since

    async def slow(mailbox_id: Any, modseq: Any) -> Any:
        lab.mail.store.changes_since = original  # type: ignore[method-assign]
        changes = await original(mailbox_id, modseq)
        lab.mail.deliver()
        lab.announce()
        return changes

    lab.mail.store.changes_since = slow  # type: ignore[method-assign]
    lab.mail.deliver()
    lab.announce()
    await lab.settle()
    assert window.sync(expunge_allowed=True).exists == 4


async def test_sessions_that_wait_are_woken() -> None:
    lab = Lab()
    windows = [await lab.open() for _ in range(3)]
    woken: list[int] = []
    for number, window in enumerate(windows):
        window.notify = lambda number=number: woken.append(number)  # type: ignore[misc]
    lab.mail.flag(1, Flags(SystemFlag.SEEN))
    lab.announce()
    await lab.settle()
    assert sorted(woken) == [0, 1, 2]


async def test_lost_hint_is_found_by_one_query_for_all_mailboxes() -> None:
    lab = Lab()
    lab.mail.deliver("Archive")
    inbox, archive = await lab.open(), await lab.open("Archive")
    lab.watched.calls.clear()
    lab.mail.deliver()
    await lab.views.step()
    await lab.settle()
    assert lab.watched.calls == ["modseqs", "changes_since"]
    assert inbox.pending
    assert not archive.pending


async def test_safety_net_survives_an_outage() -> None:
    lab = Lab()
    window = await lab.open()
    lab.mail.deliver()
    lab.watched.faults["modseqs"] = [Unavailable("away")]
    await lab.views.step()
    lab.watched.faults["changes_since"] = [Unavailable("away")]
    await lab.views.step()
    await lab.settle()
    assert not window.pending
    await lab.views.step()
    await lab.settle()
    assert window.pending


async def test_safety_net_finds_deleted_mailboxes() -> None:
    lab = Lab()
    lab.mail.deliver("Archive")
    window = await lab.open("Archive")
    await lab.mail.store.delete_mailbox(ACCOUNT, "Archive")
    await lab.views.step()
    assert window.shared.is_gone
    lab.views.close(window)
    assert lab.views.open_mailboxes == 0


async def test_opening_a_mailbox_that_has_just_been_deleted() -> None:
    lab = Lab()
    mailbox = lab.mail.mailbox("Archive")
    await lab.mail.store.delete_mailbox(ACCOUNT, "Archive")
    with pytest.raises(NotFound):
        await lab.views.open(mailbox, read_only=False, condstore=False)


async def test_mailbox_that_vanishes_between_the_two_reads_is_not_found() -> None:
    lab = Lab()
    lab.views.close(await lab.open("Archive"))
    lab.mail.deliver("Archive")
    newer = lab.mail.mailbox("Archive")
    await lab.mail.store.delete_mailbox(ACCOUNT, "Archive")
    with pytest.raises(NotFound):
        await lab.views.open(newer, read_only=False, condstore=False)
    assert lab.views.open_mailboxes == 0


async def test_view_dropped_before_its_opener_woke_up_is_loaded_again() -> None:
    lab = Lab()
    original = lab.views._load
    dropped: list[int] = []

    async def load(mailbox_id: Any) -> Any:
        entry = await original(mailbox_id)
        if not dropped:
            lab.views._drop(mailbox_id)
            dropped.append(mailbox_id)
        return entry

    lab.views._load = load  # type: ignore[method-assign]
    window = await lab.open()
    lab.mail.deliver()
    lab.announce()
    await lab.settle()
    assert window.sync(expunge_allowed=True).exists == 3


async def test_view_stays_warm_but_is_not_refreshed_until_it_is_opened_again() -> None:
    lab = Lab()
    lab.views.close(await lab.open())
    lab.watched.calls.clear()
    lab.mail.deliver()
    lab.announce()
    await lab.settle()
    assert lab.watched.calls == []
    assert (await lab.open()).count == 3
    assert lab.watched.calls == ["changes_since"]


async def test_cold_views_are_forgotten() -> None:
    lab = Lab(warm_s=0.0)
    window = await lab.open()
    await lab.views.step()
    assert lab.views.open_mailboxes == 1
    lab.views.close(window)
    await lab.views.step()
    assert lab.views.open_mailboxes == 0
    assert not any(lab.feed.listeners.values())


async def test_warm_views_are_bounded_by_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WARM_MESSAGES", 2)
    lab = Lab(messages=2)
    lab.mail.deliver("Archive")
    inbox, archive = await lab.open(), await lab.open("Archive")
    lab.views.close(inbox)
    assert lab.views.open_mailboxes == 2
    lab.views.close(archive)
    assert list(lab.views._open) == [archive.mailbox.id]  # the longest idle went


async def test_close_all_ends_background_work() -> None:
    lab = Lab()
    await lab.open()
    lab.views.claim_recent(lab.mail.mailbox().id, lab.mail.mailbox().uidnext)
    await lab.views.close_all()
    assert lab.views.open_mailboxes == 0
    assert not lab.views._background


async def test_run_steps_until_cancelled() -> None:
    lab = Lab()
    store: Any = lab.watched
    lab.views = ViewRegistry(store, lab.feed, interval_s=0.0)
    await lab.open()
    running = asyncio.create_task(lab.views.run())
    while "modseqs" not in lab.watched.calls:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
