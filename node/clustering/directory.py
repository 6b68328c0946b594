"""Which nodes have IMAP sessions of which account: who wants to hear of its mailboxes.

A first session is told at once as well, by a notice that counts for ``FRESH_S``: entries wait for company,
and mail may come sooner. Sessions of other protocols do not listen, and POP3 clients that come every minute
would only make traffic. An account stays in the directory for a moment after its last session, because
clients come back.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from cluster.facts import DAY_S, Kind, NoticeKind

if TYPE_CHECKING:
    from cluster.effects import FactChanged

    from .gossip import Gossip

LINGER_S = 5.0
FRESH_S = 3.0
REFRESHED_AT_ONCE = 1_000  # 50,000 in an hour
GATHER_S = 0.003
PER_NOTICE = 120  # accounts, with their frame within one datagram
MAX_FRESH = 50_000
TTL_S = DAY_S / 4
_ACCOUNT = struct.Struct("!Q")


class SessionDirectory:
    """``accounts``: those with sessions here, right now. ``call_later``: as of the loop.
    ``clock`` is monotonic. ``everybody``: names of the other nodes."""

    def __init__(
        self,
        gossip: Gossip,
        has_sessions: Callable[[int], bool],
        call_later: Callable[[float, Callable[[], None]], object],
        *,
        clock: Callable[[], float],
        everybody: Callable[[], Collection[str]],
    ) -> None:
        self._gossip = gossip
        self._has_sessions = has_sessions
        self._call_later = call_later
        self._own: OrderedDict[int, float] = OrderedDict()  # told at, monotonic; the oldest first
        self._leaving: set[int] = set()
        self._others: dict[int, set[str]] = {}
        self._clock = clock
        self._everybody = everybody
        self._new: list[int] = []  # to be told of at once
        self._fresh: OrderedDict[int, dict[str, float]] = OrderedDict()  # by notice: until when, by node
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
                self._tell([account])
                if not self._new:
                    self._call_later(GATHER_S, self._tell_new)
                self._new.append(account)
        elif account in self._own and account not in self._leaving:
            self._leaving.add(account)
            self._call_later(LINGER_S, lambda: self._left(account))

    def _tell_new(self) -> None:
        new, self._new = self._new, []
        nodes = self._everybody()
        for start in range(0, len(new) if nodes else 0, PER_NOTICE):
            some = b"".join(map(_ACCOUNT.pack, new[start : start + PER_NOTICE]))
            self._gossip.tell(NoticeKind.SESSIONS, some, nodes)

    def _left(self, account: int) -> None:
        self._leaving.discard(account)
        if not self._has_sessions(account) and account in self._own:
            del self._own[account]
            self._gossip.remove(Kind.SESSIONS, [_ACCOUNT.pack(account)])

    def refresh(self) -> None:
        """Each minute: a part of those whose time is half over, so that nobody waits for all of them."""
        now = self._clock()
        due: list[int] = []
        for account, told in self._own.items():
            if now - told < TTL_S / 2 or len(due) >= REFRESHED_AT_ONCE:
                break
            due.append(account)
        self._tell(due)

    def retell(self) -> None:
        """The cluster has forgotten what we told."""
        self._tell(tuple(self._own))

    def _tell(self, accounts: Sequence[int]) -> None:
        now = self._clock()
        for account in accounts:
            self._own[account] = now
            self._own.move_to_end(account)
        if accounts:
            self._gossip.put(Kind.SESSIONS, {_ACCOUNT.pack(account): b"" for account in accounts}, TTL_S)

    # --- theirs ---

    def nodes_of(self, account: int) -> Collection[str]:
        """Other nodes with sessions of it."""
        known = self._others.get(account, ())
        fresh = self._fresh.get(account)
        if fresh is None:
            return known
        now = self._clock()
        return {*known, *(node for node, until in fresh.items() if until > now)}

    def heard_at_once(self, origin: str, payload: bytes) -> None:
        """A notice of another node."""
        if len(payload) % _ACCOUNT.size:
            self.unreadable += 1
            return
        now = self._clock()
        while self._fresh and max(next(iter(self._fresh.values())).values()) <= now:
            self._fresh.popitem(last=False)
        for (account,) in _ACCOUNT.iter_unpack(payload):
            self._fresh.setdefault(account, {})[origin] = now + FRESH_S
            self._fresh.move_to_end(account)
        while len(self._fresh) > MAX_FRESH:
            self._fresh.popitem(last=False)

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
