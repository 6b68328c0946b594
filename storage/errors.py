"""What can happen to stored data, in no protocol's words.

Each protocol owns a table from these classes to its replies; a test walks every subclass and fails
when a table lacks a row. ``transient`` belongs to the class: nobody guesses from message text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Uid


class StorageError(Exception):
    """Root of the family; never raised itself."""

    transient: ClassVar[bool] = False


class NotFound(StorageError):
    """The account, mailbox or message does not exist (any more)."""


class AlreadyExists(StorageError):
    """A live thing of that name exists."""


class NotPermitted(StorageError):
    """The thing exists but this may not be done to it (deleting INBOX, for instance)."""


class ReadOnly(NotPermitted):
    """The mailbox or name belongs to a namespace that takes no changes."""


class InvalidName(StorageError):
    """The name breaks the naming rules; the message says which."""


class OverQuota(StorageError):
    """A limit of the account or node is reached; nothing was written."""


class TooBig(StorageError):
    """The message is larger than this system takes; nothing was written."""


class Conflict(StorageError):
    """A precondition (UNCHANGEDSINCE) failed for these uids; the others were changed."""

    def __init__(self, message: str, uids: Sequence[Uid] = ()) -> None:
        super().__init__(message)
        self.uids = tuple(uids)


class Unavailable(StorageError):
    """PostgreSQL, the object store or a body cannot be reached now; trying again later is right."""

    transient = True

    def __init__(self, message: str, retry_after_s: float = 30.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StagingFull(Unavailable):
    """No room to make another body durable (disk full, bound reached); nothing was written."""


class CommitUnknown(StorageError):
    """The connection died during COMMIT: the write may or may not have happened.

    The caller resolves it by reading back its own token (delivery key, append token) before answering.
    """

    transient = True


class Corrupt(StorageError):
    """Stored bytes do not match their hash or format. Never answered with partial or empty data."""
