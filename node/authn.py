"""Decides who a client is, straight from the account store, and writes the audit line.

The order of steps is the promise of equal replies: refuse what cannot be a password by its form alone,
look the address up (one read), check (``verify.py``), say yes or no. A store that cannot answer is
"unavailable", never "no". Admission rules (failure counts, blocks, delays) wrap ``_decide``: they need
the canonical address before it and ``Decision.is_repeated`` after it.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

from protocols.errors import AuthenticationFailed, AuthenticationUnavailable
from protocols.ports import Identity, Peer
from storage.addresses import BadAddress, canonical, split_detail
from storage.api import AccountStore
from storage.errors import StorageError
from storage.model import Credential

from .hashupgrade import HashUpgrader
from .passwords import refusal
from .verify import PasswordVerifier

MAX_LOGGED_NAME_CHARS = 320

_log = logging.getLogger("sora.authn")


@dataclass(frozen=True, slots=True)
class Decision:
    """``identity`` None: no. ``is_repeated``: the same password for the same user was judged before."""

    identity: Identity | None
    is_repeated: bool = False


class DirectAuthenticator:
    """``protocols.ports.Authenticator`` on an AccountStore; one read a login, no write but upgrades."""

    def __init__(self, accounts: AccountStore, verifier: PasswordVerifier, upgrader: HashUpgrader) -> None:
        self._accounts = accounts
        self._verifier = verifier
        self._upgrader = upgrader
        self.attempts: Counter[tuple[str, str]] = Counter()  # (protocol, result)

    async def authenticate(self, protocol: str, peer: Peer, username: str, password: bytes) -> Identity:
        try:
            decision = await self._decide(username, password)
        except AuthenticationUnavailable as error:
            self.attempts[protocol, "unavailable"] += 1
            _audit(logging.WARNING, protocol, peer, username, f"unavailable ({error})")
            raise
        if decision.identity is None:
            self.attempts[protocol, "failed"] += 1
            _audit(logging.INFO, protocol, peer, username, "failed")
            raise AuthenticationFailed("wrong user name or password")
        self.attempts[protocol, "ok"] += 1
        _audit(logging.INFO, protocol, peer, username, "ok")
        return decision.identity

    async def _decide(self, username: str, password: bytes) -> Decision:
        if refusal(password):
            return Decision(None)
        address = _login_address(username)
        found = await self._look_up(address) if address else None
        if found is None:
            verdict = await self._verifier.verify(address or username, None, password)
            return Decision(None, is_repeated=verdict.is_remembered)
        credential, primary_address = found
        verdict = await self._verifier.verify(credential.address, credential.password_hash, password)
        if not verdict.is_match:
            return Decision(None, is_repeated=verdict.is_remembered)
        if not verdict.is_remembered:
            self._upgrader.consider(credential, password)
        identity = Identity(credential.account_id, credential.address, primary_address)
        return Decision(identity, is_repeated=verdict.is_remembered)

    async def _look_up(self, address: str) -> tuple[Credential, str] | None:
        try:
            return await self._accounts.login(address)
        except StorageError as error:
            raise AuthenticationUnavailable(f"account store: {type(error).__name__}") from error


def _login_address(username: str) -> str | None:
    """The credential that ``username`` means: plus-addressing details log in as the plain address."""
    try:
        return split_detail(canonical(username))[0]
    except BadAddress:
        return None


def _audit(level: int, protocol: str, peer: Peer, username: str, result: str) -> None:
    """One line. The name is foreign text: quoted, escaped and cut, so that it cannot forge a line."""
    shown = ascii(username[:MAX_LOGGED_NAME_CHARS])
    _log.log(level, "login user=%s protocol=%s ip=%s result=%s", shown, protocol, peer.ip, result)
