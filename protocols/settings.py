"""Settings of accounts that processes remember: scripts, and the annotations that name them."""

from __future__ import annotations

import weakref
from typing import Protocol

from storage.model import AccountId, ModSeq

from .ports import SETTINGS, ChangeFeed, MailboxChanged


class Remembering(Protocol):
    def forget(self, account_id: AccountId) -> None: ...


def settings_changed(account_id: AccountId) -> MailboxChanged:
    return MailboxChanged(account_id, SETTINGS, ModSeq(0))


def follow_settings(feed: ChangeFeed, memory: Remembering) -> None:
    """``memory`` forgets accounts whose settings change, wherever that is, for as long as it lives."""
    this = weakref.ref(memory)

    def heard(change: MailboxChanged) -> None:
        living = this()
        if living is None:
            end()
        else:
            living.forget(change.account_id)

    end = feed.subscribe(SETTINGS, heard)
