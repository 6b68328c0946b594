"""Sieve scripts in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from storage.errors import AlreadyExists, NotFound, NotPermitted
from storage.model import AccountId
from storage.scripts import ScriptInfo, ScriptQuota, ScriptStore, checked_name

from .tables import StoredScript, Tables


class MemoryScriptStore(ScriptStore):
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def _of(self, account_id: AccountId) -> dict[str, StoredScript]:
        return self._tables.scripts.setdefault(account_id, {})

    async def scripts(self, account_id: AccountId) -> list[ScriptInfo]:
        return [
            ScriptInfo(name, len(each.content), each.is_active, each.created_at, each.updated_at)
            for name, each in sorted(self._of(account_id).items())
        ]

    async def script(self, account_id: AccountId, name: str) -> bytes:
        return self._found(account_id, name).content

    async def contents(self, account_id: AccountId, names: Sequence[str]) -> Mapping[str, bytes]:
        scripts = self._of(account_id)
        return {name: scripts[name].content for name in names if name in scripts}

    async def has_space(self, account_id: AccountId, name: str, size_bytes: int, quota: ScriptQuota) -> None:
        name = checked_name(name)
        quota.check_size(size_bytes)
        quota.check_count(sum(other != name for other in self._of(account_id)))

    async def put(self, account_id: AccountId, name: str, content: bytes, quota: ScriptQuota) -> None:
        await self.has_space(account_id, name, len(content), quota)
        self._tables.live_account(account_id)
        name, now = checked_name(name), self._tables.now()
        before = self._of(account_id).get(name) or StoredScript(b"", False, now, now)
        self._of(account_id)[name] = replace(before, content=content, updated_at=now)

    async def activate(self, account_id: AccountId, name: str | None) -> None:
        self._tables.live_account(account_id)
        if name is not None:
            self._found(account_id, name)
        scripts = self._of(account_id)
        for each, script in scripts.items():
            scripts[each] = replace(script, is_active=each == name)

    async def rename(self, account_id: AccountId, old: str, new: str) -> None:
        self._tables.live_account(account_id)
        new = checked_name(new)
        script, scripts = self._found(account_id, old), self._of(account_id)
        if new != old and new in scripts:
            raise AlreadyExists(f"there is a script {new!r} already")
        del scripts[old]
        scripts[new] = replace(script, updated_at=self._tables.now())

    async def delete(self, account_id: AccountId, name: str) -> None:
        self._tables.live_account(account_id)
        if self._found(account_id, name).is_active:
            raise NotPermitted(f"{name!r} is the active script")
        del self._of(account_id)[name]

    async def seen(self, account_id: AccountId, keys: Sequence[bytes]) -> frozenset[bytes]:
        now, seen = self._tables.now(), self._tables.seen
        return frozenset(key for key in keys if seen.get((account_id, key), now) > now)

    async def remember(self, account_id: AccountId, keys: Sequence[tuple[bytes, int]]) -> None:
        now, seen = self._tables.now(), self._tables.seen
        for key, period_s in keys:
            expires = now + timedelta(seconds=period_s)
            seen[account_id, key] = max(seen.get((account_id, key), expires), expires)

    def _found(self, account_id: AccountId, name: str) -> StoredScript:
        found = self._of(account_id).get(name)
        if found is None:
            raise NotFound(f"there is no script {name!r}")
        return found
