"""Annotations as protocols see them (RFC 5464): those of the store, and the site's."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from storage.annotations import AnnotationLimits, AnnotationStore, Entries, Place
from storage.errors import NotPermitted
from storage.model import AccountId, MailboxId

from .ports import ChangeFeed
from .settings import follow_settings, settings_changed

COMMENT: Final = "/shared/comment"
ADMIN: Final = "/shared/admin"  # RFC 5464 §6.2.1.2: nobody sets it
SCRIPT: Final = "/shared/imapsieve/script"  # RFC 6785 §2.3.1
TTL_S: Final = 10.0
MAX_ACCOUNTS: Final = 20_000
_NONE: Final[Mapping[Place, Entries]] = {}


class Annotations:
    """One per process. ``site``: entries of the server that users read and cannot change. ``feed``: what is
    changed by other processes acts here once it is heard of. ``clock`` gives monotonic seconds."""

    def __init__(
        self,
        store: AnnotationStore,
        limits: AnnotationLimits,
        *,
        site: Entries | None = None,
        feed: ChangeFeed | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._store = store
        self._site = dict(site or {})
        self._clock = clock
        self._changes = 0
        self._scripts: OrderedDict[AccountId, tuple[float, Mapping[Place, Entries]]] = OrderedDict()
        self._feed = feed
        if feed is not None:
            follow_settings(feed, self)

    async def everything(self, account_id: AccountId) -> Mapping[Place, Entries]:
        """One read. Raises StorageError."""
        found = await self._store.everything(account_id)
        return {**found, None: {**found.get(None, {}), **self._site}}

    async def at(self, account_id: AccountId, place: Place) -> Entries:
        """One read. Raises StorageError."""
        found = await self._store.at(account_id, place)
        return {**found, **self._site} if place is None else found

    async def of_mailboxes(self, account_id: AccountId, entries: Sequence[str]) -> Mapping[Place, Entries]:
        """These entries, of all mailboxes. One read. Raises StorageError."""
        return await self._store.named(account_id, entries)

    async def change(self, account_id: AccountId, place: Place, changes: Mapping[str, bytes | None]) -> None:
        """All of it or nothing. Raises StorageError: NotPermitted for what is the site's."""
        if place is None and (ADMIN in changes or self._site.keys() & changes.keys()):
            raise NotPermitted("this annotation is the administrator's")
        try:
            await self._store.change(account_id, place, changes, self.limits)
        finally:
            self.forget(account_id)
            if self._feed is not None and SCRIPT in changes:
                self._feed.publish(settings_changed(account_id))

    def forget(self, account_id: AccountId) -> None:
        """What is being read now is not remembered either."""
        self._changes += 1
        self._scripts.pop(account_id, None)

    async def script_of(self, account_id: AccountId, mailbox_id: MailboxId) -> str | None:
        """The name of the script for what happens in the mailbox: its own entry, or else the account's; None:
        there is none, or the one that counts is empty or no name (RFC 6785 §2.3.1).

        One read for all mailboxes of the account, then none for TTL_S or until it is changed.
        Raises StorageError.
        """
        places = await self._script_places(account_id)
        if not places:
            return None
        entries = places.get(mailbox_id) or places.get(None) or {}
        return entries.get(SCRIPT, b"").decode("utf-8", "replace") or None

    async def _script_places(self, account_id: AccountId) -> Mapping[Place, Entries]:
        entry = self._scripts.get(account_id)
        if entry is not None and entry[0] > self._clock():
            return entry[1]
        changes = self._changes
        found = await self._store.named(account_id, [SCRIPT]) or _NONE
        if changes != self._changes:  # it may have been read before that
            return found
        self._scripts[account_id] = (self._clock() + TTL_S, found)
        self._scripts.move_to_end(account_id)
        while len(self._scripts) > MAX_ACCOUNTS:
            self._scripts.popitem(last=False)
        return found
