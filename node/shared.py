"""What the processes of a node have in common, as the doors of one process reach it.

In a node of one process these are the objects themselves; else they ask the control process (``linkports``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from protocols.ports import Admission, MaildropLock, Outbox, SessionRegistry
from storage.model import AccountId

from .loginguard import Guard

if TYPE_CHECKING:
    from .config import Server
    from .sessions import Leave, SessionLimits


# Server and account, before a search that reads messages. Raises TooManySearches.
BeginSearch = Callable[[str, AccountId], Awaitable[None]]


async def not_counted(_server: str, _account: AccountId) -> None:
    """Searches are not limited."""


class Gate(Guard, Admission, Protocol):
    """The rules about logins of one server."""


class Registry(SessionRegistry, Protocol):
    """``SessionRegistry``, and what comes before a session."""

    def limit(self, server: str, limits: SessionLimits) -> None:
        """From now on; what is there already stays."""
        ...

    async def arrive(self, server: str, ip: str) -> Leave | None:
        """A socket of ``ip`` (``sessions.EVERYBODY``: of any address) was accepted: what to call when it is
        gone; None: refuse it, there are as many as may be."""
        ...


@dataclass(frozen=True, slots=True)
class NodeState:
    gate_of: Callable[[Server], Gate | None]  # None where nobody logs in
    sessions: Registry
    maildrops: MaildropLock
    # logins that are held back fail now: the process stops
    release_logins: Callable[[], None] = lambda: None
    processes: int = 1  # that serve clients
    outbox: Outbox | None = None
    begin_search: BeginSearch = not_counted
