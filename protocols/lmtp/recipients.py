"""Who an envelope recipient is: one read, none while it is remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from protocols.envelope import Destination
from storage.addresses import split_detail
from storage.api import AccountStore
from storage.model import AccountId, Recipient

# Long enough for a burst of mail to one user, short enough that a deleted account is soon unknown, and that a
# changed script is soon in force where no notice of it came.
TTL_S = 10.0
MAX_ENTRIES = 10_000


class RecipientDirectory:
    """Looks recipients up; remembers those found for a few seconds. Unknown ones are asked for each time.

    ``user+detail`` belongs to ``user``; only when that is unknown is the whole address tried, for accounts
    whose address has a plus sign in it. ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        accounts: AccountStore,
        *,
        clock: Callable[[], float],
        ttl_s: float = TTL_S,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._accounts = accounts
        self._clock = clock
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._found: OrderedDict[str, tuple[float, Recipient]] = OrderedDict()
        self._addresses: dict[AccountId, set[str]] = {}
        self._changes = 0

    def forget(self, account_id: AccountId) -> None:
        """What is being read now is not remembered either."""
        self._changes += 1
        for address in self._addresses.pop(account_id, ()):
            self._found.pop(address, None)

    def remembered(self, address: str) -> Destination | None:
        """What is known without a read. ``address`` is canonical and may have a detail."""
        for key, detail in _candidates(address):
            entry = self._found.get(key)
            if entry is not None and entry[0] > self._clock():
                return Destination(address, detail, entry[1])
        return None

    async def look_up(self, address: str) -> Destination | None:
        """Ask the store. Raises StorageError."""
        changes = self._changes
        for key, detail in _candidates(address):
            recipient = await self._accounts.recipient(key)
            if recipient is not None:
                if changes == self._changes:  # else it may have been read before the change
                    self._remember(key, recipient)
                return Destination(address, detail, recipient)
            self._drop(key)
        return None

    def _remember(self, key: str, recipient: Recipient) -> None:
        self._drop(key)
        self._found[key] = (self._clock() + self._ttl_s, recipient)
        self._addresses.setdefault(recipient.account_id, set()).add(key)
        while len(self._found) > self._max_entries:
            self._drop(next(iter(self._found)))

    def _drop(self, key: str) -> None:
        entry = self._found.pop(key, None)
        if entry is None:
            return
        account_id = entry[1].account_id
        addresses = self._addresses[account_id]
        addresses.discard(key)
        if not addresses:
            del self._addresses[account_id]


def _candidates(address: str) -> tuple[tuple[str, str], ...]:
    """(address to look up, detail), in order of preference."""
    user, detail = split_detail(address)
    return ((user, detail), (address, "")) if detail else ((address, ""),)
