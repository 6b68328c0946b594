"""Decides who a client is, straight from the account store, and writes the audit line.

The order of steps is the promise of equal replies: refuse what cannot be a password by its form alone,
look the address up (one read), check (``verify.py``), say yes or no. A store that cannot answer is
"unavailable", never "no". The rules about failed logins (``loginguard.py``) wrap ``_decide``: what they
refuse gets the reply of a wrong password.
"""

from __future__ import annotations

import logging
from collections import Counter
from copy import copy

from protocols.errors import AuthenticationFailed, AuthenticationUnavailable
from protocols.ports import Identity, Peer
from storage.addresses import BadAddress, canonical, split_detail
from storage.api import AccountStore
from storage.errors import StorageError
from storage.model import Credential

from .hashupgrade import HashUpgrader
from .loginguard import Decision, Guard, OpenGuard
from .passwords import refusal
from .ratelimit import parse_address, subject_of
from .verify import PasswordVerifier

MAX_LOGGED_NAME_CHARS = 320
FAIR_IPV6_PREFIX = 64  # addresses of one customer wait in one line for their checks

_log = logging.getLogger("sora.authn")


class DirectAuthenticator:
    """``protocols.ports.Authenticator`` on an AccountStore; one read a login, no write but upgrades.

    Every server has its own view of it, ``behind`` its own guard.
    """

    def __init__(self, accounts: AccountStore, verifier: PasswordVerifier, upgrader: HashUpgrader) -> None:
        self._accounts = accounts
        self._verifier = verifier
        self._upgrader = upgrader
        self.attempts: Counter[tuple[str, str]] = Counter()  # (protocol, result)
        self._guard: Guard = OpenGuard()
        self._server = ""

    def behind(self, guard: Guard | None, server: str = "") -> DirectAuthenticator:
        """The same for the server of that name, but what ``guard`` refuses is not looked at."""
        guarded = copy(self)
        guarded._guard = guard or OpenGuard()
        guarded._server = server
        return guarded

    async def authenticate(
        self, protocol: str, peer: Peer, username: str, password: bytes, session_id: str = ""
    ) -> Identity:
        fields = self._fields(protocol, peer, username, session_id)
        address = _login_address(username)
        key = address or username.strip().lower()[:MAX_LOGGED_NAME_CHARS]
        try:
            decision = await self._guard.judge(
                peer, key, password, lambda: self._decide(peer, address, username, password)
            )
        except AuthenticationUnavailable as error:
            self.attempts[protocol, "unavailable"] += 1
            _audit(logging.WARNING, fields, f"unavailable ({error})")
            raise
        if decision.identity is None:
            self.attempts[protocol, "blocked" if decision.refused_by else "failed"] += 1
            cause = f"failed ({decision.refused_by})" if decision.refused_by else "failed"
            _audit(logging.INFO, fields, cause)
            raise AuthenticationFailed("wrong user name or password")
        self.attempts[protocol, "ok"] += 1
        _audit(logging.INFO, fields, "ok")
        return decision.identity

    def _fields(self, protocol: str, peer: Peer, username: str, session_id: str) -> dict[str, str]:
        """Of the audit line. The name is foreign text: cut here, and escaped where lines are made
        (``logs.py``)."""
        known = {
            "session": session_id,
            "server": self._server,
            "via": peer.via_ip,
            "ja4": peer.ja4,
            "proxy_session": peer.proxy_session,
        }
        shown = username[:MAX_LOGGED_NAME_CHARS]
        told = {"user": shown, "protocol": protocol, "ip": peer.ip}
        return told | {key: value for key, value in known.items() if value}

    async def _decide(self, peer: Peer, address: str | None, username: str, password: bytes) -> Decision:
        if refusal(password):
            return Decision(None)
        origin = _origin(peer.ip)
        found = await self._look_up(address) if address else None
        if found is None:
            await self._verifier.verify(address or username, None, password, origin=origin)
            return Decision(None)
        credential, primary_address = found
        verdict = await self._verifier.verify(
            credential.address, credential.password_hash, password, origin=origin
        )
        if not verdict.is_match:
            return Decision(None)
        if not verdict.is_remembered:
            self._upgrader.consider(credential, password)
        return Decision(Identity(credential.account_id, credential.address, primary_address))

    async def _look_up(self, address: str) -> tuple[Credential, str] | None:
        try:
            return await self._accounts.login(address)
        except StorageError as error:
            raise AuthenticationUnavailable(f"account store: {type(error).__name__}") from error


def _origin(ip: str) -> int:
    address = parse_address(ip)
    return 0 if address is None else subject_of(address, FAIR_IPV6_PREFIX)


def _login_address(username: str) -> str | None:
    """The credential that ``username`` means: plus-addressing details log in as the plain address."""
    try:
        return split_detail(canonical(username))[0]
    except BadAddress:
        return None


def _audit(level: int, fields: dict[str, str], result: str) -> None:
    _log.log(level, "login %s", result, extra={"fields": fields})
