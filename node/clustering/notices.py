"""Changes of mailboxes, told to the nodes that have sessions of the account; those of settings to all.

Changes that come within a few milliseconds go together, the latest of each mailbox only. A notice is a
hint: what is lost is found by the views' comparison every 15 s. What was heard is never told on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from cluster.facts import NoticeKind
from protocols.ports import SETTINGS, MailboxChanged
from storage.model import AccountId, MailboxId, ModSeq

if TYPE_CHECKING:
    from .gossip import Gossip

GATHER_S = 0.003
MAX_WAITING = 10_000  # mailboxes
PER_NOTICE = 40  # with its frame within one datagram
_CHANGE = struct.Struct("!QQQ")  # account, mailbox, modseq


class MailboxNotices:
    """``nodes_of`` an account, and ``everybody``: without this one. ``publish`` tells the processes of this
    node."""

    def __init__(
        self,
        gossip: Gossip,
        nodes_of: Callable[[int], Collection[str]],
        everybody: Callable[[], Collection[str]],
        publish: Callable[[MailboxChanged], None],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._gossip = gossip
        self._nodes_of = nodes_of
        self._everybody = everybody
        self._publish = publish
        self._call_later = call_later
        self._waiting: dict[tuple[int, int], int] = {}
        self._is_due = False
        self.told = self.heard_of = self.dropped = self.unreadable = 0

    def changed(self, change: MailboxChanged) -> None:
        """A commit of this node."""
        if not self._receivers(change.account_id, change.mailbox_id):
            return
        key = (change.account_id, change.mailbox_id)
        if key not in self._waiting and len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting[key] = max(change.modseq, self._waiting.get(key, 0))
        if not self._is_due:
            self._is_due = True
            self._call_later(GATHER_S, self.flush)

    def flush(self) -> None:
        self._is_due = False
        waiting, self._waiting = self._waiting, {}
        by_nodes: dict[frozenset[str], list[bytes]] = {}
        for (account, mailbox), modseq in waiting.items():
            nodes = frozenset(self._receivers(account, mailbox))
            by_nodes.setdefault(nodes, []).append(_CHANGE.pack(account, mailbox, modseq))
        for nodes, changes in by_nodes.items():
            if not nodes:
                continue
            for start in range(0, len(changes), PER_NOTICE):
                some = changes[start : start + PER_NOTICE]
                self._gossip.tell(NoticeKind.MAILBOX, b"".join(some), nodes)
                self.told += len(some)

    def _receivers(self, account: int, mailbox: int) -> Collection[str]:
        return self._everybody() if mailbox == SETTINGS else self._nodes_of(account)

    def heard(self, payload: bytes) -> None:
        if len(payload) % _CHANGE.size:
            self.unreadable += 1
            return
        for account, mailbox, modseq in _CHANGE.iter_unpack(payload):
            self.heard_of += 1
            self._publish(MailboxChanged(AccountId(account), MailboxId(mailbox), ModSeq(modseq)))
