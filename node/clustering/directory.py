"""Which nodes have IMAP sessions of which account: who wants to hear of its mailboxes.

Sessions of other protocols do not listen, and POP3 clients that come every minute would only make traffic. An
account stays in the directory for a moment after its last session, because clients come back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from cluster.facts import DAY_S, Kind

if TYPE_CHECKING:
    from cluster.effects import FactChanged

    from .gossip import Gossip

LINGER_S = 5.0
TTL_S = DAY_S / 4
_ACCOUNT = struct.Struct("!Q")


class SessionDirectory:
    """``accounts``: those with sessions here, right now. ``call_later``: as of the loop."""

    def __init__(
        self,
        gossip: Gossip,
        has_sessions: Callable[[int], bool],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._gossip = gossip
        self._has_sessions = has_sessions
        self._call_later = call_later
        self._own: set[int] = set()
        self._leaving: set[int] = set()
        self._others: dict[int, set[str]] = {}
        self.unreadable = 0

    def __len__(self) -> int:
        """Accounts of ours that others know."""
        return len(self._own)

    @property
    def known(self) -> int:
        """Accounts that other nodes have."""
        return len(self._others)

    # --- ours ---

    def changed(self, account: int) -> None:
        """The first session of an account has come, or its last has gone."""
        if self._has_sessions(account):
            if account not in self._own:
                self._own.add(account)
                self._gossip.put(Kind.SESSIONS, {_ACCOUNT.pack(account): b""}, TTL_S)
        elif account in self._own and account not in self._leaving:
            self._leaving.add(account)
            self._call_later(LINGER_S, lambda: self._left(account))

    def _left(self, account: int) -> None:
        self._leaving.discard(account)
        if not self._has_sessions(account) and account in self._own:
            self._own.discard(account)
            self._gossip.remove(Kind.SESSIONS, [_ACCOUNT.pack(account)])

    def refresh(self) -> None:
        """Now and then, well within ``TTL_S``. O(accounts)."""
        if self._own:
            self._gossip.put(Kind.SESSIONS, {_ACCOUNT.pack(account): b"" for account in self._own}, TTL_S)

    # --- theirs ---

    def nodes_of(self, account: int) -> Collection[str]:
        """Other nodes with sessions of it."""
        return self._others.get(account, ())

    def heard(self, fact: FactChanged) -> None:
        if len(fact.key) != _ACCOUNT.size:
            self.unreadable += 1
            return
        (account,) = _ACCOUNT.unpack(fact.key)
        if fact.value is not None:
            self._others.setdefault(account, set()).add(fact.origin)
        elif account in self._others:
            self._others[account].discard(fact.origin)
            if not self._others[account]:
                del self._others[account]


def accounts_of(keys: Iterable[bytes]) -> list[int]:
    """For lists of the directory's entries."""
    return [_ACCOUNT.unpack(key)[0] for key in keys if len(key) == _ACCOUNT.size]
