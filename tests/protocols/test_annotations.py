"""The script that an annotation names, in several processes: asked for once, and afresh when it changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from node.feed import LocalFeed
from protocols.annotations import COMMENT, SCRIPT, TTL_S, Annotations
from storage.annotations import AnnotationLimits
from storage.memory.annotations import MemoryAnnotationStore
from storage.model import INBOX, AccountId, MailboxId
from tests.support.mailhost import Watched, mail_host

ANN = "ann@example.test"


class Host:
    """Two processes on one store; ``between`` carries what one publishes to both, or nothing does."""

    async def build(self, *, has_feed: bool = True) -> Host:
        host = await mail_host()
        self.account: AccountId = (await host.account_store.account(ANN)).id
        self.inbox: MailboxId = (await host.mail.get_mailbox(self.account, INBOX)).id
        self.store = Watched(MemoryAnnotationStore(host.tables))
        self.now_s = 0.0
        self.feed = LocalFeed() if has_feed else None
        self.one, self.other = (
            Annotations(cast("Any", self.store), AnnotationLimits(), feed=self.feed, clock=lambda: self.now_s)
            for _ in range(2)
        )
        return self

    async def name(self, script: bytes | None) -> None:
        await self.one.change(self.account, self.inbox, {SCRIPT: script})

    async def named(self) -> tuple[str | None, str | None]:
        one = await self.one.script_of(self.account, self.inbox)
        return one, await self.other.script_of(self.account, self.inbox)


async def test_a_change_acts_in_all_processes_at_once() -> None:
    host = await Host().build()
    assert await host.named() == (None, None)
    for script in (b"first", b"second", None, b"third"):
        await host.name(script)
        wanted = script.decode() if script else None
        assert await host.named() == (wanted, wanted)


async def test_without_a_notice_it_acts_later() -> None:
    host = await Host().build(has_feed=False)
    assert await host.named() == (None, None)
    await host.name(b"first")
    assert await host.named() == ("first", None)
    host.now_s += TTL_S
    assert await host.named() == ("first", "first")


async def test_what_was_read_before_the_change_is_not_remembered() -> None:
    host = await Host().build()
    read: Callable[..., Any] = host.store.named

    async def slow(*arguments: Any) -> Any:
        found = await read(*arguments)
        await host.name(b"new")
        return found

    host.store.named = slow
    assert await host.other.script_of(host.account, host.inbox) is None
    host.store.named = read
    assert await host.named() == ("new", "new")


async def test_other_annotations_are_no_news() -> None:
    host = await Host().build()
    await host.named()
    host.store.calls.clear()
    await host.one.change(host.account, host.inbox, {COMMENT: b"x"})
    await host.other.script_of(host.account, host.inbox)
    assert host.store.calls == ["change"]
