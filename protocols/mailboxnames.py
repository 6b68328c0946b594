"""The mailboxes of accounts that mail is being filed into: one read, then none for some seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from storage.api import MailStore
from storage.errors import AlreadyExists
from storage.model import AccountId, Mailbox, MailboxId, SpecialUse
from storage.names import canonical, object_id

TTL_S = 10.0
MAX_ACCOUNTS = 2_000


@dataclass(frozen=True, slots=True)
class Known:
    """The mailboxes of one account as of one read."""

    by_name: dict[str, Mailbox]
    by_object_id: dict[str, Mailbox]
    by_use: dict[str, Mailbox]  # ``\\junk``

    def named(self, name: str) -> Mailbox | None:
        return self.by_name.get(canonical(name))


class MailboxNames:
    """``clock`` gives monotonic seconds."""

    def __init__(self, mail: MailStore, *, clock: Callable[[], float], ttl_s: float = TTL_S) -> None:
        self._mail = mail
        self._clock = clock
        self._ttl_s = ttl_s
        self._found: OrderedDict[AccountId, tuple[float, Known]] = OrderedDict()

    async def of(self, account_id: AccountId, *, fresh: bool = False) -> Known:
        """Raises StorageError."""
        entry = self._found.get(account_id)
        if entry is not None and entry[0] > self._clock() and not fresh:
            return entry[1]
        mailboxes = (await self._mail.list_mailboxes(account_id)).mailboxes
        known = Known(
            {each.name: each for each in mailboxes},
            {object_id(each.id): each for each in mailboxes},
            {f"\\{each.special_use.value}": each for each in mailboxes if each.special_use},
        )
        self._found[account_id] = (self._clock() + self._ttl_s, known)
        self._found.move_to_end(account_id)
        while len(self._found) > MAX_ACCOUNTS:
            self._found.popitem(last=False)
        return known

    async def create(
        self, account_id: AccountId, name: str, special_use: SpecialUse | None = None
    ) -> MailboxId:
        """A mailbox that is subscribed, or the one of that name or use that came meanwhile.

        Raises StorageError; InvalidName among them.
        """
        self._found.pop(account_id, None)
        try:
            made = await self._mail.create_mailbox(account_id, name, special_use)
        except AlreadyExists:
            known = await self.of(account_id, fresh=True)
            found = known.by_use.get(f"\\{special_use.value}") if special_use is not None else None
            return found.id if found else (await self._mail.get_mailbox(account_id, name)).id
        await self._mail.set_subscribed(account_id, name, subscribed=True)
        return made.id

    def forget(self, account_id: AccountId) -> None:
        self._found.pop(account_id, None)
