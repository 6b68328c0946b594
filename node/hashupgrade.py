"""Replaces weak stored hashes in the background, at the moment the password is known.

Never more than one upgrade of a credential at a time and few in all; what does not fit now is taken at
a later login. The write is a compare-and-swap, so a password that was changed meanwhile stays changed.
"""

from __future__ import annotations

import asyncio
import logging

from protocols.errors import AuthenticationUnavailable
from storage.api import AccountStore
from storage.errors import StorageError
from storage.model import Credential, CredentialId

from .passwords import needs_upgrade
from .verify import PasswordVerifier

MAX_PENDING_UPGRADES = 8  # they share the pool with checks that somebody waits for

_log = logging.getLogger("sora.authn")


class HashUpgrader:
    def __init__(self, accounts: AccountStore, verifier: PasswordVerifier) -> None:
        self._accounts = accounts
        self._verifier = verifier
        self._pending: dict[CredentialId, asyncio.Task[None]] = {}

    def consider(self, credential: Credential, password: bytes) -> None:
        """``password`` has just verified against ``credential.password_hash``. Returns at once."""
        if credential.id in self._pending or len(self._pending) >= MAX_PENDING_UPGRADES:
            return
        if not needs_upgrade(credential.password_hash):
            return
        task = asyncio.create_task(self._upgrade(credential, password))
        self._pending[credential.id] = task
        task.add_done_callback(lambda _done: self._pending.pop(credential.id))

    async def _upgrade(self, credential: Credential, password: bytes) -> None:
        try:
            made = await self._verifier.hash(password)
            replaced = await self._accounts.upgrade_hash(credential, made)
        except (StorageError, AuthenticationUnavailable, MemoryError) as error:
            _log.warning("hash of credential %d not upgraded, next login will: %s", credential.id, error)
            return
        if replaced:
            self._verifier.remember(credential.address, made, password)
            _log.info("hash of credential %d upgraded", credential.id)

    async def settle(self) -> None:
        """Wait for the upgrades under way (shutdown, tests)."""
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
