"""Accounts and credentials in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count

from storage.api import AccountStore
from storage.errors import AlreadyExists, NotFound, NotPermitted
from storage.model import Account, AccountId, ActiveScript, Credential, CredentialId, MailboxId, Recipient

from .tables import Tables


@dataclass(slots=True)
class _Entry:
    id: AccountId
    created_at: datetime
    inbox_id: MailboxId
    deleted_at: datetime | None = None
    credentials: dict[str, Credential] = field(default_factory=dict)

    @property
    def primary_address(self) -> str:
        return next(each.address for each in self.credentials.values() if each.is_primary)


def _no_one_else(_account_id: AccountId, _deleted_at: datetime | None) -> None:
    """Nothing depends on the account."""


class MemoryAccountStore(AccountStore):
    """``provision`` makes the default mailboxes of a new account and returns its INBOX; ``usage`` gives
    an account's messages and bytes; ``now`` the aware current time; ``note_deleted`` is told when an
    account is deleted (and when) or restored (None); ``active_script`` gives its Sieve script."""

    def __init__(
        self,
        provision: Callable[[AccountId], MailboxId],
        usage: Callable[[AccountId], tuple[int, int]],
        now: Callable[[], datetime],
        *,
        next_id: Callable[[], int] | None = None,
        note_deleted: Callable[[AccountId, datetime | None], None] = _no_one_else,
        active_script: Callable[[AccountId], ActiveScript | None] = lambda _account_id: None,
    ) -> None:
        self._provision = provision
        self._usage = usage
        self._now = now
        self._next_id = next_id or count(1).__next__
        self._credential_ids = count(1)
        self._note_deleted = note_deleted
        self._active_script = active_script
        self._entries: dict[AccountId, _Entry] = {}
        self._by_address: dict[str, _Entry] = {}  # live accounts only

    @classmethod
    def beside(cls, tables: Tables) -> MemoryAccountStore:
        """The accounts whose mailboxes are in ``tables``."""

        def note_deleted(account_id: AccountId, deleted_at: datetime | None) -> None:
            account = tables.accounts.get(account_id)
            if account is None:
                raise NotFound("the account has been purged")
            account.deleted_at = deleted_at

        return cls(
            tables.provision,
            tables.usage,
            tables.now,
            next_id=tables.next_id,
            note_deleted=note_deleted,
            active_script=tables.active_script,
        )

    async def login(self, address: str) -> tuple[Credential, str] | None:
        entry = self._by_address.get(address)
        return None if entry is None else (entry.credentials[address], entry.primary_address)

    async def recipient(self, address: str) -> Recipient | None:
        entry = self._by_address.get(address)
        if entry is None:
            return None
        return Recipient(entry.id, entry.primary_address, entry.inbox_id, self._active_script(entry.id))

    async def addresses(self, account_id: AccountId) -> frozenset[str]:
        entry = self._entries.get(account_id)
        return frozenset(entry.credentials if entry and entry.deleted_at is None else ())

    async def create_account(self, address: str, password_hash: str) -> Account:
        self._must_be_free(address)
        account_id = AccountId(self._next_id())
        entry = _Entry(account_id, self._now(), self._provision(account_id))
        self._entries[account_id] = entry
        self._add(entry, address, password_hash, is_primary=True)
        return self._account(entry)

    async def accounts(self, domain: str | None = None, *, include_deleted: bool = False) -> list[Account]:
        found = [
            self._account(entry)
            for entry in self._entries.values()
            if (include_deleted or entry.deleted_at is None)
            and (domain is None or any(each.endswith(f"@{domain}") for each in entry.credentials))
        ]
        return sorted(found, key=lambda account: account.primary_address)

    async def account(self, address: str, *, include_deleted: bool = False) -> Account:
        entry = self._by_address.get(address)
        if entry is None and include_deleted:
            entry = self._last_deleted(address)
        if entry is None:
            raise _unknown(address)
        return self._account(entry)

    async def delete_account(self, address: str) -> None:
        entry = self._live(address)
        entry.deleted_at = self._now()
        self._note_deleted(entry.id, entry.deleted_at)
        for each in entry.credentials:
            del self._by_address[each]

    async def restore_account(self, address: str) -> None:
        entry = self._last_deleted(address)
        if entry is None:
            raise _unknown(address)
        if any(each in self._by_address for each in entry.credentials):
            raise AlreadyExists(f"an address of {address} belongs to another account now")
        self._note_deleted(entry.id, None)
        entry.deleted_at = None
        self._by_address.update(dict.fromkeys(entry.credentials, entry))

    async def add_credential(self, primary: str, address: str, password_hash: str) -> Credential:
        entry = self._live(primary)
        self._must_be_free(address)
        return self._add(entry, address, password_hash, is_primary=False)

    async def delete_credential(self, address: str) -> None:
        entry = self._live(address)
        if entry.credentials[address].is_primary:
            raise NotPermitted(f"{address} is the primary address of its account")
        del entry.credentials[address]
        del self._by_address[address]

    async def set_password(self, address: str, password_hash: str) -> None:
        entry = self._live(address)
        entry.credentials[address] = replace(entry.credentials[address], password_hash=password_hash)

    async def make_primary(self, address: str) -> None:
        entry = self._live(address)
        for each, credential in entry.credentials.items():
            entry.credentials[each] = replace(credential, is_primary=each == address)

    async def upgrade_hash(self, credential: Credential, password_hash: str) -> bool:
        entry = self._entries[credential.account_id]
        current = entry.credentials.get(credential.address)
        if (
            current is None
            or current.id != credential.id
            or current.password_hash != credential.password_hash
        ):
            return False
        entry.credentials[credential.address] = replace(current, password_hash=password_hash)
        return True

    def _add(self, entry: _Entry, address: str, password_hash: str, *, is_primary: bool) -> Credential:
        made = Credential(
            CredentialId(next(self._credential_ids)),
            entry.id,
            address,
            password_hash,
            is_primary,
            self._now(),
        )
        entry.credentials[address] = made
        self._by_address[address] = entry
        return made

    def _live(self, address: str) -> _Entry:
        entry = self._by_address.get(address)
        if entry is None:
            raise _unknown(address)
        return entry

    def _last_deleted(self, address: str) -> _Entry | None:
        deleted = [
            (entry.deleted_at, entry.id, entry)
            for entry in self._entries.values()
            if entry.deleted_at is not None and address in entry.credentials
        ]
        return max(deleted)[2] if deleted else None

    def _must_be_free(self, address: str) -> None:
        if address in self._by_address:
            raise AlreadyExists(f"{address} belongs to an account already")

    def _account(self, entry: _Entry) -> Account:
        credentials = sorted(entry.credentials.values(), key=lambda each: (not each.is_primary, each.address))
        messages, size_bytes = self._usage(entry.id)
        return Account(
            entry.id,
            entry.primary_address,
            entry.created_at,
            entry.deleted_at,
            tuple(credentials),
            messages,
            size_bytes,
        )


def _unknown(address: str) -> NotFound:
    return NotFound(f"no account has the address {address}")
