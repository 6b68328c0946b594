"""The maildrop of one session: INBOX as it was at login, and what is marked as deleted; and its lock."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from storage.api import MailboxView
from storage.model import AccountId, MailboxId, Uid, UidValidity


class Maildrop:
    """Message numbers count from 1 and stay as they are for the whole session (RFC 1939 §5).

    12 octets of memory for each message.
    """

    __slots__ = ("_deleted", "_sizes", "_uids", "account_id", "mailbox_id", "size_bytes", "uidvalidity")

    def __init__(self, view: MailboxView) -> None:
        self.account_id: AccountId = view.mailbox.account_id
        self.mailbox_id: MailboxId = view.mailbox.id
        self.uidvalidity: UidValidity = view.mailbox.uidvalidity
        self._uids = array("I", view.uids)
        self._sizes = array("Q", view.sizes)
        self._deleted: set[int] = set()
        self.size_bytes = sum(self._sizes)  # without what is marked

    def __len__(self) -> int:
        """Messages that are not marked."""
        return len(self._uids) - len(self._deleted)

    def has(self, number: int) -> bool:
        return 1 <= number <= len(self._uids) and number not in self._deleted

    def uid(self, number: int) -> Uid:
        return Uid(self._uids[number - 1])

    def size(self, number: int) -> int:
        """Octets of the message as it is stored."""
        return self._sizes[number - 1]

    def unique_id(self, number: int) -> str:
        """Stays with the message for ever, and goes to no other (RFC 1939 §7, UIDL)."""
        return f"{self.uidvalidity}.{self._uids[number - 1]}"

    def numbers(self) -> Iterator[int]:
        return (number for number in range(1, len(self._uids) + 1) if number not in self._deleted)

    def next_uids(self, number: int, limit: int) -> list[Uid]:
        """Uids from this message on, for reading ahead."""
        ahead = range(number, min(number + limit, len(self._uids) + 1))
        return [self.uid(each) for each in ahead if each not in self._deleted]

    def mark(self, number: int) -> None:
        self._deleted.add(number)
        self.size_bytes -= self.size(number)

    def unmark_all(self) -> None:
        self._deleted.clear()
        self.size_bytes = sum(self._sizes)

    @property
    def marked(self) -> list[Uid]:
        return [self.uid(number) for number in sorted(self._deleted)]


class LocalMaildropLock:
    """``ports.MaildropLock`` within one process. All POP3 servers of the process share one."""

    def __init__(self) -> None:
        self._held: set[AccountId] = set()

    async def acquire(self, account_id: AccountId) -> Callable[[], None] | None:
        if account_id in self._held:
            return None
        self._held.add(account_id)
        is_released = False

        def release() -> None:
            nonlocal is_released
            if not is_released:
                is_released = True
                self._held.discard(account_id)

        return release
