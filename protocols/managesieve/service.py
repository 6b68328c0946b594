"""What a server of this protocol works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from storage.model import AccountId

from .compiler import ScriptCompiler


class StoredScript(Protocol):
    name: str
    is_active: bool


class ScriptStore(Protocol):
    async def list_scripts(self, account_id: AccountId) -> Sequence[StoredScript]: ...
    async def get_script(self, account_id: AccountId, name: str) -> bytes: ...
    async def put_script(
        self, account_id: AccountId, name: str, script: bytes, *, max_scripts: int
    ) -> None: ...
    async def activate_script(self, account_id: AccountId, name: str | None) -> None: ...
    async def delete_script(self, account_id: AccountId, name: str) -> None: ...
    async def rename_script(self, account_id: AccountId, old: str, new: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ScriptService:
    """Scripts, the engine that judges them, and what one account may have; ``max_scripts`` 0 is no limit."""

    store: ScriptStore
    compiler: ScriptCompiler
    max_script_bytes: int = 16 * 1024
    max_scripts: int = 100
