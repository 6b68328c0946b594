"""Recipients are remembered for a while, and forgotten when their scripts change."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from node.feed import LocalFeed
from protocols.lmtp.recipients import RecipientDirectory
from protocols.settings import follow_settings, settings_changed
from storage.api import AccountStore
from storage.model import AccountId, ActiveScript, MailboxId, Recipient


class Accounts:
    def __init__(self) -> None:
        self.reads = 0
        self.found = {
            f"{name}@example.org": Recipient(AccountId(number), f"{name}@example.org", MailboxId(number))
            for number, name in enumerate(("ann", "bob"), 1)
        }
        self.found["alias@example.org"] = self.found["ann@example.org"]
        self.meanwhile: Callable[[], None] = lambda: None

    async def recipient(self, address: str) -> Recipient | None:
        self.reads += 1
        found = self.found.get(address)
        self.meanwhile()
        return found


def directory(accounts: Accounts, **options: Any) -> RecipientDirectory:
    return RecipientDirectory(cast("AccountStore", accounts), clock=lambda: 0.0, **options)


async def test_a_changed_script_is_asked_for_at_once_under_every_address() -> None:
    accounts, feed = Accounts(), LocalFeed()
    known = directory(accounts)
    follow_settings(feed, known)
    for address in ("ann@example.org", "alias@example.org", "bob@example.org"):
        assert await known.look_up(address) is not None
    new = replace(accounts.found["ann@example.org"], script=ActiveScript("new", b"keep;"))
    accounts.found["ann@example.org"] = accounts.found["alias@example.org"] = new
    feed.publish(settings_changed(AccountId(1)))
    assert known.remembered("ann+detail@example.org") is known.remembered("alias@example.org") is None
    assert known.remembered("bob@example.org") is not None
    found = await known.look_up("ann@example.org")
    assert found is not None
    assert found.recipient.script == new.script


async def test_what_was_read_while_it_changed_is_not_remembered() -> None:
    accounts, feed = Accounts(), LocalFeed()
    known = directory(accounts)
    follow_settings(feed, known)
    accounts.meanwhile = lambda: feed.publish(settings_changed(AccountId(1)))
    assert await known.look_up("ann@example.org") is not None
    assert known.remembered("ann@example.org") is None


async def test_the_oldest_goes_first_and_addresses_go_with_their_entries() -> None:
    accounts, feed = Accounts(), LocalFeed()
    known = directory(accounts, max_entries=2)
    follow_settings(feed, known)
    for address in ("ann@example.org", "alias@example.org", "ann@example.org", "bob@example.org"):
        await known.look_up(address)
    assert known.remembered("alias@example.org") is None
    assert known.remembered("ann@example.org") is not None
    del accounts.found["ann@example.org"]
    assert await known.look_up("ann@example.org") is None
    assert known.remembered("ann@example.org") is None
    feed.publish(settings_changed(AccountId(1)))


async def test_the_feed_keeps_no_directory_alive() -> None:
    accounts, feed = Accounts(), LocalFeed()
    known = directory(accounts)
    follow_settings(feed, known)
    del known
    gc.collect()
    feed.publish(settings_changed(AccountId(1)))
    assert not feed._listeners
