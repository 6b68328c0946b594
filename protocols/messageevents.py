"""What users do to messages in mailboxes, as far as Sieve scripts hear of it (RFC 6785 §2.2)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Protocol

from storage.model import AccountId, Flags, MailboxId, Uid


class Cause(enum.Enum):
    """RFC 6785 §4.3. What MOVE puts into a mailbox came by COPY."""

    APPEND = "APPEND"
    COPY = "COPY"
    FLAG = "FLAG"


@dataclass(frozen=True, slots=True)
class Touched:
    """One message; ``flags`` as they are afterwards, ``changed`` the names of those that were changed."""

    uid: Uid
    flags: Flags
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Happened:
    """To some messages of one mailbox. ``user`` is the login, ``email`` the primary address."""

    account_id: AccountId
    user: str
    email: str
    mailbox_id: MailboxId
    mailbox: str
    cause: Cause
    messages: tuple[Touched, ...]

    def only(self, start: int, stop: int) -> Happened:
        return replace(self, messages=self.messages[start:stop])


class MessageEvents(Protocol):
    """Takes events for scripts to be run on, after the command that caused them."""

    async def is_watched(self, account_id: AccountId, mailbox_id: MailboxId) -> bool:
        """Whether a script is named for the mailbox. Mostly known already. Never raises StorageError."""
        ...

    async def take(self, event: Happened) -> None:
        """Returns at once, or when there is room: as many messages as may wait already do."""
        ...
