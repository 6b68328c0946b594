"""A Sieve engine for sessions under test: what it finds in a script is written in the script."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.managesieve.compiler import Verdict
from storage.errors import AlreadyExists, NotFound, NotPermitted, OverQuota
from storage.model import AccountId


class MarkedCompiler:
    """Every line of a script that begins with ``error`` or ``warning`` is one."""

    def __init__(self) -> None:
        self.extensions = ("fileinto", "vacation")
        self.notify_schemes: tuple[str, ...] = ()
        self.max_redirects: int | None = None
        self.checked: list[bytes] = []
        self.faults: list[Exception] = []

    async def check(self, script: bytes) -> Verdict:
        self.checked.append(script)
        if self.faults:
            raise self.faults.pop(0)
        lines = script.decode("utf-8", "replace").splitlines()
        return Verdict(
            errors="\n".join(line for line in lines if line.startswith("error")),
            warnings="\n".join(line for line in lines if line.startswith("warning")),
        )


@dataclass
class Shelved:
    name: str
    script: bytes
    is_active: bool = False


class Shelf:
    """Scripts in memory."""

    def __init__(self) -> None:
        self.scripts: dict[tuple[AccountId, str], Shelved] = {}

    async def list_scripts(self, account_id: AccountId) -> list[Shelved]:
        return sorted(
            (each for (owner, _), each in self.scripts.items() if owner == account_id), key=lambda s: s.name
        )

    async def get_script(self, account_id: AccountId, name: str) -> bytes:
        return self._get(account_id, name).script

    def _get(self, account_id: AccountId, name: str) -> Shelved:
        if (account_id, name) not in self.scripts:
            raise NotFound(name)
        return self.scripts[account_id, name]

    async def put_script(self, account_id: AccountId, name: str, script: bytes, *, max_scripts: int) -> None:
        if (account_id, name) in self.scripts:
            self.scripts[account_id, name].script = script
            return
        if max_scripts and len(await self.list_scripts(account_id)) >= max_scripts:
            raise OverQuota("scripts")
        self.scripts[account_id, name] = Shelved(name, script)

    async def activate_script(self, account_id: AccountId, name: str | None) -> None:
        if name is not None:
            self._get(account_id, name)
        for each in await self.list_scripts(account_id):
            each.is_active = each.name == name

    async def delete_script(self, account_id: AccountId, name: str) -> None:
        if self._get(account_id, name).is_active:
            raise NotPermitted(name)
        del self.scripts[account_id, name]

    async def rename_script(self, account_id: AccountId, old: str, new: str) -> None:
        script = self._get(account_id, old)
        if (account_id, new) in self.scripts:
            raise AlreadyExists(new)
        self.scripts[account_id, new] = self.scripts.pop((account_id, old))
        script.name = new
