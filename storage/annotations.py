"""Annotations of mailboxes and of accounts (RFC 5464): the contract of their store, and the rules of names.

Every user has an account of its own, so ``/private`` and ``/shared`` entries are kept side by side. What the
protocol calls annotations of the server belongs to the account here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from .errors import InvalidName, OverQuota, TooBig
from .model import AccountId, MailboxId

MAX_ENTRY_CHARS: Final = 1024
ROOTS: Final = ("/private", "/shared")

# Components without wildcards, controls, and anything above ASCII (RFC 5464 §3.2).
_ENTRY = re.compile(r"/(?:private|shared)(?:/[^\x00-\x1f*%/\x7f-\U0010ffff]+)+")

# The entries that lie at one place, by name.
Entries: TypeAlias = Mapping[str, bytes]
# None: the account itself.
Place: TypeAlias = MailboxId | None


@dataclass(frozen=True, slots=True)
class AnnotationLimits:
    """Of one account. 0: no limit."""

    entry_bytes: int = 65_536
    mailbox_entries: int = 100
    server_entries: int = 50
    total_bytes: int = 1024 * 1024  # of the values at all places together

    def check_values(self, changes: Mapping[str, bytes | None]) -> None:
        """Raises TooBig."""
        largest = max((len(value) for value in changes.values() if value is not None), default=0)
        if 0 < self.entry_bytes < largest:
            raise TooBig(f"an annotation has at most {self.entry_bytes} octets, this one {largest}")

    def check_sums(self, place: Place, entries: int, total_bytes: int) -> None:
        """What there would be. Raises OverQuota."""
        allowed = self.server_entries if place is None else self.mailbox_entries
        if 0 < allowed < entries:
            raise OverQuota(f"at most {allowed} annotations here")
        if 0 < self.total_bytes < total_bytes:
            raise OverQuota(f"the annotations of an account have at most {self.total_bytes} octets together")


class AnnotationStore(Protocol):
    """Names are as ``checked_entry`` returns them. Annotations follow their mailbox when it is renamed and
    are gone with it; a mailbox of the same name that comes later has none.

    Every method may raise Unavailable.
    """

    async def everything(self, account_id: AccountId) -> Mapping[Place, Entries]:
        """All places that have any. One read, of at most the ``total_bytes`` that were allowed."""
        ...

    async def at(self, account_id: AccountId, place: Place) -> Entries:
        """Those of one place. One read; a mailbox that is gone has none."""
        ...

    async def named(self, account_id: AccountId, entries: Sequence[str]) -> Mapping[Place, Entries]:
        """These entries, wherever they are. One read."""
        ...

    async def change(
        self,
        account_id: AccountId,
        place: Place,
        changes: Mapping[str, bytes | None],
        limits: AnnotationLimits,
    ) -> None:
        """Set entries, or remove those whose value is None, in one commit. What is only removed is never
        over a limit.

        Raises NotFound (the mailbox or the account is gone), TooBig, OverQuota, CommitUnknown.
        """
        ...


def checked_entry(name: str) -> str:
    """The name of an entry, in lower case as names compare. Raises InvalidName."""
    if len(name) > MAX_ENTRY_CHARS:
        raise InvalidName(f"the name of an annotation has at most {MAX_ENTRY_CHARS} characters")
    name = name.lower()
    if _ENTRY.fullmatch(name) is None:
        raise InvalidName("the name of an annotation begins with /private/ or /shared/")
    return name
