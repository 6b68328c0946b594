"""Annotations in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from storage.annotations import AnnotationLimits, AnnotationStore, Entries, Place
from storage.errors import NotFound
from storage.model import AccountId

from .tables import Tables


class MemoryAnnotationStore(AnnotationStore):
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def _live(self, account_id: AccountId) -> dict[Place, Entries]:
        if account_id not in self._tables.accounts:
            return {}
        mailboxes = {box.id for box in self._tables.of_account(account_id).values()}
        return {
            place: entries
            for (owner, place), entries in self._tables.annotations.items()
            if owner == account_id and entries and (place is None or place in mailboxes)
        }

    async def everything(self, account_id: AccountId) -> Mapping[Place, Entries]:
        return {place: dict(entries) for place, entries in self._live(account_id).items()}

    async def at(self, account_id: AccountId, place: Place) -> Entries:
        return dict(self._live(account_id).get(place, {}))

    async def named(self, account_id: AccountId, entries: Sequence[str]) -> Mapping[Place, Entries]:
        found = {
            place: {name: value for name, value in there.items() if name in entries}
            for place, there in self._live(account_id).items()
        }
        return {place: there for place, there in found.items() if there}

    async def change(
        self,
        account_id: AccountId,
        place: Place,
        changes: Mapping[str, bytes | None],
        limits: AnnotationLimits,
    ) -> None:
        limits.check_values(changes)
        self._tables.live_account(account_id)
        if place is not None and self._tables.live(place).account_id != account_id:
            raise NotFound("the mailbox is gone")
        everything = self._live(account_id)
        wanted = {**everything.get(place, {}), **changes}
        there = {name: value for name, value in wanted.items() if value is not None}
        everything[place] = there
        if any(value is not None for value in changes.values()):
            total_bytes = sum(len(value) for each in everything.values() for value in each.values())
            limits.check_sums(place, len(there), total_bytes)
        self._tables.annotations[account_id, place] = there
