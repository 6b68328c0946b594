"""Sieve scripts of accounts: the records, the contract of their store, and the rules of their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from .errors import InvalidName, OverQuota, TooBig
from .model import AccountId

MAX_NAME_BYTES = 512  # RFC 5804 §1.6 asks for at least 128 characters
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class ScriptInfo:
    name: str
    size_bytes: int
    is_active: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ScriptQuota:
    """Of one account."""

    scripts: int = 100
    script_bytes: int = 16 * 1024

    def check_size(self, size_bytes: int) -> None:
        """Raises TooBig."""
        if size_bytes > self.script_bytes:
            raise TooBig(f"a script has at most {self.script_bytes} octets, this one {size_bytes}")

    def check_count(self, others: int) -> None:
        """``others``: scripts beside the one to be stored. Raises OverQuota."""
        if others >= self.scripts:
            raise OverQuota(f"an account has at most {self.scripts} scripts")


class ScriptStore(Protocol):
    """Scripts by account and name. At most one of an account is active.

    Every method may raise Unavailable, every one that writes CommitUnknown: writing the same again is
    harmless. Those that write raise NotFound when the account is gone.
    """

    async def scripts(self, account_id: AccountId) -> list[ScriptInfo]:
        """By name. One read."""
        ...

    async def script(self, account_id: AccountId, name: str) -> bytes:
        """One read of the primary. Raises NotFound."""
        ...

    async def contents(self, account_id: AccountId, names: Sequence[str]) -> Mapping[str, bytes]:
        """Of several; names that do not exist are absent. One read."""
        ...

    async def has_space(self, account_id: AccountId, name: str, size_bytes: int, quota: ScriptQuota) -> None:
        """Whether ``put`` of so many octets would be taken now. Raises TooBig, OverQuota, InvalidName."""
        ...

    async def put(self, account_id: AccountId, name: str, content: bytes, quota: ScriptQuota) -> None:
        """Store or replace; an active script stays active.

        Raises TooBig, OverQuota (too many scripts), InvalidName.
        """
        ...

    async def activate(self, account_id: AccountId, name: str | None) -> None:
        """Make this the active one in one commit; None: no script is active. Raises NotFound."""
        ...

    async def rename(self, account_id: AccountId, old: str, new: str) -> None:
        """Atomic; the active script stays active. Raises NotFound, AlreadyExists, InvalidName."""
        ...

    async def delete(self, account_id: AccountId, name: str) -> None:
        """Raises NotFound; NotPermitted for the active one (RFC 5804 §2.10)."""
        ...

    async def seen(self, account_id: AccountId, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Those that are remembered and have not expired (RFC 7352 §3). One read of the primary."""
        ...

    async def remember(self, account_id: AccountId, keys: Sequence[tuple[bytes, int]]) -> None:
        """Keys of KEY_BYTES for so many seconds; a longer memory of a key stays. Drops expired ones."""
        ...


def checked_name(name: str) -> str:
    """The name of a script to be stored, in NFC. Raises InvalidName (RFC 5804 §1.6)."""
    name = unicodedata.normalize("NFC", name)
    if not name:
        raise InvalidName("a script needs a name")
    if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in name):
        raise InvalidName("name of a script with a control character")
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        raise InvalidName(f"name of a script longer than {MAX_NAME_BYTES} octets")
    return name
